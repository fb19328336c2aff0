#include "services/pool_manager/pool_fault.h"

#include <fmt/format.h>

namespace cowslip {

namespace {

struct Words {
    std::string_view word;
    std::string_view what;
    std::string_view next;
};

constexpr std::string_view kRepair =
    "it is repaired by itself while nothing is leased: put and detach what is, or `cowslip pool repair --evict`";

Words words_of(PoolFault fault) {
    switch (fault) {
        case PoolFault::none:
            return {"none", "nothing is wrong with the pool", ""};
        case PoolFault::metadata_full:
            return {
                "metadata_full",
                "the pool is out of metadata space, so nothing can be created or removed; nothing is broken",
                "`cowslip pool grow --metadata SIZE` (of a pool on two devices: make that for metadata larger, then "
                "`cowslip pool grow`): this is no case for a repair"};
        case PoolFault::commit_failed:
            return {"commit_failed", "the pool could not write its metadata (needs_check) and is read-only", kRepair};
        case PoolFault::failed:
            return {"failed", "the pool has failed: it can neither be read nor written", kRepair};
        case PoolFault::suspect:
            return {"suspect", "the kernel came upon a damaged block of the pool's metadata", kRepair};
        case PoolFault::damaged:
            return {"damaged", "the pool's metadata are damaged", "`cowslip pool repair`"};
        case PoolFault::gone:
            return {"gone", "the pool's device is not there any more: somebody has removed it",
                    "it is loaded again by itself"};
        case PoolFault::changed:
            return {"changed", "somebody has loaded another table for the pool",
                    "load the right one, or `cowslip cleanup` and `cowslip pool start`"};
        case PoolFault::unreadable:
            return {"unreadable", "what the pool lies on cannot be read", "see to its devices: `cowslip pool status`"};
    }
    return {};
}

}  // namespace

std::string_view to_string(PoolFault fault) {
    return words_of(fault).word;
}

PoolFault fault_of(const ThinPoolStatus& status) {
    switch (status.mode) {
        case PoolMode::fail:
        case PoolMode::error:
            return PoolFault::failed;
        case PoolMode::ro:
            return status.needs_check ? PoolFault::commit_failed : PoolFault::metadata_full;
        case PoolMode::rw:
        case PoolMode::out_of_data_space:
            return status.needs_check ? PoolFault::commit_failed : PoolFault::none;
    }
    return PoolFault::none;
}

std::string explain(PoolFault fault, std::string_view detail) {
    const Words words = words_of(fault);
    return fmt::format("{}{}{}; next: {}", words.what, detail.empty() ? "" : ": ", detail, words.next);
}

}  // namespace cowslip
