// The checksum of dm-thin's metadata, and of what we write beside them.
#pragma once

#include <cstdint>
#include <string_view>

namespace cowslip {

// Castagnoli, as the kernel's crc32c(): begins with all ones, and no inversion at the end.
std::uint32_t crc32c(std::string_view bytes);

}  // namespace cowslip
