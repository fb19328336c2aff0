// The end of a pool: stopped, checked, destroyed; and whatever dies meanwhile, it is whole or gone.
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

schemas::PoolDestroy destroy(const std::string& name = "default") {
    return {name};
}

schemas::PoolStatus::Reply status_of_pool(World& world) {
    return body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{}));
}

// Nothing of it is left, and another one can be made.
void check_gone(World& world, const std::function<void(World&)>& make) {
    CHECK(status_of_pool(world).state == "none");
    CHECK(world.store().thin_ids().empty());
    CHECK(world.kernel.devices.empty());
    CHECK_FALSE(world.kernel.own_pool.has_value());
    CHECK(findings(world).empty());
    make(world);
    REQUIRE(world.call(create("base")));
    check_quiet(world);
}

// On two block devices, /dev/vda and /dev/vdb.
void make_on_disks(World& world, const schemas::PoolCreate& request) {
    for (const std::string path : {"/dev/vda", "/dev/vdb"}) {
        if (!world.kernel.media.contains(path)) world.kernel.add_disk(path, 1048576);
        world.kernel.allowed_devices.insert(path);
    }
    REQUIRE(world.call(request));
}

void make_pair(World& world) {
    schemas::PoolCreate request;
    request.data_device = "/dev/vda";
    request.metadata_device = "/dev/vdb";
    make_on_disks(world, request);
}

void make_devices(World& world) {
    schemas::PoolCreate request;
    request.devices = {"/dev/vda", "/dev/vdb"};
    make_on_disks(world, request);
}

void make_loop(World& world) {
    schemas::PoolCreate request;
    request.loop_bytes = 1024 * kMiB;
    REQUIRE(world.call(request));
}

void fill(World& world) {
    REQUIRE(world.call(create("base")));
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(get("a")));
    REQUIRE(world.call(put("a")));
}

}  // namespace

TEST_CASE("a pool is destroyed with all its volumes, and another one is made in its place", "[manager]") {
    const auto make = GENERATE(make_loop, make_pair, make_devices);
    World world({.seed = 1});
    CHECK(word(world.ask_once(destroy())) == "not_found");
    make(world);
    fill(world);
    CHECK(word(world.ask_once(destroy("another"))) == "invalid_argument");
    SECTION("in service") {}
    SECTION("stopped") {
        REQUIRE(world.call(schemas::PoolStop{}));
    }
    REQUIRE(world.call(destroy()));
    CHECK(word(world.ask_once(destroy())) == "not_found");
    CHECK_FALSE(exists(world, "a"));
    check_gone(world, make);
}

TEST_CASE("while volumes are leased their pool is neither stopped nor destroyed, and the holders are named",
          "[manager]") {
    World world({.seed = 1});
    make_loop(world);
    fill(world);
    REQUIRE(world.call(get("a", "somebody")));
    const Answer refused = GENERATE(true, false) ? world.ask_once(destroy()) : world.ask_once(schemas::PoolStop{});
    CHECK(word(refused) == "in_use");
    REQUIRE(refused.error);
    CHECK(refused.error->details.at("holders").at(0) == "a (mounted_rw by somebody)");
    CHECK(status_of_pool(world).state == "ready");
    CHECK(show(world, "a").leases.size() == 1);
    check_quiet(world);
}

TEST_CASE("a pool that others have put their metadata into is not destroyed", "[manager]") {
    World world({.seed = 1});
    make_pair(world);
    fill(world);
    REQUIRE(world.call(schemas::PoolStop{}));
    FakeMetadata& disk = world.kernel.media.at("/dev/vdb").metadata;
    disk.transaction_id += 1000;
    const auto before = disk.thins.size();
    CHECK(word(world.ask_once(destroy())) == "needs_repair");
    CHECK(disk.thins.size() == before);
    CHECK(exists(world, "a"));
}

TEST_CASE("an adopted pool is given back empty", "[manager]") {
    World world({.seed = 1});
    world.kernel.add_disk("/dev/vda", 2097152);
    world.kernel.add_disk("/dev/vdb", 32768);
    world.kernel.allowed_devices = {"/dev/mapper/theirs"};
    FakeDeviceMapper dm(world.kernel);
    const DmDevice theirs{"theirs", ""};
    REQUIRE(dm.create(theirs) == 0);
    REQUIRE(dm.load(theirs, {"thin-pool", 2097152, "/dev/vdb /dev/vda 128 0 0"}, false) == 0);
    REQUIRE(dm.resume(theirs) == 0);
    schemas::PoolCreate adopt;
    adopt.adopt = "theirs";
    REQUIRE(world.call(adopt));
    fill(world);
    CHECK(word(world.ask_once(destroy())) == "in_use");
    REQUIRE(world.call(remove_and_wait("a")));
    REQUIRE(world.call(remove_and_wait("base")));
    REQUIRE(world.call(destroy()));
    const FakePool& pool = world.kernel.pools.begin()->second;
    CHECK(pool.core.thins.empty());
    CHECK(pool.core.transaction_id == 0);
    REQUIRE(world.call(adopt));
}

TEST_CASE("a check finds damage in a stopped pool, and it is mended", "[manager]") {
    World world({.seed = 1});
    make_loop(world);
    fill(world);
    CHECK(word(world.ask_once(schemas::PoolCheck{})) == "in_use");
    REQUIRE(world.call(schemas::PoolStop{}));
    auto checked = world.call(schemas::PoolCheck{});
    REQUIRE(checked);
    CHECK(checked->sound);
    CHECK(status_of_pool(world).state == "stopped");
    world.kernel.media.at("file:metadata").metadata.leaf_damaged = true;
    checked = world.call(schemas::PoolCheck{});
    REQUIRE(checked);
    CHECK_FALSE(checked->sound);
    CHECK(checked->report == "bad checksum");
    CHECK(status_of_pool(world).state == "repairing");
    world.run_until([&] { return status_of_pool(world).state == "ready"; });
    CHECK_FALSE(world.kernel.media.at("file:metadata").metadata.leaf_damaged);
    check_quiet(world);
    CHECK(exists(world, "a"));
}

TEST_CASE("a check of a stopped pool leaves another pool's metadata alone", "[manager]") {
    // It cleared needs_check on them, and had damaged ones mended, whoever's they were.
    World world({.seed = 1});
    make_pair(world);
    fill(world);
    REQUIRE(world.call(schemas::PoolStop{}));
    FakeMetadata& disk = world.kernel.media.at("/dev/vdb").metadata;
    disk.transaction_id += 1000;
    disk.needs_check = true;
    disk.leaf_damaged = GENERATE(false, true);
    const bool damaged = disk.leaf_damaged;
    CHECK(word(world.ask_once(schemas::PoolCheck{})) == "needs_repair");
    CHECK(word(world.ask_once(schemas::PoolCheck{})) == "needs_repair");
    world.run_for(60000);
    CHECK(disk.needs_check);
    CHECK(disk.leaf_damaged == damaged);
    CHECK(status_of_pool(world).state == "frozen");
}

TEST_CASE("at a death or power cut of each step a pool is whole, or its destruction goes on", "[simulation]") {
    const auto make = GENERATE(make_loop, make_pair, make_devices);
    const bool power_cut = GENERATE(false, true);
    die_everywhere(
        power_cut,
        [&](World& world) {
            make(world);
            fill(world);
            REQUIRE(world.call(destroy()));
        },
        [&](World& world) { check_gone(world, make); });
}

}  // namespace cowslip::simulation
