// Get and put, attach and detach. They are no intent: what is recorded is the lease, when the mount
// or device is there, and its end, when it is away.
#include <algorithm>

#include <fmt/format.h>

#include "common/names.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::size_t kMostLeases = 1024;  // Of a volume: what tells of it must fit into a frame.

bool is_mount(std::string_view mode) {
    return mode.starts_with("mounted");
}

}  // namespace

bool is_read_only(std::string_view mode) {
    return mode.ends_with("ro");
}

// To the volume's file system. An attached device is for its user to sync.
bool may_have_written(const std::vector<LeaseRow>& leases) {
    return std::any_of(leases.begin(), leases.end(),
                       [](const LeaseRow& lease) { return is_mount(lease.mode) && !is_read_only(lease.mode); });
}

// What is frozen nobody may write to.
Result<void> check_kind(const VolumeRow& row, bool read_only) {
    if (row.kind != "image" || read_only) return {};
    return Error{
        Errc::invalid_argument,
        fmt::format("volume '{}' is a frozen image: take it with --read-only, or clone it: `cowslip create NEW "
                    "--parent {}`",
                    *row.name, *row.name)};
}

// May `wanted` join the leases that are there? Modes exclude each other; read-only shares with
// read-only, and a mount is shared by those who want the same one.
Result<bool> PoolManager::check_lease(const VolumeRow& row, const LeaseWanted& wanted) {
    const auto leases = store_.leases(row.thin_id);
    for (const LeaseRow& lease : leases) {
        const bool same = lease.mode == wanted.mode && lease.mount_label == wanted.mount_label;
        if (same && lease.holder == wanted.holder) return true;
        const bool shared = same && (is_mount(wanted.mode) || is_read_only(wanted.mode));
        if (!shared) {
            return Error{Errc::in_use,
                         fmt::format("volume '{}' is {} by '{}': put or detach it first", *row.name,
                                     fmt::format("{} ({})", is_mount(lease.mode) ? "mounted" : "attached",
                                                 is_read_only(lease.mode) ? "read-only" : "read-write"),
                                     lease.holder),
                         {{"holders", holder_names(leases)}}};
        }
    }
    if (leases.size() >= kMostLeases) {
        return Error{Errc::busy, fmt::format("volume '{}' has {} leases: put some first", *row.name, leases.size())};
    }
    return false;
}

void PoolManager::record_lease(const VolumeRow& row, const LeaseWanted& wanted) {
    store_.insert_lease({row.thin_id, wanted.holder, wanted.mode, wanted.mount_label});
    devices_.at(row.thin_id).idle_since_ms = 0;
    devices_.at(row.thin_id).warm_since_ms = 0;
    unfind(FindingKind::busy, *row.name);  // Who has it open has no lease, it said.
    event("lease.taken", *row.name, {{"holder", wanted.holder}, {"mode", wanted.mode}});
}

// Makes the device active and, for a mount, mounts it. Gives the path that the lease is about. The
// caller holds the thin key. If it fails, what was brought up is put away behind the reply.
Task<std::string> PoolManager::bring_up(Operation& operation, VolumeRow row, LeaseWanted wanted) {
    const bool mounts = is_mount(wanted.mode);
    const auto device = devices_.find(row.thin_id);
    if (device != devices_.end() && !device->second.mount_path.empty()) {
        const bool same = mounts && device->second.mount_read_only == is_read_only(wanted.mode) &&
                          device->second.mount_label == wanted.mount_label;
        // With a lease on it, it is the mount that was asked for: a file system makes itself read-only after an error.
        if (same || (mounts && !store_.leases(row.thin_id).empty())) co_return device->second.mount_path;
        // Left over without a lease, from a get that failed.
        Result<void> away = co_await unmount(operation, row.thin_id, true);
        if (!away) co_return away.error();
    }
    // A read-only mount may have a journal to replay, so its device is writable, if it can be.
    // An image has none.
    const bool device_read_only = pool_.read_only || row.kind == "image" || (!mounts && is_read_only(wanted.mode));
    Result<std::string> path = co_await activate(operation, row, device_read_only);
    if (path && mounts) path = co_await mount(operation, row, is_read_only(wanted.mode), wanted.mount_label);
    if (!path) now_idle(row.thin_id);
    co_return path;
}

Task<std::string> PoolManager::get_volume(Operation& operation, schemas::VolumeGet request) {
    Result<void> checked = check_volume_id(request.id);
    const LeaseWanted wanted{default_holder(request.holder), request.read_only ? "mounted_ro" : "mounted_rw",
                             request.mount_label};
    if (checked) checked = check_holder(wanted.holder);
    if (!checked) co_return checked.error();
    const std::vector<LockRequest> names = {{volume_key(request.id), LockMode::exclusive}};
    const Access access = request.read_only ? Access::read : Access::change;
    Result<NameLock> lock = co_await enter(operation, names, access);
    if (!lock) co_return lock.error();
    const auto row = store_.find_volume(request.id);
    if (!row || row->state != "ready")
        co_return Error{Errc::not_found, fmt::format("there is no volume '{}'", request.id)};
    checked = check_kind(*row, request.read_only);
    if (!checked) co_return checked.error();
    if (row->fs == "none") {
        co_return Error{Errc::invalid_argument, fmt::format("volume '{}' has no file system: use attach", request.id)};
    }
    Result<bool> held = check_lease(*row, wanted);
    if (!held) co_return held.error();
    const NameLock thin = co_await names_.acquire(thin_key(row->thin_id), LockMode::exclusive);
    Result<std::string> path = co_await bring_up(operation, *row, wanted);
    if (!path) co_return path.error();
    if (!*held) record_lease(*row, wanted);
    co_return encode(schemas::VolumeGet::Reply{.path = *path, .changed = !*held});
}

