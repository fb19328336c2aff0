// The templates of PoolManager: commands to actors, and the wait between them. Included by
// pool_manager.h alone.
#pragma once

#include <fmt/format.h>

#include "services/pool_manager/pool_manager.h"

namespace cowslip {

inline auto PoolManager::sleep_ms(std::int64_t milliseconds) {
    struct Await {
        PoolManager& manager;
        std::int64_t until_ms;
        bool await_ready() const { return false; }
        void await_suspend(std::coroutine_handle<> handle) const {
            manager.timers_.at(until_ms, [queue = &manager.ready_, handle] { queue->push(handle); });
        }
        void await_resume() const {}
    };
    return Await{*this, now_.monotonic_ms + milliseconds};
}

// One copy of the command, and what became of it.
template <class Message>
Async<CommandOutcome> PoolManager::tell_once(Operation& operation, ActorKind kind, Urgency urgency, Message message) {
    const CommandKey key{operation.number, operation.step, operation.attempts};
    schemas::CommandOf<Message> command{schemas::kProtocolVersion, key.operation, key.step, key.attempt, Message::kType,
                                        std::move(message)};
    Actors::Wanted wanted{kind, urgency, key, Message::kType, encode(command)};
    operation.waiting_for = Message::kType;
    operation.confirmed_when_told = pool_row_ ? pool_row_->confirmed : 0;
    count(Message::kType);
    co_return co_await actors_.command(std::move(wanted));
}

// Until it is answered. Only for commands that may be carried out twice, one after the other.
template <class Message>
Task<typename Message::Reply> PoolManager::tell(Operation& operation, ActorKind kind, Urgency urgency,
                                                Message message) {
    Message again = message;
    co_return co_await tell(operation, kind, urgency, std::move(message), std::move(again));
}

// `again` is sent instead after an actor that may have carried it out.
template <class Message>
Task<typename Message::Reply> PoolManager::tell(Operation& operation, ActorKind kind, Urgency urgency, Message message,
                                                Message again) {
    for (;;) {
        CommandOutcome outcome = co_await tell_once(operation, kind, urgency, message);
        if (outcome.kind == CommandOutcome::Kind::answered) {
            ++operation.step;
            forget_deaths(operation);
            if (!outcome.body) co_return outcome.body.error();
            co_return decode_as<typename Message::Reply>(std::string_view(*outcome.body));
        }
        Result<void> counted = count_attempt(operation, outcome, Message::kType);
        if (!counted) co_return counted.error();
        message = again;
    }
}

}  // namespace cowslip
