// The pool's room: extended by itself up to its limit, told of in time, and kept for what is there already when it runs
// out. Looked at with each status of the watch; nothing of it is recorded, since the next process looks again.
#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/size.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kMetadataBlockBytes = 4096;
constexpr std::array<unsigned, 3> kSpaceLevels = {80, 90, 95};  // Percent.
constexpr unsigned kHysteresis = 3;                             // So far below, a level is over.
constexpr std::int64_t kSampleMs = 1000;
constexpr std::uint32_t kLeasesAtOnce = 1000;
constexpr std::int64_t kSampledMs = 300 * 1000;  // The rate is that of the last minutes.
constexpr std::int64_t kLeastSampledMs = 2000;
constexpr std::int64_t kFirstGrowthBackOffMs = 1000;
constexpr std::int64_t kLongestGrowthBackOffMs = 60 * 1000;
constexpr std::uint64_t kMostMinFreeBytes = std::uint64_t{1} << 30U;
constexpr std::uint64_t kLeastMetadataStepSectors = (std::uint64_t{4} << 20U) / kSectorBytes;

unsigned space_level(std::uint64_t percent) {
    unsigned level = 0;
    for (const unsigned told : kSpaceLevels) {
        if (percent >= told) level = told;
    }
    return level;
}

const char* kind_name(std::size_t kind) {
    return kind == 0 ? "data" : "metadata";
}

}  // namespace

// ---- how much there is -----------------------------------------------------------------------

// Of a pool that grows by itself as much as it may become.
PoolManager::Space PoolManager::space_of(std::size_t kind) const {
    const ThinPoolStatus& status = *pool_.status;
    if (kind == 1) {
        return {status.used_metadata_blocks * kMetadataBlockBytes, status.total_metadata_blocks * kMetadataBlockBytes};
    }
    const std::uint64_t block_bytes = pool_row_->spec.block_sectors * kSectorBytes;
    const std::uint64_t total = status.total_data_blocks * block_bytes;
    return {status.used_data_blocks * block_bytes, std::max(total, grows_to_sectors() * kSectorBytes)};
}

// By itself; 0: it does not grow.
std::uint64_t PoolManager::grows_to_sectors() const {
    const schemas::PoolSpec& spec = pool_row_->spec;
    const std::uint64_t limit = pool_row_->limits.max_bytes / kSectorBytes / spec.block_sectors * spec.block_sectors;
    return spec.backing == "devices" ? std::min(limit, pool_.most_data_sectors) : limit;
}

bool PoolManager::may_grow_beyond(std::uint64_t data_sectors) const {
    return grows_to_sectors() > data_sectors;
}

// Who finds no room in a pool of this size waits for it: it comes by itself, or an operator wanted it so.
bool PoolManager::queues_at(std::uint64_t data_sectors) const {
    return pool_row_->limits.queue_when_full || may_grow_beyond(data_sectors);
}

schemas::PoolLimits PoolManager::limits_in_force() const {
    schemas::PoolLimits limits = pool_row_->limits;
    if (!pool_.status) return limits;
    if (limits.min_free_bytes == 0) limits.min_free_bytes = std::min(space_of(0).total / 100, kMostMinFreeBytes);
    if (limits.min_free_metadata_bytes == 0) limits.min_free_metadata_bytes = space_of(1).total / 5;
    return limits;
}

// New volumes are refused while there is still room for those that are there. Nothing else is: a removal is accepted
// however full the pool is.
Result<void> PoolManager::check_room() const {
    if (!has_room_) {
        return Error{Errc::no_space,
                     "the file system of the state folder is full: make room there (volumes can still be removed)"};
    }
    if (!has_room_below_) {
        return Error{Errc::no_space,
                     "the file system below the pool's files is full: make room there (volumes can still be removed)"};
    }
    return check_pool_room(0);
}

// No volume would be made, for want of room where volumes lie.
bool PoolManager::lacks_room() const {
    return !has_room_below_ || !check_pool_room(0);
}

