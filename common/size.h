// Sizes and durations as people write and read them: "10G" is 10 GiB, "30s" is thirty seconds.
// Parsing is strict, since a misread size is a wrong volume: junk, zero, overflow and a fraction of
// a byte are refused, and so is "10GB", which means one thing to a disk and another to a kernel.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace cowslip {

// Bytes: digits, perhaps a fraction ("1.5G"), and a unit: none or B, or K M G T P E in either case,
// each also as KiB. Powers of 1024.
Result<std::uint64_t> parse_size(std::string_view text);

// At most one decimal: "10 GiB", "61.4 MiB", "512 B".
std::string format_size(std::uint64_t bytes);

// A whole number and a unit that may not be left out: ms, s, m, h. At most 1000h.
Result<std::chrono::milliseconds> parse_duration(std::string_view text);

// Its two largest units: "3d 4h", "2m 5s", "1.5s", "80ms".
std::string format_duration(std::chrono::milliseconds duration);

}  // namespace cowslip
