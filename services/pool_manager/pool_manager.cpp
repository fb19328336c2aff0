#include "services/pool_manager/pool_manager.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>
#include <sodium.h>
#include <spdlog/spdlog.h>

#include "common/names.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kOperationBlock = 4096;
constexpr std::size_t kEndedKept = 1024;
constexpr std::size_t kMostWaiters = 64;  // For one operation.
constexpr std::size_t kMostEarly = 1024;
constexpr std::size_t kMostEarlyBytes = 16U << 20U;
constexpr std::uint32_t kLongestTimeoutMs = 24 * 3600 * 1000;

std::string digest_of(const schemas::Request& request) {
    const std::string text = request.type + '\0' + encode(request.body);
    std::string digest(crypto_hash_sha256_BYTES, '\0');
    crypto_hash_sha256(reinterpret_cast<unsigned char*>(digest.data()),
                       reinterpret_cast<const unsigned char*>(text.data()), text.size());
    return digest;
}

// `body` is encoded already: the frame is put together without decoding it again.
std::string reply_frame(const std::string& request_id, const std::string& body) {
    std::string frame = encode(schemas::ReplyOf<schemas::Empty>{.request_id = request_id});
    frame.pop_back();  // The empty map in the last place.
    return frame + body;
}

}  // namespace

std::string error_frame(const std::string& request_id, const Error& error) {
    schemas::ErrorReply reply;
    reply.request_id = request_id;
    reply.error = {std::string(to_string(error.code)), error.message, error.details, retryable(error.code)};
    return encode(reply);
}

std::string default_holder(const std::string& holder) {
    return holder.empty() ? "default" : holder;
}

PoolManager::PoolManager(Store& store, ManagerOptions options) : store_(store), options_(std::move(options)) {
    register_handlers();
}

PoolManager::~PoolManager() = default;

// ---- the turn --------------------------------------------------------------------------------

Outbox PoolManager::turn(const std::vector<Input>& inbox, Time now) {
    now_ = now;
    store_.set_time(now.wall_ms);
    ++counters_["turns"];
    const bool due = store_.commit_deferred_until().value_or(now.monotonic_ms + 1) <= now.monotonic_ms;
    copy_some();
    if (operations_reserved_below_ - next_operation_ < kOperationBlock / 2) {
        reserve_operations();
        keep();
    }
    for (const Input& input : inbox) {
        if (const auto* client = std::get_if<FromClient>(&input)) on_client(*client);
        if (const auto* actor = std::get_if<FromActor>(&input)) on_actor(*actor);
        if (const auto* gone = std::get_if<ActorGone>(&input)) {
            spdlog::warn("actor gone incarnation={}", gone->incarnation);
            actors_.on_gone(gone->incarnation);
            actors_changed_.notify_all();
        }
        if (const auto* refused = std::get_if<NotTaken>(&input)) actors_.on_not_taken(refused->command);
        keep();
        run_ready();
    }
    timers_.run(now.monotonic_ms);
    keep();
    run_ready();
    outbox_.commands = actors_.assign(now.monotonic_ms);
    if (due || !store_.may_commit_later()) commit();
    return std::exchange(outbox_, {});
}

void PoolManager::commit() {
    if (store_.commit()) ++counters_["commits"];
    for (const auto& event : store_.take_events()) outbox_.events.push_back({event.type, encode(event)});
}

std::optional<std::int64_t> PoolManager::next_timer() const {
    const auto timer = timers_.next();
    const auto commit = store_.commit_deferred_until();
    return timer && commit ? std::min(*timer, *commit) : timer ? timer : commit;
}

void PoolManager::run_ready() {
    while (!ready_.empty()) {
        resume(ready_.pop());
        for (const std::uint64_t number : std::exchange(finished_, {})) operations_.erase(number);
    }
}

// What one resumption writes is kept or undone as a whole (`fail` rolls it back).
void PoolManager::resume(std::coroutine_handle<> handle) {
    handle.resume();
    keep();
}

