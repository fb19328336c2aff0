// What a volume is called and is for: frozen as an image, renamed, labelled. Each is one commit, so nothing of them is
// intent: before it the volume is as it was.
#include <algorithm>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::size_t kMostLabels = 32;

Error no_such(const std::string& id) {
    return {Errc::not_found, fmt::format("there is no volume '{}'", id)};
}

bool is_mounted(const LeaseRow& lease) {
    return lease.mode.starts_with("mounted");
}

}  // namespace

// ---- freeze ----------------------------------------------------------------------------------

Task<std::string> PoolManager::freeze_volume(Operation& operation, schemas::VolumeFreeze request) {
    Result<void> checked = check_volume_id(request.id);
    if (checked && request.warm_mounted && !request.warm) {
        checked = Error{Errc::invalid_argument, "freeze: warm_mounted belongs to warm"};
    }
    if (!checked) co_return checked.error();
    const std::vector<LockRequest> names = {{volume_key(request.id), LockMode::exclusive}};
    Result<NameLock> lock = co_await enter(operation, names, Access::change);
    if (!lock) co_return lock.error();
    const auto row = store_.find_volume(request.id);
    if (!row || row->state != "ready") co_return no_such(request.id);
    const bool was_image = row->kind == "image";
    if (!was_image) {
        checked = check_still(*row);
        if (!checked) co_return checked.error();
        const NameLock thin = co_await names_.acquire(thin_key(row->thin_id), LockMode::exclusive);
        checked = co_await make_still(operation, *row);
        if (!checked) co_return checked.error();
        store_.set_volume_image(row->thin_id);
        event("volume.frozen", request.id, {{"thin_id", std::to_string(row->thin_id)}});
    }
    if (request.warm) checked = set_warm(*row, *request.warm, request.warm_mounted);
    if (!checked) co_return checked.error();
    const auto frozen = store_.volume(row->thin_id);
    const bool changed = !was_image || frozen->warm != row->warm || frozen->warm_mounted != row->warm_mounted;
    co_return encode(schemas::VolumeFreeze::Reply{.volume = describe(*frozen), .changed = changed});
}

// Who has it mounted read-only may keep it so. A device that is attached cannot be mounted.
Result<void> PoolManager::check_still(const VolumeRow& row) {
    std::vector<LeaseRow> leases = store_.leases(row.thin_id);
    std::erase_if(leases, [&](const LeaseRow& lease) {
        return lease.mode == "mounted_ro" || (lease.mode == "attached_ro" && row.fs == "none");
    });
    if (leases.empty()) return {};
    return Error{Errc::in_use,
                 fmt::format("volume '{}' is {} by '{}': it can be frozen when that is put", *row.name,
                             is_mounted(leases.front()) ? "mounted writable" : "attached", leases.front().holder),
                 {{"holders", holder_names(leases)}}};
}

// Its journal is replayed and all of it is on disk: a device that is read-only could not do that later. With a lease on
// it, it is mounted read-only, and that was done then.
Task<void> PoolManager::make_still(Operation& operation, VolumeRow row) {
    if (!store_.leases(row.thin_id).empty()) co_return {};
    if (row.fs != "none") {
        const LeaseWanted wanted{"freeze", "mounted_rw", ""};
        Result<std::string> path = co_await bring_up(operation, row, wanted);
        if (!path) co_return path.error();
        Result<void> away = co_await end_mount(operation, row.thin_id, true, false);
        if (!away) {
            // What could not be written was the journal's replay, which comes again.
            Result<void> dropped = co_await unmount(operation, row.thin_id, true);
            if (!dropped) spdlog::warn("freeze '{}': its mount stays: {}", operation.subject, dropped.error().message);
            now_idle(row.thin_id);
            co_return away.error();
        }
    }
    Result<void> away = co_await deactivate(operation, row.thin_id);
    if (!away) now_idle(row.thin_id);
    co_return away;
}

// ---- rename ----------------------------------------------------------------------------------

