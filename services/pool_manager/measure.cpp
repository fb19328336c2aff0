// What volumes take of the pool. Nothing of it is kept across a start: it is counted when somebody asks.
#include <fmt/format.h>

#include "common/names.h"
#include "services/pool_manager/keys.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

Task<std::string> PoolManager::measure_pool(Operation& operation, schemas::PoolMeasure request) {
    const NameLock pool = co_await names_.acquire(kPoolKey, LockMode::shared);
    if (!pool_row_) co_return no_pool_yet(Errc::unavailable);
    if (!pool_.loaded || !pool_.frozen.empty()) {
        co_return Error{Errc::unavailable, "the pool is not in service: `cowslip pool start`"};
    }
    Result<std::uint64_t> counted = 0;
    if (request.exact) counted = co_await measure_all(operation);
    if (!request.exact) counted = co_await measure_active(operation);
    if (!counted) co_return counted.error();
    co_return encode(schemas::PoolMeasure::Reply{.volumes = *counted});
}

Task<std::uint64_t> PoolManager::measure_active(Operation& operation) {
    schemas::ListActive command;
    command.pool = pool_row_->spec.pool;
    command.mapped = true;
    std::uint64_t counted = 0;
    for (;;) {
        Result<schemas::ListActive::Reply> page =
            co_await tell(operation, ActorKind::device, Urgency::awaited, command);
        if (!page) co_return page.error();
        for (const auto& found : page->devices) {
            if (!found.mapped_sectors || !store_.volume(found.thin_id)) continue;
            Measured& measured = measured_[found.thin_id];
            measured.mapped_bytes = *found.mapped_sectors * kSectorBytes;
            if (!measured.exclusive_bytes) measured.as_of = store_.now();
            ++counted;
        }
        if (!page->more || page->devices.empty()) co_return counted;
        command.after_thin_id = page->devices.back().thin_id;
    }
}

Task<std::uint64_t> PoolManager::measure_all(Operation& operation) {
    Result<std::vector<schemas::ThinDevice>> thins = co_await list_thins(operation, Held::keep, Sharing::counted);
    if (!thins) co_return thins.error();
    const std::uint64_t block_bytes = pool_row_->spec.block_sectors * kSectorBytes;
    measured_.clear();
    for (const auto& thin : *thins) {
        if (thin.thin_id < kFirstThinId || !store_.volume(thin.thin_id)) continue;  // Removed meanwhile, or not ours.
        measured_[thin.thin_id] = {.mapped_bytes = thin.mapped_blocks * block_bytes,
                                   .exclusive_bytes = thin.exclusive_blocks * block_bytes,
                                   .as_of = store_.now()};
    }
    co_return measured_.size();
}

}  // namespace cowslip
