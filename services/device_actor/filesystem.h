// Which file system the first bytes of a device begin, and how large it is: for a volume of which nothing else is
// known. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cowslip {

inline constexpr std::size_t kFilesystemProbeBytes = 4096;

struct FoundFilesystem {
    std::string fs = "none";         // ext4, xfs or none: nothing that we make.
    std::uint64_t size_sectors = 0;  // Of the file system; 0 with none.
};

FoundFilesystem parse_filesystem(std::string_view first_bytes);

}  // namespace cowslip