Task<std::string> PoolManager::rename_volume(Operation& operation, schemas::VolumeRename request) {
    Result<void> checked = check_volume_id(request.id);
    if (checked) checked = check_volume_id(request.new_id);
    if (!checked) co_return checked.error();
    std::vector<LockRequest> names = {{volume_key(request.id), LockMode::exclusive}};
    if (request.new_id != request.id) names.push_back({volume_key(request.new_id), LockMode::exclusive});
    Result<NameLock> lock = co_await enter(operation, names, Access::change);
    if (!lock) co_return lock.error();
    const auto row = store_.find_volume(request.id);
    if (!row || row->state != "ready") co_return no_such(request.id);
    if (request.new_id == request.id) {
        co_return encode(schemas::VolumeRename::Reply{.volume = describe(*row), .changed = false});
    }
    checked = check_rename(*row, request.new_id);
    if (!checked) co_return checked.error();
    const NameLock thin = co_await names_.acquire(thin_key(row->thin_id), LockMode::exclusive);
    const auto device = devices_.find(row->thin_id);
    if (device != devices_.end() && !device->second.mount_path.empty()) {
        // Left over without a lease: it must not stay below the old name.
        Result<void> away = co_await unmount(operation, row->thin_id, true);
        if (!away) co_return away.error();
        unfind(FindingKind::busy, request.id);
    }
    store_.rename_volume(row->thin_id, request.new_id);
    event("volume.renamed", request.id, {{"to", request.new_id}, {"thin_id", std::to_string(row->thin_id)}});
    const auto renamed = store_.volume(row->thin_id);
    co_return encode(schemas::VolumeRename::Reply{.volume = describe(*renamed), .changed = true});
}

// An attached one may be: its device's path has the thin id.
Result<void> PoolManager::check_rename(const VolumeRow& row, const std::string& name) {
    if (store_.find_volume(name)) {
        return Error{Errc::already_exists, fmt::format("a volume '{}' exists already", name)};
    }
    const auto leases = store_.leases(row.thin_id);
    if (std::none_of(leases.begin(), leases.end(), is_mounted)) return {};
    return Error{Errc::in_use,
                 fmt::format("volume '{}' is mounted, and its path has its name: put it first", *row.name),
                 {{"holders", holder_names(leases)}}};
}

// ---- labels ----------------------------------------------------------------------------------

Task<std::string> PoolManager::label_volume(Operation& operation, schemas::VolumeLabel request) {
    Result<void> checked = check_volume_id(request.id);
    for (const auto& [key, value] : request.set) {
        if (checked) checked = check_label(key, value);
    }
    for (const std::string& key : request.remove) {
        if (checked) checked = check_label(key, "");
    }
    if (!checked) co_return checked.error();
    const std::vector<LockRequest> names = {{volume_key(request.id), LockMode::exclusive}};
    Result<NameLock> lock = co_await enter(operation, names, Access::change);
    if (!lock) co_return lock.error();
    auto row = store_.find_volume(request.id);
    if (!row) co_return no_such(request.id);
    const schemas::Labels before = row->labels;
    for (const std::string& key : request.remove) row->labels.erase(key);
    for (const auto& [key, value] : request.set) row->labels[key] = value;
    if (row->labels.size() > kMostLabels) {
        co_return Error{Errc::invalid_argument, fmt::format("volume '{}' would have {} labels: at most {} are allowed",
                                                            request.id, row->labels.size(), kMostLabels)};
    }
    schemas::Labels added = row->labels;
    std::erase_if(added, [&](const auto& label) {
        const auto was = before.find(label.first);
        return was != before.end() && was->second == label.second;
    });
    checked = check_quota(added, row->size_sectors * kSectorBytes);
    if (!checked) co_return checked.error();
    if (row->labels != before) {
        store_.set_labels(row->thin_id, row->labels);
        event("volume.labelled", request.id, {{"thin_id", std::to_string(row->thin_id)}});
    }
    co_return encode(describe(*row));
}

}  // namespace cowslip
