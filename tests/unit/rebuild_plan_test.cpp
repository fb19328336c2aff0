#include "services/pool_manager/rebuild_plan.h"

#include <catch2/catch.hpp>

namespace cowslip {
namespace {

constexpr std::uint64_t kOurTag = std::uint64_t{7} << 32U;

BackupRow volume_of(std::uint32_t thin_id, const std::string& name, const std::string& state = "ready") {
    BackupRow row;
    row.thin_id = thin_id;
    row.name = name;
    row.kind = "volume";
    row.state = state;
    row.size_sectors = 2048;
    row.fs_sectors = 2048;
    row.fs = "ext4";
    return row;
}

// The internal ones, and these.
std::vector<SeenThin> thins_of(const std::vector<std::uint32_t>& ids) {
    std::vector<SeenThin> thins = {{0, kOurTag + 1}, {1, kOurTag + 1}};
    for (const std::uint32_t id : ids) thins.push_back({id, kOurTag + id});
    return thins;
}

const VolumeRow& row_of(const RebuildPlan& plan, std::uint32_t thin_id) {
    for (const auto& row : plan.rows) {
        if (row.thin_id == thin_id) return row;
    }
    throw std::runtime_error("no such row");
}

}  // namespace

TEST_CASE("what the pool has and the backup names gets its row, born when the pool says", "[rebuild]") {
    const RebuildPlan plan =
        plan_rebuild({.tag = 7,
                      .thins = thins_of({2, 3}),
                      .backup = {volume_of(2, "a"), volume_of(3, "b", "creating"), volume_of(4, "gone")},
                      .store = {},
                      .quarantined = {}});
    REQUIRE(plan.rows.size() == 2);
    CHECK(row_of(plan, 2).name == "a");
    CHECK(row_of(plan, 2).born_min == kOurTag + 2);
    CHECK(row_of(plan, 2).born_max == kOurTag + 2);
    CHECK(row_of(plan, 3).state == "ready");
    CHECK(plan.dropped == std::vector<std::string>{"gone"});
    CHECK(plan.unknown.empty());
    CHECK(plan.newest_birth == kOurTag + 3);
}

TEST_CASE("what nobody knows is ours by its birth mark, or else foreign", "[rebuild]") {
    auto thins = thins_of({5, 6});
    thins.push_back({8, 3});
    const RebuildPlan plan = plan_rebuild({.tag = 7, .thins = thins, .backup = {}, .store = {}, .quarantined = {6}});
    REQUIRE(plan.unknown.size() == 1);
    CHECK(plan.unknown.front().thin_id == 5);
    CHECK(plan.foreign == std::vector<std::uint32_t>{8, 6});
}

TEST_CASE("a removal that was begun is finished, and so is that of a half formatted template", "[rebuild]") {
    BackupRow removed = volume_of(2, "", "removing");
    BackupRow half = volume_of(3, "", "creating");
    half.kind = "internal";
    half.template_key = "ext4/2048";
    BackupRow whole = volume_of(4, "");
    whole.kind = "internal";
    whole.template_key = "ext4/4096";
    const RebuildPlan plan = plan_rebuild(
        {.tag = 7, .thins = thins_of({2, 3, 4}), .backup = {removed, half, whole}, .store = {}, .quarantined = {}});
    CHECK(row_of(plan, 2).state == "removing");
    CHECK(row_of(plan, 3).state == "removing");
    CHECK_FALSE(row_of(plan, 3).template_key);
    CHECK(row_of(plan, 4).state == "ready");
    CHECK(row_of(plan, 4).template_key == "ext4/4096");
}

TEST_CASE("a clone that had no name when the backup was taken may have one since: it is recovered", "[rebuild]") {
    BackupRow image = volume_of(2, "image");
    image.kind = "image";
    image.warm = 2;
    image.warm_mounted = true;
    BackupRow ready = volume_of(3, "");
    ready.kind = "internal";
    BackupRow being_made = volume_of(4, "", "creating");
    being_made.kind = "internal";
    const RebuildPlan plan = plan_rebuild(
        {.tag = 7, .thins = thins_of({2, 3, 4}), .backup = {image, ready, being_made}, .store = {}, .quarantined = {}});
    REQUIRE(plan.rows.size() == 1);
    CHECK(row_of(plan, 2).warm == 2);
    CHECK(row_of(plan, 2).warm_mounted);
    REQUIRE(plan.unknown.size() == 2);
    CHECK(plan.unknown.front().thin_id == 4);
    CHECK(plan.unknown.back().thin_id == 3);
}

TEST_CASE("of two lives of one name the later one has it, and the other is recovered", "[rebuild]") {
    const RebuildPlan plan = plan_rebuild({.tag = 7,
                                           .thins = thins_of({2, 9}),
                                           .backup = {volume_of(2, "a"), volume_of(9, "a")},
                                           .store = {},
                                           .quarantined = {}});
    REQUIRE(plan.rows.size() == 1);
    CHECK(row_of(plan, 9).name == "a");
    CHECK(plan.unknown.front().thin_id == 2);
    CHECK(plan.dropped.empty());
}

TEST_CASE("the backup is believed before an older store, which fills what it lacks", "[rebuild]") {
    const RebuildPlan plan = plan_rebuild({.tag = 7,
                                           .thins = thins_of({2, 3}),
                                           .backup = {volume_of(2, "", "removing")},
                                           .store = {from_backup(volume_of(2, "a")), from_backup(volume_of(3, "b"))},
                                           .quarantined = {}});
    CHECK(row_of(plan, 2).state == "removing");
    CHECK(row_of(plan, 3).name == "b");
}

TEST_CASE("a row of an older store whose thin id has another birth is another volume's", "[rebuild]") {
    // A store from before a rewind, which counts thin ids anew, gave its names to whatever has its thin ids now.
    VolumeRow fits = from_backup(volume_of(2, "a"));
    fits.born_min = kOurTag + 1;
    fits.born_max = kOurTag + 2;
    VolumeRow unfinished = from_backup(volume_of(3, "b"));
    unfinished.born_min = kOurTag + 3;
    VolumeRow before = from_backup(volume_of(4, "c"));
    before.born_min = kOurTag + 1;
    before.born_max = kOurTag + 3;
    VolumeRow after = from_backup(volume_of(5, "d"));
    after.born_min = kOurTag + 6;
    VolumeRow known_better = from_backup(volume_of(6, "e"));
    known_better.born_max = 1;
    const RebuildPlan plan = plan_rebuild({.tag = 7,
                                           .thins = thins_of({2, 3, 4, 5, 6}),
                                           .backup = {volume_of(6, "f")},
                                           .store = {fits, unfinished, before, after, known_better},
                                           .quarantined = {}});
    CHECK(row_of(plan, 2).name == "a");
    CHECK(row_of(plan, 3).name == "b");
    CHECK(row_of(plan, 6).name == "f");
    REQUIRE(plan.unknown.size() == 2);
    CHECK(plan.unknown.front().thin_id == 5);
    CHECK(plan.unknown.back().thin_id == 4);
    CHECK(plan.dropped == std::vector<std::string>{"c", "d", "e"});
}

TEST_CASE("a recovered volume takes a name that is free", "[rebuild]") {
    CHECK(recovered_name(42, {}) == "recovered-42");
    CHECK(recovered_name(42, {"recovered-42"}) == "recovered-42-2");
    CHECK(recovered_name(42, {"recovered-42", "recovered-42-2"}) == "recovered-42-3");
}

}  // namespace cowslip
