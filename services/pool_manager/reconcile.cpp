// The three views compared: at the start, on demand and now and then; and what of the differences can be
// put right without losing anything.
#include <algorithm>
#include <iterator>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/keys.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

schemas::Finding describe_difference(const Difference& difference) {
    return {std::string(to_string(difference.kind)), difference.subject, difference.detail};
}

constexpr std::int64_t kQuietMs =
    5000;  // A comparison that is due waits for a quiet moment, and looks for it so often.

}  // namespace

Task<std::string> PoolManager::fsck(Operation& operation, schemas::SystemFsck request) {
    schemas::SystemFsck::Reply reply;
    const NameLock pool = co_await names_.acquire(kPoolKey, LockMode::shared);
    const NameLock one = co_await names_.acquire(kCompareKey, LockMode::exclusive);
    if (!pool_row_ || pool_row_->state == "formatting") {
        reply.ok = true;
        co_return encode(reply);
    }
    Result<std::vector<Difference>> found = co_await reconcile(operation, Held::keep);
    if (!found) co_return found.error();
    if (request.repair && !found->empty()) {
        std::vector<Difference> before = std::move(*found);
        co_await repair(operation, before);
        found = co_await reconcile(operation, Held::release);
        if (!found) co_return found.error();
        for (Difference& difference : before) {
            const bool stays = std::any_of(found->begin(), found->end(), [&](const Difference& now) {
                return now.kind == difference.kind && now.subject == difference.subject;
            });
            if (!stays) reply.repaired.push_back(describe_difference(difference));
        }
    }
    std::size_t bytes = 0;
    for (const Difference& difference : *found) {
        bytes += difference.subject.size() + difference.detail.size() + 64;
        if (bytes < kMaxFrameBytes / 2) reply.findings.push_back(describe_difference(difference));
    }
    reply.total = found->size();
    reply.ok = found->empty();
    reply.pool_compared =
        pool_.loaded && pool_.frozen.empty() && !findings_.contains({FindingKind::held_snapshot, pool_row_->name});
    co_return encode(reply);
}

// Slowly, and when little goes on; but under a load that never ends it has its turn as well.
Task<std::string> PoolManager::reconcile_now_and_then(Operation& operation) {
    for (;;) {
        const std::int64_t due_ms = now_.monotonic_ms + options_.reconcile_ms;
        co_await sleep_ms(options_.reconcile_ms);
        while (count_operations(Role::request) + count_operations(Role::behind) > 0 &&
               now_.monotonic_ms < due_ms + options_.reconcile_ms) {
            co_await sleep_ms(std::min(kQuietMs, options_.reconcile_ms));
        }
        const NameLock pool = co_await names_.acquire(kPoolKey, LockMode::shared);
        const NameLock one = co_await names_.acquire(kCompareKey, LockMode::exclusive);
        if (!pool_.loaded) continue;
        operation.deaths = 0;
        Result<std::vector<Difference>> found = co_await reconcile(operation, Held::keep);
        if (!found) spdlog::warn("not compared: {}", found.error().message);
    }
}

// ---- the looks -------------------------------------------------------------------------------

StoreView PoolManager::store_view() {
    StoreView view;
    for (ThinRow& row : store_.thin_ids()) view.rows.emplace(row.thin_id, std::move(row));
    for (const std::uint32_t thin_id : store_.leased_volumes()) {
        view.leases.emplace(thin_id, store_.leases(thin_id).front());
    }
    for (auto& [thin_id, reason] : store_.quarantined()) view.quarantined.emplace(thin_id, std::move(reason));
    const auto pool = store_.pool();
    view.next_thin_id = pool ? pool->next_thin_id : kFirstThinId;
    return view;
}

std::set<std::uint32_t> PoolManager::unfinished_thin_ids() const {
    std::set<std::uint32_t> thin_ids;
    for (const auto& [number, operation] : operations_) {
        if (operation->thin_id) thin_ids.insert(*operation->thin_id);
    }
    return thin_ids;
}

Task<void> PoolManager::read_devices(Operation& operation, KernelView* view) {
    schemas::ListActive command;
    command.pool = pool_row_->spec.pool;
    for (;;) {
        Result<schemas::ListActive::Reply> page =
            co_await tell(operation, ActorKind::device, Urgency::awaited, command);
        if (!page) co_return page.error();
        for (const auto& found : page->devices) view->devices[found.thin_id] = found;
        if (!page->more || page->devices.empty()) co_return {};
        command.after_thin_id = page->devices.back().thin_id;
    }
}

