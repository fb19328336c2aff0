// The start: the ordinary code, begun from the rows. In order: actors accounted for, devices (suspended
// ones resumed first), mounts, pool, leases, unfinished operations, strays.
#include <malloc.h>

#include <algorithm>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::int64_t kAskAgainMs = 1000;
constexpr std::int64_t kAdoptedPatienceMs = 30000;
constexpr std::uint64_t kManyVolumes = 1000;

}  // namespace

void PoolManager::start(const std::vector<std::string>& actor_locks, Time now) {
    now_ = now;
    started_ = now;
    store_.set_time(now.wall_ms);
    next_operation_ = store_.next_operation();
    operations_reserved_below_ = next_operation_;
    pool_row_ = store_.pool();
    actors_.expect(actor_locks);
    look_for_room();
    remove_unfinished_backups();
    if (options_.store_lost) {
        find(FindingKind::store_lost, "",
             "the store is new, and there was one before it that is empty or gone: what it knew is lost; next: put a "
             "copy "
             "of it in its place, or go on without");
    }
    for (const auto& [thin_id, reason] : store_.quarantined()) {
        findings_[{FindingKind::foreign_thin, std::to_string(thin_id)}] =
            "a thin id in the pool that is not ours; it is left alone: " + reason;
    }
    Operation& recovery = new_operation("recovery", "");
    recovery.role = Role::housekeeping;
    begin(recovery, recover(recovery));
    Operation& watcher = new_operation("watch", "");
    watcher.role = Role::housekeeping;
    begin(watcher, watch(watcher));
    Operation& comparison = new_operation("compare", "");
    comparison.role = Role::housekeeping;
    begin(comparison, reconcile_now_and_then(comparison));
    Operation& backups = new_operation("store_backup", "");
    backups.role = Role::housekeeping;
    begin(backups, back_up_now_and_then(backups));
    Operation& warmth = new_operation("keep_warm", "");
    warmth.role = Role::housekeeping;
    begin(warmth, keep_warm(warmth));
    if (options_.trim_ms == 0) return;
    Operation& trims = new_operation("trim", "");
    trims.role = Role::housekeeping;
    begin(trims, trim_now_and_then(trims));
}

Task<std::string> PoolManager::recover(Operation& operation) {
    while (!actors_.all_accounted_for()) {
        operation.waiting_for = "actors of an older manager";
        co_await actors_changed_.wait();
    }
    KernelView seen;
    const bool restored = store_.is_restored();
    if (pool_row_ && pool_row_->state != "formatting") {
        // Nothing is begun before it is known what is active and mounted, with or without its pool (a stopped one may
        // have been started read-only): a put would find nothing to unmount.
        for (;;) {
            Result<void> looked = co_await look_at_kernel(operation, &seen);
            if (looked) break;
            spdlog::error("not ready, asking again: {}", looked.error().message);
            co_await sleep_ms(kAskAgainMs);
        }
    }
    if (pool_row_ && (restored || pool_row_->state == "ready" || pool_row_->state == "needs_repair")) {
        if (pool_row_->state == "needs_repair") set_fault(PoolFault::damaged, "as an earlier process found");
        const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::shared);
        Result<void> started = co_await start_pool(operation);
        // An adopted pool is somebody else's to load, perhaps later in the boot.
        const std::int64_t until_ms = now_.monotonic_ms + kAdoptedPatienceMs;
        while (!started && pool_.frozen.empty() && pool_row_->spec.backing == "adopted" &&
               now_.monotonic_ms < until_ms) {
            co_await sleep_ms(kAskAgainMs);
            started = co_await start_pool(operation);
        }
        if (!started) spdlog::error("pool not in service: {}", started.error().message);
    }
    store_.set_boot_id(options_.boot_id);
    // Not against a pool that is not believed: what was accepted waits in its rows, also for a rebuild.
    if (pool_.frozen.empty()) resume_operations();
    take_over_warm();
    if (seen.live_read) put_away_strays(seen);
    event("service.started", "", {{"pid", std::to_string(options_.pid)}});
    end_start();
    options_.start_ended();
    // The views of them were the most that is ever held.
    if (store_.count_ready_volumes() >= kManyVolumes) ::malloc_trim(0);
    co_return "";
}

