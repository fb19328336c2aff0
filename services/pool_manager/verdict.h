// Do the store and the pool belong together, and if not, which of them is wrong? One pure function, from what a start
// has seen to a verdict by name, with what to do about it. It guesses nothing: where two stories fit, it tells the one
// whose way out is safe in both.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace cowslip {

// The words are in the bus's status and events (to_string), so the list is append-only.
enum class PoolVerdict : std::uint8_t {
    normal,
    orphans,                 // Thin ids in the pool that nobody knows of. They are left alone.
    lost,                    // Volumes whose thin ids the pool does not have, or has from somebody else.
    store_older,             // The pool has been further than the store remembers.
    pool_older,              // The store remembers more than the metadata.
    superblock_zeroed,       // Loaded, it would be formatted by the kernel.
    superblock_damaged,      // Magic or checksum.
    formatted,               // New, empty metadata where ours were.
    foreign_transaction_id,  // Our pool, and somebody else has changed its transaction id.
    metadata_swapped,        // Another cowslip pool's metadata.
    foreign_pool,            // Somebody else's metadata.
    data_swapped,            // Our metadata over another pool's data.
    label_missing,
    label_damaged,
    unusable,        // What the pool lies on is not as the store has it: cut short, gone.
    store_restored,  // Put in place from a backup: what it says of the pool may have been true once.
};

std::string_view to_string(PoolVerdict verdict);

enum class SeenLabel : std::uint8_t { not_read, ours, absent, damaged, another };

struct SeenThin {
    std::uint32_t thin_id = 0;
    std::uint64_t birth = 0;  // The pool's transaction id then.
};

struct SeenRow {
    std::uint32_t thin_id = 0;
    bool ready = false;          // Others may or may not be in the pool.
    std::uint64_t born_min = 0;  // Its birth mark lies in [born_min, born_max]; born_max 0: up to `planned`.
    std::uint64_t born_max = 0;
};

struct Seen {
    // The store.
    std::uint32_t tag = 0;
    std::uint64_t confirmed = 0;
    std::uint64_t planned = 0;
    bool restored = false;
    std::vector<SeenRow> rows = {};
    std::set<std::uint32_t> quarantined = {};
    // The pool. Live: the kernel has it loaded under our uuid, so it was ours when it was loaded.
    bool live = false;
    bool zeroed = false;
    bool valid = true;
    std::uint64_t transaction_id = 0;  // Of the superblock or of the live pool.
    SeenLabel label = SeenLabel::not_read;
    std::string label_pool = {};                      // Whose, if it is another's.
    std::optional<std::vector<SeenThin>> thins = {};  // Its own list, if it was read.
};

struct Judgement {
    PoolVerdict verdict = PoolVerdict::normal;
    std::string detail = {};  // What was seen, and the way out. Empty if normal.
    std::vector<std::uint32_t> lost = {};
    std::vector<std::uint32_t> orphans = {};
};

Judgement judge_pool(const Seen& seen);

// May nothing be changed until an operator has decided?
bool freezes(PoolVerdict verdict);

// Can the pool be looked at all the same, without a change to it?
bool may_be_read(PoolVerdict verdict);

}  // namespace cowslip
