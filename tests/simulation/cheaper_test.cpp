// What is done later, or once for several, so that it costs less; and that nothing is believed too early for it.
#include <algorithm>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

bool told_of_deletion(World& world) {
    const auto events = world.call(schemas::EventSince{}).value().events;
    return std::any_of(events.begin(), events.end(), [](const auto& event) { return event.type == "volume.deleted"; });
}

// Until its thin id has gone from the pool, and the manager knows it.
void remove_until_deleted(World& world, const std::string& id) {
    const int before = world.commands[schemas::DeleteThin::kType];
    REQUIRE(world.call(remove(id)));
    world.run_until([&] { return world.commands[schemas::DeleteThin::kType] > before; });
    world.run_for(5);
}

int statuses_read(World& world) {
    return world.commands[schemas::ReadPoolStatus::kType];
}

}  // namespace

TEST_CASE("the end of a removal is written with what comes next, or soon; until then it is not told", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    remove_until_deleted(world, "a");
    CHECK(world.store().commit_deferred_until());
    CHECK_FALSE(told_of_deletion(world));
    SECTION("with what comes next") {
        REQUIRE(world.call(create("b", "base")));
    }
    SECTION("soon") {
        world.run_for(20);
    }
    CHECK(told_of_deletion(world));
    CHECK_FALSE(world.store().commit_deferred_until());
    check_quiet(world);
}

TEST_CASE("a manager that dies before the end of a removal is written leaves it to the next one", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    const std::uint32_t thin_id = show(world, "a").thin_id;
    remove_until_deleted(world, "a");
    REQUIRE(world.store().commit_deferred_until());
    SECTION("the process") {
        world.kill_manager();
    }
    SECTION("the machine") {
        world.cut_power();
    }
    world.run_until([&] { return world.ready(); });
    CHECK_FALSE(exists(world, "a"));
    world.run_for(1000);
    CHECK_FALSE(world.store().volume(thin_id));
    CHECK(told_of_deletion(world));
    REQUIRE(world.call(create("a", "base")));
    check_quiet(world);
}

TEST_CASE("a service that ends writes what it had put off", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    remove_until_deleted(world, "a");
    REQUIRE(world.store().commit_deferred_until());
    world.stop_admitting();
    world.answer_all_waiting();
    CHECK_FALSE(world.store().commit_deferred_until());
    CHECK(world.store().unfinished_operations().empty());
}

TEST_CASE("those who put at the same time share a look at the pool's status", "[manager]") {
    World world({.seed = 1, .mount_actors = 8});
    make_pool_and_base(world);
    for (int i = 0; i < 8; ++i) {
        REQUIRE(world.call(create(fmt::format("v{}", i), "base")));
        REQUIRE(world.call(get(fmt::format("v{}", i))));
    }
    world.hold_replies(schemas::Unmount::kType);
    std::vector<std::string> puts;
    for (int i = 0; i < 8; ++i) puts.push_back(world.send_once(put(fmt::format("v{}", i))));
    world.run_until([&] { return world.held() == 8; });
    const int before = statuses_read(world);
    world.let_go();
    for (const std::string& id : puts) CHECK(word(world.answer(id)) == "ok");
    // One that had been asked for when the last of them was unmounted, one that all believe, and the watch's.
    CHECK(statuses_read(world) - before <= 4);
    check_quiet(world);
}

TEST_CASE("a look that began before the unmount does not say that its writes were kept", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    for (const char* id : {"a", "b"}) {
        REQUIRE(world.call(create(id, "base")));
        REQUIRE(world.call(get(id)));
    }
    world.hold_replies(schemas::ReadPoolStatus::kType);
    const std::string first = world.send_once(put("a"));
    world.run_until([&] { return world.commands[schemas::Unmount::kType] == 1 && world.held() > 0; });
    // What was asked for "a", or by the watch, is under way, and good.
    const std::string second = world.send_once(put("b"));
    world.run_until([&] { return world.commands[schemas::Unmount::kType] == 2; });
    world.run_for(50);
    world.kernel.fail_commits = 1;
    FakePool& pool = world.kernel.pools.begin()->second;
    world.kernel.commit(pool);
    world.let_go();
    CHECK(word(world.answer(second)) == "needs_repair");
    CHECK(world.store().count_leases() >= 1);
}

}  // namespace cowslip::simulation
