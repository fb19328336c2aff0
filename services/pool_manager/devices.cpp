// Commands to the actors, and what the kernel was last seen to have active and mounted.
#include <algorithm>
#include <cerrno>
#include <tuple>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

// A command came back without an answer: it may be sent again, but not for ever.
Result<void> PoolManager::count_attempt(Operation& operation, const CommandOutcome& outcome, std::string_view what) {
    ++operation.attempts;
    if (outcome.kind == CommandOutcome::Kind::actor_died) ++operation.deaths;
    if (operation.recorded) store_.set_attempts(operation.number, operation.attempts, operation.deaths);
    if (operation.deaths < kMaxDeaths) return {};
    return Error{Errc::internal, fmt::format("{} for '{}': {} actors have died of it, so it is not sent again", what,
                                             operation.subject, operation.deaths)};
}

// Deaths count for one command, and this one was answered.
void PoolManager::forget_deaths(Operation& operation) {
    if (std::exchange(operation.deaths, 0) == 0 || !operation.recorded) return;
    store_.set_attempts(operation.number, operation.attempts, 0);
}

// Takes the names, and the pool (shared) with them; starts a stopped pool. The places in the queues are
// kept meanwhile, so that requests about one name stay in order.
Task<NameLock> PoolManager::enter(Operation& operation, std::vector<LockRequest> names, Access access) {
    names.push_back({kPoolKey, LockMode::shared});
    NameLock lock = co_await names_.acquire(names);
    if (!pool_row_) co_return no_pool_yet(Errc::unavailable);
    if (pool_.read_only && access == Access::read) co_return Result<NameLock>(std::move(lock));
    Result<void> sound = check_sound();
    if (!sound) co_return sound.error();
    Result<void> started = co_await start_pool(operation);
    if (!started) co_return started.error();
    co_return Result<NameLock>(std::move(lock));
}

bool PoolManager::is_in_service() const {
    return pool_.loaded && pool_.writable && pool_.frozen.empty() && check_sound();
}

// Out of service: the kernel has stopped to take messages. Nothing is undone; it is asked again.
Async<void> PoolManager::pool_in_service(Operation& operation) {
    while (!is_in_service()) {
        operation.waiting_for = "the pool to be writable";
        co_await pool_changed_.wait();
    }
}

// ENXIO: the pool was put away when the command came to it, by a repair, say, and may be there again by now.
Error activation_failed(int error_number, const std::string& subject) {
    Error error = errno_error(error_number, fmt::format("activate '{}'", subject));
    if (error_number != ENXIO) return error;
    return Error{Errc::unavailable, error.message + ": its pool was not loaded; ask again"};
}

// ---- one thin device; the caller holds its thin key --------------------------------------------

Task<std::string> PoolManager::activate(Operation& operation, VolumeRow row, bool read_only) {
    const auto found = devices_.find(row.thin_id);
    if (found != devices_.end() && found->second.complete) {
        if (found->second.read_only == read_only) {
            if (found->second.size_sectors >= row.size_sectors) co_return found->second.path;
            Result<void> grown = co_await grow_device(operation, row);
            if (!grown) co_return grown.error();
            co_return devices_.at(row.thin_id).path;
        }
        Result<void> away = co_await deactivate(operation, row.thin_id);
        if (!away) co_return away.error();
    }
    if (replaced_.contains(row.thin_id)) {
        co_return Error{Errc::needs_repair, fmt::format("activate '{}': the pool has another device as its thin id {}",
                                                        operation.subject, row.thin_id)};
    }
    if (repairing_)
        co_return Error{Errc::unavailable, fmt::format("activate '{}': the pool is being repaired", operation.subject)};
    const NameLock tables = co_await names_.acquire(kTablesKey, LockMode::shared);
    schemas::Activate command{pool_row_->spec.pool, row.thin_id, row.size_sectors, read_only};
    Result<schemas::Activate::Reply> reply = co_await tell(operation, ActorKind::device, operation.urgency(), command);
    if (!reply || reply->error_number != 0) maybe_active(row.thin_id);
    if (!reply) co_return reply.error();
    if (reply->error_number != 0) {
        if (!reply->pool_status.empty()) take_status(operation, 0, reply->pool_status);
        if (!pool_.writable && reply->error_number != ENODATA)
            co_return Error{Errc::unavailable,
                            fmt::format("activate '{}': the pool is {}", operation.subject, pool_.mode)};
        if (reply->error_number == ENODATA) {
            lost_.insert(row.thin_id);
            find(FindingKind::lost, row.name.value_or(fmt::format("thin {}", row.thin_id)),
                 fmt::format("the pool does not have its thin id {}", row.thin_id));
            co_return Error{Errc::needs_repair,
                            fmt::format("activate '{}': the pool has no thin id {}", operation.subject, row.thin_id)};
        }
        co_return activation_failed(reply->error_number, operation.subject);
    }
    Device& device = devices_[row.thin_id];
    device.path = reply->path;
    device.read_only = read_only;
    device.complete = true;
    device.size_sectors = row.size_sectors;
    device.idle_since_ms = 0;
    device.warm_since_ms = 0;
    co_return device.path;
}