void PoolManager::keep() {
    store_.release_savepoint();
    facts_.clear();
    reserved_now_ = false;
}

void PoolManager::on_actor(const FromActor& input) {
    const auto document = decode(input.payload);
    const auto message =
        document ? decode_as<schemas::FromActor>(document->root()) : Result<schemas::FromActor>(document.error());
    if (!message || message->v != schemas::kProtocolVersion) {
        const std::uint64_t seen = ++counters_["unreadable_actor_messages"];
        if (std::has_single_bit(seen)) spdlog::warn("unreadable messages at the actors' door count={}", seen);
        return;
    }
    if (message->hello && message->hello->incarnation == input.incarnation) {
        actors_.on_hello(*message->hello, now_.monotonic_ms);
        actors_changed_.notify_all();
    }
    if (message->reply) actors_.on_reply(input.incarnation, *message->reply);
    if (message->look) {
        count("pool_events");
        pool_event_ = true;
        look_.notify_all();
    }
}

// ---- requests --------------------------------------------------------------------------------

void PoolManager::on_client(const FromClient& input) {
    const auto document = decode(input.payload);
    if (!document) return reply_error(input.peer, "", document.error());
    const auto request = decode_as<schemas::Request>(document->root());
    if (!request) return reply_error(input.peer, "", request.error());
    const std::size_t id_length = request->request_id.size();
    if (id_length < 1 || id_length > 128) {
        return reply_error(input.peer, "", {Errc::invalid_argument, "request_id must have 1 to 128 bytes"});
    }
    if (request->v != schemas::kProtocolVersion) {
        return reply_error(input.peer, request->request_id,
                           {Errc::invalid_argument, fmt::format("protocol version {} is not spoken here, {} is",
                                                                request->v, schemas::kProtocolVersion)});
    }
    // Changes; and what the kernel knows: where something is mounted, how full the pool is.
    const bool waits = changes_.contains(request->type) || request->type == schemas::LeaseList::kType ||
                       request->type == schemas::PoolStatus::kType;
    if (waits && !start_done_) return keep_for_later(input, request->request_id);
    on_request(input.peer, *request);
}

// What is unfinished goes on first: it has its places in the queues, and a repeated request may be one of those.
void PoolManager::keep_for_later(const FromClient& input, const std::string& request_id) {
    if (early_.size() >= kMostEarly || early_bytes_ + input.payload.size() > kMostEarlyBytes) {
        return reply_error(input.peer, request_id, {Errc::busy, "the service is starting: ask again"});
    }
    early_bytes_ += input.payload.size();
    early_.push_back(input);
}

void PoolManager::end_start() {
    start_done_ = true;
    for (const FromClient& input : std::exchange(early_, {})) on_client(input);
}

void PoolManager::on_request(const std::string& peer, const schemas::Request& request) {
    const auto found = changes_.find(request.type);
    const auto asked = queries_.find(request.type);
    count(found != changes_.end() || asked != queries_.end() ? request.type : "unknown");
    if (asked != queries_.end()) {
        const auto body = asked->second(request.body);
        if (!body) return reply_error(peer, request.request_id, body.error());
        return reply(peer, request.request_id, reply_frame(request.request_id, *body));
    }
    if (found == changes_.end()) {
        return reply_error(
            peer, request.request_id,
            {Errc::unimplemented,
             fmt::format("there is no request type '{}': see `cowslip bus describe`", request.type.substr(0, 64))});
    }
    join_or_begin(peer, request, found->second);
}

