// Stores and pools that do not belong together: each has its verdict, by name, and nothing of either is changed.
#include <algorithm>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

schemas::PoolStatus::Reply status_of_pool(World& world) {
    return body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{}));
}

FakeMetadata& metadata_on_disk(World& world) {
    return world.kernel.media.at("file:metadata").metadata;
}

bool was_told(World& world, const std::string& verdict) {
    std::uint64_t seq = 0;
    for (;;) {
        const auto events = world.store().events_since(seq, 500);
        if (events.empty()) return false;
        seq = events.back().seq;
        const auto found = std::find_if(events.begin(), events.end(), [&](const auto& event) {
            return event.type == "pool.verdict" && event.body.at("verdict") == verdict;
        });
        if (found != events.end()) return true;
    }
}

// A pool with two volumes, and some generations behind it.
void make_pool_with_history(World& world) {
    make_pool_and_base(world);
    world.kill_manager();
    REQUIRE(world.call(create("a", "base")));
    world.run_for(10000);
}

// All that an operator sees of it, and that nothing was done to the pool since.
void check_frozen(World& world, const std::string& verdict) {
    const std::uint64_t messages = world.kernel.effects["message"];
    const FakeMetadata before = metadata_on_disk(world);
    world.run_for(20000);
    const auto status = status_of_pool(world);
    CHECK(status.state == "frozen");
    CHECK(status.verdict == verdict);
    CHECK(was_told(world, verdict));
    const Answer refused = world.ask_once(create("new"));
    CHECK(word(refused) == "needs_repair");
    CHECK(word(world.ask_once(get("base"))) == "needs_repair");
    CHECK(exists(world, "base"));
    CHECK(world.kernel.effects["message"] == messages);
    CHECK(metadata_on_disk(world).thins.size() == before.thins.size());
    CHECK(metadata_on_disk(world).transaction_id == before.transaction_id);
}

}  // namespace

TEST_CASE("an older store over a newer pool is seen before anything is done", "[manager][verdict]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.kill_manager();
    const FakeDisk::Image older = world.take_store();
    REQUIRE(world.call(create("a", "base")));
    world.run_for(10000);
    world.kill_manager();
    world.run_for(10000);
    const bool power_cut = GENERATE(false, true);  // Else the pool is live.
    if (power_cut) world.cut_power();
    if (!power_cut) world.kill_manager();
    const FakeDisk::Image newer = world.take_store();
    world.put_store(older);
    check_frozen(world, "store_older");
    CHECK_THAT(world.ask_once(get("base")).error->message, Catch::Contains("older copy"));
    world.kill_manager();
    world.put_store(newer);
    CHECK(world.call(get("a")));
    check_quiet(world);
}

TEST_CASE("an older metadata image under a newer store is not loaded", "[manager][verdict]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.cut_power();
    const FakeMetadata older = metadata_on_disk(world);
    REQUIRE(world.call(create("a", "base")));
    world.cut_power();
    world.run_for(10000);
    world.cut_power();
    const FakeMetadata newer = metadata_on_disk(world);
    metadata_on_disk(world) = older;
    check_frozen(world, "pool_older");
    CHECK(world.kernel.pools.empty());
    metadata_on_disk(world) = newer;
    world.kill_manager();
    CHECK(world.call(get("a")));
    CHECK(status_of_pool(world).verdict == "normal");
    check_quiet(world);
}

TEST_CASE("metadata that are gone, damaged, formatted or another's are not loaded", "[manager][verdict]") {
    World other({.seed = 2});
    make_pool_with_history(other);
    World world({.seed = 1});
    make_pool_with_history(world);
    world.cut_power();
    other.cut_power();
    const FakeMetadata own = metadata_on_disk(world);
    const auto put = [&](const std::string& what) {
        FakeMetadata& metadata = metadata_on_disk(world);
        if (what == "superblock_zeroed") metadata = {};
        if (what == "superblock_damaged") metadata.damaged = true;
        if (what == "formatted") metadata = {.formatted = true, .block_sectors = 128};
        if (what == "metadata_swapped") metadata = metadata_on_disk(other);
        if (what == "foreign_pool") {
            metadata = {.formatted = true, .block_sectors = 128, .transaction_id = 3};
            metadata.thins[1] = {.transaction_id = 0};
        }
        if (what == "foreign_transaction_id") metadata.transaction_id = 12345;
    };
    const auto verdict = GENERATE(as<std::string>(), "superblock_zeroed", "superblock_damaged", "formatted",
                                  "metadata_swapped", "foreign_pool", "foreign_transaction_id");
    CAPTURE(verdict);
    put(verdict);
    const std::uint64_t loads = world.kernel.effects["load"];
    check_frozen(world, verdict);
    CHECK(world.kernel.effects["load"] == loads);
    CHECK(world.kernel.pools.empty());
    metadata_on_disk(world) = own;
    world.kill_manager();
    CHECK(world.call(get("a")));
    check_quiet(world);
}

