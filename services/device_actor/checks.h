// Is this command one that a sane manager could send? Pure checks of its values; invalid_argument
// names the field.
#pragma once

#include "common/result.h"
#include "schemas/device_actor.h"

namespace cowslip {

inline constexpr const char* kLoopBacking = "loop";
inline constexpr const char* kPairBacking = "pair";
inline constexpr const char* kDevicesBacking = "devices";
inline constexpr const char* kAdoptedBacking = "adopted";
inline constexpr std::size_t kMostPoolDevices = 64;

// Did we make this pool? Else it is an adopted one, which keeps its own dm name.
bool is_own_pool(const schemas::PoolRef& pool);

Result<void> check_pool(const schemas::PoolRef& pool);
Result<void> check_thin_id(std::uint32_t thin_id);
Result<void> check_thin_sectors(std::uint64_t sectors);
// Of an internal thin device; gives its size.
Result<std::uint64_t> check_internal_range(std::uint32_t thin_id, std::uint64_t offset_bytes, std::uint64_t length);
Result<void> check_spec(const schemas::PoolSpec& spec);

}  // namespace cowslip
