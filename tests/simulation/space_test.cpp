// A pool's room: extended by itself up to its limit and never past it, told of in time, and kept for the
// volumes that are there.
#include <algorithm>

#include <catch2/catch.hpp>

#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

constexpr std::uint64_t kSpaceMiB = kMiB / 512;
constexpr std::uint64_t kBlocksPerMiB = 16;

schemas::PoolStatus::Reply room_of_pool(World& world) {
    return body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{}));
}

// 1 GiB, and "base", which somebody has got.
void make_limited_pool(World& world, schemas::PoolLimits limits) {
    schemas::PoolCreate pool;
    pool.loop_bytes = 1024 * kMiB;
    pool.limits = limits;
    REQUIRE(world.call(pool));
    schemas::VolumeCreate base = create("base");
    base.size_bytes = 16384 * kMiB;
    REQUIRE(world.call(base));
    REQUIRE(world.call(get("base")));
    world.run_for(2000);
}

void make_growing_pool(World& world) {
    make_limited_pool(world, {.max_bytes = 4096 * kMiB, .grow_step_bytes = 256 * kMiB});
}

int write_mib(World& world, std::uint64_t mib) {
    const std::string path = show(world, "base").device.value();
    return world.kernel.write({path.substr(path.rfind('/') + 1), ""}, mib * kBlocksPerMiB);
}

FakePool& filling_pool(World& world) {
    return world.kernel.pools.begin()->second;
}

std::vector<std::string> told_of_space(World& world, const std::string& type, const std::string& key) {
    std::vector<std::string> list;
    for (const auto& event : world.store().events_since(0, 500)) {
        if (event.type == type) list.push_back(event.body.contains(key) ? event.body.at(key) : "");
    }
    return list;
}

std::string detail_found(World& world, const std::string& kind) {
    for (const auto& found : body_of<schemas::SystemStatus>(world.ask_once(schemas::SystemStatus{})).findings) {
        if (found.kind == kind) return found.detail;
    }
    return {};
}

}  // namespace

TEST_CASE("a pool with a limit is extended before its writers see an error, and not past the limit", "[manager]") {
    World world({.seed = 1});
    make_growing_pool(world);
    for (int written = 0; written < 3800; written += 40) {
        REQUIRE(write_mib(world, 40) == 0);
        world.run_for(300);
    }
    world.run_for(5000);
    CHECK(world.kernel.refused_writes == 0);
    CHECK(filling_pool(world).waiting.empty());
    CHECK(told_of_space(world, "pool.extended", "data").size() >= 11);
    CHECK(told_of_space(world, "pool.extended", "data").back() == std::to_string(4096 * kMiB));
    CHECK(room_of_pool(world).data.total_bytes == 4096 * kMiB);
    CHECK(room_of_pool(world).limits.max_bytes == 4096 * kMiB);
    // At the limit nobody is kept waiting.
    CHECK(write_mib(world, 1024) == ENOSPC);
    world.run_for(10000);
    CHECK(room_of_pool(world).data.total_bytes == 4096 * kMiB);
    CHECK(room_of_pool(world).mode == "out_of_data_space");
    CHECK(word(world.ask_once(create("a", "base"))) == "no_space");
    CHECK(told_of_space(world, "pool.space_low", "percent").size() == 3);
    REQUIRE(world.call(put("base")));
    CHECK(word(world.ask_once(remove_and_wait("base"))) == "ok");
    check_quiet(world);
}

TEST_CASE("the pool is looked at as soon as the kernel tells of something", "[manager]") {
    World world({.seed = 1});
    make_growing_pool(world);
    const auto looks = [&] { return world.commands["device.read_pool_status"]; };
    const auto before = looks();
    for (int event = 0; event < 10; ++event) {
        world.tell_of_pool_event();
        world.run_for(50);
    }
    CHECK(looks() >= before + 10);  // In half a second.
    const auto after = looks();
    world.run_for(2000);
    CHECK(looks() <= after + 5);
    REQUIRE(write_mib(world, 900) == 0);
    world.tell_of_pool_event();
    world.run_for(100);
    CHECK(told_of_space(world, "pool.extended", "data").size() == 1);
    REQUIRE(world.call(put("base")));
    check_quiet(world);
}

TEST_CASE("who writes more than there is at once waits until the pool is extended", "[manager]") {
    World world({.seed = 1});
    make_growing_pool(world);
    REQUIRE(write_mib(world, 1500) == 0);
    CHECK_FALSE(filling_pool(world).waiting.empty());
    world.run_for(5000);
    CHECK(filling_pool(world).waiting.empty());
    CHECK(world.kernel.refused_writes == 0);
    CHECK(room_of_pool(world).mode == "rw");
    REQUIRE(world.call(put("base")));
    check_quiet(world);
}