Result<void> PoolManager::check_pool_room(std::uint64_t more_percent) const {
    if (pool_.fault == PoolFault::metadata_full) return Error{Errc::no_space, explain(pool_.fault, pool_.fault_detail)};
    if (!pool_.status) return {};
    const ThinPoolStatus& status = *pool_.status;
    const schemas::PoolLimits limits = limits_in_force();
    const std::uint64_t block_bytes = pool_row_->spec.block_sectors * kSectorBytes;
    const bool grows = may_grow_beyond(pool_row_->spec.data_sectors) && !growth_fails_;
    const std::uint64_t total = grows ? space_of(0).total : status.total_data_blocks * block_bytes;
    const std::uint64_t used = space_of(0).used;
    const std::uint64_t free = total - std::min(used, total);
    const auto wanted = [&](std::uint64_t least) { return least + least / 100 * more_percent; };
    if (free < wanted(std::max(limits.min_free_bytes, block_bytes)) ||
        (status.mode == PoolMode::out_of_data_space && !grows)) {
        return Error{Errc::no_space,
                     fmt::format("the pool has {} of data left, and no volume is made below {}: remove volumes, or "
                                 "`cowslip pool grow --data SIZE`",
                                 format_size(free), format_size(limits.min_free_bytes))};
    }
    const Space metadata = space_of(1);
    const std::uint64_t free_metadata = metadata.total - std::min(metadata.used, metadata.total);
    if (free_metadata >= wanted(limits.min_free_metadata_bytes)) return {};
    return Error{Errc::no_space,
                 fmt::format("the pool has {} of metadata left, and no volume is made below {}: remove volumes, or "
                             "`cowslip pool grow --metadata SIZE`",
                             format_size(free_metadata), format_size(limits.min_free_metadata_bytes))};
}

// ---- told in time ----------------------------------------------------------------------------

void PoolManager::look_at_space() {
    if (!pool_.status || pool_.status->mode == PoolMode::fail || pool_.status->mode == PoolMode::error) return;
    for (std::size_t kind = 0; kind < space_.size(); ++kind) {
        const Space space = space_of(kind);
        if (space.total == 0) continue;
        SpaceWatch& watch = space_.at(kind);
        if (watch.samples.empty() || now_.monotonic_ms - watch.samples.back().first >= kSampleMs) {
            watch.samples.emplace_back(now_.monotonic_ms, space.used);
        }
        while (now_.monotonic_ms - watch.samples.front().first > kSampledMs) watch.samples.pop_front();
        const std::uint64_t percent = space.used * 100 / space.total;
        const unsigned level = space_level(percent);
        if (level > watch.told) {
            EventBody body = {{"what", kind_name(kind)},
                              {"percent", std::to_string(percent)},
                              {"free_bytes", std::to_string(space.total - std::min(space.used, space.total))}};
            if (const auto seconds = full_in_seconds(kind)) body["full_in_s"] = std::to_string(*seconds);
            event("pool.space_low", pool_row_->name, body);
            watch.told = level;
        } else if (const unsigned over = space_level(percent + kHysteresis); over < watch.told) {
            watch.told = over;
            if (over == 0) event("pool.space_ok", pool_row_->name, {{"what", kind_name(kind)}});
        }
    }
}

// Each volume that somebody may be writing to: what it has no blocks for fails, or waits for room.
void PoolManager::tell_writers() {
    std::string id;
    std::string holder;
    for (;;) {
        const auto page = store_.list_leases(id, holder, kLeasesAtOnce);
        for (const auto& [name, lease] : page) {
            id = name;
            holder = lease.holder;
            if (is_read_only(lease.mode)) continue;
            fact("volume.no_space", name,
                 {{"holder", holder}, {"writes", pool_row_->spec.queue_if_no_space ? "wait" : "fail"}});
        }
        if (page.size() < kLeasesAtOnce) return;
    }
}

// By the rate of the last minutes; nothing if it is not growing.
std::optional<std::uint64_t> PoolManager::full_in_seconds(std::size_t kind) const {
    const auto& samples = space_.at(kind).samples;
    const Space space = space_of(kind);
    if (samples.empty() || space.used <= samples.front().second) return std::nullopt;
    const std::int64_t elapsed_ms = now_.monotonic_ms - samples.front().first;
    if (elapsed_ms < kLeastSampledMs) return std::nullopt;
    const double per_ms = static_cast<double>(space.used - samples.front().second) / static_cast<double>(elapsed_ms);
    return static_cast<std::uint64_t>(static_cast<double>(space.total - std::min(space.used, space.total)) / per_ms /
                                      1000.0);
}

void PoolManager::warn_of_space(std::vector<std::string>* warnings) const {
    for (std::size_t kind = 0; kind < space_.size(); ++kind) {
        const Space space = space_of(kind);
        const std::uint64_t percent = space.total == 0 ? 0 : space.used * 100 / space.total;
        if (percent < kSpaceLevels.front()) continue;
        std::string warning = fmt::format("{} is {} % full", kind_name(kind), percent);
        if (kind == 0 && pool_row_->limits.max_bytes != 0) {
            warning += fmt::format(" of the {} that it may become", format_size(space.total));
        }
        if (const auto seconds = full_in_seconds(kind)) {
            warning += fmt::format("; at the rate of the last minutes it is full in {}",
                                   format_duration(std::chrono::seconds(*seconds)));
        }
        warnings->push_back(std::move(warning));
    }
}