Task<void> PoolManager::look_at_kernel(Operation& operation, KernelView* seen) {
    *seen = {};
    Result<void> read = co_await read_devices(operation, seen);
    if (!read) co_return read.error();
    for (auto& [thin_id, found] : seen->devices) {
        // Of an origin whose actor died in between; or made and never loaded: put away as a stray.
        if (!found.suspended) continue;
        co_await resume_origin(operation, thin_id);
        found.suspended = false;
    }
    // Live devices of ours outrank the boot id: a container may be given another one.
    if (seen->devices.empty() && store_.boot_id() != options_.boot_id) {
        end_leases_of_an_older_kernel();
    }
    read = co_await read_mounts(operation, seen);
    if (!read) co_return read.error();
    seen->live_read = true;
    devices_.clear();
    remember(views_at_start(*seen));
    co_return {};
}

void PoolManager::end_leases_of_an_older_kernel() {
    for (const std::uint32_t thin_id : store_.leased_volumes()) {
        const auto row = store_.volume(thin_id);
        for (const LeaseRow& lease : store_.leases(thin_id)) {
            event("lease.ended", row->name.value_or(""), {{"holder", lease.holder}, {"reason", "reboot"}});
        }
        store_.delete_leases(thin_id);
    }
}

// A lease whose mount or device is missing under the same kernel is made true again, by the ordinary
// code of get.
Async<void> PoolManager::restore_leases(Operation& operation) {
    std::vector<std::uint64_t> numbers;
    for (const std::uint32_t thin_id : store_.leased_volumes()) {
        const auto row = store_.volume(thin_id);
        const LeaseRow lease = store_.leases(thin_id).front();
        const auto device = devices_.find(thin_id);
        const bool mounts = lease.mode.starts_with("mounted");
        if (device != devices_.end() && device->second.complete && (!mounts || !device->second.mount_path.empty()))
            continue;
        Operation& part = new_operation("restore_lease", row->name.value_or(""));
        part.role = Role::housekeeping;
        numbers.push_back(part.number);
        begin(part, restore_lease(part, *row, lease));
    }
    for (const std::uint64_t number : numbers) {
        operation.waiting_for = "mounts to be made again";
        if (const auto part = operations_.find(number); part != operations_.end()) co_await part->second->ended.wait();
    }
}

Task<std::string> PoolManager::restore_lease(Operation& operation, VolumeRow row, LeaseRow lease) {
    const NameLock lock = co_await names_.acquire(thin_key(row.thin_id), LockMode::exclusive);
    if (store_.leases(row.thin_id).empty()) co_return "";  // It was being put, and that is done.
    const LeaseWanted wanted{lease.holder, lease.mode, lease.mount_label};
    Result<std::string> path = co_await bring_up(operation, row, wanted);
    unfind(FindingKind::broken_lease, operation.subject);
    if (path) co_return "";
    find(FindingKind::broken_lease, operation.subject,
         fmt::format("its {} is not there: {}", lease.mode, path.error().message));
    co_return path.error();
}

// Each has its row, so each goes on where the row stands. The queues are the same as before: what
// is recorded headed its queues.
void PoolManager::resume_operations() {
    for (const OperationRow& row : store_.unfinished_operations()) {
        auto operation = std::make_unique<Operation>(row.number, ready_);
        const auto volume = row.thin_id ? store_.volume(*row.thin_id) : std::nullopt;
        operation->recorded = true;
        operation->role = Role::request;
        operation->thin_id = row.thin_id;
        operation->attempts = row.attempts + 1;  // A copy of its command may have been carried out.
        operation->deaths = row.deaths;
        operation->started_ms = now_.monotonic_ms;
        operation->subject = volume && volume->name ? *volume->name
                             : volume               ? fmt::format("thin {}", volume->thin_id)
                                                    : "";
        operation->request_id = row.request_id;
        if (row.type == OperationType::remove && row.deaths >= kMaxDeaths) {
            find(FindingKind::parked, operation->subject, "actors have died of its removal; it is not tried again");
            continue;
        }
        if (!row.request_id.empty()) {
            by_request_[row.request_id] = row.number;
            if (const auto request = store_.request(row.request_id)) operation->digest = request->digest;
        }
        Operation& resumed = *operations_.emplace(row.number, std::move(operation)).first->second;
        store_.set_attempts(row.number, resumed.attempts, row.deaths);
        switch (row.type) {
            case OperationType::create:
                resumed.type = schemas::VolumeCreate::kType;
                begin(resumed, resume_create(resumed, row.body));
                break;
            case OperationType::template_:
                // Whatever a dead mkfs has left is thrown away.
                resumed.type = "template";
                begin(resumed, [](Error error) -> Task<std::string> {
                    co_return error;
                }({Errc::unavailable, "mkfs was interrupted by a restart"}));
                break;
            case OperationType::warm:
                resumed.type = "warm";
                begin(resumed, [](Error error) -> Task<std::string> {
                    co_return error;
                }({Errc::unavailable, "a warm clone was interrupted by a restart"}));
                break;
            case OperationType::remove:
                resumed.type = schemas::VolumeRemove::kType;
                begin_removal(row.number, *row.thin_id, resumed.subject, resumed.attempts);
                break;
            case OperationType::resize:
                resumed.type = schemas::VolumeResize::kType;
                begin(resumed, resume_resize(resumed));
                break;
            case OperationType::rewind:
                resumed.type = schemas::PoolRewind::kType;
                begin(resumed, resume_rewind(resumed, row.body));
                break;
            case OperationType::grow:
                resumed.type = schemas::PoolGrow::kType;
                begin(resumed, resume_grow(resumed, row.body));
                break;
            case OperationType::destroy_pool:
                resumed.type = schemas::PoolDestroy::kType;
                begin(resumed, resume_destroy(resumed));
                break;
            case OperationType::create_pool:
                resumed.type = schemas::PoolCreate::kType;
                begin(resumed, resume_create_pool(resumed, row.body));
                break;
        }
    }
}

