// What an operator should know and status shows until it is no longer true (schemas/bus.md has each in
// words). Told by an event when it appears, and by another when it goes.
#pragma once

#include <cstdint>
#include <string_view>

namespace cowslip {

enum class FindingKind : std::uint8_t {
    below_full,
    broken_lease,
    busy,
    foreign_mount,
    foreign_thin,
    frozen,
    growth,
    held_snapshot,
    lost,
    parked,
    pool,
    removal,
    snapshot_clock,
    state_full,
    store_backup,
    store_lost,
    stray_device,
    stray_mount,
    suspended,
    thin_ids,
    unchecked,
    wrong_birth,
    wrong_size,
};

// "broken-lease": as on the wire.
std::string_view to_string(FindingKind kind);

}  // namespace cowslip