Task<std::string> PoolManager::attach_volume(Operation& operation, schemas::VolumeAttach request) {
    Result<void> checked = check_volume_id(request.id);
    const LeaseWanted wanted{default_holder(request.holder), request.read_only ? "attached_ro" : "attached_rw", ""};
    if (checked) checked = check_holder(wanted.holder);
    if (!checked) co_return checked.error();
    const std::vector<LockRequest> names = {{volume_key(request.id), LockMode::exclusive}};
    const Access access = request.read_only ? Access::read : Access::change;
    Result<NameLock> lock = co_await enter(operation, names, access);
    if (!lock) co_return lock.error();
    const auto row = store_.find_volume(request.id);
    if (!row || row->state != "ready")
        co_return Error{Errc::not_found, fmt::format("there is no volume '{}'", request.id)};
    checked = check_kind(*row, request.read_only);
    if (!checked) co_return checked.error();
    Result<bool> held = check_lease(*row, wanted);
    if (!held) co_return held.error();
    const NameLock thin = co_await names_.acquire(thin_key(row->thin_id), LockMode::exclusive);
    Result<std::string> path = co_await bring_up(operation, *row, wanted);
    if (!path) co_return path.error();
    if (!*held) record_lease(*row, wanted);
    co_return encode(schemas::VolumeAttach::Reply{.device = *path, .changed = !*held});
}

// Brings the mount or the open device to its end. Until that is done the lease is kept. `written`: what the mount holds
// is to be kept as well.
Task<void> PoolManager::let_go(Operation& operation, VolumeRow row, bool written, bool force) {
    const NameLock thin = co_await names_.acquire(thin_key(row.thin_id), LockMode::exclusive);
    const auto device = devices_.find(row.thin_id);
    const bool mounted = device != devices_.end() && !device->second.mount_path.empty();
    Result<void> away = co_await end_mount(operation, row.thin_id, written, force);
    if (away && !mounted) co_return co_await deactivate(operation, row.thin_id);
    if (away) now_idle(row.thin_id);
    co_return away;
}

Task<std::string> PoolManager::put_volume(Operation& operation, schemas::VolumePut request) {
    co_return co_await end_leases(operation, std::move(request), Which::all);
}

Task<std::string> PoolManager::detach_volume(Operation& operation, schemas::VolumeDetach request) {
    schemas::VolumePut put;
    put.id = request.id;
    put.holder = request.holder;
    put.all_holders = request.all_holders;
    co_return co_await end_leases(operation, std::move(put), Which::attached);
}

Task<std::string> PoolManager::end_leases(Operation& operation, schemas::VolumePut request, Which which) {
    Result<void> checked = check_volume_id(request.id);
    const std::string holder = default_holder(request.holder);
    if (checked) checked = check_holder(holder);
    if (!checked) co_return checked.error();
    const NameLock lock = co_await names_.acquire(volume_key(request.id), LockMode::exclusive);
    const auto row = store_.find_volume(request.id);
    if (!row) co_return encode(schemas::VolumePut::Reply{.changed = false});
    if (request.filled && !row->filling) {
        co_return Error{Errc::invalid_argument, fmt::format("volume '{}' is not being filled", request.id)};
    }
    std::vector<LeaseRow> ending = store_.leases(row->thin_id);
    const auto others = std::stable_partition(ending.begin(), ending.end(), [&](const LeaseRow& lease) {
        return (request.all_holders || lease.holder == holder) && (which == Which::all || !is_mount(lease.mode));
    });
    std::vector<LeaseRow> staying(others, ending.end());
    ending.erase(others, ending.end());
    if (request.remove && !staying.empty()) {
        co_return Error{Errc::in_use,
                        fmt::format("volume '{}' is in use by others: nothing was changed", request.id),
                        {{"holders", holder_names(staying)}}};
    }
    if (request.remove) {
        Result<void> place = co_await wait_for_place(operation);
        if (!place) co_return place.error();
    }
    const auto device = devices_.find(row->thin_id);
    const bool mounted = device != devices_.end() && !device->second.mount_path.empty();
    if (staying.empty() && (!ending.empty() || (request.remove && mounted))) {
        const bool written = !request.remove && may_have_written(ending);
        Result<void> away = co_await let_go(operation, *row, written, request.force);
        if (!away) co_return away.error();
    }
    for (const LeaseRow& lease : ending) {
        store_.delete_lease(row->thin_id, lease.holder);
        event("lease.ended", request.id, {{"holder", lease.holder}});
    }
    if (request.filled) store_.set_volume_filled(row->thin_id);
    if (request.remove) remove_behind_reply(*row);
    co_return encode(schemas::VolumePut::Reply{.changed = !ending.empty()});
}

}  // namespace cowslip
