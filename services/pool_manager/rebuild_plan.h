// Which rows a store gets that is made anew from its pool. Pure: from the pool's own list, the newest backup found in
// it and the rows of an older store, if there is one, to what each thin id is.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "services/pool_manager/label.h"
#include "services/pool_manager/store.h"
#include "services/pool_manager/verdict.h"

namespace cowslip {

struct RebuildSources {
    std::uint32_t tag = 0;
    std::vector<SeenThin> thins;
    std::vector<BackupRow> backup;
    std::vector<VolumeRow> store;  // What the backup does not have is taken from here, if its birth mark fits.
    std::set<std::uint32_t> quarantined;
};

struct RebuildPlan {
    std::vector<VolumeRow> rows;         // ready; or removing, if their removal was begun and is to be finished.
    std::vector<SeenThin> unknown;       // Made by us, and nobody knows as what: to be looked at and named.
    std::vector<std::uint32_t> foreign;  // To be quarantined.
    std::vector<std::string> dropped;    // Volumes whose thin ids the pool does not have.
    std::uint64_t newest_birth = 0;      // Of ours; 0: there is none.
};

RebuildPlan plan_rebuild(const RebuildSources& sources);

// "recovered-42", or that with more behind it if there is such a volume.
std::string recovered_name(std::uint32_t thin_id, const std::set<std::string>& taken);

}  // namespace cowslip