// A repeated request gets the first one's answer: now, or when it comes.
void PoolManager::join_or_begin(const std::string& peer, const schemas::Request& request, const Handler& handler) {
    const std::string digest = digest_of(request);
    const auto stored = store_.request(request.request_id);
    const auto active = by_request_.find(request.request_id);
    const bool known = stored.has_value() || active != by_request_.end();
    const std::string& first_digest = stored ? stored->digest : known ? operations_.at(active->second)->digest : digest;
    if (known && first_digest != digest) {
        return reply_error(peer, request.request_id,
                           {Errc::invalid_argument, "this request id was used for another request"});
    }
    if (stored && stored->reply) {
        return reply(peer, request.request_id, *stored->reply);
    }
    if (active != by_request_.end()) return add_waiter(*operations_.at(active->second), peer, request.timeout_ms);
    if (stopping_)
        return reply_error(peer, request.request_id, {Errc::unavailable, "the service is stopping: ask again"});
    if (operations_.size() >= options_.max_operations) {
        return reply_error(
            peer, request.request_id,
            {Errc::busy, fmt::format("{} operations are going on already: ask again", operations_.size())});
    }
    Operation& operation = new_operation(request.type, "");
    operation.request_id = request.request_id;
    operation.digest = digest;
    const std::uint64_t number = operation.number;
    by_request_[request.request_id] = number;
    add_waiter(operation, peer, request.timeout_ms);
    handler(operation, request.body);
}

PoolManager::Operation& PoolManager::new_operation(std::string type, std::string subject) {
    const std::uint64_t number = take_operation_number();
    auto operation = std::make_unique<Operation>(number, ready_);
    operation->type = std::move(type);
    operation->subject = std::move(subject);
    operation->started_ms = now_.monotonic_ms;
    return *operations_.emplace(number, std::move(operation)).first->second;
}

std::uint64_t PoolManager::take_operation_number() {
    if (next_operation_ >= operations_reserved_below_) reserve_operations();
    return next_operation_++;
}

void PoolManager::reserve_operations() {
    operations_reserved_below_ = std::max(operations_reserved_below_, next_operation_ + kOperationBlock);
    store_.reserve_operations(operations_reserved_below_);
    reserved_now_ = true;
}

void PoolManager::begin(Operation& operation, Task<std::string> body) {
    operation.task = run(operation, std::move(body));
    ready_.push(operation.task.handle());
}

// Every operation's outermost frame: its answer, or its failure, is stored in the same savepoint as
// its last rows.
Async<void> PoolManager::run(Operation& operation, Task<std::string> body) {
    Result<std::string> result = co_await std::move(body);
    if (result && !operation.request_id.empty()) {
        const std::string frame = reply_frame(operation.request_id, *result);
        store_.set_reply(operation.request_id, operation.digest, frame);
        answer(operation, frame);
    }
    if (!result) fail(operation, result.error());
    operation.ended.notify_all();
    ended_[operation.number] = result ? std::optional<Error>() : result.error();
    ended_order_.push_back(operation.number);
    if (ended_order_.size() > kEndedKept) {
        ended_.erase(ended_order_.front());
        ended_order_.pop_front();
    }
    by_request_.erase(operation.request_id);
    if (operation.role == Role::behind) behind_changed_.notify_all();
    finished_.push_back(operation.number);
}

// Not accepted yet: nothing was changed, and nothing is remembered. Accepted: undone, and the failure
// is the answer from now on. What it came upon stays true.
void PoolManager::fail(Operation& operation, const Error& error) {
    store_.rollback_savepoint();
    if (reserved_now_) reserve_operations();
    for (const Fact& fact : facts_) event(fact.type, fact.subject, fact.body);
    if (operation.recorded) undo(operation, error);
    if (error.code == Errc::internal) {
        spdlog::error("operation={} type={} subject='{}' failed: {}", operation.number, operation.type,
                      operation.subject, error.message);
    }
    answer(operation, error_frame(operation.request_id, error));
}

void PoolManager::answer(Operation& operation, const std::string& frame) {
    for (const Waiter& waiter : std::exchange(operation.waiters, {})) {
        if (waiter.deadline) timers_.cancel(*waiter.deadline);
        reply(waiter.peer, operation.request_id, frame);
    }
}

void PoolManager::reply(const std::string& peer, const std::string& request_id, std::string frame) {
    if (frame.size() > kMaxFrameBytes) {
        frame = error_frame(request_id, {Errc::internal, "the answer is larger than a frame: ask for less at once"});
    }
    outbox_.replies.push_back({peer, std::move(frame)});
}

