// Who may work on which name, in order of arrival. A request takes the whole set of its names at
// once, each exclusively or shared, and is let in when it heads the queue of every one of them:
// so there is no deadlock and nobody starves (protocol.md A7). The pool is a name too.
//
// A second set, of thin ids, may be taken by one who holds names; never the other way round.
#pragma once

#include <coroutine>
#include <cstdint>
#include <list>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "services/pool_manager/task.h"

namespace cowslip {

enum class LockMode : std::uint8_t { shared, exclusive };

struct LockRequest {
    std::string key;
    LockMode mode;
};

class NameQueue;

// Held names; let go of when it is destroyed.
class NameLock {
public:
    NameLock() = default;
    NameLock(NameLock&& other) noexcept : queue_(other.queue_), ticket_(other.ticket_) { other.queue_ = nullptr; }
    NameLock& operator=(NameLock&& other) noexcept {
        std::swap(queue_, other.queue_);
        std::swap(ticket_, other.ticket_);
        return *this;
    }
    ~NameLock() { release(); }
    void release();

private:
    friend class NameQueue;
    NameLock(NameQueue* queue, std::uint64_t ticket) : queue_(queue), ticket_(ticket) {}
    NameQueue* queue_ = nullptr;
    std::uint64_t ticket_ = 0;
};

// What was held or wanted at any time while this was there: what is not in it, nobody has worked on meanwhile.
class NameRecord {
public:
    explicit NameRecord(NameQueue& queue);
    NameRecord(const NameRecord&) = delete;
    NameRecord& operator=(const NameRecord&) = delete;
    ~NameRecord();
    const std::set<std::string>& keys() const { return keys_; }

private:
    friend class NameQueue;
    NameQueue& queue_;
    std::set<std::string> keys_;
};

class NameQueue {
public:
    explicit NameQueue(ReadyQueue& ready) : ready_(ready) {}

    // `const auto lock = co_await queue.acquire(set);` The place in the queues is taken at the call.
    auto acquire(std::vector<LockRequest> set) {
        struct Await {
            NameQueue& queue;
            std::uint64_t ticket;
            bool await_ready() const { return queue.tickets_.at(ticket).granted; }
            void await_suspend(std::coroutine_handle<> handle) const { queue.tickets_.at(ticket).waiter = handle; }
            NameLock await_resume() const { return {&queue, ticket}; }
        };
        return Await{*this, enqueue(std::move(set))};
    }

    auto acquire(std::string key, LockMode mode) {
        std::vector<LockRequest> set;
        set.push_back({std::move(key), mode});
        return acquire(std::move(set));
    }

    // One more hold of a name that somebody holds shared now: for what goes on when the holder has ended.
    NameLock share(const std::string& key);

private:
    friend class NameLock;
    friend class NameRecord;
    struct Ticket {
        std::vector<LockRequest> set;
        bool granted = false;
        std::coroutine_handle<> waiter;
    };
    struct Place {
        std::uint64_t ticket;
        LockMode mode;
    };
    std::uint64_t enqueue(std::vector<LockRequest> set);
    bool heads_every_line(std::uint64_t ticket, const Ticket& wanted) const;
    void release(std::uint64_t ticket);

    ReadyQueue& ready_;
    std::uint64_t next_ticket_ = 1;
    std::map<std::uint64_t, Ticket> tickets_;
    std::map<std::string, std::list<Place>> lines_;
    std::set<NameRecord*> records_;
};

}  // namespace cowslip
