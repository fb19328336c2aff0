// A pool's two lifetimes, its clock of snapshots and its thin ids: both have 24 bits. Told of in time, refused before
// the end, and opened again by the rewind of a stopped pool.
#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kLifetime = std::uint64_t{kLastThinId} + 1;
// At 2^24 the kernel mixes up whose blocks are whose, without a word. So far from it: what is under way, and what other
// programs might do.
constexpr std::uint64_t kMostSnapshots = kLifetime - 65536;
constexpr std::array<unsigned, 3> kTold = {50, 80, 95};

// The highest that is reached; 0: none.
unsigned level_of(std::uint64_t used) {
    unsigned level = 0;
    for (const unsigned percent : kTold) {
        if (used * 100 >= kLifetime * percent) level = percent;
    }
    return level;
}

}  // namespace

void PoolManager::look_at_lifetimes() {
    tell_lifetime(FindingKind::snapshot_clock, "snapshots", pool_.snapshots_taken);
    tell_lifetime(FindingKind::thin_ids, "thin ids", store_.pool()->next_thin_id);
}

// Once for each level that is reached: of one that is found at 96 % the highest.
void PoolManager::tell_lifetime(FindingKind kind, const char* what, std::uint64_t used) {
    const unsigned level = level_of(used);
    if (std::exchange(told_levels_[kind], level) == level) return;
    unfind(kind, pool_row_->name);
    if (level == 0) return;
    find(kind, pool_row_->name,
         fmt::format("more than {} % of the {} {} of a pool's life are used up: `cowslip cleanup`, then `cowslip pool "
                     "rewind` opens them again",
                     level, kLifetime, what));
}

Result<void> PoolManager::check_clock() const {
    if (pool_.snapshots_taken < kMostSnapshots) return {};
    return Error{Errc::no_space,
                 fmt::format("{} of the {} snapshots of a pool's life are taken, and it must not come to the end: "
                             "`cowslip cleanup`, then `cowslip pool rewind` opens them again",
                             pool_.snapshots_taken, kLifetime)};
}

// ---- the rewind ------------------------------------------------------------------------------

Task<std::string> PoolManager::rewind_pool(Operation& operation, schemas::PoolRewind request) {
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::exclusive);
    if (!pool_row_) co_return no_pool_yet(Errc::not_found);
    operation.subject = pool_row_->name;
    if (pool_row_->state != "stopped") {
        co_return Error{Errc::in_use, "rewind: the pool is in service: `cowslip cleanup` stops it"};
    }
    if (!pool_.frozen.empty()) co_return Error{Errc::needs_repair, pool_.frozen};
    if (!store_.unfinished_operations().empty()) {
        co_return Error{Errc::in_use,
                        "rewind: operations are unfinished: `cowslip pool start`, and `cowslip operations` shows them"};
    }
    if (!store_.quarantined().empty()) {
        co_return Error{Errc::needs_repair,
                        "rewind: the pool has thin ids that are not ours: `cowslip status` names them"};
    }
    const bool pair = pool_row_->spec.backing == "pair";
    if (pair && request.spare.empty()) {
        co_return Error{
            Errc::invalid_argument,
            "rewind: the pool's metadata are counted anew onto another device, as large as theirs: `cowslip "
            "pool rewind --spare DEV`"};
    }
    if (!pair && !request.spare.empty()) {
        co_return Error{Errc::invalid_argument, "rewind: only a pool on two devices takes a spare one"};
    }
    const std::uint64_t to = pool_row_->planned + 1;
    store_.set_planned(to);
    store_.insert_operation(
        {operation.number, OperationType::rewind, std::nullopt, operation.request_id, encode(request)});
    store_.insert_request(operation.request_id, operation.digest);
    pool_row_ = store_.pool();
    operation.recorded = true;
    co_return co_await carry_out_rewind(operation, std::move(request));
}

Task<std::string> PoolManager::resume_rewind(Operation& operation, std::string body) {
    Result<schemas::PoolRewind> request = decode_as<schemas::PoolRewind>(std::string_view(body));
    if (!request) co_return request.error();
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::exclusive);
    operation.subject = pool_row_->name;
    co_return co_await carry_out_rewind(operation, std::move(*request));
}

// From the intent on; also where recovery begins. The new metadata and the new rows belong together: which metadata
// there are, their transaction id says, or a pair's row; the rows change in the commit that ends it. The caller holds
// the pool.
Task<std::string> PoolManager::carry_out_rewind(Operation& operation, schemas::PoolRewind request) {
    const std::uint64_t volumes = store_.thin_ids().size();
    const schemas::RewindClock command{pool_row_->spec, pool_row_->confirmed, pool_row_->planned, volumes,
                                       request.spare};
    Result<schemas::RewindClock::Reply> rewound =
        co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!rewound && operation.deaths >= kMaxDeaths) {
        freeze({PoolVerdict::unusable,
                "its rewind was begun, and actors have died of it: start the service again to go on with it"});
        co_return rewound.error();
    }
    if (!rewound) {
        store_.delete_operation(operation.number);
        store_.set_reply(operation.request_id, operation.digest, error_frame(operation.request_id, rewound.error()));
        keep();
        operation.recorded = false;
        co_return rewound.error();
    }
    const std::uint32_t next = store_.count_thin_ids_anew();
    if (!request.spare.empty()) {
        schemas::PoolSpec spec = pool_row_->spec;
        spec.metadata_path = request.spare;
        store_.set_pool_spec(spec);
    }
    store_.set_confirmed(pool_row_->planned);
    store_.delete_operation(operation.number);
    pool_row_ = store_.pool();
    lost_.clear();
    measured_.clear();
    pool_.snapshots_taken = rewound->superblock.time;
    look_at_lifetimes();
    event("pool.rewound", pool_row_->name,
          {{"snapshots", std::to_string(rewound->superblock.time)}, {"next_thin_id", std::to_string(next)}});
    spdlog::info("pool rewound snapshots={} next_thin_id={}", rewound->superblock.time, next);
    co_return encode(schemas::PoolRewind::Reply{rewound->superblock.time, next});
}

}  // namespace cowslip
