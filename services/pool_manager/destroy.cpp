// The end of a pool: stopped while nobody has a lease, checked while it is stopped, destroyed for good.
#include <algorithm>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/keys.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

// ---- stop, check -----------------------------------------------------------------------------

// The caller holds both of the pool's keys.
Task<void> PoolManager::put_away_unleased(Operation& operation) {
    if (store_.count_leases() > 0) {
        co_return Error{Errc::in_use,
                        "volumes are leased: put or detach them, or `cowslip cleanup` ends all leases",
                        {{"holders", lease_holders()}}};
    }
    Result<std::vector<std::string>> left = co_await put_pool_away(operation, Leased::left);
    if (!left) co_return left.error();
    if (left->empty()) co_return {};
    co_return Error{Errc::in_use, "volumes are in use still: end what uses them", {{"holders", *left}}};
}

Task<std::string> PoolManager::stop_pool(Operation& operation, schemas::PoolStop /*request*/) {
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::exclusive);
    const NameLock start = co_await names_.acquire(kStartKey, LockMode::exclusive);
    if (!pool_row_) co_return no_pool_yet(Errc::not_found);
    operation.subject = pool_row_->name;
    Result<void> away = co_await put_away_unleased(operation);
    if (!away) co_return away.error();
    co_return encode(describe_pool());
}

Task<std::string> PoolManager::check_pool(Operation& operation, schemas::PoolCheck /*request*/) {
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::exclusive);
    const NameLock start = co_await names_.acquire(kStartKey, LockMode::exclusive);
    if (!pool_row_) co_return no_pool_yet(Errc::not_found);
    operation.subject = pool_row_->name;
    if (pool_row_->state == "ready" || pool_.read_only) {
        co_return Error{Errc::in_use,
                        "check: the pool is in service, where `cowslip fsck` compares it: `cowslip pool stop` first"};
    }
    if (!pool_.frozen.empty()) co_return Error{Errc::needs_repair, pool_.frozen};
    // Of metadata that are another pool's nothing is mended, and no flag is cleared.
    Result<Judgement> judgement = co_await look_at_unloaded(operation);
    if (!judgement) co_return judgement.error();
    if (freezes(judgement->verdict)) {
        freeze(*judgement);
        keep();
        co_return Error{Errc::needs_repair, pool_.frozen};
    }
    schemas::CheckMetadata command{pool_row_->spec};
    Result<schemas::CheckMetadata::Reply> checked =
        co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!checked) co_return checked.error();
    if (!checked->sound) {
        note_damage(checked->report);
        keep();
    }
    co_return encode(schemas::PoolCheck::Reply{checked->sound, checked->report});
}

// ---- destroy ---------------------------------------------------------------------------------

// Durable from the moment when nothing of it is in use any more: whatever dies then, it goes on to its end.
Task<std::string> PoolManager::destroy_pool(Operation& operation, schemas::PoolDestroy request) {
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::exclusive);
    const NameLock start = co_await names_.acquire(kStartKey, LockMode::exclusive);
    if (!pool_row_) co_return no_pool_yet(Errc::not_found);
    operation.subject = pool_row_->name;
    if (request.name != pool_row_->name) {
        co_return Error{Errc::invalid_argument,
                        fmt::format("destroy '{}': the pool of this service is '{}'", request.name, pool_row_->name)};
    }
    if (!pool_.frozen.empty()) co_return Error{Errc::needs_repair, pool_.frozen};
    const auto rows = store_.thin_ids();
    const bool empty = std::all_of(rows.begin(), rows.end(), [](const auto& row) { return !row.name; });
    if (pool_row_->spec.backing == "adopted" && !empty) {
        co_return Error{Errc::in_use, "destroy: an adopted pool is given back empty: `cowslip rm --wait` its volumes"};
    }
    Result<void> away = co_await put_away_unleased(operation);
    if (!away) co_return away.error();
    if (!store_.unfinished_operations().empty()) {
        co_return Error{
            Errc::in_use,
            "destroy: operations are unfinished: `cowslip pool start`, and `cowslip operations` shows them"};
    }
    store_.insert_operation(
        {operation.number, OperationType::destroy_pool, std::nullopt, operation.request_id, encode(request)});
    store_.insert_request(operation.request_id, operation.digest);
    operation.recorded = true;
    co_return co_await carry_out_destroy(operation);
}

Task<std::string> PoolManager::resume_destroy(Operation& operation) {
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::exclusive);
    const NameLock start = co_await names_.acquire(kStartKey, LockMode::exclusive);
    operation.subject = pool_row_->name;
    co_return co_await carry_out_destroy(operation);
}

// From the intent on; also where recovery begins. What cannot be done is no longer owed then: the pool stays, stopped.
Task<std::string> PoolManager::carry_out_destroy(Operation& operation) {
    schemas::DiscardPool command{
        pool_row_->spec, pool_row_->planned, {schemas::kLabelThinId, schemas::kBackupsThinId}, pool_row_->confirmed};
    if (pool_row_->spec.backing == "adopted") {
        for (const ThinRow& row : store_.thin_ids()) command.thin_ids.push_back(row.thin_id);
    }
    Result<schemas::PoolState> discarded = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    store_.delete_operation(operation.number);
    if (!discarded) store_.forget_request(operation.request_id);
    if (!discarded) {
        keep();
        operation.recorded = false;
        co_return discarded.error();
    }
    const std::string name = pool_row_->name;
    event("pool.destroyed", name, {{"uuid", pool_row_->spec.pool.uuid}});
    spdlog::info("pool destroyed name={} uuid={}", name, pool_row_->spec.pool.uuid);
    store_.delete_pool_and_volumes();
    for (const auto& [key, detail] : std::map(findings_)) {
        if (key.first != FindingKind::store_lost) unfind(key.first, key.second);
    }
    devices_.clear();
    measured_.clear();
    space_ = {};
    growth_fails_ = false;
    pool_row_.reset();
    pool_ = {};
    backup_sequence_ = 0;
    backup_due_ = false;
    co_return encode(schemas::PoolDestroy::Reply{});
}

}  // namespace cowslip
