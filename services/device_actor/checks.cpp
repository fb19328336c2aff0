#include "services/device_actor/checks.h"

#include <fmt/format.h>

#include "common/names.h"
#include "common/thin_pool.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kMaxSectors = std::uint64_t{1} << 46U;  // 32 PiB: no sum of two overflows.
constexpr std::uint32_t kMinBlockSectors = 128;
constexpr std::uint32_t kMaxBlockSectors = 2097152;

Error bad(std::string message) {
    return Error{Errc::invalid_argument, std::move(message)};
}

// What the kernel takes as a name and what is also one file name below /dev/mapper.
bool is_dm_name(std::string_view name) {
    return !name.empty() && name.size() < 128 && name != "." && name != ".." && name != "control" &&
           name.find_first_of("/\\ \n\t") == std::string_view::npos;
}

Result<void> check_backing(const schemas::PoolSpec& spec) {
    const bool own = is_own_pool(spec.pool);
    if (spec.backing == kAdoptedBacking) {
        return own ? Result<void>(bad("an adopted pool cannot have our own dm name")) : Result<void>();
    }
    const bool on_devices = spec.backing == kDevicesBacking;
    if (spec.backing != kLoopBacking && spec.backing != kPairBacking && !on_devices) {
        return bad(fmt::format("unknown kind of pool backing '{}'", spec.backing));
    }
    if (!own) return bad(fmt::format("pool '{}' has a dm name that is not its own", spec.pool.device));
    if (on_devices && (spec.devices.empty() || spec.devices.size() > kMostPoolDevices)) {
        return bad(fmt::format("a pool has 1 to {} devices", kMostPoolDevices));
    }
    for (const auto& device : spec.devices) {
        if (!device.id.empty() && !is_pool_uuid(device.id))
            return bad(fmt::format("'{}' is no id of a device", device.id));
    }
    const bool sizes = spec.backing == kPairBacking || on_devices ||
                       (spec.data_sectors >= spec.block_sectors && spec.metadata_sectors >= kMinMetadataSectors);
    if (!sizes) return bad("the pool's files are too small");
    return {};
}

}  // namespace

bool is_own_pool(const schemas::PoolRef& pool) {
    return pool.device == pool_dm_name(pool.uuid);
}

Result<void> check_pool(const schemas::PoolRef& pool) {
    if (!is_pool_uuid(pool.uuid)) return bad(fmt::format("'{}' is no pool uuid", pool.uuid));
    if (!is_dm_name(pool.device)) return bad(fmt::format("'{}' is no dm name of a pool", pool.device));
    return {};
}

Result<void> check_thin_id(std::uint32_t thin_id) {
    if (thin_id > kLastThinId) return bad(fmt::format("thin id {} has more than 24 bits", thin_id));
    return {};
}

Result<void> check_thin_sectors(std::uint64_t sectors) {
    if (sectors == 0 || sectors > kMaxSectors) return bad(fmt::format("{} sectors is no size of a volume", sectors));
    return {};
}

Result<std::uint64_t> check_internal_range(std::uint32_t thin_id, std::uint64_t offset_bytes, std::uint64_t length) {
    if (thin_id >= kFirstThinId) return bad(fmt::format("thin id {} is no internal one", thin_id));
    const std::uint64_t sectors = thin_id == schemas::kLabelThinId ? schemas::kLabelSectors : schemas::kBackupsSectors;
    const std::uint64_t bytes = sectors * kSectorBytes;
    const bool whole = offset_bytes % kSuperblockBytes == 0 && length % kSuperblockBytes == 0 && length != 0;
    if (!whole || length > schemas::kMostInternalBytes || offset_bytes > bytes || length > bytes - offset_bytes) {
        return bad(fmt::format("{} bytes at {} are no range of thin id {}", length, offset_bytes, thin_id));
    }
    return sectors;
}

Result<void> check_spec(const schemas::PoolSpec& spec) {
    TRY(check_pool(spec.pool));
    if (spec.block_sectors < kMinBlockSectors || spec.block_sectors > kMaxBlockSectors ||
        spec.block_sectors % kMinBlockSectors != 0) {
        return bad(fmt::format("{} sectors is no block size of a pool: 64 KiB to 1 GiB in steps of 64 KiB",
                               spec.block_sectors));
    }
    if (spec.data_sectors > kMaxSectors || spec.metadata_sectors > kMaxSectors) return bad("the pool is too large");
    return check_backing(spec);
}

}  // namespace cowslip