Task<void> PoolManager::read_mounts(Operation& operation, KernelView* view) {
    schemas::ListMounts command;
    for (;;) {
        Result<schemas::ListMounts::Reply> page = co_await tell(operation, ActorKind::mount, Urgency::awaited, command);
        if (!page) co_return page.error();
        view->mounts.insert(view->mounts.end(), page->mounts.begin(), page->mounts.end());
        if (!page->more || page->mounts.empty()) co_return {};
        command.after = page->mounts.back().directory;
    }
}

// Nobody who takes the pool exclusively, as one does who suspends it, is at work.
Task<void> PoolManager::find_suspended_pool(Operation& operation, std::vector<Difference>* differences) {
    const NameLock tables = co_await names_.acquire(kTablesKey, LockMode::shared);  // Nobody makes it larger meanwhile.
    schemas::ReadPoolStatus command{pool_row_->spec.pool, false};
    Result<schemas::PoolState> state = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!state) co_return state.error();
    if (state->suspended) {
        differences->push_back({FindingKind::suspended, pool_row_->name,
                                "the pool's device is suspended, and nobody works on it: who uses a volume hangs"});
    }
    co_return {};
}

// Nobody has been let in yet.
Views PoolManager::views_at_start(KernelView seen) {
    Views views;
    views.pool_uuid = pool_row_->spec.pool.uuid;
    views.before = store_view();
    views.after = views.before;
    views.kernel = std::move(seen);
    for (const auto& [thin_id, device] : devices_) {
        if (device.warm_since_ms != 0) views.kept.insert(thin_id);
    }
    return views;
}

// Memory follows the kernel, where nobody is at work.
void PoolManager::remember(const Views& views) {
    std::erase_if(devices_, [&](const auto& entry) {
        return views.steady(entry.first) && !views.kernel.devices.contains(entry.first);
    });
    for (const auto& [thin_id, found] : views.kernel.devices) {
        if (!views.steady(thin_id)) continue;
        Device& device = devices_[thin_id];
        const std::int64_t idle_since_ms = device.idle_since_ms;
        const std::int64_t warm_since_ms = device.warm_since_ms;
        device = Device{.path = found.path,
                        .read_only = found.read_only,
                        .complete = found.live_table,
                        .size_sectors = found.size_sectors};
        device.idle_since_ms = idle_since_ms;
        device.warm_since_ms = warm_since_ms;
    }
    for (const auto& found : views.kernel.mounts) {
        const auto thin_id = parse_thin_dm_uuid(views.pool_uuid, found.dm_uuid);
        const auto device = thin_id ? devices_.find(*thin_id) : devices_.end();
        if (device == devices_.end() || !views.steady(*thin_id)) continue;
        device->second.mount_path = options_.mounts_folder + "/" + found.directory + "/rootfs";
        device->second.directory = found.directory;
        device->second.mount_read_only = found.read_only;
        device->second.mount_label = found.mount_label;
    }
}

// The caller holds the pool, shared, and kCompareKey. An error has changed nothing.
Task<std::vector<Difference>> PoolManager::reconcile(Operation& operation, Held held) {
    const NameRecord record(names_);
    Views views;
    views.pool_uuid = pool_row_->spec.pool.uuid;
    views.before = store_view();
    views.unfinished = unfinished_thin_ids();
    std::vector<Difference> differences;
    if (pool_.loaded && pool_.frozen.empty()) {
        Result<std::vector<schemas::ThinDevice>> thins = co_await list_thins(operation, held);
        if (thins) {
            views.kernel.thins.emplace();
            for (const auto& thin : *thins) views.kernel.thins->emplace(thin.thin_id, thin);
            unfind(FindingKind::unchecked, pool_row_->name);
        } else if (thins.error().code == Errc::in_use) {
            differences.push_back({FindingKind::held_snapshot, pool_row_->name, thins.error().message});
        } else {
            find(FindingKind::unchecked, pool_row_->name,
                 fmt::format("the pool's own list was not read: {}", thins.error().message));
            co_return thins.error();
        }
        Result<void> looked = co_await find_suspended_pool(operation, &differences);
        if (!looked) co_return looked.error();
    }
    Result<void> seen = co_await read_devices(operation, &views.kernel);
    if (seen) seen = co_await read_mounts(operation, &views.kernel);
    if (!seen) co_return seen.error();
    views.kernel.live_read = true;
    views.after = store_view();
    views.unfinished.merge(unfinished_thin_ids());
    views.worked_on = record.keys();
    for (const auto& [thin_id, device] : devices_) {
        const bool busy = findings_.contains({FindingKind::busy, subject_of(views.after, thin_id)});
        if ((device.idle_since_ms != 0 || device.warm_since_ms != 0) && !busy) views.kept.insert(thin_id);
    }
    remember(views);
    std::vector<Difference> compared = compare(views);
    std::move(compared.begin(), compared.end(), std::back_inserter(differences));
    sort(differences);
    settle(views, differences);
    co_return differences;
}

