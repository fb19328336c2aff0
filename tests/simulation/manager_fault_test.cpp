// Faults of the pool, one by one: each is known within a second, named with the way out, refuses what needs the pool,
// and harms neither reading nor put.
#include <algorithm>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

FakePool& the_pool(World& world) {
    return world.kernel.pools.begin()->second;
}

schemas::PoolStatus::Reply told_of_pool(World& world) {
    return body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{}));
}

std::string pool_finding(World& world) {
    for (const auto& finding : body_of<schemas::SystemStatus>(world.ask_once(schemas::SystemStatus{})).findings) {
        if (finding.kind == "pool") return finding.detail;
    }
    return {};
}

std::size_t count_events(World& world, const std::string& type) {
    const auto events = world.store().events_since(0, 500);
    return static_cast<std::size_t>(
        std::count_if(events.begin(), events.end(), [&](const auto& event) { return event.type == type; }));
}

// "base" is got, and "a" is there. Two actors: one of them watches.
void make_used_pool(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(get("base")));
    world.run_for(10000);
}

struct Fault {
    const char* name;
    const char* words;  // In what is said of it.
    std::function<void(World&)> happens;
    std::function<void(World&)> goes;
    bool loses_commits = false;
};

void make_writable(World& world) {
    for (auto& [number, pool] : world.kernel.pools) pool.mode = PoolMode::rw;
}

std::vector<Fault> faults_that_refuse() {
    return {
        {"a commit failed", "needs_check",
         [](World& world) {
             the_pool(world).core.needs_check = true;
             the_pool(world).mode = PoolMode::ro;
         },
         [](World& world) { world.repair_pools(); }, true},
        {"aborting a failed commit failed", "has failed", [](World& world) { the_pool(world).mode = PoolMode::fail; },
         [](World& world) { make_writable(world); }, true},
        {"it cannot read its counters", "has failed", [](World& world) { the_pool(world).mode = PoolMode::error; },
         [](World& world) { make_writable(world); }, true},
        {"its metadata cannot be read", "cannot be read",
         [](World& world) { world.kernel.media.at("file:metadata").unreadable = true; },
         [](World& world) { world.kernel.media.at("file:metadata").unreadable = false; }},
        {"another table was loaded", "another table",
         [](World& world) {
             world.kernel.add_disk("/dev/vdx", 2097152);
             auto& table = world.kernel.devices.at(world.kernel.pools.begin()->first).live->target.parameters;
             auto parsed = *parse_thin_pool_table(table);
             parsed.data_device = device_number(world.kernel.block("/dev/vdx")->number);
             table = make_thin_pool_table(parsed);
         },
         [](World& world) {
             auto& table = world.kernel.devices.at(world.kernel.pools.begin()->first).live->target.parameters;
             auto parsed = *parse_thin_pool_table(table);
             parsed.data_device = device_number(world.kernel.block("/dev/loop0")->number);
             table = make_thin_pool_table(parsed);
         }},
    };
}

}  // namespace

TEST_CASE("a fault of the pool is known within a second, named, and stops what needs the pool and nothing else",
          "[manager][fault]") {
    for (const Fault& fault : faults_that_refuse()) {
        DYNAMIC_SECTION(fault.name) {
            World world({.seed = 1});
            make_used_pool(world);
            CHECK(told_of_pool(world).state == "ready");
            fault.happens(world);
            world.run_for(1000);
            CHECK(told_of_pool(world).state == "needs_repair");
            CHECK_THAT(pool_finding(world), Catch::Contains(fault.words) && Catch::Contains("next: "));
            CHECK_THAT(told_of_pool(world).warnings.back(), Catch::Contains(fault.words));
            CHECK(count_events(world, "finding.pool") == 1);
            for (const Answer& answer :
                 {world.ask_once(create("b", "a"), {.timeout_ms = 5000}),
                  world.ask_once(get("a"), {.timeout_ms = 5000}), world.ask_once(attach("a"), {.timeout_ms = 5000})}) {
                CHECK(word(answer) == "needs_repair");
                CHECK_THAT(answer.error->message, Catch::Contains(fault.words) && Catch::Contains("next: "));
            }
            CHECK(exists(world, "a"));
            CHECK(show(world, "base").leases.size() == 1);
            CHECK(world.call(schemas::VolumeList{})->volumes.size() == 2);
            CHECK(word(world.ask_once(remove("a"), {.timeout_ms = 5000})) == "ok");
            fault.goes(world);
            world.run_for(1000);
            CHECK(told_of_pool(world).state == "ready");
            CHECK(pool_finding(world).empty());
            CHECK(count_events(world, "finding.gone") == 1);
            CHECK(world.call(create("b", "base")));
            CHECK(world.call(put("base")));
            check_quiet(world);
            CHECK_FALSE(exists(world, "a"));
        }
    }
}

TEST_CASE("a put is served whatever is wrong with the pool; by force, where it has lost a commit", "[manager][fault]") {
    for (const Fault& fault : faults_that_refuse()) {
        DYNAMIC_SECTION(fault.name) {
            World world({.seed = 1});
            make_used_pool(world);
            fault.happens(world);
            world.run_for(1000);
            schemas::VolumePut request = put("base");
            if (fault.loses_commits) CHECK(word(world.ask_once(request, {.timeout_ms = 5000})) == "needs_repair");
            request.force = fault.loses_commits;
            CHECK(word(world.ask_once(request, {.timeout_ms = 5000})) == "ok");
            fault.goes(world);
            check_quiet(world);
        }
    }
}

TEST_CASE("a pool that is full of metadata is to be grown and not repaired", "[manager][fault]") {
    World world({.seed = 1});
    make_used_pool(world);
    the_pool(world).mode = PoolMode::ro;
    world.run_for(1000);
    CHECK(told_of_pool(world).state == "ready");
    CHECK_THAT(pool_finding(world), Catch::Contains("out of metadata space") && Catch::Contains("larger"));
    const Answer refused = world.ask_once(create("b", "a"), {.timeout_ms = 5000});
    CHECK(word(refused) == "no_space");
    CHECK_THAT(refused.error->message, Catch::Contains("no case for a repair"));
    CHECK(word(world.ask_once(get("a"), {.timeout_ms = 5000})) == "ok");
    the_pool(world).mode = PoolMode::rw;
    world.run_for(1000);
    CHECK(pool_finding(world).empty());
    CHECK(world.call(create("b", "a")));
    check_quiet(world);
}

TEST_CASE("a pool whose device somebody has removed is loaded again by itself", "[manager][fault]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(10000);
    const DmDevice pool = world.kernel.devices.at(world.kernel.pools.begin()->first).device;
    REQUIRE(FakeDeviceMapper(world.kernel).remove(pool) == 0);
    SECTION("while nothing goes on") {
        world.run_for(2000);
        CHECK(world.kernel.pools.size() == 1);
        CHECK(count_events(world, "finding.pool") == 1);
        CHECK(pool_finding(world).empty());
    }
    SECTION("while a create waits for it") {
        CHECK(world.call(create("b", "base")));
    }
    SECTION("and it cannot be loaded at first") {
        world.kernel.media.at("file:metadata").unreadable = true;
        world.run_for(5000);
        CHECK(world.kernel.pools.empty());
        world.kernel.media.at("file:metadata").unreadable = false;
        world.run_for(2000);
        CHECK(world.kernel.pools.size() == 1);
        CHECK(pool_finding(world).empty());
    }
    CHECK(world.call(create("c", "base")));
    check_quiet(world);
}

}  // namespace cowslip::simulation
