// Coroutines for operations: an operation is written as the straight line it is (lock, look, plan,
// command, record, answer), and each co_await is a place where a turn ends. Nothing of it is
// truth: an operation that must survive a crash has its row in the store, and starts again from it.
//
// One thread. A Task runs when it is awaited or started; an exception (StoreFailure) leaves through
// whoever resumes it, and ends the process.
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
#include <utility>
#include <vector>

#include "common/result.h"

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

template <class T>
class [[nodiscard]] Task {
public:
    struct promise_type {
        std::optional<Result<T>> value;
        std::coroutine_handle<> continuation = std::noop_coroutine();

        Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
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
        void return_value(Result<T> result) { value.emplace(std::move(result)); }
        [[noreturn]] void unhandled_exception() { throw; }
    };

    Task() = default;
    Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Task& operator=(Task&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Task() {
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
            Result<T> await_resume() { return std::move(*task.promise().value); }
        };
        return Await{handle_};
    }

    // For the outermost task, which nobody awaits.
    std::coroutine_handle<> handle() const { return handle_; }
    bool done() const { return !handle_ || handle_.done(); }

private:
    explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
    std::coroutine_handle<promise_type> handle_;
};

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
