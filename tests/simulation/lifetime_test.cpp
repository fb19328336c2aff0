// The pool's clock of snapshots and its thin ids: told of in time, refused before the end, opened again.
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/names.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

constexpr std::uint32_t kLifetime = 1U << 24U;

void set_clock(World& world, std::uint32_t time) {
    world.kernel.media.at("file:metadata").metadata.time = time;
    for (auto& [number, pool] : world.kernel.pools) pool.core.time = time;
}

std::uint32_t clock_of(World& world) {
    return world.kernel.media.at("file:metadata").metadata.time;
}

// Details of what was found of that kind, in the order of events.
std::vector<std::string> told(World& world, const std::string& kind) {
    std::vector<std::string> list;
    for (const auto& event : world.store().events_since(0, 500)) {
        if (event.type == "finding." + kind) list.push_back(event.body.at("detail").substr(0, 14));
    }
    return list;
}

}  // namespace

TEST_CASE("each level of the snapshot clock is told of once, and of one found at 96 % only the highest", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(3000);
    CHECK(told(world, "snapshot-clock").empty());
    SECTION("all levels") {
        for (const std::uint32_t percent : {50U, 80U, 95U}) {
            set_clock(world, static_cast<std::uint32_t>(std::uint64_t{kLifetime} * percent / 100 + 1));
            world.run_for(5000);
            CHECK(has_finding(world, "snapshot-clock default"));
        }
        CHECK(told(world, "snapshot-clock") ==
              std::vector<std::string>{"more than 50 %", "more than 80 %", "more than 95 %"});
    }
    SECTION("found at 96 %") {
        set_clock(world, kLifetime / 100 * 96);
        world.run_for(5000);
        CHECK(told(world, "snapshot-clock") == std::vector<std::string>{"more than 95 %"});
    }
}

TEST_CASE("thin ids that come to their end are told of", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.store().raise_next_thin_id(kLifetime / 100 * 81);
    world.run_for(3000);
    CHECK(told(world, "thin-ids") == std::vector<std::string>{"more than 80 %"});
}

TEST_CASE("no snapshot is taken at the end of the clock, and the error names the way out", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    set_clock(world, kLifetime - 65536 - 1);
    world.run_for(2000);
    REQUIRE(world.call(create("last", "base")));
    world.run_for(2000);
    const std::uint32_t end = clock_of(world);
    CHECK(end == kLifetime - 65536);
    const Answer refused = world.ask_once(create("b", "base"));
    CHECK(word(refused) == "no_space");
    CHECK(refused.error->message.find("cowslip pool rewind") != std::string::npos);
    CHECK(word(world.ask_once(create("empty"))) == "no_space");  // Of a template.
    schemas::VolumeCreate raw = create("raw");
    raw.fs = "none";
    CHECK(word(world.ask_once(raw)) == "ok");
    CHECK(word(world.ask_once(remove_and_wait("a"))) == "ok");
    CHECK(clock_of(world) == end);

    CHECK(word(world.ask_once(schemas::PoolRewind{})) == "in_use");
    REQUIRE(world.call(schemas::SystemCleanup{}));
    const auto rewound = world.call(schemas::PoolRewind{});
    REQUIRE(rewound);
    CHECK(rewound->snapshots_taken < 10);
    REQUIRE(world.call(create("b", "base")));
    CHECK(show(world, "b").thin_id == rewound->next_thin_id);
    world.run_for(3000);
    CHECK_FALSE(has_finding(world, "snapshot-clock default"));
    check_quiet(world);
}

TEST_CASE("a pool with what is not ours in it is not rewound", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.store().quarantine(1000, "somebody's");
    REQUIRE(world.call(schemas::SystemCleanup{}));
    CHECK(word(world.ask_once(schemas::PoolRewind{})) == "needs_repair");
}

TEST_CASE("a rewind that finds other volumes than the store has changes nothing", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(schemas::SystemCleanup{}));
    FakeMetadata& disk = world.kernel.media.at("file:metadata").metadata;
    const std::uint32_t id = show(world, "a").thin_id;
    const FakeThin thin = disk.thins.at(id);
    disk.thins.erase(id);
    const std::uint64_t before = disk.transaction_id;
    CHECK(word(world.ask_once(schemas::PoolRewind{})) == "needs_repair");
    CHECK(disk.transaction_id == before);
    CHECK(world.store().unfinished_operations().empty());
    disk.thins[id] = thin;
    REQUIRE(world.call(schemas::PoolRewind{}));
    REQUIRE(world.call(get("a")));
    check_quiet(world);
}

TEST_CASE("a pool on two devices is rewound onto a spare one, and the old metadata stay as they are", "[manager]") {
    World world({.seed = 1});
    make_pair_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(schemas::SystemCleanup{}));
    const std::uint64_t before = world.kernel.media.at("/dev/vdb").metadata.transaction_id;
    CHECK(word(world.ask_once(schemas::PoolRewind{})) == "invalid_argument");
    CHECK(word(world.ask_once(schemas::PoolRewind{.spare = "/dev/vdd"})) == "permission_denied");
    CHECK(world.store().pool()->spec.metadata_path == "/dev/vdb");
    REQUIRE(world.call(schemas::PoolRewind{.spare = "/dev/vdc"}));
    CHECK(world.kernel.media.at("/dev/vdb").metadata.transaction_id == before);
    world.cut_power();
    REQUIRE(world.call(get("a")));
    REQUIRE(world.call(create("b", "a")));
    CHECK(world.store().pool()->spec.metadata_path == "/dev/vdc");
    CHECK(world.kernel.media.at("/dev/vdb").metadata.transaction_id == before);
    check_quiet(world);
}

TEST_CASE("a pool in files takes no spare device for its rewind", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(schemas::SystemCleanup{}));
    CHECK(word(world.ask_once(schemas::PoolRewind{.spare = "/dev/vdc"})) == "invalid_argument");
}

namespace {

void fill_and_rewind(World& world, const schemas::PoolRewind& rewind) {
    REQUIRE(world.call(create("gone", "base")));
    REQUIRE(world.call(create("clone", "base")));
    REQUIRE(world.call(create("clone of the clone", "clone")));
    REQUIRE(world.call(remove_and_wait("gone")));
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(rewind));
    REQUIRE(world.call(get("clone")));
    REQUIRE(world.call(create("new", "clone of the clone")));
}

void rewind_in_a_life(World& world) {
    make_pool_and_base(world);
    fill_and_rewind(world, {});
}

void rewind_a_pair_in_a_life(World& world) {
    make_pair_and_base(world);
    fill_and_rewind(world, {.spare = "/dev/vdc"});
}

void check_rewound(World& world) {
    const std::uint32_t next = world.store().pool()->next_thin_id;
    for (const std::string id : {"base", "clone", "clone of the clone", "new"}) {
        CHECK(exists(world, id));
        CHECK(show(world, id).thin_id < next);
    }
    CHECK(next <= 10);
    CHECK(body_of<schemas::SystemFsck>(world.ask_once(schemas::SystemFsck{})).ok);
}

}  // namespace

TEST_CASE("a death at any effect or turn of a rewind loses nothing", "[simulation]") {
    die_everywhere(false, rewind_in_a_life, check_rewound);
    die_everywhere(false, rewind_a_pair_in_a_life, check_rewound);
}

TEST_CASE("a power cut at any effect or turn of a rewind loses nothing", "[simulation]") {
    die_everywhere(true, rewind_in_a_life, check_rewound);
    die_everywhere(true, rewind_a_pair_in_a_life, check_rewound);
}

}  // namespace cowslip::simulation
