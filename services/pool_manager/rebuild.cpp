// A store made anew from its pool: after it was lost, or is an older one than the pool's. And the look at a pool that
// is distrusted, without a change to it.
#include <algorithm>
#include <iterator>
#include <limits>
#include <set>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/keys.h"
#include "services/pool_manager/label.h"
#include "services/pool_manager/pool_manager.h"
#include "services/pool_manager/rebuild_plan.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kSizeOfUnknownSectors = (std::uint64_t{10} << 30U) / kSectorBytes;

Error wrong(const Judgement& judgement) {
    return {Errc::needs_repair, judgement.detail};
}

}  // namespace

// ---- rebuild ---------------------------------------------------------------------------------

Result<void> PoolManager::may_rebuild(const Operation& operation) {
    if (pool_.loaded && pool_.frozen.empty()) {
        return Error{Errc::invalid_argument,
                     "the pool is in service, so store and pool belong together: there is "
                     "nothing to rebuild"};
    }
    if (pool_.read_only) {
        return Error{Errc::in_use, "the pool was started read-only: `cowslip cleanup` puts it away, then repeat"};
    }
    if (pool_row_ && pool_row_->state == "formatting") {
        return Error{Errc::unavailable, "the pool is being made"};
    }
    if (store_.count_leases() != 0) {
        return Error{Errc::in_use, "volumes are in use: `cowslip cleanup` puts them away, then repeat"};
    }
    const bool others = std::any_of(operations_.begin(), operations_.end(), [&](const auto& entry) {
        return entry.second->recorded && entry.first != operation.number;
    });
    if (others) {
        return Error{Errc::unavailable, "operations wait for the pool: restart the service, then repeat"};
    }
    return {};
}

Task<std::string> PoolManager::rebuild_pool(Operation& operation, schemas::PoolRebuild request) {
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::exclusive);
    // The row is there in memory only: no repair or growth is to come upon it, and be left with none.
    const NameLock alone = co_await names_.acquire(kStartKey, LockMode::exclusive);
    Result<void> allowed = may_rebuild(operation);
    if (!allowed) co_return allowed.error();
    const std::optional<PoolRow> row_before = pool_row_;
    const PoolView view_before = pool_;
    schemas::PoolRebuild::Reply reply;
    Result<void> rebuilt = co_await carry_out_rebuild(operation, request, &reply);
    if (!rebuilt) {
        // Nothing was written, to the store or to the pool, which is put away again.
        if (pool_row_) {
            const schemas::StopPool stop{pool_row_->spec};
            Result<schemas::PoolState> stopped = co_await tell(operation, ActorKind::device, Urgency::awaited, stop);
            if (!stopped) spdlog::warn("put away the pool after a rebuild that failed: {}", stopped.error().message);
        }
        pool_row_ = row_before;
        pool_ = view_before;
        pool_.loaded = false;
        co_return rebuilt.error();
    }
    reply.pool = describe_pool();
    co_return encode(reply);
}

Task<void> PoolManager::carry_out_rebuild(Operation& operation, schemas::PoolRebuild request,
                                          schemas::PoolRebuild::Reply* reply) {
    RebuildSources sources;
    sources.store = store_.volumes_after(-1, std::numeric_limits<std::uint32_t>::max());
    for (const auto& [thin_id, reason] : store_.quarantined()) sources.quarantined.insert(thin_id);
    Result<void> loaded = co_await load_for_rebuild(operation, std::move(request));
    if (!loaded) co_return loaded.error();
    KernelView live;
    Result<void> seen = co_await look_at_kernel(operation, &live);
    if (!seen) co_return seen.error();
    Result<std::vector<schemas::ThinDevice>> thins = co_await list_thins(operation, Held::release);
    if (!thins) co_return thins.error();
    sources.tag = pool_row_->tag;
    for (const auto& thin : *thins) sources.thins.push_back({thin.thin_id, thin.transaction_id});
    Result<std::uint32_t> next_thin_id = co_await read_newest_backup(operation, &sources, &reply->backup_taken_at);
    if (!next_thin_id) co_return next_thin_id.error();
    RebuildPlan plan = plan_rebuild(sources);
    std::set<std::string> names;
    for (const VolumeRow& row : plan.rows) names.insert(row.name.value_or(""));
    for (const SeenThin& thin : plan.unknown) {
        const std::string name = recovered_name(thin.thin_id, names);
        names.insert(name);
        Result<VolumeRow> row = co_await describe_unknown(operation, thin, name);
        if (!row) co_return row.error();
        reply->recovered.push_back(name);
        plan.rows.push_back(std::move(*row));
    }
    pool_row_->next_thin_id = std::max(*next_thin_id, kFirstThinId);
    if (!thins->empty()) pool_row_->next_thin_id = std::max(pool_row_->next_thin_id, thins->back().thin_id + 1);
    pool_row_->planned = std::max(pool_row_->planned, plan.newest_birth);
    write_rebuilt(plan);
    reply->dropped = plan.dropped;
    lost_.clear();
    replaced_.clear();
    const auto findings = findings_;
    for (const auto& [key, detail] : findings) unfind(key.first, key.second);
    pool_.frozen.clear();
    pool_.loaded = true;
    set_verdict({});
    event("pool.rebuilt", pool_row_->name,
          {{"volumes", std::to_string(plan.rows.size())}, {"recovered", std::to_string(reply->recovered.size())}});
    resume_operations();
    put_away_strays(live);
    begin_generation();
    pool_changed_.notify_all();
    co_return {};
}