TEST_CASE("a pool that cannot be extended says why, lets nobody wait, and is extended when it can be", "[manager]") {
    World world({.seed = 1});
    make_growing_pool(world);
    world.kernel.file_system_sectors = 1100 * kSpaceMiB;
    REQUIRE(write_mib(world, 1500) == 0);
    world.run_for(3000);
    CHECK(detail_found(world, "growth").find("no room") != std::string::npos);
    CHECK(told_of_space(world, "finding.growth", "detail").size() == 1);
    CHECK(world.kernel.refused_writes > 0);
    CHECK(write_mib(world, 1) == ENOSPC);
    CHECK(word(world.ask_once(create("a", "base"))) == "no_space");
    world.run_for(20000);
    CHECK(world.commands["device.grow_pool"] < 10);  // Ever more slowly.
    world.kernel.file_system_sectors = 1U << 30U;
    world.run_for(61000);
    CHECK(detail_found(world, "growth").empty());
    CHECK(write_mib(world, 1) == 0);
    CHECK(write_mib(world, 1500) == 0);  // Who finds no room waits again.
    world.run_for(5000);
    CHECK(filling_pool(world).waiting.empty());
    REQUIRE(world.call(put("base")));
    check_quiet(world);
}

TEST_CASE("a pool with a reserve on its devices is extended by steps as far as these go", "[manager]") {
    World world({.seed = 1});
    for (const std::string path : {"/dev/vda", "/dev/vdb"}) {
        world.kernel.add_disk(path, 1040 * kSpaceMiB);  // 16 are metadata.
        world.kernel.allowed_devices.insert(path);
    }
    schemas::PoolCreate pool;
    pool.devices = {"/dev/vda", "/dev/vdb"};
    pool.data_bytes = 512 * kMiB;
    pool.metadata_bytes = 8 * kMiB;
    pool.limits = {.max_bytes = 4096 * kMiB, .grow_step_bytes = 256 * kMiB};
    REQUIRE(world.call(pool));
    schemas::VolumeCreate base = create("base");
    base.size_bytes = 16384 * kMiB;
    REQUIRE(world.call(base));
    REQUIRE(world.call(get("base")));
    for (int written = 0; written < 1900; written += 40) {
        REQUIRE(write_mib(world, 40) == 0);
        world.run_for(300);
    }
    CHECK(world.kernel.refused_writes == 0);
    CHECK(told_of_space(world, "pool.extended", "data").size() == 6);
    CHECK(room_of_pool(world).data.total_bytes == 2048 * kMiB);
    CHECK(room_of_pool(world).reserve_bytes == 0);
    // Nobody is kept waiting for what they do not have.
    CHECK(room_of_pool(world).features.empty());
    CHECK(write_mib(world, 1024) == ENOSPC);
    world.run_for(2000);
    CHECK(word(world.ask_once(create("a", "base"))) == "no_space");
    const auto tries = world.commands["device.grow_pool"];
    world.kernel.used_metadata_blocks = 7 * kMiB / 4096;
    world.run_for(10000);
    CHECK(room_of_pool(world).metadata.total_bytes == 12 * kMiB);
    world.kernel.used_metadata_blocks = 11 * kMiB / 4096;
    world.run_for(10000);
    CHECK(room_of_pool(world).metadata.total_bytes == 16 * kMiB);
    world.kernel.used_metadata_blocks = 15 * kMiB / 4096;
    world.run_for(10000);
    CHECK(world.commands["device.grow_pool"] == tries + 2);
    // One becomes larger: an operator says so, and it goes on by itself, with who finds no room waiting.
    world.kernel.media.at("/dev/vdb").sectors += 2048 * kSpaceMiB;
    REQUIRE(world.call(schemas::PoolGrow{2304 * kMiB, 0, {}}));
    world.run_for(2000);
    CHECK(room_of_pool(world).features == std::vector<std::string>{"queue_if_no_space"});
    CHECK(write_mib(world, 200) == 0);
    world.run_for(2000);
    CHECK(room_of_pool(world).data.total_bytes > 2304 * kMiB);
    REQUIRE(world.call(put("base")));
    check_quiet(world);
}

TEST_CASE("metadata are extended when three quarters are used, and only of a pool with a limit", "[manager]") {
    World world({.seed = 1});
    const bool grows = GENERATE(true, false);
    if (grows) make_growing_pool(world);
    if (!grows) make_limited_pool(world, {});
    const std::uint64_t before = filling_pool(world).core.metadata_blocks;
    world.kernel.used_metadata_blocks = before * 3 / 4 + 1;
    world.run_for(3000);
    CHECK(filling_pool(world).core.metadata_blocks == (grows ? before + before / 4 : before));
    CHECK(told_of_space(world, "pool.extended", "metadata").size() == (grows ? 1 : 0));
    REQUIRE(world.call(put("base")));
    check_quiet(world);
}

