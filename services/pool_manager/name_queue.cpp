#include "services/pool_manager/name_queue.h"

#include <algorithm>

namespace cowslip {

void NameLock::release() {
    if (queue_ != nullptr) queue_->release(ticket_);
    queue_ = nullptr;
}

NameRecord::NameRecord(NameQueue& queue) : queue_(queue) {
    for (const auto& [key, line] : queue.lines_) keys_.insert(key);
    queue.records_.insert(this);
}

NameRecord::~NameRecord() {
    queue_.records_.erase(this);
}

std::uint64_t NameQueue::enqueue(std::vector<LockRequest> set) {
    // One place per key: a clone named like its parent would otherwise wait for itself.
    std::sort(set.begin(), set.end(), [](const LockRequest& a, const LockRequest& b) {
        return a.key != b.key ? a.key < b.key : a.mode > b.mode;
    });
    set.erase(std::unique(set.begin(), set.end(), [](const auto& a, const auto& b) { return a.key == b.key; }),
              set.end());

    const std::uint64_t number = next_ticket_++;
    for (const auto& [key, mode] : set) {
        lines_[key].push_back({number, mode});
        for (NameRecord* record : records_) record->keys_.insert(key);
    }
    Ticket& ticket = tickets_[number];
    ticket.set = std::move(set);
    ticket.granted = heads_every_line(number, ticket);
    return number;
}

NameLock NameQueue::share(const std::string& key) {
    const std::uint64_t number = next_ticket_++;
    lines_.at(key).push_front({number, LockMode::shared});
    tickets_[number] = {.set = {{key, LockMode::shared}}, .granted = true, .waiter = {}};
    return {this, number};
}

// An exclusive place heads its line when it is the first; a shared one when nothing exclusive is before it.
bool NameQueue::heads_every_line(std::uint64_t ticket, const Ticket& wanted) const {
    return std::all_of(wanted.set.begin(), wanted.set.end(), [&](const LockRequest& request) {
        const auto& line = lines_.at(request.key);
        if (request.mode == LockMode::exclusive) return line.front().ticket == ticket;
        for (const Place& place : line) {
            if (place.ticket == ticket) return true;
            if (place.mode == LockMode::exclusive) return false;
        }
        return false;
    });
}

void NameQueue::release(std::uint64_t number) {
    const Ticket ended = std::move(tickets_.at(number));
    tickets_.erase(number);
    for (const LockRequest& request : ended.set) {
        const auto found = lines_.find(request.key);
        auto& line = found->second;
        line.erase(std::find_if(line.begin(), line.end(), [&](const Place& place) { return place.ticket == number; }));
        if (line.empty()) {
            lines_.erase(found);
            continue;
        }
        for (const Place& place : line) {
            Ticket& waiting = tickets_.at(place.ticket);
            if (!waiting.granted && heads_every_line(place.ticket, waiting)) {
                waiting.granted = true;
                if (waiting.waiter) ready_.push(waiting.waiter);
            }
            if (place.mode == LockMode::exclusive) break;
        }
    }
}

}  // namespace cowslip