// Whose pool it is, and that it may be believed. In memory only: the store is as it was.
Task<void> PoolManager::load_for_rebuild(Operation& operation, schemas::PoolRebuild request) {
    schemas::PoolSpec spec;
    spec.backing = !request.adopt.empty()         ? "adopted"
                   : !request.data_device.empty() ? "pair"
                   : !request.devices.empty()     ? "devices"
                                                  : "loop";
    for (const std::string& path : request.devices) spec.devices.push_back({path, ""});
    spec.pool.device = request.adopt;
    spec.data_path = request.data_device;
    spec.metadata_path = request.metadata_device;
    if (pool_row_) spec = pool_row_->spec;
    schemas::ExaminePool look{spec};
    Result<schemas::ExaminePool::Reply> found = co_await tell(operation, ActorKind::device, Urgency::awaited, look);
    if (!found) co_return found.error();
    const schemas::Superblock& superblock = found->state.superblock;
    if (superblock.zeroed || !superblock.valid) {
        Seen seen;
        seen.zeroed = superblock.zeroed;
        seen.valid = superblock.valid;
        co_return wrong(judge_pool(seen));
    }
    // No generation is used twice, so not one either that only the store has seen.
    const std::uint64_t id = superblock.transaction_id;
    const bool same_tag = pool_row_ && pool_row_->planned >> 32U == id >> 32U;
    PoolRow row;
    row.name = pool_row_ ? pool_row_->name : "default";
    row.state = "ready";
    row.spec = found->state.spec;
    if (pool_row_) row.limits = pool_row_->limits;
    row.confirmed = id;
    row.planned = same_tag ? std::max(id, pool_row_->planned) : id;
    row.next_thin_id = pool_row_ ? pool_row_->next_thin_id : kFirstThinId;
    pool_row_ = row;
    pool_ = {};
    schemas::StartPool command{row.spec, row.confirmed, row.planned};
    Result<schemas::PoolState> state = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!state) co_return state.error();
    take_backing(*state);
    pool_.snapshots_taken = state->superblock.time;
    take_status(operation, 0, state->status);
    if (!pool_.writable) co_return Error{Errc::unavailable, fmt::format("rebuild: the pool is {}", pool_.mode)};
    co_return co_await judge_for_rebuild(operation);
}

// Loaded as what the metadata say. Do label, metadata and DIR/pool/uuid speak of one pool?
Task<void> PoolManager::judge_for_rebuild(Operation& operation) {
    Result<std::string> slots = co_await read_internal(operation, schemas::kLabelThinId, 0, kLabelBytes);
    if (!slots && slots.error().code != Errc::not_found) co_return slots.error();
    const auto label = slots ? newest_label(*slots) : std::nullopt;
    Seen seen;
    seen.confirmed = pool_row_->confirmed;
    seen.planned = pool_row_->planned;
    seen.transaction_id = pool_row_->confirmed;
    seen.label = label ? SeenLabel::another : slots ? SeenLabel::damaged : SeenLabel::absent;
    if (!label) co_return wrong(judge_pool(seen));
    seen.label_pool = label->pool_uuid;
    // Another program's transaction id is taken back to ours by the next generation; another pool's metadata are not.
    const std::uint64_t tag = pool_row_->confirmed >> 32U;
    if (tag != label->tag && tag != 0) co_return wrong(judge_pool(seen));
    if (label->pool_uuid != pool_row_->spec.pool.uuid) {
        co_return Error{Errc::needs_repair, fmt::format("the pool's label says that it is pool {}, and DIR/pool/uuid "
                                                        "that it is {}: if the label is right, root writes it there",
                                                        label->pool_uuid, pool_row_->spec.pool.uuid)};
    }
    pool_row_->tag = label->tag;
    pool_row_->name = label->name;
    pool_row_->planned = std::max(pool_row_->planned, (std::uint64_t{label->tag} << 32U) | 1U);
    co_return {};
}