TEST_CASE("below the room that is kept no volume is made, and volumes are removed", "[manager]") {
    World world({.seed = 1});
    make_limited_pool(world, {.min_free_bytes = 128 * kMiB});
    REQUIRE(world.call(create("a", "base")));
    SECTION("of data") {
        REQUIRE(write_mib(world, 900) == 0);
    }
    SECTION("of metadata") {
        world.kernel.used_metadata_blocks = filling_pool(world).core.metadata_blocks * 81 / 100;
    }
    world.run_for(2000);
    const Answer refused = world.ask_once(create("b", "base"));
    CHECK(word(refused) == "no_space");
    CHECK(refused.error->message.find("cowslip pool grow") != std::string::npos);
    CHECK(word(world.ask_once(remove_and_wait("a"))) == "ok");
    world.kernel.used_metadata_blocks = 10;
    REQUIRE(world.call(schemas::PoolGrow{2048 * kMiB, 0, {}}));
    REQUIRE(world.call(create("b", "base")));
    REQUIRE(world.call(put("base")));
    check_quiet(world);
}

TEST_CASE("each level of filling up is told of once, with when it will be full, and again only after a drop",
          "[manager]") {
    World world({.seed = 1});
    make_limited_pool(world, {});
    for (int written = 0; written < 1000; written += 10) {
        REQUIRE(write_mib(world, 10) == 0);
        world.run_for(1000);
    }
    CHECK(told_of_space(world, "pool.space_low", "percent") == std::vector<std::string>{"80", "90", "95"});
    for (const std::string& seconds : told_of_space(world, "pool.space_low", "full_in_s")) {
        CHECK(std::stoi(seconds) >= 3);  // 10 MiB a second.
        CHECK(std::stoi(seconds) <= 25);
    }
    CHECK(room_of_pool(world).warnings.front().find("data is 9") == 0);
    CHECK(room_of_pool(world).warnings.front().find("full in") != std::string::npos);
    const auto set_used = [&](std::uint64_t percent) {
        FakePool& pool = filling_pool(world);
        const std::uint32_t last = pool.core.thins.rbegin()->first;
        for (const auto& [id, thin] : pool.core.thins) {
            pool.core.remap(id, id == last ? pool.core.data_blocks * percent / 100 : 0);
        }
        world.kernel.commit(pool);
        world.run_for(2000);
    };
    set_used(94);  // Still above 95 - 3.
    set_used(96);
    CHECK(told_of_space(world, "pool.space_low", "percent").size() == 3);
    set_used(50);
    CHECK(told_of_space(world, "pool.space_ok", "what") == std::vector<std::string>{"data"});
    CHECK(room_of_pool(world).warnings.empty());
    set_used(85);
    CHECK(told_of_space(world, "pool.space_low", "percent").size() == 4);
    REQUIRE(world.call(put("base")));
    check_quiet(world);
}

TEST_CASE("a pool has the features that were asked for, and says so", "[manager]") {
    World world({.seed = 1});
    schemas::PoolCreate pool;
    pool.loop_bytes = 1024 * kMiB;
    CHECK(room_of_pool(world).features.empty());
    SECTION("blocks allocated ahead are not given back by a discard") {
        pool.preallocate = true;
        REQUIRE(world.call(pool));
        CHECK(room_of_pool(world).features == std::vector<std::string>{"no_discard_passdown", "preallocated"});
        CHECK(world.store().pool()->spec.preallocate);
        world.kill_manager();
        world.run_for(1000);
        CHECK(room_of_pool(world).features == std::vector<std::string>{"no_discard_passdown", "preallocated"});
    }
    SECTION("without zeroing, with a warning") {
        pool.no_zeroing = true;
        REQUIRE(world.call(pool));
        CHECK(room_of_pool(world).features == std::vector<std::string>{"skip_block_zeroing"});
        CHECK_THAT(room_of_pool(world).warnings.front(), Catch::Contains("not zeroed"));
    }
    SECTION("discards kept") {
        pool.keep_discarded = true;
        REQUIRE(world.call(pool));
        CHECK(room_of_pool(world).features == std::vector<std::string>{"no_discard_passdown"});
        CHECK(room_of_pool(world).warnings.empty());
    }
    SECTION("not of another's, nor of devices that cannot") {
        pool.loop_bytes = 0;
        pool.adopt = "vg-thin";
        pool.no_zeroing = true;
        CHECK(word(world.ask_once(pool)) == "invalid_argument");
        pool.no_zeroing = false;
        pool.keep_discarded = true;
        CHECK(word(world.ask_once(pool)) == "invalid_argument");
        pool.keep_discarded = false;
        pool.preallocate = true;
        CHECK(word(world.ask_once(pool)) == "invalid_argument");
    }
}

