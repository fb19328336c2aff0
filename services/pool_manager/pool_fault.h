// What is wrong with a live pool: told from its status line, or from what it lies on. One word for programs, and for
// people what it is and what to do next. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/thin_pool.h"

namespace cowslip {

enum class PoolFault : std::uint8_t {
    none,           // Also with its data full: it carries out what it is told.
    metadata_full,  // `ro` without needs_check: it is to be grown, and nothing is broken.
    commit_failed,  // `needs_check`: its last commit is lost, and it takes no other one.
    failed,         // `Fail` or `Error`: nothing works any more, reading neither.
    suspect,        // The kernel came upon a damaged block of its metadata.
    damaged,        // Its metadata are not whole: it is not loaded until they are mended.
    gone,           // Its device is not there: somebody has removed it.
    changed,        // It lies on other devices than those that it was loaded with.
    unreadable,     // What it lies on cannot be looked at.
};

std::string_view to_string(PoolFault fault);

// Seen in what the pool lies on: no status line says that it is over.
constexpr bool outlives_status(PoolFault fault) {
    return fault == PoolFault::suspect || fault == PoolFault::damaged || fault == PoolFault::gone ||
           fault == PoolFault::changed || fault == PoolFault::unreadable;
}

PoolFault fault_of(const ThinPoolStatus& status);

// `detail` is what was seen; empty if the fault says it all.
std::string explain(PoolFault fault, std::string_view detail);

}  // namespace cowslip
