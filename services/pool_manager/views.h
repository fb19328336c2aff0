// The three views of what there is: the store's rows, the pool's own list of thin ids, and the kernel's
// live devices and mounts; and how they differ. Pure: whoever looked has brought it all along.
//
// Looks take time and work goes on meanwhile. Compared is only what nobody has worked on from before
// the first look until after the last: rows that are there before and after in the same state, and thin
// ids below the next one as it was before (protocol.md A20).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "schemas/device_actor.h"
#include "schemas/mount_actor.h"
#include "services/pool_manager/findings.h"
#include "services/pool_manager/store.h"

namespace cowslip {

struct StoreView {
    std::map<std::uint32_t, ThinRow> rows;
    std::map<std::uint32_t, LeaseRow> leases;  // One of each leased volume: all of it have the same mode.
    std::map<std::uint32_t, std::string> quarantined;
    std::uint32_t next_thin_id = 0;
};

struct KernelView {
    std::optional<std::map<std::uint32_t, schemas::ThinDevice>> thins;  // None: the pool's list was not read.
    bool live_read = false;                                             // Devices and mounts were.
    std::map<std::uint32_t, schemas::ActiveDevice> devices;
    std::vector<schemas::MountedVolume> mounts;
};

struct Views {
    std::string pool_uuid;
    StoreView before;
    StoreView after;
    KernelView kernel;
    std::set<std::uint32_t> kept = {};        // Active without a lease, on purpose; perhaps mounted where they belong.
    std::set<std::uint32_t> unfinished = {};  // Thin ids with an operation: what there is of them is its business.
    std::set<std::string> worked_on = {};     // Keys (keys.h) that were held or wanted meanwhile.

    // Has nobody worked on this thin id, nor on the name that it has?
    bool steady(std::uint32_t thin_id) const;
    // Likewise, of what is in DIR/mnt.
    bool steady(const schemas::MountedVolume& found) const;
    // If no difference is this finding: does that mean that it has gone?
    bool can_tell(FindingKind kind, const std::string& subject) const;
};

struct Difference {
    FindingKind kind;
    std::string subject;
    std::string detail;
    std::uint32_t thin_id = 0;
    std::optional<schemas::MountedVolume> mount = {};
};

std::vector<Difference> compare(const Views& views);

// By kind, then by subject, as status has them.
void sort(std::vector<Difference>& differences);

// The name of a row, or "thin 7".
std::string subject_of(const StoreView& store, std::uint32_t thin_id);

}  // namespace cowslip