TEST_CASE("limits that make no sense are refused", "[manager]") {
    World world({.seed = 1});
    schemas::PoolCreate pool;
    pool.loop_bytes = 1024 * kMiB;
    pool.limits.max_bytes = 512 * kMiB;
    CHECK(word(world.ask_once(pool)) == "invalid_argument");
    pool.limits = {.grow_step_bytes = 64 * kMiB};
    CHECK(word(world.ask_once(pool)) == "invalid_argument");
    pool.limits = {.max_bytes = 2048 * kMiB};
    pool.loop_bytes = 0;
    pool.data_device = "/dev/vda";
    pool.metadata_device = "/dev/vdb";
    CHECK(word(world.ask_once(pool)) == "invalid_argument");
}

namespace {

void fill_in_a_life(World& world) {
    schemas::PoolCreate pool;
    pool.loop_bytes = 1024 * kMiB;
    pool.limits = {.max_bytes = 2048 * kMiB, .grow_step_bytes = 512 * kMiB};
    REQUIRE(world.call(pool));
    REQUIRE(world.call(create("base")));
    REQUIRE(world.call(get("base")));
    for (int i = 0; i < 3; ++i) {
        world.run_for(1000);
        // "base", unless the power was cut: then nobody writes.
        for (const auto& [number, found] : world.kernel.devices) {
            if (found.openers == 0 || !found.live || found.live->target.type != "thin") continue;
            static_cast<void>(world.kernel.write(found.device, 300 * kBlocksPerMiB));
        }
    }
    world.run_for(3000);
}

void check_filled(World& world) {
    const schemas::PoolSpec spec = world.store().pool()->spec;
    CHECK(world.kernel.media.at("file:data").sectors == spec.data_sectors);
    CHECK(filling_pool(world).core.data_blocks == spec.data_sectors / spec.block_sectors);
    CHECK(spec.data_sectors <= 2048 * kSpaceMiB);
    CHECK(world.kernel.refused_writes == 0);
    CHECK(filling_pool(world).waiting.empty());
    CHECK(exists(world, "base"));
}

}  // namespace

TEST_CASE("a death at any effect or turn of an extension costs no write", "[simulation]") {
    die_everywhere(false, fill_in_a_life, check_filled);
}

TEST_CASE("a power cut at any effect or turn of an extension leaves the pool as large as its files", "[simulation]") {
    die_everywhere(true, fill_in_a_life, check_filled);
}

TEST_CASE("who finds a pool full waits where that was wanted, and goes on when it has grown", "[manager]") {
    World world({.seed = 1});
    make_limited_pool(world, {.queue_when_full = true});
    CHECK(room_of_pool(world).features == std::vector<std::string>{"queue_if_no_space"});
    CHECK(write_mib(world, 2048) == 0);
    world.run_for(2000);
    CHECK(room_of_pool(world).mode == "out_of_data_space");
    CHECK_FALSE(filling_pool(world).waiting.empty());
    REQUIRE(world.call(schemas::PoolGrow{4096 * kMiB, 0, {}}));
    CHECK(filling_pool(world).waiting.empty());
    CHECK(room_of_pool(world).features == std::vector<std::string>{"queue_if_no_space"});
    schemas::PoolCreate adopted;
    adopted.adopt = "theirs";
    adopted.limits.queue_when_full = true;
    CHECK(word(world.ask_once(adopted)) == "invalid_argument");
    check_quiet(world);
}

TEST_CASE("no volume is made while the file system below the pool's files is full, and it is told", "[manager]") {
    std::optional<std::uint64_t> free = 1024 * kMiB;
    Options options{.seed = 1};
    options.manager.free_below_pool = [&] { return free; };
    World world(options);
    make_limited_pool(world, {});
    CHECK(detail_found(world, "below-full").empty());
    free = 8 * kMiB;
    world.run_for(2000);
    CHECK(detail_found(world, "below-full").find("less than 32 MiB left") != std::string::npos);
    CHECK(word(world.ask_once(create("a"))) == "no_space");
    CHECK(word(world.ask_once(put("base"))) == "ok");
    free = 1024 * kMiB;
    world.run_for(2000);
    CHECK(detail_found(world, "below-full").empty());
    CHECK(word(world.ask_once(create("a"))) == "ok");
    check_quiet(world);
}

}  // namespace cowslip::simulation
