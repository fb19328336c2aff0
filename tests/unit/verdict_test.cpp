#include "services/pool_manager/verdict.h"

#include <catch2/catch.hpp>

namespace cowslip {
namespace {

constexpr std::uint32_t kOwnTag = 7;
constexpr std::uint64_t kOurs = std::uint64_t{kOwnTag} << 32U;
constexpr std::uint64_t kOthers = std::uint64_t{9} << 32U;

// A store with two volumes, and the pool that belongs to it.
Seen all_well() {
    Seen seen;
    seen.tag = kOwnTag;
    seen.confirmed = kOurs + 5;
    seen.planned = kOurs + 6;
    seen.rows = {{.thin_id = 2, .ready = true, .born_min = kOurs + 2, .born_max = kOurs + 2},
                 {.thin_id = 3, .ready = true, .born_min = kOurs + 4, .born_max = kOurs + 5},
                 {.thin_id = 4, .ready = false, .born_min = kOurs + 5, .born_max = 0}};
    seen.transaction_id = kOurs + 5;
    seen.label = SeenLabel::ours;
    seen.thins = std::vector<SeenThin>{{0, kOurs + 1}, {1, kOurs + 1}, {2, kOurs + 2}, {3, kOurs + 5}};
    return seen;
}

using Thins = std::vector<SeenThin>;

struct VerdictCase {
    const char* story;
    PoolVerdict verdict;
    void (*happens)(Seen&);
};

const std::vector<VerdictCase> kVerdictCases = {
    {"nothing has happened", PoolVerdict::normal, [](Seen&) {}},
    {"the store was restored, and nothing else is wrong", PoolVerdict::store_restored,
     [](Seen& seen) { seen.restored = true; }},
    {"the store was restored, and is older", PoolVerdict::store_restored,
     [](Seen& seen) {
         seen.restored = true;
         seen.transaction_id = kOurs + 7;
     }},
    {"a swap whose record was lost", PoolVerdict::normal, [](Seen& seen) { seen.transaction_id = kOurs + 6; }},
    {"its list was not read", PoolVerdict::normal, [](Seen& seen) { seen.thins.reset(); }},
    {"an unfinished create is in the pool", PoolVerdict::normal,
     [](Seen& seen) {
         seen.thins->push_back({4, kOurs + 6});
     }},
    {"a volume whose birth is not known yet is in the pool", PoolVerdict::normal,
     [](Seen& seen) { seen.rows.at(0).born_max = 0; }},
    {"a transaction id with more bits than ours", PoolVerdict::foreign_pool,
     [](Seen& seen) {
         seen.transaction_id = std::uint64_t{1} << 60U;
         seen.thins = Thins{{2, 3}};
     }},
    {"a transaction id of no generation", PoolVerdict::foreign_pool,
     [](Seen& seen) {
         seen.transaction_id = kOthers;
         seen.thins = Thins{{2, 3}};
     }},
    {"a quarantined id is there", PoolVerdict::normal,
     [](Seen& seen) {
         seen.thins->push_back({9, 1});
         seen.quarantined = {9};
     }},
    {"somebody planted a thin id", PoolVerdict::orphans,
     [](Seen& seen) {
         seen.thins->push_back({5, kOurs + 5});
     }},
    {"a thin id was deleted", PoolVerdict::lost, [](Seen& seen) { seen.thins->erase(seen.thins->begin() + 2); }},
    {"one was deleted and made again later", PoolVerdict::lost,
     [](Seen& seen) { seen.thins->at(2).birth = kOurs + 5; }},
    {"one is an older one of somebody else", PoolVerdict::lost, [](Seen& seen) { seen.thins->at(3).birth = kOurs; }},
    {"one is lost and one is planted", PoolVerdict::lost, [](Seen& seen) { seen.thins->at(2).thin_id = 8; }},
    {"the store is older", PoolVerdict::store_older, [](Seen& seen) { seen.transaction_id = kOurs + 7; }},
    {"the store is older, as a live pool says", PoolVerdict::store_older,
     [](Seen& seen) {
         seen.live = true;
         seen.thins.reset();
         seen.transaction_id = kOurs + 70;
     }},
    {"the metadata are older", PoolVerdict::pool_older, [](Seen& seen) { seen.transaction_id = kOurs + 4; }},
    {"zeroed", PoolVerdict::superblock_zeroed,
     [](Seen& seen) {
         seen.zeroed = true;
         seen.valid = false;
         seen.transaction_id = 0;
         seen.thins.reset();
     }},
    {"damaged", PoolVerdict::superblock_damaged,
     [](Seen& seen) {
         seen.valid = false;
         seen.transaction_id = 0;
     }},
    {"formatted anew", PoolVerdict::formatted,
     [](Seen& seen) {
         seen.transaction_id = 0;
         seen.thins = Thins();
     }},
    {"formatted anew, list not read", PoolVerdict::formatted,
     [](Seen& seen) {
         seen.transaction_id = 0;
         seen.thins.reset();
     }},
    {"another pool's metadata", PoolVerdict::metadata_swapped,
     [](Seen& seen) {
         seen.transaction_id = kOthers + 5;
         seen.thins = Thins{{0, kOthers + 1}, {1, kOthers + 1}, {2, kOthers + 2}};
     }},
    {"another pool's metadata, list not read", PoolVerdict::metadata_swapped,
     [](Seen& seen) {
         seen.transaction_id = kOthers + 5;
         seen.thins.reset();
     }},
    {"LVM's metadata", PoolVerdict::foreign_pool,
     [](Seen& seen) {
         seen.transaction_id = 3;
         seen.thins = Thins{{1, 0}, {2, 2}};
     }},
    {"somebody's with thin ids, and transaction id 0", PoolVerdict::foreign_pool,
     [](Seen& seen) {
         seen.transaction_id = 0;
         seen.thins = Thins{{1, 0}};
     }},
    {"a foreign swap on ours", PoolVerdict::foreign_transaction_id, [](Seen& seen) { seen.transaction_id = 12345; }},
    {"a foreign swap to 0", PoolVerdict::foreign_transaction_id, [](Seen& seen) { seen.transaction_id = 0; }},
    {"a foreign swap while it is live", PoolVerdict::foreign_transaction_id,
     [](Seen& seen) {
         seen.live = true;
         seen.transaction_id = kOthers + 5;
         seen.thins.reset();
     }},
    {"another pool's data", PoolVerdict::data_swapped,
     [](Seen& seen) {
         seen.label = SeenLabel::another;
         seen.label_pool = "feed";
     }},
    {"no label", PoolVerdict::label_missing, [](Seen& seen) { seen.label = SeenLabel::absent; }},
    {"a label that cannot be read", PoolVerdict::label_damaged, [](Seen& seen) { seen.label = SeenLabel::damaged; }},
    {"another pool's metadata over its own data: the label agrees with neither", PoolVerdict::metadata_swapped,
     [](Seen& seen) {
         seen.transaction_id = kOthers + 5;
         seen.label = SeenLabel::another;
         seen.thins.reset();
     }},
};

}  // namespace

TEST_CASE("what a start has seen has one verdict", "[verdict]") {
    for (const auto& [story, verdict, happens] : kVerdictCases) {
        INFO(story);
        Seen seen = all_well();
        happens(seen);
        const Judgement judgement = judge_pool(seen);
        CHECK(to_string(judgement.verdict) == to_string(verdict));
        CHECK(judgement.detail.empty() == (verdict == PoolVerdict::normal));
    }
}

TEST_CASE("volumes that are lost and thin ids that nobody knows are named", "[verdict]") {
    Seen seen = all_well();
    seen.thins = Thins{{0, kOurs + 1}, {1, kOurs + 1}, {3, kOurs + 5}, {70, kOurs + 5}};
    const Judgement judgement = judge_pool(seen);
    CHECK(judgement.lost == std::vector<std::uint32_t>{2});
    CHECK(judgement.orphans == std::vector<std::uint32_t>{70});
}

TEST_CASE("only single volumes that are wrong leave a pool in service", "[verdict]") {
    CHECK_FALSE(freezes(PoolVerdict::normal));
    CHECK_FALSE(freezes(PoolVerdict::orphans));
    CHECK_FALSE(freezes(PoolVerdict::lost));
    CHECK(freezes(PoolVerdict::store_older));
    CHECK(freezes(PoolVerdict::unusable));
}

TEST_CASE("a pool is looked at only if it is ours and can be loaded", "[verdict]") {
    for (const auto verdict :
         {PoolVerdict::store_older, PoolVerdict::pool_older, PoolVerdict::lost, PoolVerdict::foreign_transaction_id}) {
        CHECK(may_be_read(verdict));
    }
    for (const auto verdict : {PoolVerdict::superblock_zeroed, PoolVerdict::superblock_damaged, PoolVerdict::formatted,
                               PoolVerdict::metadata_swapped, PoolVerdict::foreign_pool, PoolVerdict::data_swapped,
                               PoolVerdict::label_missing, PoolVerdict::label_damaged, PoolVerdict::unusable}) {
        CHECK_FALSE(may_be_read(verdict));
    }
}

}  // namespace cowslip
