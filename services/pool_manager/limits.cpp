// How many bytes the volumes of one label may be promised. A quota is one commit, so nothing of it is taken up again
// after a crash; what is promised is counted from the rows.
#include <fmt/format.h>

#include "common/names.h"
#include "common/size.h"
#include "services/pool_manager/keys.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

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

Result<void> check_quotas(const std::map<std::string, std::uint64_t>& quotas) {
    if (quotas.size() > schemas::kMostQuotas) {
        return Error{Errc::invalid_argument, fmt::format("quota: at most {} are kept", schemas::kMostQuotas)};
    }
    for (const auto& [label, bytes] : quotas) TRY(check_quota_label(label));
    return {};
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

}  // namespace cowslip