Task<void> PoolManager::deactivate(Operation& operation, std::uint32_t thin_id) {
    if (!devices_.contains(thin_id)) co_return {};
    schemas::Deactivate command{pool_row_->spec.pool, thin_id};
    Result<schemas::Deactivate::Reply> reply =
        co_await tell(operation, ActorKind::device, operation.urgency(), command);
    if (!reply) co_return reply.error();
    if (reply->error_number == EBUSY) {
        co_return Error{Errc::in_use,
                        fmt::format("the device of '{}' is open: close it first", operation.subject),
                        {{"holders", holder_names(reply->holders)}}};
    }
    if (reply->error_number != 0)
        co_return errno_error(reply->error_number, fmt::format("deactivate '{}'", operation.subject));
    devices_.erase(thin_id);
    co_return {};
}

// Of a warm clone, which has no name, in a directory that no name leads to.
Task<std::string> PoolManager::mount(Operation& operation, VolumeRow row, bool read_only, std::string label) {
    const Device& device = devices_.at(row.thin_id);
    schemas::Mount command;
    command.device = {device.path, thin_dm_uuid(pool_row_->spec.pool.uuid, row.thin_id)};
    command.directory = row.name ? volume_directory(*row.name) : warm_directory(command.device.dm_uuid);
    command.id = row.name.value_or("");
    command.fs = row.fs;
    command.read_only = read_only;
    command.mount_label = label;
    command.grow = !read_only && row.fs_sectors < row.size_sectors;
    command.options = row.options.mount;
    Result<schemas::Mount::Reply> reply = co_await tell(operation, ActorKind::mount, operation.urgency(), command);
    if (!reply) {
        // Its node is gone, perhaps: the next get looks at the device again.
        if (reply.error().code == Errc::unavailable) devices_.at(row.thin_id).complete = false;
        co_return reply.error();
    }
    if (reply->grown) {
        store_.set_fs_sectors(row.thin_id, row.size_sectors);
    }
    Device& mounted = devices_[row.thin_id];
    mounted.mount_path = reply->path;
    mounted.directory = command.directory;
    mounted.mount_read_only = read_only;
    mounted.mount_label = label;
    co_return reply->path;
}

Task<void> PoolManager::unmount(Operation& operation, std::uint32_t thin_id, bool force) {
    std::string directory = devices_.at(thin_id).directory;
    co_return co_await unmount(operation, thin_id, std::move(directory), force);
}

Task<void> PoolManager::unmount(Operation& operation, std::uint32_t thin_id, std::string directory, bool force) {
    schemas::Unmount command{directory, thin_dm_uuid(pool_row_->spec.pool.uuid, thin_id), force, pool_.mode == "rw"};
    command.shut_down = force && !pool_.intact;
    co_return co_await unmount_as_told(operation, thin_id, std::move(command));
}

// For a pool that does not take writes: without waiting for them, and whatever is lost.
Task<void> PoolManager::unmount_shut_down(Operation& operation, std::uint32_t thin_id) {
    schemas::Unmount command{devices_.at(thin_id).directory, thin_dm_uuid(pool_row_->spec.pool.uuid, thin_id), true,
                             false, true};
    co_return co_await unmount_as_told(operation, thin_id, std::move(command));
}