// ---- extended by itself ----------------------------------------------------------------------

// Nothing: it has what it needs, or is at its limit.
std::optional<schemas::PoolSpec> PoolManager::wanted_extension() const {
    if (pool_row_->limits.max_bytes == 0 || !pool_.status) return std::nullopt;
    const ThinPoolStatus& status = *pool_.status;
    const schemas::PoolSpec& now = pool_row_->spec;
    schemas::PoolSpec wanted = now;
    const std::uint64_t free_blocks =
        status.total_data_blocks - std::min(status.used_data_blocks, status.total_data_blocks);
    if (free_blocks < now.low_water_blocks && may_grow_beyond(now.data_sectors)) {
        wanted.data_sectors = now.data_sectors + pool_row_->limits.grow_step_bytes / kSectorBytes;
        wanted.data_sectors = std::min(wanted.data_sectors, grows_to_sectors());
        wanted.data_sectors -= wanted.data_sectors % now.block_sectors;
    }
    // Before data can be lost for want of them. What the kernel has not taken up yet is enough for now.
    const bool taken_up = now.metadata_sectors / 8 <= status.total_metadata_blocks;
    if (status.used_metadata_blocks * 4 >= status.total_metadata_blocks * 3 && taken_up) {
        const std::uint64_t step = std::max(now.metadata_sectors / 4, kLeastMetadataStepSectors);
        const std::uint64_t most = now.backing == "devices" ? pool_.most_metadata_sectors : kMaxMetadataSectors;
        wanted.metadata_sectors = std::min(now.metadata_sectors + step / 8 * 8, most);
    }
    wanted.queue_if_no_space = queues_at(wanted.data_sectors);
    const bool larger = wanted.data_sectors != now.data_sectors || wanted.metadata_sectors > now.metadata_sectors;
    // Who finds no room is to wait, or no more: the devices were found to have more than it was made with, or no more.
    const bool otherwise = wanted.queue_if_no_space != now.queue_if_no_space && !growth_fails_;
    if (!larger && !otherwise) return std::nullopt;
    wanted.metadata_sectors = std::max(wanted.metadata_sectors, now.metadata_sectors);
    return wanted;
}

// Soon to be extended.
bool PoolManager::is_filling() const {
    if (!pool_.loaded || !pool_.status || growth_fails_ || !may_grow_beyond(pool_row_->spec.data_sectors)) return false;
    const ThinPoolStatus& status = *pool_.status;
    return status.used_data_blocks + 2 * pool_row_->spec.low_water_blocks > status.total_data_blocks;
}

void PoolManager::consider_extension() {
    const bool whole = pool_.loaded && pool_.frozen.empty() && !repairing_ && pool_.status && pool_.intact;
    if (!whole || now_.monotonic_ms < next_growth_ms_ || !wanted_extension()) return;
    const bool going_on = std::any_of(operations_.begin(), operations_.end(),
                                      [](const auto& entry) { return entry.second->type == "extend"; });
    if (going_on) return;
    Operation& operation = new_operation("extend", pool_row_->name);
    operation.role = Role::housekeeping;
    begin(operation, extend_by_itself(operation));
}

// No intent is recorded: nobody was promised anything, and files that have grown are taken up at the next start.
Task<std::string> PoolManager::extend_by_itself(Operation& operation) {
    const NameLock lock = co_await names_.acquire(kStartKey, LockMode::exclusive);
    if (!check_growable()) co_return "";
    const auto wanted = wanted_extension();
    if (!wanted) co_return "";
    Result<std::string> extended = co_await carry_out_grow(operation, *wanted);
    growth_fails_ = !extended;
    if (extended) {
        growth_back_off_ms_ = 0;
        unfind(FindingKind::growth, pool_row_->name);
        co_return "";
    }
    const Error error = extended.error();
    growth_back_off_ms_ = std::clamp(growth_back_off_ms_ * 2, kFirstGrowthBackOffMs, kLongestGrowthBackOffMs);
    next_growth_ms_ = now_.monotonic_ms + growth_back_off_ms_;
    find(FindingKind::growth, pool_row_->name,
         fmt::format("the pool could not be extended: {}; it is tried again by itself", error.message));
    // Nobody is to wait for room that does not come.
    schemas::PoolSpec now = pool_row_->spec;
    if (!pool_row_->limits.queue_when_full && std::exchange(now.queue_if_no_space, false)) {
        Result<std::string> told = co_await carry_out_grow(operation, std::move(now));
        if (!told) spdlog::warn("no more waiting for room: {}", told.error().message);
    }
    co_return "";
}

}  // namespace cowslip
