#include "services/pool_manager/server.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <iterator>
#include <thread>

#include <spdlog/spdlog.h>

#include "common/actor_session.h"

namespace cowslip {

namespace {

constexpr std::size_t kMostPerTurn = 256;
constexpr std::int64_t kHeartbeatMs = 1000;
constexpr std::int64_t kPublishMs = 50;
constexpr std::size_t kMostHeld = kQueueMessages / 4;  // A subscriber who reads must have room for them.
constexpr std::int64_t kLookMs = 1000;
constexpr std::int64_t kCloseLookMs = 20;
constexpr std::int64_t kCloseLooksMs = 2000;  // So long after a connection was lost.
constexpr std::int64_t kStopMs = 10000;
constexpr std::int64_t kLastBackupMs = 3000;  // Of them, for a backup into the pool: its actors may be gone.
constexpr std::size_t kCrowd = 8;             // Operations that are going on.
constexpr std::chrono::milliseconds kCrowdPause{1};

// Who started us, before privileges were dropped. Started by root we take no actor but root: another
// process of our account is none.
const uid_t kStarter = ::geteuid();

std::int64_t clock_ms(clockid_t clock) {
    timespec time{};
    clock_gettime(clock, &time);
    return std::int64_t{time.tv_sec} * 1000 + time.tv_nsec / 1000000;
}

bool readable(int fd) {
    pollfd entry{fd, POLLIN, 0};
    return ::poll(&entry, 1, 0) > 0;
}

}  // namespace

Time time_now() {
    return {clock_ms(CLOCK_BOOTTIME), clock_ms(CLOCK_REALTIME)};
}

Result<Server> Server::open(BusContext& context, const StateFolder& folder, PoolManager& manager) {
    // Clients first, and the first turn, which needs nobody: all actors come at once, and on few processors nobody else
    // is served meanwhile.
    auto clients = TRY(ServerSocket::bind(context, folder.clients_socket(), 0660));
    auto events = TRY(PublisherSocket::bind(context, folder.events_socket(), 0660));
    Outbox first = manager.turn({}, time_now());
    // Only root may be an actor, and it is let in by being root; so nobody else needs the door.
    auto actors = TRY(ServerSocket::bind(context, folder.actors_socket(), 0600));
    spdlog::info("ready socket={}", folder.clients_socket());
    Server server(folder, manager, std::move(actors), std::move(events), std::move(clients));
    server.send(std::move(first));
    return server;
}

std::vector<Input> Server::gather() {
    std::vector<Input> inbox;
    // While the start lasts, clients who only ask have a turn before the actors, all of which come at once.
    clients_alone_ = !manager_.ready() && !clients_alone_;
    if (clients_alone_) take_clients(inbox);
    if (!inbox.empty()) return inbox;
    // Else actors first: what they answer lets go of what clients wait for.
    while (inbox.size() < kMostPerTurn) {
        auto frame = actors_.receive();
        if (!frame) break;
        if (frame->uid != 0 && frame->uid != static_cast<std::int64_t>(kStarter)) {
            spdlog::warn("message at the actors' door from uid={}: dropped", frame->uid);
            continue;
        }
        inbox.emplace_back(FromActor{std::move(frame->peer), std::move(frame->payload)});
    }
    take_clients(inbox);
    clients_.peer_disconnected();
    events_.drain();
    return inbox;
}

void Server::take_clients(std::vector<Input>& inbox) {
    for (std::size_t taken = 0; taken < kMostPerTurn; ++taken) {
        auto frame = clients_.receive();
        if (!frame) break;
        inbox.emplace_back(FromClient{std::move(frame->peer), std::move(frame->payload)});
    }
}

// A lost connection says that it is worth a look; only a free lock says that nobody is left. The kernel closes the
// connection of a dead one first, and an origin may be suspended meanwhile: so the next looks come soon.
void Server::look_for_dead_actors(std::vector<Input>& inbox) {
    const std::int64_t now = time_now().monotonic_ms;
    if (actors_.peer_disconnected()) {
        look_closely_until_ms_ = now + kCloseLooksMs;
    } else if (now < next_look_ms_) {
        return;
    }
    next_look_ms_ = now + (now < look_closely_until_ms_ ? kCloseLookMs : kLookMs);
    for (auto& command : std::exchange(not_taken_, {})) inbox.emplace_back(NotTaken{std::move(command)});
    for (const std::string& incarnation : manager_.known_actors()) {
        if (actor_is_gone(folder_.actors(), incarnation)) inbox.emplace_back(ActorGone{incarnation});
    }
}

void Server::send(Outbox outbox) {
    for (const auto& command : outbox.commands) {
        if (actors_.send(command.incarnation, command.frame) == Sent::done) continue;
        spdlog::warn("command not taken by actor={}", command.incarnation);
        not_taken_.push_back(command);  // Not at once: it may be there still when its connection is gone.
        next_look_ms_ = std::min(next_look_ms_, time_now().monotonic_ms + kCloseLookMs);
    }
    for (const auto& [peer, payload] : outbox.replies) {
        if (clients_.send(peer, payload) == Sent::full) spdlog::warn("a client does not read its answers: one dropped");
    }
    std::move(outbox.events.begin(), outbox.events.end(), std::back_inserter(held_));
}

// An event after a while without one goes at once; those that follow it soon go together, for each message costs a
// system call and a wakeup for each subscriber.
void Server::publish() {
    const std::int64_t now_ms = time_now().monotonic_ms;
    if (held_.empty() || (now_ms < next_publish_ms_ && held_.size() < kMostHeld)) return;
    for (const auto& [topic, payload] : held_) events_.publish(topic, payload);
    held_.clear();
    next_publish_ms_ = now_ms + kPublishMs;
    next_heartbeat_ms_ = now_ms + kHeartbeatMs;
}

// With the last seq: a subscriber that has missed the last event of a burst learns of it all the same.
void Server::heartbeat() {
    const Time now = time_now();
    if (now.monotonic_ms < next_heartbeat_ms_) return;
    next_heartbeat_ms_ = now.monotonic_ms + kHeartbeatMs;
    StoredEvent event{manager_.last_event_seq(), format_time(now.wall_ms), "heartbeat", "", {}};
    events_.publish(event.type, encode(event));
}

std::chrono::milliseconds Server::patience(std::int64_t now_ms) const {
    std::int64_t due = std::min(next_heartbeat_ms_, next_look_ms_);
    if (!held_.empty()) due = std::min(due, next_publish_ms_);
    if (const auto timer = manager_.next_timer()) due = std::min(due, *timer);
    return std::chrono::milliseconds(std::clamp<std::int64_t>(due - now_ms, 0, 1000));
}

Result<void> Server::serve(int stop_fd) {
    std::optional<std::int64_t> stop_at;
    for (;;) {
        const std::array<const BusSocket*, 3> sockets = {&actors_, &events_, &clients_};
        const std::array<int, 1> fds = {stop_fd};
        const std::size_t watched = stop_at ? 0 : 1;  // Readable for good once it was.
        wait_readable(sockets, std::span(fds).first(watched), patience(time_now().monotonic_ms));
        // Under load, what arrives within a moment shares the turn and its sync.
        if (manager_.operations() >= kCrowd) std::this_thread::sleep_for(kCrowdPause);
        std::vector<Input> inbox = gather();
        look_for_dead_actors(inbox);
        const Time now = time_now();
        const bool due = manager_.next_timer().value_or(now.monotonic_ms + 1) <= now.monotonic_ms;
        if (!inbox.empty() || due) send(manager_.turn(inbox, now));
        publish();
        heartbeat();
        if (!stop_at && readable(stop_fd)) {
            stop_at = now.monotonic_ms + kStopMs;
            manager_.stop_admitting();
            spdlog::info("stopping");
        }
        const std::int64_t now_ms = time_now().monotonic_ms;
        const bool patient = stop_at && manager_.is_backing_up() && !manager_.known_actors().empty() &&
                             now_ms < *stop_at - kStopMs + kLastBackupMs;
        if (stop_at && ((manager_.drained() && !patient) || now_ms >= *stop_at)) {
            send(manager_.answer_all_waiting());
            next_publish_ms_ = 0;
            publish();
            clients_.linger(std::chrono::milliseconds(500));
            return {};
        }
    }
}

}  // namespace cowslip
