#include "tests/simulation/world.h"

#include <set>
#include <stdexcept>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"

namespace cowslip::simulation {

namespace {

constexpr std::int64_t kHour = 3600 * 1000;
constexpr std::size_t kHistory = 4000;

}  // namespace

World::World(Options options)
    : kernel(std::move(options.kernel)), options_(std::move(options)), random_(options_.seed) {
    spdlog::set_level(spdlog::level::off);  // The history says more.
    if (!options_.store.empty()) disk.put(std::exchange(options_.store, {}));
    disk.folders_not_synced = mutant("folder_not_synced");
    kernel.before_effect = [this](const std::string& effect) {
        note("effect " + effect);
        maybe_fail_a_commit();
        something_happens();
        if (chance_of_death()) throw Death{};
    };
    for (int i = 0; i < options_.device_actors; ++i) start_actor(ActorKind::device);
    for (int i = 0; i < options_.mount_actors; ++i) start_actor(ActorKind::mount);
    start_manager();
}

World::~World() {
    manager_.reset();
    store_.reset();
}

void World::at(std::int64_t delay_ms, std::function<void()> action) {
    events_.emplace(now_ms_ + std::max<std::int64_t>(delay_ms, 0), std::move(action));
}

void World::note(const std::string& text) {
    history_.push_back(fmt::format("{:>10} {}", now_ms_, text));
    if (history_.size() > kHistory) history_.pop_front();
}

void World::something_happens() {
    if (happened_++ != options_.die_at) return;
    power_fails_ = options_.power_cut_at_that;
    throw Death{};
}

// Three deaths of one command park it, by design: chance stops short of that.
bool World::chance_of_death() {
    if (deaths_[carried_out_for_] >= 2 || !chance(options_.faults.actor_dies)) return false;
    ++deaths_[carried_out_for_];
    return true;
}

// Not while the pool is being made: that fails, as it should.
void World::maybe_fail_a_commit() {
    if (!chance(options_.faults.commit_fails) || !store_ || !store_->pool() || store_->pool()->state == "formatting")
        return;
    note("the next commit fails");
    ++commits_failed_;
    kernel.fail_commits = 1;
    at(between(1000, 30000), [this] {
        kernel.fail_commits = 0;
        repair_pools();
    });
}

void World::repair_pools() {
    for (auto& [name, medium] : kernel.media) medium.metadata.needs_check = false;
    for (auto& [uuid, content] : file_systems_) content.cut_off = false;
    for (auto& [number, pool] : kernel.pools) {
        if (!pool.core.needs_check) continue;
        note("repair");
        pool.core = kernel.media.at(pool.medium).metadata;
        pool.mode = PoolMode::rw;
    }
}

void World::run_until(const std::function<bool()>& done) {
    const std::int64_t deadline = now_ms_ + kHour;
    while (!done()) {
        if (events_.empty() || now_ms_ > deadline) throw std::runtime_error("the world stands still");
        now_ms_ = std::max(now_ms_, events_.begin()->first);
        const auto action = std::move(events_.begin()->second);
        events_.erase(events_.begin());
        action();
    }
}

void World::run_for(std::int64_t milliseconds) {
    const std::int64_t end = now_ms_ + milliseconds;
    bool over = false;
    events_.emplace(end, [&] { over = true; });
    run_until([&] { return over; });
}

void World::stop_faults() {
    options_.faults = {};
    kernel.fail_commits = 0;
    repair_pools();
    disk.heal();
}

// ---- clients ---------------------------------------------------------------------------------

void World::ask_raw(const std::string& type, const std::string& body, std::function<void(const Answer&)> done) {
    const std::string id = fmt::format("request-{}", next_request_++);
    requests_[id] = {type, body, std::move(done), "", false};
    send_request(id);
}

// Again and again, under the same id, as a client does whose answer does not come.
void World::send_request(const std::string& id) {
    Request& request = requests_.at(id);
    if (request.answered) return;
    const Document document = *decode(request.body);
    const std::string frame = encode(schemas::RequestOf<msgpack::object>{
        .request_id = id, .type = request.type, .timeout_ms = 600000, .body = document.root()});
    const int copies = chance(options_.faults.lose_message) ? 0 : chance(options_.faults.repeat_message) ? 2 : 1;
    for (int i = 0; i < copies; ++i) {
        at(between(0, 3) + i * between(0, 500), [this, id, frame] {
            // A refusal is not remembered: a copy of a refused request that came late would be a new one.
            const bool refused = requests_.at(id).answered && requests_.at(id).frame.empty();
            if (manager_ && !refused) deliver(FromClient{"client", frame});
        });
    }
    at(5000, [this, id] { send_request(id); });
}

std::string World::send_once(const std::string& type, const std::string& body, Sending how) {
    const Document document = *decode(body);
    if (how.request_id.empty()) how.request_id = fmt::format("once-{}", next_request_++);
    send_frame(encode(schemas::RequestOf<msgpack::object>{
                   .request_id = how.request_id, .type = type, .timeout_ms = how.timeout_ms, .body = document.root()}),
               how.early);
    return how.request_id;
}

void World::send_frame(const std::string& frame, bool early) {
    run_until([&] { return early ? manager_ != nullptr : ready(); });
    deliver(FromClient{"client that asks once", frame});
}

Answer World::answer(const std::string& request_id, std::size_t count) {
    run_until([&] { return answers(request_id).size() >= count; });
    return answers(request_id).back();
}

void World::on_reply(const std::string& payload) {
    const Document document = *decode(payload);
    const auto reply = *decode_as<schemas::Reply>(document.root());
    Answer answer{encode(reply.body), std::nullopt, payload};
    if (reply.error) answer.error = Error{parse_errc(reply.error->code), reply.error->message, reply.error->details};
    const auto retried = requests_.find(reply.request_id);
    if (retried == requests_.end()) {
        note(fmt::format("answer {} {}", reply.request_id, answer.error ? answer.error->message : "ok"));
        answers_[reply.request_id].push_back(std::move(answer));
        return;
    }
    Request& request = retried->second;
    if (answer.error && retryable(answer.error->code)) return;  // The wait ended, not the request.
    const bool stored = !answer.error.has_value();
    if (request.answered) {
        if (stored && request.frame != payload) throw std::runtime_error("two answers to " + reply.request_id);
        return;
    }
    request.answered = true;
    request.frame = stored ? payload : "";
    note(fmt::format("answer {} {} {}", reply.request_id, request.type, answer.error ? answer.error->message : "ok"));
    request.done(answer);
}

// ---- the manager -----------------------------------------------------------------------------

void World::start_manager() {
    const auto open = [this]() -> Result<Store> {
        try {
            return Store::open("store.db", disk.disk());
        } catch (const StoreFailure& failure) {
            return Error{Errc::no_space, failure.what()};
        }
    };
    auto store = open();
    if (!store) {
        if (!disk.has_failed()) throw std::runtime_error(store.error().message);
        note("no manager: " + store.error().message);
        disk.kill();
        return start_manager_later(1000);
    }
    store_.emplace(std::move(*store));
    ManagerOptions options = options_.manager;
    options.boot_id = fmt::format("boot-{}", boot_);
    options.mounts_folder = "/fake/mnt";
    options.store_folder = "/fake/store";
    manager_ = std::make_unique<PoolManager>(*store_, options);
    ++manager_number_;
    note(fmt::format("manager {} starts", manager_number_));
    std::vector<std::string> locks;
    for (const auto& [name, actor] : actors_) {
        if (!mutant("actors_not_asked")) locks.push_back(name);
    }
    try {
        manager_->start(locks, {now_ms_, now_ms_});
    } catch (const StoreFailure& failure) {
        note(failure.what());
        return kill_manager();
    }
    for (const auto& [name, actor] : actors_) {
        if (!actor.busy) at(between(1, 50), [this, name = name] { hello(name); });
    }
    deliver(ActorGone{"nobody"});
}

void World::kill_manager() {
    if (!manager_) return;
    note("manager dies");
    disk.kill();
    manager_.reset();
    store_.reset();
    inbox_.clear();
    for (auto& [name, actor] : actors_) actor.queued.clear();  // Dropped with the connection.
    start_manager_later(between(1, 200));
}

void World::start_manager_later(std::int64_t delay_ms) {
    at(delay_ms, [this] {
        if (!manager_) start_manager();
    });
}

FakeDisk::Image World::take_store() const {
    if (manager_) throw std::runtime_error("the store is open");
    return disk.image();
}

void World::put_store(const FakeDisk::Image& image) {
    if (manager_) throw std::runtime_error("the store is open");
    disk.put(image);
}

void World::cut_power() {
    note("power cut");
    power_fails_ = false;
    ++boot_;
    disk.cut_power();
    kernel.reboot();
    mounts.reboot();
    while (!actors_.empty()) actor_died(actors_.begin()->first);
    kill_manager();
    if (on_power_cut) on_power_cut();
}

void World::deliver(Input input) {
    if (!manager_) return;
    inbox_.push_back(std::move(input));
    if (turn_planned_) return;
    turn_planned_ = true;
    at(between(0, 1), [this] {
        turn_planned_ = false;
        turn();
    });
}

void World::turn() {
    if (!manager_) return;
    if (chance(options_.faults.power_cut)) return cut_power();
    const bool dies = chance(options_.faults.manager_dies);
    try {
        if (dies && chance(0.3)) throw Death{};  // Before it has done anything.
        something_happens();
        const Outbox outbox = manager_->turn(std::exchange(inbox_, {}), {now_ms_, now_ms_});
        something_happens();  // Committed, nothing sent.
        if (!dies) {
            send(outbox);
        } else if (chance(0.5)) {
            Outbox half = outbox;
            half.commands.resize(static_cast<std::size_t>(between(0, static_cast<std::int64_t>(half.commands.size()))));
            half.replies.clear();
            send(half);
        }
        if (dies) throw Death{};
    } catch (const Death&) {
        return power_fails_ ? cut_power() : kill_manager();
    } catch (const StoreFailure& failure) {
        note(failure.what());
        return kill_manager();
    }
    if (const auto timer = manager_->next_timer()) {
        at(*timer - now_ms_, [this, number = manager_number_] {
            if (manager_ && number == manager_number_ && manager_->next_timer().value_or(now_ms_ + 1) <= now_ms_)
                turn();
        });
    }
}

void World::send(const Outbox& outbox) {
    for (const auto& [name, frame] : outbox.commands) {
        const auto addressed = actors_.find(name);
        if (addressed == actors_.end() || chance(options_.faults.refuse_command)) {
            at(20, [this, name = name, frame = frame] { deliver(NotTaken{{name, frame}}); });
            continue;
        }
        if (chance(options_.faults.break_connection)) {
            reconnect(name);
            continue;
        }
        const int connection = addressed->second.connection;
        at(between(0, 2), [this, name = name, frame = frame, connection, session = manager_number_] {
            const auto found = actors_.find(name);
            if (found == actors_.end() || session != manager_number_ || !manager_) return;
            if (connection != found->second.connection) return;
            found->second.queued.push_back(frame);
            begin_command(name);
        });
    }
    for (const auto& [peer, payload] : outbox.replies) {
        if (peer == "client" && chance(options_.faults.lose_message)) continue;
        at(between(0, 2), [this, payload = payload] { on_reply(payload); });
    }
}

// ---- actors ----------------------------------------------------------------------------------

void World::start_actor(ActorKind kind) {
    const std::string name =
        fmt::format("{}-{}-0000abcd", kind == ActorKind::device ? "device" : "mount", next_actor_++);
    actors_[name] = {.kind = kind};
    note("actor starts " + name);
    at(between(1, 20), [this, name] { hello(name); });
}

// Says that it holds nothing, so it is only said by one that holds nothing.
void World::hello(const std::string& name) {
    const auto found = actors_.find(name);
    if (found == actors_.end() || found->second.busy || !manager_ || found->second.session == manager_number_) return;
    say_hello(name);
}

void World::say_hello(const std::string& name) {
    Actor& actor = actors_.at(name);
    actor.session = manager_number_;
    actor.broken = false;
    ++actor.connection;
    actor.queued.clear();
    schemas::FromActorOf<schemas::Empty> message;
    message.hello = schemas::Hello{actor.kind == ActorKind::device ? "device" : "mount", name, 1, ""};
    deliver(cowslip::FromActor{name, encode(message)});
}

void World::hear(const std::string& incarnation, const std::string& payload) {
    deliver(cowslip::FromActor{incarnation, payload});
}

void World::tell_of_pool_event() {
    const auto actor = std::find_if(actors_.begin(), actors_.end(),
                                    [](const auto& entry) { return entry.second.kind == ActorKind::device; });
    deliver(cowslip::FromActor{actor->first, encode(schemas::FromActorOf<schemas::Empty>{1, {}, {}, true})});
}

// What was under way is lost, and the next thing that the manager hears of it is HELLO.
void World::reconnect(const std::string& name) {
    note("the connection breaks of " + name);
    actors_.at(name).broken = true;
    at(between(1, 300), [this, name, session = manager_number_] {
        const auto found = actors_.find(name);
        if (found == actors_.end() || found->second.busy || !found->second.broken) return;
        if (manager_ && session == manager_number_ && found->second.session == session) say_hello(name);
    });
}

void World::begin_command(const std::string& name) {
    Actor& actor = actors_.at(name);
    if (actor.busy || actor.queued.empty()) return;
    actor.busy = true;
    const std::string frame = actor.queued.front();
    actor.queued.pop_front();
    const std::string type = decode_as<schemas::Command>(decode(frame)->root())->type;
    if (held_commands_.contains(type)) {
        note(name + " is stopped before " + type);
        waiting_.push_back({name, [this, name, frame, session = actor.session] { carry_out(name, frame, session); }});
        return;
    }
    if (deadly.contains(type)) return at(between(1, 40), [this, name] { actor_died(name); });
    const std::int64_t takes = chance(options_.faults.actor_stalls) ? between(100, 20000) : between(1, 40);
    if (takes > 3000 && mutant("resend_on_timeout")) {
        at(3000, [this, name] { deliver(ActorGone{name}); });
        at(3000, [this, kind = actor.kind] { start_actor(kind); });
    }
    at(takes, [this, name, frame, session = actor.session] { carry_out(name, frame, session); });
}

// Its effects happen now, whatever became of the manager that sent it.
void World::carry_out(const std::string& name, const std::string& frame, std::uint64_t session) {
    const auto found = actors_.find(name);
    if (found == actors_.end()) return;
    const Document document = *decode(frame);
    const auto command = *decode_as<schemas::Command>(document.root());
    note(fmt::format("{} does {} operation={} attempt={}", name, command.type, command.operation, command.attempt));
    CommandAnswer answer{Error{}};
    carried_out_for_ = command.operation;
    ++commands[command.type];
    try {
        answer = run_command(found->second.kind, command);
    } catch (const Death&) {
        return power_fails_ ? cut_power() : actor_died(name);
    }
    if (change_answer) answer.body = change_answer(command, std::move(answer.body));
    const CommandKey key{command.operation, command.step, command.attempt};
    const std::string payload = reply_frame(key, answer.body, static_cast<bool>(answer.rest));
    const auto replies = [this, name, key, payload, session, rest = answer.rest] {
        if (!rest) return end_command(name, payload, session);
        if (manager_ && session == manager_number_) reply(name, payload, session);
        at(between(1, 40), [this, name, key, rest, session] { go_on(name, key, rest, session); });
    };
    if (held_replies_.contains(command.type)) {
        note("its reply is held back");
        waiting_.push_back({name, replies});
        return;
    }
    if (chance_of_death()) return actor_died(name, payload);
    replies();
}

// What is behind its first reply.
void World::go_on(const std::string& name, const CommandKey& key, const std::function<Result<std::string>()>& rest,
                  std::uint64_t session) {
    if (!actors_.contains(name)) return;
    note(fmt::format("{} goes on with operation={}", name, key.operation));
    Result<std::string> body = Error{};
    carried_out_for_ = key.operation;
    try {
        body = rest();
    } catch (const Death&) {
        return power_fails_ ? cut_power() : actor_died(name);
    }
    const std::string payload = reply_frame(key, body, false);
    if (chance_of_death()) return actor_died(name, payload);
    end_command(name, payload, session);
}

void World::end_command(const std::string& name, const std::string& payload, std::uint64_t session) {
    const auto found = actors_.find(name);
    if (found == actors_.end()) return;
    found->second.busy = false;
    if (!manager_ || session != manager_number_) return at(between(1, 20), [this, name] { hello(name); });
    if (found->second.broken) return say_hello(name);
    reply(name, payload, session);
    begin_command(name);
}

std::string World::reply_frame(const CommandKey& key, const Result<std::string>& body, bool more) {
    schemas::FromActorOf<msgpack::object> message;
    message.reply = schemas::CommandReplyOf<msgpack::object>{key.operation, key.step, key.attempt, {}, {}, more};
    std::optional<Document> reply_body;
    if (body) {
        reply_body = *decode(*body);
        message.reply->body = reply_body->root();
    } else {
        note("  refused: " + body.error().message);
        message.reply->error = schemas::WireError{std::string(to_string(body.error().code)), body.error().message,
                                                  body.error().details, false};
    }
    return encode(message);
}

// A copy may come late enough for another manager.
void World::reply(const std::string& name, const std::string& payload, std::uint64_t session) {
    if (actors_.at(name).broken) return;
    if (chance(options_.faults.break_connection)) {
        reconnect(name);
    } else {
        std::int64_t& heard_at = actors_.at(name).heard_at;
        heard_at =
            std::max(heard_at, now_ms_ + (chance(options_.faults.slow_reply) ? between(0, 3000) : between(0, 1)));
        at(heard_at - now_ms_, [this, name, payload, session] {
            if (session == manager_number_) deliver(cowslip::FromActor{name, payload});
        });
    }
    if (!chance(options_.faults.repeat_reply)) return;
    const std::int64_t first_heard = std::max<std::int64_t>(actors_.at(name).heard_at - now_ms_, 0);
    at(first_heard + between(1, 10000), [this, name, payload] { deliver(cowslip::FromActor{name, payload}); });
}

void World::let_go() {
    held_commands_.clear();
    held_replies_.clear();
    for (auto& [name, go_on] : std::exchange(waiting_, {})) at(1, std::move(go_on));
}

void World::kill_held_actors() {
    for (const auto& [name, go_on] : std::exchange(waiting_, {})) {
        if (actors_.contains(name)) actor_died(name);
    }
}

CommandAnswer World::run_command(ActorKind kind, const schemas::Command& command) {
    if (answer_instead) {
        if (auto answer = answer_instead(command)) return {std::move(*answer)};
    }
    if (kind == ActorKind::device) {
        if (command.type == schemas::CreateSnap::kType) {
            const auto snap = *decode_as<schemas::CreateSnap>(command.body);
            origins_[snap.thin_id] = snap.origin_id;
        }
        struct Process {
            Process(FakeKernel& kernel, CallFaults& faults) : dm(kernel, faults), host(kernel, faults) {}
            FailingDeviceMapper dm;
            FailingHost host;
            DeviceActor actor{dm, host};
        };
        const auto process = std::make_shared<Process>(kernel, call_faults);
        const auto other = mutated_command(command);
        CommandAnswer answer = process->actor.handle(command.type, other ? decode(*other)->root() : command.body);
        answer.body = mutated_reply(command, std::move(answer.body));
        if (answer.rest) answer.rest = [process, rest = answer.rest] { return rest(); };
        return answer;
    }
    FakeDevices devices;
    devices.is_active = [this](const schemas::DeviceRef& wanted) {
        for (const auto& [number, device] : kernel.devices) {
            if (device.device.uuid == wanted.dm_uuid) return device.live.has_value() && !device.suspended;
        }
        return false;
    };
    devices.sectors = [this](const std::string& uuid) { return sectors_of(uuid); };
    devices.read_only = [this](const std::string& uuid) { return refuses_writes(uuid); };
    devices.content = [this](const std::string& uuid) -> FakeFilesystem& { return content(uuid); };
    devices.went_back = [this](const std::string& uuid) {
        for (const auto& [number, device] : kernel.devices) {
            const FakePool* pool = device.device.uuid == uuid ? kernel.pool_of(device.device) : nullptr;
            if (pool != nullptr) return pool->core.needs_check || pool->mode == PoolMode::fail;
        }
        return false;
    };
    FakeMounts fake(mounts, devices);
    FailingFilesystems hooked(
        fake, [this](std::string_view effect) { kernel.before_effect(std::string(effect)); }, call_faults);
    MountActor actor(hooked);
    const auto result = actor.handle(command.type, command.body);
    // A mount keeps its device open.
    count_openers();
    return {result};
}

void World::count_openers() {
    for (auto& [number, device] : kernel.devices) {
        device.openers = mounts.is_mounted(device.device.uuid) || opened.contains(device.device.uuid) ? 1 : 0;
    }
}

// A snapshot begins with what its origin has.
FakeFilesystem& World::content(const std::string& dm_uuid) {
    if (const auto found = file_systems_.find(dm_uuid); found != file_systems_.end()) return found->second;
    const std::string prefix = dm_uuid.substr(0, dm_uuid.rfind('-') + 1);
    const auto origin = origins_.find(static_cast<std::uint32_t>(std::stoul(dm_uuid.substr(prefix.size()))));
    FakeFilesystem copy;
    if (origin != origins_.end()) copy = content(prefix + std::to_string(origin->second));
    copy.cut_off = false;
    return file_systems_[dm_uuid] = copy;
}

// Its last reply arrives before it is missed, after that, or never; but not so long before that it is given
// another command, which would be blamed for the death.
void World::actor_died(std::string name, std::string last_reply) {
    note("actor dies " + name);
    count_openers();
    const ActorKind kind = actors_.at(name).kind;
    const std::int64_t heard_at = actors_.at(name).heard_at;
    if (actors_.at(name).broken) last_reply.clear();  // Nothing comes over a broken connection any more.
    actors_.erase(name);
    at(between(1, 300), [this, name, last_reply, heard_at, session = manager_number_] {
        const bool in_order = now_ms_ >= heard_at;
        if (!last_reply.empty() && session == manager_number_ && in_order && chance(0.5))
            deliver(cowslip::FromActor{name, last_reply});
        deliver(ActorGone{name});
        if (last_reply.empty() || chance(0.5)) return;
        at(between(1, 3000), [this, name, last_reply] { deliver(cowslip::FromActor{name, last_reply}); });
    });
    at(between(1, 300), [this, kind] { start_actor(kind); });
}

std::uint64_t World::sectors_of(const std::string& dm_uuid) const {
    for (const auto& [number, device] : kernel.devices) {
        if (device.device.uuid == dm_uuid && device.live) return device.live->target.sectors;
    }
    return 0;
}

bool World::refuses_writes(const std::string& dm_uuid) const {
    for (const auto& [number, device] : kernel.devices) {
        if (device.device.uuid == dm_uuid && device.live) return device.live->read_only;
    }
    return false;
}

std::uint64_t World::file_system_sectors(const std::string& volume) {
    return content(thin_dm_uuid(store_->pool()->spec.pool.uuid, store_->find_volume(volume)->thin_id)).sectors;
}

bool World::is_device_read_only(const std::string& volume) {
    return refuses_writes(thin_dm_uuid(store_->pool()->spec.pool.uuid, store_->find_volume(volume)->thin_id));
}

std::uint64_t World::device_sectors(const std::string& volume) {
    return sectors_of(thin_dm_uuid(store_->pool()->spec.pool.uuid, store_->find_volume(volume)->thin_id));
}

bool World::is_cut_off(const std::string& volume) {
    if (!manager_) return false;  // It died right behind its answer.
    const auto row = store_->find_volume(volume);
    return row && content(thin_dm_uuid(store_->pool()->spec.pool.uuid, row->thin_id)).cut_off;
}

// ---- what must hold --------------------------------------------------------------------------

std::string World::complaint() {
    if (!manager_ || !manager_->ready()) return "the manager is not ready";
    if (auto text = complain_about_store(); !text.empty()) return text;
    if (auto text = complain_about_sizes(); !text.empty()) return text;
    return complain_about_kernel();
}

std::string World::complain_about_store() {
    if (!store_->unfinished_operations().empty()) return "an operation is unfinished";
    for (const auto& row : store_->thin_ids()) {
        if (row.state != "ready") return fmt::format("thin {} is {}", row.thin_id, row.state);
    }
    if (!store_->quarantined().empty())
        return fmt::format("thin {} is quarantined", store_->quarantined().front().first);
    std::uint64_t seq = 0;
    for (;;) {
        const auto events = store_->events_since(seq, 500);
        if (events.empty()) return {};
        for (const auto& event : events) {
            if (event.seq != ++seq) return fmt::format("event {} is missing", seq);
        }
    }
}

// A file system fits into its device, whatever that was cut off from, and is no smaller than is believed.
std::string World::complain_about_sizes() {
    for (const auto& row : store_->list_volumes("", 1000)) {
        const std::uint64_t device = device_sectors(*row.name);
        if (device != 0 && device != row.size_sectors)
            return fmt::format("the device of '{}' has {} sectors, not {}", *row.name, device, row.size_sectors);
        const std::uint64_t sectors = row.fs == "none" ? 0 : file_system_sectors(*row.name);
        if (sectors == 0) continue;
        if (sectors > row.size_sectors) return fmt::format("the file system of '{}' is too large", *row.name);
        if (sectors < row.fs_sectors) return fmt::format("the file system of '{}' is not grown", *row.name);
    }
    return {};
}

// Every internal row that is no template is a clone of an image that wants it. Gives whose they are in the kernel.
std::string World::complain_about_warm(std::set<std::string>* warm_uuids) {
    std::set<std::uint32_t> wanted;
    for (const VolumeRow& image : store_->warm_images()) {
        if (image.kind != "image") return fmt::format("'{}' is no image, and warm", *image.name);
        const auto clones = store_->warm_clones(image.thin_id);
        if (clones.size() > image.warm) return fmt::format("'{}' has {} warm clones", *image.name, clones.size());
        for (const VolumeRow& clone : clones) wanted.insert(clone.thin_id);
    }
    for (const VolumeRow& row : store_->volumes_after(0, 1000)) {
        if (row.name || row.template_key) continue;
        if (wanted.erase(row.thin_id) == 0) return fmt::format("thin {} is nobody's", row.thin_id);
        warm_uuids->insert(thin_dm_uuid(store_->pool()->spec.pool.uuid, row.thin_id));
    }
    return {};
}

std::string World::complain_about_kernel() {
    std::set<std::string> warm_uuids;
    if (auto text = complain_about_warm(&warm_uuids); !text.empty()) return text;
    std::set<std::uint32_t> rows;
    for (const auto& row : store_->thin_ids()) rows.insert(row.thin_id);
    for (const auto& [number, pool] : kernel.pools) {
        for (const auto& [thin_id, thin] : pool.core.thins) {
            if (thin_id >= kFirstThinId && rows.erase(thin_id) == 0)
                return fmt::format("thin {} is in the pool and in no row", thin_id);
            if (thin.torn) return fmt::format("thin {} is a snapshot of a running device", thin_id);
            if (thin.used_before) return fmt::format("thin {} had been another volume's id", thin_id);
        }
        // Of a release whose commit failed nobody knows; the next start releases it again.
        if (pool.core.held_root != 0 && commits_failed_ == 0) return "a metadata snapshot is held";
    }
    if (!rows.empty()) return fmt::format("thin {} has a row and is not in the pool", *rows.begin());
    const std::string uuid = store_->pool() ? store_->pool()->spec.pool.uuid : "";
    std::size_t mounted = 0;
    for (const auto& [directory, entry] : mounts.directories) {
        if (!entry.mount) return fmt::format("the directory '{}' is left over", directory);
        const std::string& mounted_uuid = entry.mount->dm_uuid;
        if (warm_uuids.contains(mounted_uuid) && directory == warm_directory(mounted_uuid)) continue;
        ++mounted;
    }
    std::size_t leased = 0;
    std::set<std::string> leased_uuids;
    for (const std::uint32_t thin_id : store_->leased_volumes()) {
        const auto lease = store_->leases(thin_id).front();
        leased_uuids.insert(thin_dm_uuid(uuid, thin_id));
        if (!lease.mode.starts_with("mounted")) continue;
        ++leased;
        if (!mounts.is_mounted(thin_dm_uuid(uuid, thin_id)))
            return fmt::format("thin {} is leased and not mounted", thin_id);
    }
    if (mounted != leased) return fmt::format("{} mounts for {} leases", mounted, leased);
    for (const auto& [number, device] : kernel.devices) {
        if (device.suspended) return device.device.name + " is suspended";
        if (kernel.pools.contains(number)) continue;
        if (warm_uuids.contains(device.device.uuid)) continue;
        if (leased_uuids.erase(device.device.uuid) == 0) return device.device.name + " is active without a lease";
    }
    if (!leased_uuids.empty()) return *leased_uuids.begin() + " is leased and not active";
    return {};
}

}  // namespace cowslip::simulation
