// Coroutines for operations: an operation is written as the straight line it is (lock, look, plan,
// command, record, answer), and each co_await is a place where a turn ends. Nothing of it is
// truth: an operation that must survive a crash has its row in the store, and starts again from it.
//
// One thread. It runs when it is awaited or started. An exception (StoreFailure) leaves through whoever resumes it, and
// ends the process; but what the store refuses (StoreRefusal) is the Error of the Task that asked for it.
//
// g++ 12: name every argument of an awaited call (no braced temporaries inside co_await), and never
// co_await inside TRY.
#pragma once

#include <coroutine>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/result.h"
#include "common/sqlite.h"

namespace cowslip {

// Coroutines that may go on in this turn, in order.
class ReadyQueue {
public:
    void push(std::coroutine_handle<> handle) { ready_.push_back(handle); }
    bool empty() const { return ready_.empty(); }
    std::coroutine_handle<> pop() {
        const auto handle = ready_.front();
        ready_.pop_front();
        return handle;
    }

private:
    std::deque<std::coroutine_handle<>> ready_;
};

// What a coroutine gives in the end.
template <class T>
struct Given {
    std::optional<T> value;
    void return_value(T given) { value.emplace(std::move(given)); }
    T take() { return std::move(*value); }
};

template <>
struct Given<void> {
    void return_void() {}
    void take() {}
};

template <class T>
class [[nodiscard]] Async {
public:
    struct promise_type : Given<T> {
        std::coroutine_handle<> continuation = std::noop_coroutine();

        Async get_return_object() { return Async(std::coroutine_handle<promise_type>::from_promise(*this)); }
        std::suspend_always initial_suspend() noexcept { return {}; }
        auto final_suspend() noexcept {
            struct Continue {
                bool await_ready() noexcept { return false; }
                std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> self) noexcept {
                    return self.promise().continuation;
                }
                void await_resume() noexcept {}
            };
            return Continue{};
        }
        void unhandled_exception() {
            try {
                throw;
            } catch (const StoreRefusal& refusal) {
                if constexpr (std::is_constructible_v<T, Error>) {
                    this->return_value(Error{Errc::internal, refusal.what()});
                } else {
                    throw;
                }
            }
        }
    };

    Async() = default;
    Async(Async&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Async& operator=(Async&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Async() {
        if (handle_) handle_.destroy();
    }

    auto operator co_await() & = delete;
    auto operator co_await() && {
        struct Await {
            std::coroutine_handle<promise_type> task;
            bool await_ready() { return false; }
            std::coroutine_handle<> await_suspend(std::coroutine_handle<> caller) {
                task.promise().continuation = caller;
                return task;
            }
            T await_resume() { return task.promise().take(); }
        };
        return Await{handle_};
    }

    // For the outermost one, which nobody awaits.
    std::coroutine_handle<> handle() const { return handle_; }
    bool done() const { return !handle_ || handle_.done(); }

private:
    explicit Async(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
    std::coroutine_handle<promise_type> handle_;
};

// One that may fail.
template <class T>
using Task = Async<Result<T>>;

// Many wait, one opens: `co_await signal.wait()` goes on at the next notify_all.
class Signal {
public:
    explicit Signal(ReadyQueue& ready) : ready_(ready) {}
    void notify_all() {
        for (const auto handle : std::exchange(waiting_, {})) ready_.push(handle);
    }
    auto wait() {
        struct Await {
            Signal& signal;
            bool await_ready() { return false; }
            void await_suspend(std::coroutine_handle<> handle) { signal.waiting_.push_back(handle); }
            void await_resume() {}
        };
        return Await{*this};
    }

private:
    ReadyQueue& ready_;
    std::vector<std::coroutine_handle<>> waiting_;
};

// Things that happen at a time, in milliseconds of the manager's clock.
class Timers {
public:
    using Handle = std::multimap<std::int64_t, std::function<void()>>::iterator;  // Until it has run.
    Handle at(std::int64_t time_ms, std::function<void()> action) {
        return timers_.emplace(time_ms, std::move(action));
    }
    void cancel(Handle timer) { timers_.erase(timer); }
    std::optional<std::int64_t> next() const {
        if (timers_.empty()) return std::nullopt;
        return timers_.begin()->first;
    }
    void run(std::int64_t now_ms) {
        while (!timers_.empty() && timers_.begin()->first <= now_ms) {
            const auto action = std::move(timers_.begin()->second);
            timers_.erase(timers_.begin());
            action();
        }
    }

private:
    std::multimap<std::int64_t, std::function<void()>> timers_;
};

}  // namespace cowslip
