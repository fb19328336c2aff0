// How far the pool may go by itself, and how many bytes volumes may be promised, all of them and those of one label. A
// limit is one commit, so nothing of it is taken up again after a crash; what is promised is counted from the rows.
#include <algorithm>

#include <fmt/format.h>

#include "common/names.h"
#include "common/size.h"
#include "services/pool_manager/keys.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kSmallestStepBytes = 64ULL << 20U;  // Unless it is said.

Result<void> check_quotas(const std::map<std::string, std::uint64_t>& quotas) {
    if (quotas.size() > schemas::kMostQuotas) {
        return Error{Errc::invalid_argument, fmt::format("quota: at most {} are kept", schemas::kMostQuotas)};
    }
    for (const auto& [label, bytes] : quotas) TRY(check_quota_label(label));
    return {};
}

}  // namespace

// A limit makes it grow by itself.
Result<schemas::PoolLimits> complete_limits(schemas::PoolLimits limits, std::uint64_t bytes,
                                            std::uint64_t block_bytes) {
    TRY(check_quotas(limits.quotas));
    if (limits.max_bytes == 0 && limits.grow_step_bytes == 0) return limits;
    if (bytes == 0 || limits.max_bytes == 0) {
        return Error{Errc::invalid_argument,
                     "a pool in files (--loop SIZE), or with a part of its devices (--device DEV... --data-size SIZE), "
                     "grows by itself up to a limit (--max-size SIZE), and no other"};
    }
    if (limits.max_bytes < bytes || limits.max_bytes > (1ULL << 54U)) {
        return Error{Errc::invalid_argument, "max size: no less than the pool has, and at most 16 PiB"};
    }
    if (limits.grow_step_bytes == 0) limits.grow_step_bytes = std::max(bytes / 4, kSmallestStepBytes);
    if (limits.grow_step_bytes < block_bytes || limits.grow_step_bytes > (1ULL << 50U)) {
        return Error{Errc::invalid_argument, "grow step: at least a block of the pool, and at most 1 PiB"};
    }
    return limits;
}

std::uint64_t low_water_blocks(const schemas::PoolLimits& limits, std::uint64_t bytes, std::uint64_t block_bytes) {
    return std::max<std::uint64_t>(std::min(limits.grow_step_bytes / 2, bytes / 4) / block_bytes, 1);
}

Task<std::string> PoolManager::set_limits(Operation& operation, schemas::PoolSetLimits request) {
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::shared);
    if (!pool_row_) co_return no_pool_yet(Errc::not_found);
    operation.subject = pool_row_->name;
    const NameLock growth = co_await names_.acquire(kStartKey, LockMode::exclusive);
    schemas::PoolSpec spec = pool_row_->spec;
    schemas::PoolLimits wanted = pool_row_->limits;
    wanted.max_bytes = request.max_bytes.value_or(wanted.max_bytes);
    wanted.grow_step_bytes = request.grow_step_bytes.value_or(wanted.grow_step_bytes);
    wanted.min_free_bytes = request.min_free_bytes.value_or(wanted.min_free_bytes);
    wanted.min_free_metadata_bytes = request.min_free_metadata_bytes.value_or(wanted.min_free_metadata_bytes);
    wanted.overprovision_percent = request.overprovision_percent.value_or(wanted.overprovision_percent);
    if (request.max_bytes == 0U) wanted.grow_step_bytes = 0;
    const bool grows = spec.backing == "loop" || spec.backing == "devices";
    const std::uint64_t bytes = grows ? spec.data_sectors * kSectorBytes : 0;
    const std::uint64_t block_bytes = spec.block_sectors * kSectorBytes;
    const Result<schemas::PoolLimits> limits = complete_limits(wanted, bytes, block_bytes);
    if (!limits) co_return limits.error();
    store_.set_pool_limits(*limits);
    pool_row_->limits = *limits;
    if (limits->max_bytes != 0) {
        // The kernel's own mark follows with the next table.
        spec.low_water_blocks = low_water_blocks(*limits, bytes, block_bytes);
        store_.set_pool_spec(spec);
        pool_row_->spec = spec;
    }
    growth_fails_ = false;
    next_growth_ms_ = 0;
    co_return encode(describe_pool());
}

Task<std::string> PoolManager::set_quota(Operation& /*operation*/, schemas::PoolQuota request) {
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::shared);
    if (!pool_row_) co_return no_pool_yet(Errc::not_found);
    Result<void> checked = check_quota_label(request.label);
    if (!checked) co_return checked.error();
    schemas::PoolLimits limits = pool_row_->limits;
    if (request.max_bytes == 0) limits.quotas.erase(request.label);
    if (request.max_bytes != 0) limits.quotas[request.label] = request.max_bytes;
    checked = check_quotas(limits.quotas);
    if (!checked) co_return checked.error();
    store_.set_pool_limits(limits);
    pool_row_->limits = limits;
    co_return encode(quota_use(request.label, request.max_bytes));
}

Result<void> check_quota_label(const std::string& label) {
    const auto equals = label.find('=');
    if (equals == std::string::npos) {
        return Error{Errc::invalid_argument, fmt::format("quota: '{}' is no label: KEY=VALUE", label)};
    }
    return check_label(label.substr(0, equals), label.substr(equals + 1));
}

schemas::QuotaUse PoolManager::quota_use(const std::string& label, std::uint64_t max_bytes) {
    const auto equals = label.find('=');
    return {label, {store_.labelled_bytes(label.substr(0, equals), label.substr(equals + 1)), max_bytes}};
}

// Whether so much more may be promised to a volume with these labels.
Result<void> PoolManager::check_quota(const schemas::Labels& labels, std::uint64_t more_bytes) {
    if (pool_row_->limits.quotas.empty()) return {};
    for (const auto& [key, value] : labels) {
        const std::string label = key + "=" + value;
        const auto quota = pool_row_->limits.quotas.find(label);
        if (quota == pool_row_->limits.quotas.end()) continue;
        const std::uint64_t used = store_.labelled_bytes(key, value);
        if (more_bytes <= quota->second && used <= quota->second - more_bytes) continue;
        return Error{
            Errc::no_space,
            fmt::format("volumes with the label '{}' have {} of their quota of {}, and this takes {} more: remove "
                        "some, or `cowslip pool quota {} SIZE`",
                        label, format_size(used), format_size(quota->second), format_size(more_bytes), label)};
    }
    return {};
}

// Whether so much more may be promised to volumes at all.
Result<void> PoolManager::check_promise(std::uint64_t more_bytes) {
    const std::uint32_t percent = pool_row_->limits.overprovision_percent;
    if (percent == 0 || !pool_.status) return {};
    const std::uint64_t total = space_of(0).total;
    const std::uint64_t hundredth = std::max<std::uint64_t>(total / 100, 1);
    const std::uint64_t most = hundredth * std::min(std::uint64_t{percent}, ~std::uint64_t{0} / hundredth);
    const std::uint64_t promised = store_.promised_bytes();
    if (more_bytes <= most && promised <= most - more_bytes) return {};
    return Error{Errc::no_space,
                 fmt::format("volumes are promised {} of the pool's {}, and this takes {} more, past the {} % that may "
                             "be: remove some, `cowslip pool grow`, or `cowslip pool limits --overprovision PERCENT`",
                             format_size(promised), format_size(total), format_size(more_bytes), percent)};
}

}  // namespace cowslip