// Findings come and go with the differences. What somebody has worked on meanwhile is as it was.
void PoolManager::settle(const Views& views, const std::vector<Difference>& differences) {
    std::set<std::pair<FindingKind, std::string>> now;
    if (views.kernel.thins) std::erase_if(replaced_, [&](std::uint32_t thin_id) { return views.steady(thin_id); });
    for (const Difference& difference : differences) {
        now.insert({difference.kind, difference.subject});
        find(difference.kind, difference.subject, difference.detail);
        if (difference.kind == FindingKind::wrong_birth) replaced_.insert(difference.thin_id);
        if (difference.kind == FindingKind::lost || difference.kind == FindingKind::wrong_birth) {
            lost_.insert(difference.thin_id);
        }
        if (difference.kind == FindingKind::foreign_thin) {
            store_.quarantine(difference.thin_id, "without a row when store and pool were compared");
        }
    }
    std::vector<std::pair<FindingKind, std::string>> gone;
    for (const auto& [key, detail] : findings_) {
        if (!now.contains(key) && views.can_tell(key.first, key.second)) gone.push_back(key);
    }
    for (const auto& [kind, subject] : gone) unfind(kind, subject);
    if (!views.kernel.thins) return;
    std::erase_if(lost_, [&](std::uint32_t thin_id) {
        return views.steady(thin_id) && views.kernel.thins->contains(thin_id) && !replaced_.contains(thin_id);
    });
    for (const auto& [thin_id, reason] : views.before.quarantined) {
        if (!views.kernel.thins->contains(thin_id)) store_.end_quarantine(thin_id);
    }
}

// ---- repair ----------------------------------------------------------------------------------

// Only what loses nothing: an unknown thin id is never deleted, a lost one never forgotten, that is for the operator. A
// held metadata snapshot is released by the next look. Each part looks again when it holds its locks.
Async<void> PoolManager::repair(Operation& operation, std::vector<Difference> differences) {
    std::vector<std::uint64_t> parts;
    for (const Difference& difference : differences) {
        Operation& part = new_operation("repair", difference.subject);
        part.role = Role::housekeeping;
        parts.push_back(part.number);
        begin(part, repair_one(part, difference));
    }
    for (const std::uint64_t number : parts) {
        operation.waiting_for = "the repair of what was found";
        if (const auto part = operations_.find(number); part != operations_.end()) co_await part->second->ended.wait();
    }
}

Task<std::string> PoolManager::repair_one(Operation& operation, Difference difference) {
    if (difference.kind == FindingKind::stray_device) co_return co_await put_away(operation, difference.thin_id);
    if (difference.kind == FindingKind::stray_mount)
        co_return co_await put_away_directory(operation, *difference.mount);
    if (difference.kind == FindingKind::broken_lease) {
        co_return co_await restore_or_end_leases(operation, difference.thin_id);
    }
    if (difference.kind != FindingKind::suspended) co_return "";
    if (difference.subject == pool_row_->name) co_return co_await resume_pool(operation);
    const NameLock lock = co_await names_.acquire(thin_key(difference.thin_id), LockMode::exclusive);
    co_await resume_origin(operation, difference.thin_id);
    co_return "";
}

Task<std::string> PoolManager::resume_pool(Operation& operation) {
    if (pool_row_->spec.backing == "adopted") co_return "";
    const schemas::Resume command{pool_row_->spec.pool, 0, true};
    Result<schemas::Resume::Reply> resumed = co_await tell(operation, ActorKind::device, Urgency::watching, command);
    if (!resumed) co_return resumed.error();
    co_return "";
}

// A get that fails for good says that the lease can never be true again.
Task<std::string> PoolManager::restore_or_end_leases(Operation& operation, std::uint32_t thin_id) {
    const auto row = store_.volume(thin_id);
    if (!row || store_.leases(thin_id).empty()) co_return "";
    Result<std::string> restored = co_await restore_lease(operation, *row, store_.leases(thin_id).front());
    if (restored || retryable(restored.error().code) || !pool_.writable) co_return "";
    const NameLock lock = co_await names_.acquire(thin_key(thin_id), LockMode::exclusive);
    for (const LeaseRow& lease : store_.leases(thin_id)) {
        event("lease.ended", operation.subject, {{"holder", lease.holder}, {"reason", "broken"}});
    }
    store_.delete_leases(thin_id);
    unfind(FindingKind::broken_lease, operation.subject);
    co_return "";
}

}  // namespace cowslip
