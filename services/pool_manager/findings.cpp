#include "services/pool_manager/findings.h"

namespace cowslip {

std::string_view to_string(FindingKind kind) {
    switch (kind) {
        case FindingKind::below_full:
            return "below-full";
        case FindingKind::broken_lease:
            return "broken-lease";
        case FindingKind::busy:
            return "busy";
        case FindingKind::foreign_thin:
            return "foreign-thin";
        case FindingKind::frozen:
            return "frozen";
        case FindingKind::growth:
            return "growth";
        case FindingKind::lost:
            return "lost";
        case FindingKind::parked:
            return "parked";
        case FindingKind::pool:
            return "pool";
        case FindingKind::removal:
            return "removal";
        case FindingKind::state_full:
            return "state-full";
        case FindingKind::store_backup:
            return "store-backup";
        case FindingKind::store_lost:
            return "store-lost";
        case FindingKind::suspended:
            return "suspended";
        case FindingKind::unchecked:
            return "unchecked";
        case FindingKind::foreign_mount:
            return "foreign-mount";
        case FindingKind::held_snapshot:
            return "held-snapshot";
        case FindingKind::stray_device:
            return "stray-device";
        case FindingKind::stray_mount:
            return "stray-mount";
        case FindingKind::wrong_birth:
            return "wrong-birth";
        case FindingKind::wrong_size:
            return "wrong-size";
        case FindingKind::snapshot_clock:
            return "snapshot-clock";
        case FindingKind::thin_ids:
            return "thin-ids";
    }
    return "";
}

}  // namespace cowslip