TEST_CASE("a foreign transaction id is seen while the pool is live", "[manager][verdict]") {
    World world({.seed = 1});
    make_pool_with_history(world);
    const std::uint64_t ours = world.kernel.pools.begin()->second.core.transaction_id;
    const DmDevice pool = world.kernel.devices.at(world.kernel.pools.begin()->first).device;
    FakeDeviceMapper dm(world.kernel);
    REQUIRE(dm.message(pool, fmt::format("set_transaction_id {} 12345", ours)) == 0);
    world.run_for(3000);
    check_frozen(world, "foreign_transaction_id");
    world.kill_manager();
    check_frozen(world, "foreign_transaction_id");
}

TEST_CASE("a planted thin id is named and left alone, and ids above it are used", "[manager][verdict]") {
    World world({.seed = 1});
    make_pool_with_history(world);
    const DmDevice pool = world.kernel.devices.at(world.kernel.pools.begin()->first).device;
    FakeDeviceMapper dm(world.kernel);
    REQUIRE(dm.message(pool, "create_thin 77") == 0);
    world.kill_manager();
    world.run_for(10000);
    CHECK(status_of_pool(world).state == "ready");
    CHECK(status_of_pool(world).verdict == "orphans");
    CHECK(was_told(world, "orphans"));
    CHECK(findings(world) == std::vector<std::string>{"foreign-thin 77"});
    REQUIRE(world.call(create("b", "a")));
    CHECK(show(world, "b").thin_id > 77);
    world.kill_manager();
    world.run_for(10000);
    CHECK(world.kernel.pools.begin()->second.core.thins.contains(77));
}

TEST_CASE("volumes whose thin ids were deleted behind our back are lost, and nobody else's device is taken for theirs",
          "[manager][verdict]") {
    World world({.seed = 1});
    make_pool_with_history(world);
    REQUIRE(world.call(create("b", "base")));
    world.run_for(10000);
    const auto gone = show(world, "a").thin_id;
    const auto replaced = show(world, "b").thin_id;
    const DmDevice pool = world.kernel.devices.at(world.kernel.pools.begin()->first).device;
    FakeDeviceMapper dm(world.kernel);
    REQUIRE(dm.message(pool, fmt::format("delete {}", gone)) == 0);
    REQUIRE(dm.message(pool, fmt::format("delete {}", replaced)) == 0);
    world.kill_manager();
    world.run_for(10000);  // Another generation.
    CHECK(status_of_pool(world).verdict == "lost");
    CHECK(findings(world) == std::vector<std::string>{"lost a", "lost b"});  // b is one, too, until its id is used.
    REQUIRE(dm.message(pool, fmt::format("create_thin {}", replaced)) == 0);
    world.kill_manager();
    world.run_for(10000);
    CHECK(status_of_pool(world).state == "ready");
    CHECK(status_of_pool(world).verdict == "lost");
    CHECK(was_told(world, "lost"));
    CHECK(show(world, "a").state == "lost");
    CHECK(show(world, "b").state == "lost");
    for (const std::string id : {"a", "b"}) {
        CHECK(word(world.ask_once(get(id))) == "needs_repair");
        CHECK(word(world.ask_once(create("c", id))) == "needs_repair");
        CHECK(word(world.ask_once(remove_and_wait(id))) == "ok");
        CHECK_FALSE(exists(world, id));
    }
    CHECK(world.kernel.pools.begin()->second.core.thins.contains(replaced));
    CHECK(world.call(create("a", "base")));
}

}  // namespace cowslip::simulation
