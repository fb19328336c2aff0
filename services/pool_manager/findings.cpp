#include "services/pool_manager/findings.h"

namespace cowslip {

std::string_view to_string(FindingKind kind) {
    switch (kind) {
        case FindingKind::broken_lease:
            return "broken-lease";
        case FindingKind::busy:
            return "busy";
        case FindingKind::foreign_thin:
            return "foreign-thin";
        case FindingKind::frozen:
            return "frozen";
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
        case FindingKind::suspended:
            return "suspended";
        case FindingKind::unchecked:
            return "unchecked";
    }
    return "";
}

}  // namespace cowslip