void PoolManager::add_waiter(Operation& operation, const std::string& peer, std::uint32_t timeout_ms) {
    if (operation.waiters.size() >= kMostWaiters) {
        return reply_error(peer, operation.request_id,
                           {Errc::busy, fmt::format("{} wait for this request already", operation.waiters.size())});
    }
    const std::uint64_t waiter = next_waiter_++;
    const std::int64_t deadline_ms = now_.monotonic_ms + std::clamp(timeout_ms, 1U, kLongestTimeoutMs);
    const auto timer =
        timers_.at(deadline_ms, [this, number = operation.number, waiter] { on_deadline(number, waiter); });
    operation.waiters.push_back({peer, waiter, deadline_ms, timer});
}

// `accepted` and `timed_out` answer the wait, not the operation: it goes on. (Who is answered has no deadline any
// more.)
void PoolManager::on_deadline(std::uint64_t number, std::uint64_t waiter) {
    Operation& operation = *operations_.at(number);
    const auto waiting = std::find_if(operation.waiters.begin(), operation.waiters.end(),
                                      [&](const Waiter& entry) { return entry.id == waiter; });
    waiting->deadline.reset();
    if (operation.waits_for_place) {
        operation.gives_up = true;
        behind_changed_.notify_all();
        return;
    }
    if (operation.recorded) {
        const schemas::Accepted accepted{true, number};
        reply(waiting->peer, operation.request_id, reply_frame(operation.request_id, encode(accepted)));
    } else {
        reply_error(
            waiting->peer, operation.request_id,
            {Errc::timed_out, fmt::format("operation {} goes on, waiting for {}: `cowslip wait {}`, or ask again with "
                                          "the same request id",
                                          number, operation.waiting_for, number)});
    }
    operation.waiters.erase(waiting);
}

void PoolManager::reply_error(const std::string& peer, const std::string& request_id, const Error& error) {
    reply(peer, request_id, error_frame(request_id, error));
}

// The next turn is at once, for what is begun here.
void PoolManager::stop_admitting() {
    stopping_ = true;
    if (backup_due_ && pool_.loaded && pool_.writable && pool_.frozen.empty()) begin_backup();
    timers_.at(now_.monotonic_ms, [] {});
}

Outbox PoolManager::answer_all_waiting() {
    if (!start_done_) end_start();  // They are refused: nothing is admitted any more.
    commit();
    for (auto& [number, operation] : operations_) {
        if (operation->recorded) {
            answer(*operation, reply_frame(operation->request_id, encode(schemas::Accepted{true, number})));
        } else {
            answer(*operation,
                   error_frame(operation->request_id, {Errc::unavailable, "the service is stopping: ask again"}));
        }
    }
    return std::exchange(outbox_, {});
}

std::size_t PoolManager::count_operations(Role role) const {
    return static_cast<std::size_t>(std::count_if(operations_.begin(), operations_.end(),
                                                  [&](const auto& entry) { return entry.second->role == role; }));
}

std::ptrdiff_t PoolManager::count_operations(std::string_view type) const {
    return std::count_if(operations_.begin(), operations_.end(),
                         [&](const auto& entry) { return entry.second->type == type; });
}

// ---- what happened, and what is wrong --------------------------------------------------------

void PoolManager::event(std::string_view type, std::string_view subject, const EventBody& body) {
    if (type.starts_with("volume.")) backup_due_ = true;
    if (type.starts_with("volume.") || type.starts_with("pool.")) store_changed_ = true;
    store_.append_event(type, subject, body);
}

void PoolManager::fact(const std::string& type, const std::string& subject, const EventBody& body) {
    event(type, subject, body);
    facts_.push_back({type, subject, body});
}

void PoolManager::find(FindingKind kind, const std::string& subject, const std::string& detail) {
    auto [entry, is_new] = findings_.try_emplace({kind, subject}, detail);
    entry->second = detail;
    if (!is_new) return;
    spdlog::warn("finding kind={} subject='{}' detail='{}'", to_string(kind), subject, detail);
    fact(fmt::format("finding.{}", to_string(kind)), subject, {{"detail", detail}});
}