Task<std::string> PoolManager::resume_create(Operation& operation, std::string body) {
    Result<schemas::VolumeCreate> request = decode_as<schemas::VolumeCreate>(std::string_view(body));
    if (!request) co_return request.error();
    std::vector<LockRequest> names = {{volume_key(request->id), LockMode::exclusive}, {kPoolKey, LockMode::shared}};
    if (!request->parent.empty()) names.push_back({volume_key(request->parent), LockMode::shared});
    // It was accepted: without its pool it waits, and is not undone.
    const NameLock lock = co_await names_.acquire(names);
    co_return co_await carry_out_create(operation, std::move(*request));
}

Task<std::string> PoolManager::resume_create_pool(Operation& operation, std::string body) {
    Result<schemas::PoolCreate> request = decode_as<schemas::PoolCreate>(std::string_view(body));
    if (!request) co_return request.error();
    operation.subject = request->name;
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::exclusive);
    co_return co_await carry_out_create_pool(operation, std::move(*request));
}

// What nobody has a lease on is put away, unless somebody has it open.
void PoolManager::put_away_strays(const KernelView& seen) {
    for (const Difference& difference : compare(views_at_start(seen))) {
        if (difference.kind == FindingKind::stray_device) begin_put_away(difference.thin_id);
        if (difference.kind == FindingKind::foreign_mount) find(difference.kind, difference.subject, difference.detail);
        if (difference.kind != FindingKind::stray_mount) continue;
        Operation& operation = new_operation("put_away", difference.subject);
        operation.role = Role::behind;
        begin(operation, put_away_directory(operation, *difference.mount));
    }
}

Task<std::string> PoolManager::put_away_directory(Operation& operation, schemas::MountedVolume found) {
    const auto thin_id = parse_thin_dm_uuid(pool_row_->spec.pool.uuid, found.dm_uuid);
    // The directory belongs to a name: a get of it, and of this device, must not come in between.
    const NameLock name = co_await names_.acquire(volume_key(operation.subject), LockMode::exclusive);
    const NameLock thin = co_await names_.acquire(thin_key(thin_id.value_or(0)), LockMode::exclusive);
    if (thin_id && !store_.leases(*thin_id).empty()) co_return "";
    const auto owner = store_.find_volume(operation.subject);
    if (!thin_id && owner && !store_.leases(owner->thin_id).empty()) co_return "";
    schemas::Unmount command{found.directory, found.dm_uuid, true};
    Result<schemas::Unmount::Reply> reply = co_await tell(operation, ActorKind::mount, Urgency::behind, command);
    if (!reply) co_return reply.error();
    if (reply->busy) {
        find(FindingKind::busy, operation.subject,
             fmt::format("mounted without a lease: {}", fmt::join(holder_names(reply->holders), "; ")));
        co_return "";
    }
    unfind(FindingKind::busy, operation.subject);
    if (!thin_id) co_return "";
    if (const auto device = devices_.find(*thin_id); device != devices_.end()) device->second.mount_path.clear();
    now_idle(*thin_id);
    co_return "";
}

}  // namespace cowslip