// Gives the next thin id as the backup has it.
Task<std::uint32_t> PoolManager::read_newest_backup(Operation& operation, RebuildSources* sources,
                                                    std::string* taken_at) {
    std::uint32_t next_thin_id = pool_row_->next_thin_id;
    Result<std::string> heads = co_await read_internal(operation, schemas::kBackupsThinId, 0, kBackupHeadsBytes);
    if (!heads && heads.error().code == Errc::not_found) co_return next_thin_id;
    if (!heads) co_return heads.error();
    std::uint64_t ring_born = 0;  // Again when the pool was rewound, and its thin ids counted anew.
    for (const SeenThin& thin : sources->thins) {
        if (thin.thin_id == schemas::kBackupsThinId) ring_born = thin.birth;
    }
    for (const FoundBackup& backup : find_backups(*heads, pool_row_->spec.pool.uuid)) {
        if (backup.head.transaction_id < ring_born) continue;
        std::vector<BackupRow> rows;
        std::uint64_t offset = backup_area_offset(backup.sequence);
        bool whole = true;
        for (const std::uint32_t bytes : backup.head.chunk_bytes) {
            Result<std::string> chunk = co_await read_internal(operation, schemas::kBackupsThinId, offset, bytes);
            if (!chunk) co_return chunk.error();
            auto found = parse_backup_chunk(backup.sequence, *chunk);
            whole = found.has_value();
            if (!whole) break;
            std::move(found->begin(), found->end(), std::back_inserter(rows));
            offset += bytes;
        }
        if (!whole) continue;  // Written over, or torn: the one before it.
        sources->backup = std::move(rows);
        sources->quarantined.insert(backup.head.quarantined.begin(), backup.head.quarantined.end());
        *taken_at = format_time(backup.head.taken_at);
        co_return std::max(next_thin_id, backup.head.next_thin_id);
    }
    co_return next_thin_id;
}

Task<VolumeRow> PoolManager::describe_unknown(Operation& operation, SeenThin thin, std::string name) {
    schemas::FindFilesystem command{pool_row_->spec.pool, thin.thin_id};
    Result<schemas::FindFilesystem::Reply> found =
        co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!found) co_return found.error();
    if (found->error_number != 0) {
        co_return errno_error(found->error_number, fmt::format("look at what is on thin id {}", thin.thin_id));
    }
    VolumeRow row;
    row.thin_id = thin.thin_id;
    row.name = std::move(name);
    row.state = "ready";
    row.fs = found->fs;
    // As large as it may well have been: what nobody has written reads as zeros.
    row.size_sectors = found->size_sectors != 0 ? found->size_sectors : kSizeOfUnknownSectors;
    row.fs_sectors = row.size_sectors;
    row.born_min = thin.birth;
    row.born_max = thin.birth;
    co_return row;
}

// One commit: before it the store is what it was, after it all is there.
void PoolManager::write_rebuilt(const RebuildPlan& plan) {
    store_.begin_anew();
    store_.insert_pool(*pool_row_);
    for (const VolumeRow& row : plan.rows) {
        store_.insert_volume(row);
        if (row.state != "removing") continue;
        store_.insert_operation({take_operation_number(), OperationType::remove, row.thin_id, "", ""});
    }
    for (const std::uint32_t thin_id : plan.foreign) {
        store_.quarantine(thin_id, "was in the pool when the store was made anew");
    }
}

// ---- a look without a change -----------------------------------------------------------------

// The kernel itself refuses to change a pool that is loaded read-only.
Task<void> PoolManager::start_read_only(Operation& operation) {
    if (pool_.read_only) co_return {};
    if (pool_.loaded && pool_.frozen.empty()) {
        co_return Error{Errc::invalid_argument, "the pool is in service already: get and attach take --read-only"};
    }
    Result<void> believed = check_restored();
    if (!believed) co_return believed.error();
    if (!pool_.frozen.empty() && !may_be_read(pool_.verdict)) co_return Error{Errc::needs_repair, pool_.frozen};
    schemas::StartPool command{pool_row_->spec, pool_row_->confirmed, pool_row_->planned, true};
    Result<schemas::PoolState> state = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!state) co_return state.error();
    take_backing(*state);
    pool_.snapshots_taken = state->superblock.time;
    if (const auto status = parse_thin_pool_status(state->status)) pool_.status = *status;
    Result<void> labelled = co_await compare_label_read_only(operation);
    if (!labelled) {
        const schemas::StopPool stop{pool_row_->spec};
        Result<schemas::PoolState> stopped = co_await tell(operation, ActorKind::device, Urgency::awaited, stop);
        if (!stopped) spdlog::warn("put away the read-only pool: {}", stopped.error().message);
        co_return labelled.error();
    }
    pool_.read_only = true;
    event("pool.started", pool_row_->name, {{"read_only", "true"}});
    keep();
    co_return {};
}

Task<void> PoolManager::compare_label_read_only(Operation& operation) {
    schemas::ReadInternal command{pool_row_->spec.pool, schemas::kLabelThinId, 0, kLabelBytes};
    Result<schemas::ReadInternal::Reply> reply = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!reply) co_return reply.error();
    const auto label = newest_label(reply->data);
    if (label && label->pool_uuid == pool_row_->spec.pool.uuid && label->tag == pool_row_->tag) co_return {};
    co_return Error{Errc::needs_repair,
                    "the pool's data device does not bear its label: it is another pool's, or damaged"};
}

}  // namespace cowslip