// The end of a mount, if it is there still. `written`: what it holds is kept, whatever becomes of the pool, or the
// error says that this is not so. After a commit that failed the kernel goes back to the last good one and lets writes
// to what that maps through. A sync does not tell: ext4's journal takes no notice of a flush that fails
// (jbd2_cleanup_journal_tail), and device-mapper carries out a write whose preflush has failed (dm_io_complete; both in
// 6.1); so umount's own writes may free the journal of what the pool has lost. Only a good status that was asked for
// behind the umount proves that no commit failed.
Task<void> PoolManager::end_mount(Operation& operation, std::uint32_t thin_id, bool written, bool force) {
    const auto device = devices_.find(thin_id);
    const bool mounted = device != devices_.end() && !device->second.mount_path.empty();
    if (!written && !mounted) co_return {};
    if (!written) co_return co_await unmount(operation, thin_id, force);
    const Error lost{
        Errc::needs_repair,
        fmt::format("the pool could not write its metadata while '{}' was mounted, so its last writes may be "
                    "lost; look at what it holds, then `cowslip put {} --force` gives them up",
                    operation.subject, operation.subject)};
    const bool was_intact = pool_.intact;
    if (!was_intact && !force) co_return lost;
    if (mounted && !was_intact) co_return co_await unmount(operation, thin_id, force);
    if (mounted) {
        Result<void> away = co_await unmount(operation, thin_id, force);
        if (!away) co_return away.error();
        Result<void> looked = co_await look_whether_intact(operation);
        if (!looked) pool_.intact = false;
    }
    if (pool_.intact) co_return {};
    fact("volume.writes_lost", operation.subject, {{"error", "the pool could not write its metadata"}});
    if (!force) co_return lost;
    co_return {};
}

// By a status that was asked for from now on: one does for all who wait for it.
Task<void> PoolManager::look_whether_intact(Operation& operation) {
    const std::uint64_t begun_before = intact_looks_.begun;
    while (intact_looks_.answered <= begun_before) {
        if (intact_looks_.under_way) {
            operation.waiting_for = schemas::ReadPoolStatus::kType;
            co_await intact_look_ended_.wait();
            continue;
        }
        schemas::ReadPoolStatus command{pool_row_->spec.pool, false, true};
        const std::uint64_t number = ++intact_looks_.begun;
        intact_looks_.under_way = true;
        Result<schemas::PoolState> seen = co_await tell(operation, ActorKind::device, Urgency::watching, command);
        intact_looks_.under_way = false;
        intact_look_ended_.notify_all();
        if (!seen) co_return seen.error();
        const auto status = parse_thin_pool_status(seen->status);
        if (!status) co_return status.error();
        take_status(operation, 0, seen->status);
        intact_looks_.answered = number;
    }
    co_return {};
}

Task<void> PoolManager::unmount_as_told(Operation& operation, std::uint32_t thin_id, schemas::Unmount command) {
    const bool force = command.force;
    Result<schemas::Unmount::Reply> reply = co_await tell(operation, ActorKind::mount, operation.urgency(), command);
    if (!reply) co_return reply.error();
    if (reply->busy) {
        co_return Error{
            Errc::in_use,
            fmt::format("the mount of '{}' is busy: end what uses it, then put it again", operation.subject),
            {{"holders", holder_names(reply->holders)}}};
    }
    if (reply->sync_error != 0 && !force) {
        Error error = errno_error(reply->sync_error,
                                  fmt::format("the last writes to '{}' could not be stored", operation.subject));
        error.message += fmt::format(
            ": some are lost; look at what it holds, then `cowslip put {} --force` gives them up", operation.subject);
        co_return error;
    }
    if (reply->sync_error != 0)
        event("volume.writes_lost", operation.subject, {{"error", std::strerror(reply->sync_error)}});
    if (const auto found = devices_.find(thin_id); found != devices_.end()) found->second.mount_path.clear();
    co_return {};
}

// ---- devices that nobody has a lease on ------------------------------------------------------

void PoolManager::now_idle(std::uint32_t thin_id) {
    const auto found = devices_.find(thin_id);
    if (found == devices_.end()) return;
    found->second.idle_since_ms = now_.monotonic_ms;
    found->second.warm_since_ms = 0;
    timers_.at(now_.monotonic_ms + options_.idle_ms, [this] { put_away_idle(); });
}