void PoolManager::unfind(FindingKind kind, const std::string& subject) {
    if (findings_.erase({kind, subject}) > 0) fact("finding.gone", subject, {{"kind", std::string(to_string(kind))}});
}

std::vector<std::string> holder_names(const std::vector<LeaseRow>& leases) {
    std::vector<std::string> names;
    for (const auto& lease : leases) {
        if (names.size() < 16) names.push_back(lease.holder);
    }
    return names;
}

std::vector<std::string> holder_names(const std::vector<schemas::Holder>& holders) {
    std::vector<std::string> names;
    for (const auto& holder : holders) {
        if (names.size() < 16)
            names.push_back(fmt::format("{} (pid {}): {}", holder.command, holder.pid, holder.detail));
    }
    return names;
}

// ---- the table of requests -------------------------------------------------------------------

template <class Message>
void PoolManager::change(Task<std::string> (PoolManager::*handler)(Operation&, Message),
                         std::string Message::*subject) {
    changes_[Message::kType] = [this, handler, subject](Operation& operation, const msgpack::object& body) {
        auto message = decode_as<Message>(body);
        if (!message) {
            // Within a coroutine, so that every operation ends in the same way.
            begin(operation, [](Error error) -> Task<std::string> { co_return error; }(message.error()));
            return;
        }
        if (subject != nullptr) operation.subject = (*message).*subject;
        begin(operation, (this->*handler)(operation, std::move(*message)));
    };
}

template <class Message>
void PoolManager::change(Task<std::string> (PoolManager::*handler)(Operation&, Message)) {
    change<Message>(handler, nullptr);
}

template <class Message>
void PoolManager::query(Result<typename Message::Reply> (PoolManager::*handler)(const Message&)) {
    queries_[Message::kType] = [this, handler](const msgpack::object& body) -> Result<std::string> {
        const auto message = TRY(decode_as<Message>(body));
        return encode(TRY((this->*handler)(message)));
    };
}

void PoolManager::register_handlers() {
    change(&PoolManager::create_volume, &schemas::VolumeCreate::id);
    change(&PoolManager::remove_volume, &schemas::VolumeRemove::id);
    change(&PoolManager::resize_volume, &schemas::VolumeResize::id);
    change(&PoolManager::freeze_volume, &schemas::VolumeFreeze::id);
    change(&PoolManager::rename_volume, &schemas::VolumeRename::id);
    change(&PoolManager::label_volume, &schemas::VolumeLabel::id);
    change(&PoolManager::trim_volume, &schemas::VolumeTrim::id);
    change(&PoolManager::get_volume, &schemas::VolumeGet::id);
    change(&PoolManager::put_volume, &schemas::VolumePut::id);
    change(&PoolManager::attach_volume, &schemas::VolumeAttach::id);
    change(&PoolManager::detach_volume, &schemas::VolumeDetach::id);
    change(&PoolManager::create_pool);
    change(&PoolManager::set_quota);
    change(&PoolManager::set_limits);
    change(&PoolManager::start_pool_request);
    change(&PoolManager::grow_pool);
    change(&PoolManager::stop_pool);
    change(&PoolManager::check_pool);
    change(&PoolManager::destroy_pool);
    change(&PoolManager::rewind_pool);
    change(&PoolManager::rebuild_pool);
    change(&PoolManager::repair_request);
    change(&PoolManager::cleanup);
    change(&PoolManager::fsck);
    change(&PoolManager::measure_pool);
    change(&PoolManager::wait_for_operation);
    change(&PoolManager::backup_store);
    query(&PoolManager::list_backups);
    query(&PoolManager::pool_status);
    query(&PoolManager::exists);
    query(&PoolManager::show);
    query(&PoolManager::list);
    query(&PoolManager::list_leases);
    query(&PoolManager::list_operations);
    query(&PoolManager::status);
    query(&PoolManager::events_since);
}

}  // namespace cowslip
