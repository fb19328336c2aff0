// The main job over a disk that fails: the n-th read, write, sync or open of the store, once or for a while, with a
// power cut soon after or without. What was answered holds, and nothing is left over.
#include <catch2/catch.hpp>

#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

// With another manager in the middle of it: it reads what the first one has written.
void job_of_two_managers(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(create("clone", "base")));
    world.kill_manager();
    REQUIRE(world.call(get("clone")));
    REQUIRE(world.call(put("clone")));
    REQUIRE(world.call(remove_and_wait("clone")));
    REQUIRE(world.call(create("clone", "base")));
    REQUIRE(world.call(create("of a clone", "clone")));
    REQUIRE(world.call(remove("base")));
}

void soon_after_the_failure(World& world, bool power_cut) {
    world.at(50, [&world, power_cut] {
        if (!world.disk.has_failed()) return soon_after_the_failure(world, power_cut);
        world.at(3000, [&world] { world.disk.heal(); });
        if (power_cut) world.at(2000, [&world] { world.cut_power(); });
    });
}

// How many calls of that kind there were to fail.
std::uint64_t fail_everywhere(DiskFault fault, bool power_cut) {
    const auto stride = number_from_environment("COWSLIP_STRIDE", 1);
    for (fault.nth = 0;; fault.nth += stride) {
        CAPTURE(static_cast<int>(fault.call), fault.nth, fault.for_ever, fault.full, power_cut);
        Options options;
        options.seed = 1;
        options.device_actors = 2;
        options.mount_actors = 1;
        World world(options);
        world.disk.fail(fault);
        soon_after_the_failure(world, power_cut);
        guarded(world, [&] {
            job_of_two_managers(world);
            check_quiet(world);
            CHECK(exists(world, "clone"));
            CHECK(exists(world, "of a clone"));
            CHECK_FALSE(exists(world, "base"));
        });
        if (!world.disk.has_failed()) return fault.nth;
    }
}

}  // namespace

TEST_CASE("X10: a sync of the store that fails loses nothing, whatever is in the page cache", "[simulation][store]") {
    const bool for_ever = GENERATE(false, true);
    const bool power_cut = GENERATE(false, true);
    CHECK(fail_everywhere({.call = DiskCall::sync, .for_ever = for_ever}, power_cut) > 5);
}

TEST_CASE("a write of the store that fails loses nothing", "[simulation][store]") {
    const bool for_ever = GENERATE(false, true);
    const bool power_cut = GENERATE(false, true);
    CHECK(fail_everywhere({.call = DiskCall::write, .for_ever = for_ever}, power_cut) > 20);
}

TEST_CASE("X9: a disk that is full at any write of the store voids that turn and loses nothing",
          "[simulation][store]") {
    const bool for_ever = GENERATE(false, true);
    CHECK(fail_everywhere({.call = DiskCall::write, .for_ever = for_ever, .full = true}, false) > 20);
}

TEST_CASE("a store that cannot be opened or read is tried again by the next process", "[simulation][store]") {
    const bool for_ever = GENERATE(false, true);
    CHECK(fail_everywhere({.call = DiskCall::open, .for_ever = for_ever}, false) > 0);
    CHECK(fail_everywhere({.call = DiskCall::read, .for_ever = for_ever}, false) > 0);
}

TEST_CASE("a new store where there was one before is told of", "[simulation][store]") {
    Options options{.seed = 1};
    options.manager.store_lost = true;
    World world(options);
    CHECK(findings(world) == std::vector<std::string>{"store-lost "});
}

}  // namespace cowslip::simulation