// Idle ones past their time, and the oldest ones past the bound: of warm ones when there are no idle ones any more.
void PoolManager::put_away_idle() {
    std::vector<std::tuple<bool, std::int64_t, std::uint32_t>> kept;
    for (const auto& [thin_id, device] : devices_) {
        if (device.idle_since_ms != 0) kept.emplace_back(false, device.idle_since_ms, thin_id);
        if (device.warm_since_ms != 0) kept.emplace_back(true, device.warm_since_ms, thin_id);
    }
    std::sort(kept.begin(), kept.end());
    std::size_t left = kept.size();
    for (const auto& [warm, since, thin_id] : kept) {
        const bool over = !warm && since + options_.idle_ms <= now_.monotonic_ms;
        if (!over && left <= options_.max_idle_devices) break;
        Device& device = devices_.at(thin_id);
        device.idle_since_ms = 0;  // Once: what becomes of it is the operation's business.
        device.warm_since_ms = 0;
        begin_put_away(thin_id);
        --left;
    }
}

void PoolManager::begin_put_away(std::uint32_t thin_id) {
    const auto row = store_.volume(thin_id);
    Operation& operation = new_operation("put_away", row && row->name ? *row->name : fmt::format("thin {}", thin_id));
    operation.role = Role::behind;
    begin(operation, put_away(operation, thin_id));
}

Task<std::string> PoolManager::put_away(Operation& operation, std::uint32_t thin_id) {
    NameLock lock = co_await names_.acquire(thin_key(thin_id), LockMode::exclusive);
    const auto found = devices_.find(thin_id);
    // Leased meanwhile, or gone, or idle or warm anew: not ours any more.
    const bool kept = found != devices_.end() && (found->second.idle_since_ms != 0 || found->second.warm_since_ms != 0);
    if (found == devices_.end() || kept || !store_.leases(thin_id).empty()) co_return "";
    Result<void> away;
    if (!found->second.mount_path.empty()) away = co_await unmount(operation, thin_id, true);
    if (away) away = co_await deactivate(operation, thin_id);
    if (away) {
        unfind(FindingKind::busy, operation.subject);
    } else if (away.error().code == Errc::in_use) {
        const auto& holders = away.error().details["holders"];
        find(FindingKind::busy, operation.subject,
             fmt::format("its device is open without a lease: {}", fmt::join(holders, "; ")));
        now_idle(thin_id);
    } else {
        now_idle(thin_id);  // Tried again when it is past its time again.
        co_return away.error();
    }
    co_return "";
}

// Behind the reply to create_snap: most of a get is waiting for the kernel to activate the device.
bool PoolManager::may_activate_ahead(const VolumeRow& row) const {
    const auto kept = std::count_if(devices_.begin(), devices_.end(), [](const auto& entry) {
        return entry.second.idle_since_ms != 0 || entry.second.warm_since_ms != 0;
    });
    const auto begun = count_operations("activate_ahead") + count_operations("warm");
    return row.name && row.fs != "none" && static_cast<std::size_t>(kept + begun) < options_.max_idle_devices;
}

// The actor has answered to `key` and goes on. The caller holds the pool shared; what it is at the thin is
// nobody else's business until it has answered again.
void PoolManager::begin_activation_ahead(const CommandKey& key, const VolumeRow& row, NameLock thin) {
    Operation& operation = new_operation("activate_ahead", *row.name);
    operation.role = Role::behind;
    operation.waiting_for = schemas::Activate::kType;
    begin(operation, activation_ahead(key, row, std::move(thin), names_.share(kPoolKey)));
}

Task<std::string> PoolManager::activation_ahead(CommandKey key, VolumeRow row, NameLock /*thin*/, NameLock /*pool*/) {
    const std::uint32_t thin_id = row.thin_id;
    const CommandOutcome outcome = co_await actors_.rest(key);
    if (outcome.kind != CommandOutcome::Kind::answered || !outcome.body) {
        maybe_active(thin_id);
        co_return "";
    }
    const auto reply = decode_as<schemas::Activate::Reply>(std::string_view(*outcome.body));
    if (!reply || reply->error_number != 0) {
        maybe_active(thin_id);
        co_return "";  // The next get is told why.
    }
    devices_[thin_id] = Device{.path = reply->path, .size_sectors = row.size_sectors};
    now_idle(thin_id);
    co_return "";
}

// Its maker is dead, or failed on the way: there may be a device, whole or not.
void PoolManager::maybe_active(std::uint32_t thin_id) {
    devices_[thin_id] = Device{.complete = false};
    now_idle(thin_id);
}

}  // namespace cowslip
