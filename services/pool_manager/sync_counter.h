// How often this process has called fsync or fdatasync: the price of durability, shown in status.
#pragma once

#include <cstdint>

namespace cowslip {

std::uint64_t count_syncs();

}  // namespace cowslip
