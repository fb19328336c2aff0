#include "services/pool_manager/actors.h"

#include <algorithm>

namespace cowslip {

namespace {
// Then one from behind a reply, or removals would never end under load.
constexpr std::uint32_t kMostAwaitedInARow = 16;
}  // namespace

void Actors::expect(const std::vector<std::string>& incarnations) {
    unaccounted_.insert(incarnations.begin(), incarnations.end());
}

void Actors::enqueue(Pending& pending) {
    queues_[{pending.wanted.kind, pending.wanted.urgency}].push_back(&pending);
}

void Actors::finish(Pending& pending, CommandOutcome outcome) {
    pending.outcome = std::move(outcome);
    ready_.push(pending.waiter);
}

void Actors::finish_rest(Actor& actor, CommandOutcome outcome) {
    Rest& rest = rests_.at(*std::exchange(actor.rest, std::nullopt));
    rest.outcome = std::move(outcome);
    if (rest.waiter) ready_.push(rest.waiter);
}

// Whatever it was told will have no answer.
void Actors::finish_all(Actor& actor, CommandOutcome::Kind kind) {
    if (actor.doing != nullptr) finish(*std::exchange(actor.doing, nullptr), {kind});
    if (actor.rest) finish_rest(actor, {kind});
}

// HELLO says: I carry out nothing, and what an older connection may still deliver I shall not run.
void Actors::on_hello(const schemas::Hello& hello, std::int64_t now_ms) {
    if (hello.kind != "device" && hello.kind != "mount") return;
    unaccounted_.erase(hello.incarnation);
    const ActorKind kind = hello.kind == "device" ? ActorKind::device : ActorKind::mount;
    auto [found, is_new] = actors_.try_emplace(hello.incarnation, Actor{kind, hello.pid});
    if (!is_new) finish_all(found->second, CommandOutcome::Kind::lost);
    found->second.since_ms = now_ms;
    choose_watcher();
}

void Actors::on_reply(const std::string& incarnation, const schemas::CommandReply& reply) {
    const auto found = actors_.find(incarnation);
    if (found == actors_.end()) return;
    Actor& actor = found->second;
    const CommandKey key{reply.operation, reply.step, reply.attempt};
    const bool first = actor.doing != nullptr && actor.doing->wanted.key == key;
    const bool second = actor.rest == key && !reply.more;
    if (!first && !second) return;  // The answer to something long settled.
    CommandOutcome outcome;
    outcome.more = reply.more;
    if (reply.error) {
        outcome.body = Error{parse_errc(reply.error->code), reply.error->message, reply.error->details};
    } else {
        outcome.body = encode(reply.body);
    }
    if (second) return finish_rest(actor, std::move(outcome));
    if (reply.more) {
        actor.rest = key;
        rests_.try_emplace(key);
    }
    finish(*std::exchange(actor.doing, nullptr), std::move(outcome));
}

void Actors::on_gone(const std::string& incarnation) {
    unaccounted_.erase(incarnation);
    const auto found = actors_.find(incarnation);
    if (found == actors_.end()) return;
    finish_all(found->second, CommandOutcome::Kind::actor_died);
    actors_.erase(found);
    choose_watcher();
}

// Unless it has said HELLO since, and what it does now is another copy.
void Actors::on_not_taken(const Outgoing& command) {
    const auto found = actors_.find(command.incarnation);
    if (found == actors_.end() || found->second.doing == nullptr) return;
    if (found->second.doing->wanted.frame != command.frame) return;
    Pending& pending = *std::exchange(found->second.doing, nullptr);
    queues_[{pending.wanted.kind, pending.wanted.urgency}].push_front(&pending);
}

void Actors::choose_watcher() {
    const auto is_device = [](const auto& entry) { return entry.second.kind == ActorKind::device; };
    if (std::count_if(actors_.begin(), actors_.end(), is_device) < 2) {
        watcher_.clear();
        return;
    }
    if (actors_.contains(watcher_)) return;
    // One that does nothing at present, if there is one: the watcher must never be kept waiting.
    watcher_ = std::find_if(actors_.begin(), actors_.end(), is_device)->first;
    for (const auto& [incarnation, actor] : actors_) {
        if (actor.kind == ActorKind::device && actor.idle()) watcher_ = incarnation;
    }
}

std::vector<std::string> Actors::known() const {
    std::vector<std::string> names(unaccounted_.begin(), unaccounted_.end());
    for (const auto& [incarnation, actor] : actors_) names.push_back(incarnation);
    return names;
}

bool Actors::has(ActorKind kind) const {
    return std::any_of(actors_.begin(), actors_.end(), [&](const auto& entry) { return entry.second.kind == kind; });
}

Actors::Pending* Actors::take_for(const std::string& incarnation, const Actor& actor) {
    const auto take = [&](Urgency urgency) -> Pending* {
        auto& queue = queues_[{actor.kind, urgency}];
        if (queue.empty()) return nullptr;
        Pending* first = queue.front();
        queue.pop_front();
        return first;
    };
    // A watcher that is stuck, or was chosen when all were at work, must not keep suspended devices waiting.
    const bool watches = watcher_.empty() || watcher_ == incarnation || !actors_.at(watcher_).idle();
    if (actor.kind == ActorKind::device && watches) {
        if (Pending* pending = take(Urgency::watching)) return pending;
    }
    if (watcher_ == incarnation) return nullptr;
    auto& in_a_row = awaited_in_a_row_[actor.kind];
    if (in_a_row < kMostAwaitedInARow) {
        if (Pending* pending = take(Urgency::awaited)) {
            ++in_a_row;
            return pending;
        }
    }
    in_a_row = 0;
    if (Pending* pending = take(Urgency::behind)) return pending;
    return take(Urgency::awaited);
}

std::vector<Actors::Outgoing> Actors::assign(std::int64_t now_ms) {
    std::vector<Outgoing> outgoing;
    const bool nothing_waits =
        std::all_of(queues_.begin(), queues_.end(), [](const auto& entry) { return entry.second.empty(); });
    if (nothing_waits || !unaccounted_.empty()) return outgoing;
    for (auto& [incarnation, actor] : actors_) {
        if (!actor.idle()) continue;
        actor.doing = take_for(incarnation, actor);
        if (actor.doing == nullptr) continue;
        actor.since_ms = now_ms;
        outgoing.push_back({incarnation, actor.doing->wanted.frame});
    }
    return outgoing;
}

std::vector<schemas::Actor> Actors::report(std::int64_t now_ms) const {
    std::vector<schemas::Actor> list;
    for (const auto& [incarnation, actor] : actors_) {
        schemas::Actor entry;
        entry.incarnation = incarnation;
        entry.kind = actor.kind == ActorKind::device ? "device" : "mount";
        entry.pid = actor.pid;
        entry.watcher = incarnation == watcher_;
        if (!actor.idle()) {
            entry.doing = actor.doing != nullptr ? actor.doing->wanted.type : "what is behind its reply";
            entry.busy_ms = static_cast<std::uint64_t>(now_ms - actor.since_ms);
        }
        list.push_back(std::move(entry));
    }
    for (const auto& incarnation : unaccounted_) {
        schemas::Actor entry;
        entry.incarnation = incarnation;
        entry.doing = "an older manager's command, or stopped: nothing is sent until it answers or ends";
        list.push_back(std::move(entry));
    }
    return list;
}

std::string Actors::who_does(std::uint64_t operation) const {
    for (const auto& [incarnation, actor] : actors_) {
        if (actor.doing != nullptr && actor.doing->wanted.key.operation == operation) return incarnation;
        if (actor.rest && actor.rest->operation == operation) return incarnation;
    }
    return {};
}

}  // namespace cowslip
