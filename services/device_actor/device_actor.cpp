#include "services/device_actor/device_actor.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "common/actor_session.h"
#include "common/names.h"
#include "common/thin_pool.h"
#include "services/device_actor/checks.h"

namespace cowslip {

namespace {

// How long we wait for those who open every new device for a moment.
constexpr std::chrono::milliseconds kShortOpenPause{50};
constexpr int kShortOpenAttempts = 40;

constexpr std::chrono::milliseconds kResumePause{100};
constexpr int kResumeAttempts = 10;

// udev's workers look at each device for some milliseconds. Somebody whom we cannot see may be one.
bool all_short(const std::vector<schemas::Holder>& holders) {
    return std::all_of(holders.begin(), holders.end(), [](const schemas::Holder& holder) {
        return holder.pid != 0 && holder.command.find("udev") != std::string::npos;
    });
}

bool wants_activation(const schemas::CreateSnap& command, const Result<schemas::CreateSnap::Reply>& reply) {
    if (command.activate_sectors == 0 || !reply || reply->torn || reply->verdict.error_number != 0) return false;
    const auto status = parse_thin_pool_status(reply->verdict.status);
    return status && status->mode == PoolMode::rw && !status->needs_check;
}

}  // namespace

DmDevice thin_device(const schemas::PoolRef& pool, std::uint32_t thin_id) {
    return {.name = thin_dm_name(pool.uuid, thin_id), .uuid = thin_dm_uuid(pool.uuid, thin_id)};
}

CommandAnswer DeviceActor::handle(std::string_view type, const msgpack::object& body) {
    // Who works is not the watcher, or is the only one: then the next look comes soon.
    if (events_ != nullptr && type != schemas::ReadPoolStatus::kType) events_->stop();
    CommandAnswer::Rest rest;
    std::optional<Result<std::string>> answer = on<schemas::CreateSnap>(type, body, [&](const auto& command) {
        auto reply = create_snap(command);
        if (wants_activation(command, reply)) {
            rest = [this, command]() -> Result<std::string> {
                return encode(TRY(activate({command.pool, command.thin_id, command.activate_sectors, false})));
            };
        }
        return reply;
    });
    const auto offer = [&]<class Message>(auto(DeviceActor::*method)(const Message&)) {
        if (!answer) answer = on<Message>(type, body, [&](const Message& command) { return (this->*method)(command); });
    };
    offer(&DeviceActor::create_pool);
    offer(&DeviceActor::inspect_pool);
    offer(&DeviceActor::examine_pool);
    offer(&DeviceActor::start_pool);
    offer(&DeviceActor::grow_pool);
    offer(&DeviceActor::stop_pool);
    offer(&DeviceActor::discard_pool);
    offer(&DeviceActor::read_pool_status);
    offer(&DeviceActor::rewind_clock);
    offer(&DeviceActor::write_internal);
    offer(&DeviceActor::read_internal);
    offer(&DeviceActor::find_filesystem);
    offer(&DeviceActor::set_transaction_id);
    offer(&DeviceActor::list_thins);
    offer(&DeviceActor::dump_metadata);
    offer(&DeviceActor::check_metadata);
    offer(&DeviceActor::repair_metadata);
    offer(&DeviceActor::replace_metadata);
    offer(&DeviceActor::create_thin);
    offer(&DeviceActor::discard_thin);
    offer(&DeviceActor::delete_thin);
    offer(&DeviceActor::activate);
    offer(&DeviceActor::deactivate);
    offer(&DeviceActor::resume);
    offer(&DeviceActor::list_active);
    if (!answer) return {Error{Errc::unimplemented, fmt::format("device actor: unknown command '{}'", type)}};
    return {std::move(*answer), std::move(rest)};
}

// One that may be changed: of this service.
Result<DmDevice> DeviceActor::pool_device(const schemas::PoolRef& pool) {
    TRY(check_ours(pool));
    return any_pool_device(pool);
}

Result<void> DeviceActor::check_ours(const schemas::PoolRef& pool) {
    TRY(check_pool(pool));
    const auto own = TRY(host_.own_pool());
    if (own == pool.uuid) return {};
    return Error{Errc::permission_denied,
                 fmt::format("pool {} is not this service's, by DIR/pool/uuid ({}); if it is, root writes it there",
                             pool.uuid, own.value_or("absent"))};
}

// While nothing of either is live, nobody is harmed: the folder's files are checked by themselves.
Result<void> DeviceActor::check_may_become_ours(const schemas::PoolRef& pool) {
    const auto own = TRY(host_.own_pool());
    if (own == pool.uuid) return {};
    if (own && !TRY(dm_.list("COWSLIP-" + *own)).empty()) {
        return Error{Errc::in_use, fmt::format("pool {}, whose folder this is, has live devices: put them away first "
                                               "('dmsetup ls' shows them)",
                                               *own)};
    }
    if (!TRY(dm_.list("COWSLIP-" + pool.uuid)).empty()) return check_ours(pool);
    return {};
}

// Ours are asked for by uuid, which nobody else's device has; an adopted one by name, and only if root
// has named it.
Result<DmDevice> DeviceActor::any_pool_device(const schemas::PoolRef& pool) {
    TRY(check_pool(pool));
    if (is_own_pool(pool)) return DmDevice{.name = pool.device, .uuid = pool_dm_uuid(pool.uuid)};
    TRY(host_.check_listed(node_path(pool.device)));
    return DmDevice{.name = pool.device, .uuid = {}};
}

// Empty if it cannot be read: then nothing that was done can be called done.
std::string DeviceActor::status_text(const DmDevice& pool) {
    const auto status = dm_.status(pool);
    if (!status) spdlog::warn("read pool status pool={} error='{}'", pool.name, status.error().message);
    if (!status || !*status || (*status)->type != "thin-pool") return {};
    return (*status)->parameters;
}

schemas::Verdict DeviceActor::verdict(const DmDevice& pool, int error_number) {
    return {.error_number = error_number, .status = status_text(pool)};
}

schemas::Verdict DeviceActor::send(const DmDevice& pool, const std::string& message) {
    const int error_number = dm_.message(pool, message);
    return verdict(pool, error_number);
}

Result<schemas::Verdict> DeviceActor::create_thin(const schemas::CreateThin& command) {
    TRY(check_thin_id(command.thin_id));
    const DmDevice pool = TRY(pool_device(command.pool));
    return send(pool, create_thin_message(command.thin_id));
}

// Whatever the manager believes, an active origin is found by looking: the kernel does not enforce that
// it is suspended, and what a snapshot of a running one holds is anybody's guess.
Result<schemas::CreateSnap::Reply> DeviceActor::create_snap(const schemas::CreateSnap& command) {
    TRY(check_thin_id(command.thin_id));
    TRY(check_thin_id(command.origin_id));
    const DmDevice pool = TRY(pool_device(command.pool));
    const DmDevice origin = thin_device(command.pool, command.origin_id);
    schemas::CreateSnap::Reply reply;
    const auto active = TRY(dm_.find(origin));
    if (!active || !active->live_table) {
        reply.verdict = send(pool, create_snap_message(command.thin_id, command.origin_id));
        return reply;
    }
    reply.verdict.error_number = TRY(suspend_origin(pool, origin));
    if (reply.verdict.error_number == 0) {
        reply.verdict.error_number = dm_.message(pool, create_snap_message(command.thin_id, command.origin_id));
    }
    // Suspending twice counts as once, so somebody's resume may have come in between (A19).
    const auto still = dm_.find(origin);
    const bool suspended = still && *still && (*still)->suspended;
    if (reply.verdict.error_number == 0 && !suspended) {
        reply.torn = true;
        reply.verdict.error_number = dm_.message(pool, delete_message(command.thin_id));
    }
    reply.resume_error_number = resume_origin(origin);
    reply.verdict.status = status_text(pool);
    return reply;
}

// A pool that cannot write would let the flush wait for up to its no-space timeout, and with it
// everybody who writes to the origin. Without it a snapshot is as good as after a power cut.
Result<int> DeviceActor::suspend_origin(const DmDevice& pool, const DmDevice& origin) {
    const auto status = parse_thin_pool_status(status_text(pool));
    const bool writable = status && status->mode == PoolMode::rw;
    const int error_number = dm_.suspend(origin, writable ? SuspendMode::freeze : SuspendMode::no_flush);
    if (error_number != 0) static_cast<void>(resume_origin(origin));
    return error_number;
}

// While it is suspended, its writers hang: so not given up at the first error.
int DeviceActor::resume_origin(const DmDevice& origin) {
    int error_number = 0;
    for (int attempt = 0; attempt < kResumeAttempts; ++attempt) {
        error_number = dm_.resume(origin);
        if (error_number == 0 || error_number == ENXIO) return 0;
        host_.pause(kResumePause);
    }
    spdlog::error("resume device={} errno={}: its writers hang until it is resumed", origin.name, error_number);
    return error_number;
}

Result<schemas::DeleteThin::Reply> DeviceActor::delete_thin(const schemas::DeleteThin& command) {
    TRY(check_thin_id(command.thin_id));
    const DmDevice pool = TRY(pool_device(command.pool));
    auto removal = TRY(remove_thin(command.pool, command.thin_id));
    if (removal.error_number != 0) return not_removed<schemas::DeleteThin::Reply>(pool, std::move(removal));
    schemas::DeleteThin::Reply reply;
    reply.verdict = send(pool, delete_message(command.thin_id));
    if (reply.verdict.error_number == EBUSY) reply.holders = TRY(other_devices_of(pool, command.thin_id));
    return reply;
}

// The dm device is gone and the pool still says busy: the thin is active under another name.
Result<std::vector<schemas::Holder>> DeviceActor::other_devices_of(const DmDevice& pool, std::uint32_t thin_id) {
    std::vector<schemas::Holder> found;
    const auto pool_info = TRY(dm_.find(pool));
    if (!pool_info) return found;
    const std::string wanted = make_thin_table({device_number(pool_info->number), thin_id});
    for (const auto& other : TRY(dm_.list(""))) {
        const auto table = TRY(dm_.table(other.device));
        if (!table || table->type != "thin" || table->parameters != wanted || found.size() == kMaxHolders) continue;
        found.push_back({.pid = 0,
                         .command = {},
                         .detail = fmt::format("active as dm device '{}', which is not ours", other.device.name)});
    }
    return found;
}

Result<schemas::Activate::Reply> DeviceActor::activate(const schemas::Activate& command) {
    TRY(check_thin_id(command.thin_id));
    TRY(check_thin_sectors(command.size_sectors));
    const DmDevice pool = TRY(pool_device(command.pool));
    const DmDevice thin = thin_device(command.pool, command.thin_id);
    schemas::Activate::Reply reply;
    const auto pool_info = TRY(dm_.find(pool));
    if (!pool_info) {
        reply.error_number = ENXIO;
        return reply;
    }
    const DmTarget target{.type = "thin",
                          .sectors = command.size_sectors,
                          .parameters = make_thin_table({device_number(pool_info->number), command.thin_id})};
    dev_t number = 0;
    reply.error_number = TRY(load_thin(thin, target, command.read_only, number));
    if (reply.error_number == 0) {
        reply.path = TRY(dm_.ensure_node({.device = thin, .number = number}));
    } else {
        reply.pool_status = status_text(pool);
    }
    return reply;
}

// Mostly there is none yet; the kernel says so sooner than a look.
Result<int> DeviceActor::load_thin(const DmDevice& thin, const DmTarget& target, bool read_only, dev_t& number) {
    const int created = dm_.create(thin, &number);
    if (created == EBUSY) {
        const auto found = TRY(dm_.find(thin));
        if (!found) return created;  // Another device has its name.
        number = found->number;
        return load_found_thin(*found, target, read_only);
    }
    return created != 0 ? created : load_or_remove(thin, target, read_only);
}

// A device that is there proves nothing: its maker may have died before the load or the resume, and a
// table that waits may be an older one.
Result<int> DeviceActor::load_found_thin(const DmInfo& found, const DmTarget& target, bool read_only) {
    if (found.live_table && !found.inactive_table && found.read_only == read_only) {
        const auto live = TRY(dm_.table(found.device));
        if (live == target) return found.suspended ? dm_.resume(found.device) : 0;
    }
    if (!found.live_table) return load_or_remove(found.device, target, read_only);
    int error_number = dm_.load(found.device, target, read_only);
    // A resume alone would freeze the file system and wait for all that is being written: for how long, in a full pool?
    if (error_number == 0 && !found.suspended) error_number = dm_.suspend(found.device, SuspendMode::no_flush);
    return error_number != 0 ? error_number : resume_origin(found.device);
}

// Without a table it is of no use.
int DeviceActor::load_or_remove(const DmDevice& thin, const DmTarget& target, bool read_only) {
    int error_number = dm_.load(thin, target, read_only);
    if (error_number == 0) error_number = dm_.resume(thin);
    if (error_number != 0 && dm_.remove(thin) != 0) spdlog::warn("remove device={} after its load failed", thin.name);
    return error_number;
}

Result<DeviceActor::Removal> DeviceActor::remove_thin(const schemas::PoolRef& pool, std::uint32_t thin_id) {
    const DmDevice thin = thin_device(pool, thin_id);
    Removal removal;
    for (int attempt = 0; attempt < kShortOpenAttempts; ++attempt) {
        if (attempt > 0) host_.pause(kShortOpenPause);
        removal.error_number = dm_.remove(thin);
        const bool busy = removal.error_number == EBUSY;
        const auto found = busy ? TRY(dm_.find(thin)) : std::optional<DmInfo>();
        if (removal.error_number == ENXIO || (busy && !found)) {
            dm_.remove_node(thin.name);
            return Removal{};
        }
        if (!busy) return removal;
        removal.holders = host_.holders(found->number);
        if (!all_short(removal.holders)) return removal;
    }
    return removal;
}

Result<schemas::Deactivate::Reply> DeviceActor::deactivate(const schemas::Deactivate& command) {
    TRY(check_thin_id(command.thin_id));
    TRY(check_ours(command.pool));
    auto removal = TRY(remove_thin(command.pool, command.thin_id));
    return schemas::Deactivate::Reply{.error_number = removal.error_number, .holders = std::move(removal.holders)};
}

Result<schemas::Resume::Reply> DeviceActor::resume(const schemas::Resume& command) {
    TRY(check_thin_id(command.thin_id));
    TRY(check_ours(command.pool));
    if (command.pool_device && !is_own_pool(command.pool)) {
        return Error{Errc::invalid_argument, "resume: an adopted pool is its owner's to resume"};
    }
    DmDevice device = thin_device(command.pool, command.thin_id);
    if (command.pool_device) device = TRY(pool_device(command.pool));
    schemas::Resume::Reply reply;
    const auto found = TRY(dm_.find(device));
    if (!found || !found->suspended) return reply;
    reply.was_suspended = true;
    reply.error_number = dm_.resume(device);
    return reply;
}

Result<std::optional<std::uint64_t>> DeviceActor::mapped_sectors(const DmInfo& info) {
    const auto status = TRY(dm_.status(info.device));
    return status && status->type == "thin" ? parse_thin_status(status->parameters) : std::nullopt;
}

Result<schemas::ListActive::Reply> DeviceActor::list_active(const schemas::ListActive& command) {
    TRY(check_pool(command.pool));
    schemas::ListActive::Reply reply;
    std::vector<std::pair<std::uint32_t, DmInfo>> found;
    for (auto& info : TRY(dm_.list("COWSLIP-" + command.pool.uuid))) {
        const auto thin_id = parse_thin_dm_uuid(command.pool.uuid, info.device.uuid);
        if (thin_id && *thin_id >= kFirstThinId && *thin_id > command.after_thin_id)
            found.emplace_back(*thin_id, std::move(info));
    }
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    reply.more = found.size() > kMaxListed;
    found.resize(std::min(found.size(), kMaxListed));
    for (const auto& [thin_id, info] : found) {
        const auto table = TRY(dm_.table(info.device));
        reply.devices.push_back({.thin_id = thin_id,
                                 .size_sectors = table ? table->sectors : 0,
                                 .open_count = info.open_count,
                                 .suspended = info.suspended,
                                 .read_only = info.read_only,
                                 .live_table = info.live_table,
                                 .path = node_path(info.device.name),
                                 .mapped_sectors = command.mapped ? TRY(mapped_sectors(info)) : std::nullopt});
    }
    return reply;
}

}  // namespace cowslip
