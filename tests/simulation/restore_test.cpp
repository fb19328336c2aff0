// A store put back from a backup: nothing of the pool is used before a rebuild (X33), which gives each volume that the
// pool has its name again.
#include <algorithm>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "services/pool_manager/store_image.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

using Names = std::vector<std::string>;

schemas::PoolStatus::Reply pool_now(World& world) {
    return body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{}));
}

Names volumes_now(World& world) {
    Names names;
    for (const auto& volume : body_of<schemas::VolumeList>(world.ask_once(schemas::VolumeList{})).volumes) {
        names.push_back(volume.id);
    }
    return names;
}

std::string bytes_of_backup(World& world) {
    const auto copy = world.call(schemas::StoreBackup{});
    REQUIRE(copy);
    return world.disk.image().at(copy->path.substr(std::string("/fake/store/").size()));
}

// The service is stopped, the store restored, and the service started. What actors have in hand they finish.
void restore(World& world, const std::string& backup) {
    world.kill_manager();
    const auto bytes = make_restored({backup, ""}, world.now_ms());
    REQUIRE(bytes);
    world.put_store({{"store.db", *bytes}});
    world.run_for(5000);
}

// Nothing that needs the pool.
void check_nothing_is_served(World& world) {
    CHECK(word(world.ask_once(create("new", "base"))) == "needs_repair");
    CHECK(word(world.ask_once(get("base"))) == "needs_repair");
    CHECK(word(world.ask_once(attach("base"))) == "needs_repair");
    CHECK(word(world.ask_once(schemas::PoolStart{})) == "needs_repair");
    const Answer read_only = world.ask_once(schemas::PoolStart{.read_only = true});
    CHECK(word(read_only) == "needs_repair");
    CHECK_THAT(read_only.error->message, Catch::Contains("cowslip pool rebuild"));
}

}  // namespace

TEST_CASE("X33: a restored store serves nothing of the pool, at this start and at any other, before a rebuild",
          "[simulation][restore]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const bool stopped = GENERATE(false, true);
    const bool power_cut = GENERATE(false, true);
    if (stopped) REQUIRE(world.call(schemas::SystemCleanup{}));
    CAPTURE(stopped, power_cut);
    const std::string uuid = world.store().store_uuid();
    // Nothing has happened since: by ids and lists alone it belongs to its pool.
    const std::string backup = bytes_of_backup(world);
    world.run_for(10000);  // No actor has anything in hand then.
    if (power_cut) world.cut_power();
    const std::uint64_t loads = world.kernel.effects["load"];
    restore(world, backup);
    CHECK(world.store().store_uuid() != uuid);
    CHECK(pool_now(world).state == "frozen");
    CHECK(pool_now(world).verdict == "store_restored");
    CHECK_THAT(pool_now(world).warnings.front(), Catch::Contains("cowslip pool rebuild"));
    CHECK(has_finding(world, "frozen default"));
    const std::uint64_t messages = world.kernel.effects["message"];
    check_nothing_is_served(world);
    world.kill_manager();
    world.run_for(5000);
    check_nothing_is_served(world);
    REQUIRE(world.call(schemas::SystemCleanup{}));
    check_nothing_is_served(world);
    world.cut_power();
    world.run_for(5000);
    check_nothing_is_served(world);
    CHECK(world.kernel.effects["message"] == messages);
    CHECK(world.kernel.effects["load"] == loads);
    REQUIRE(world.call(schemas::PoolRebuild{}));
    CHECK(pool_now(world).state == "ready");
    CHECK(pool_now(world).verdict == "normal");
    world.kill_manager();
    world.run_for(5000);
    CHECK(pool_now(world).verdict == "normal");
    CHECK(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("after a restore and a rebuild what the pool has is there, under its names", "[simulation][restore]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("stays", "base")));
    REQUIRE(world.call(create("goes", "base")));
    REQUIRE(world.call(get("stays", "somebody")));
    const std::uint32_t stays = show(world, "stays").thin_id;
    const std::string backup = bytes_of_backup(world);
    world.run_for(5000);  // With the generation that opens then goes a backup into the pool.
    REQUIRE(world.call(remove_and_wait("goes")));
    REQUIRE(world.call(create("new", "stays")));
    const std::uint32_t made = show(world, "new").thin_id;
    const bool ring_knows = GENERATE(false, true);
    const bool ring_is_lost = !ring_knows && GENERATE(false, true);
    CAPTURE(ring_knows, ring_is_lost);
    if (ring_knows) world.run_for(70000);
    if (ring_is_lost) {
        for (auto& [place, bytes] : world.kernel.media.at("file:data").contents) {
            if (place.first == schemas::kBackupsThinId) bytes[40] = static_cast<char>(bytes[40] ^ 1);
        }
    }
    restore(world, backup);
    CHECK(volumes_now(world) == Names{"base", "goes", "stays"});  // As the backup says; none of it is served.
    CHECK(show(world, "stays").leases.empty());
    const auto rebuilt = world.call(schemas::PoolRebuild{});
    INFO((rebuilt ? "" : rebuilt.error().message));
    REQUIRE(rebuilt);
    CHECK(rebuilt->dropped == Names{"goes"});
    const std::string name = ring_knows ? "new" : fmt::format("recovered-{}", made);
    Names expected = {"base", name, "stays"};
    CHECK(volumes_now(world) == expected);
    CHECK(show(world, "stays").thin_id == stays);
    CHECK(show(world, name).thin_id == made);
    CHECK(show(world, "stays").leases.empty());
    world.run_for(10000);
    REQUIRE(world.call(get("stays")));
    REQUIRE(world.call(attach(name)));
    REQUIRE(world.call(create("newest", "stays")));
    CHECK(show(world, "newest").thin_id > made);
    check_quiet(world);
}

TEST_CASE("what changed in the last minute before a clean stop has its name again when the store is lost",
          "[simulation][restore][identity]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(70000);
    REQUIRE(world.call(create("a", "base")));
    if (GENERATE(false, true)) {
        REQUIRE(world.call(schemas::SystemCleanup{}));
    } else {
        world.stop_admitting();
        world.at(0, [&] { world.wake_manager(); });
        world.run_until([&] { return world.drained(); });
    }
    lose_store(world);
    const auto rebuilt = world.call(schemas::PoolRebuild{});
    REQUIRE(rebuilt);
    CHECK(rebuilt->recovered.empty());
    CHECK(volumes_now(world) == Names{"a", "base"});
    check_quiet(world);
}

TEST_CASE("a backup of a store with work unfinished is restored without it", "[simulation][restore]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.hold_commands(schemas::CreateSnap::kType);
    world.send_once(create("a", "base"));
    world.run_for(1000);
    const std::string backup = bytes_of_backup(world);
    world.let_go();
    world.run_for(5000);
    REQUIRE(world.call(remove_and_wait("base")));
    restore(world, backup);
    check_nothing_is_served(world);
    REQUIRE(world.call(schemas::PoolRebuild{}));
    CHECK(volumes_now(world) == Names{"a"});
    check_quiet(world);
}

TEST_CASE("a store that never had a pool finds it by a rebuild after its restore", "[simulation][restore]") {
    World world({.seed = 1});
    world.run_for(1000);
    const std::string backup = bytes_of_backup(world);
    make_pool_and_base(world);
    world.run_for(70000);
    restore(world, backup);
    CHECK(pool_now(world).state == "none");
    schemas::PoolCreate another;
    another.loop_bytes = 1024 * kMiB;
    CHECK(word(world.ask_once(another)) == "in_use");
    REQUIRE(world.call(schemas::PoolRebuild{}));
    CHECK(volumes_now(world) == Names{"base"});
    check_quiet(world);
}

TEST_CASE("a backup from before a rewind names nothing by its thin ids", "[simulation][restore]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(create("b", "base")));
    const std::string backup = bytes_of_backup(world);
    REQUIRE(world.call(remove_and_wait("a")));
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(schemas::PoolRewind{}));
    REQUIRE(world.call(schemas::PoolStart{}));
    world.run_for(5000);
    const std::uint32_t b = show(world, "b").thin_id;
    restore(world, backup);
    REQUIRE(world.call(schemas::PoolRebuild{}));
    CHECK(volumes_now(world) == Names{"b", "base"});
    CHECK(show(world, "b").thin_id == b);
    check_quiet(world);
}

TEST_CASE(
    "a death or a power cut at any point of the rebuild after a restore ends in a store that is not believed or "
    "in a whole one",
    "[simulation][restore]") {
    const bool power_cut = GENERATE(false, true);
    const auto stride = static_cast<std::int64_t>(number_from_environment("COWSLIP_STRIDE", 1));
    for (std::int64_t more = 0;; more += stride) {
        CAPTURE(power_cut, more);
        World world({.seed = 1, .device_actors = 2, .mount_actors = 1});
        make_pool_and_base(world);
        const std::string backup = bytes_of_backup(world);
        REQUIRE(world.call(create("a", "base")));
        world.run_for(70000);
        restore(world, backup);
        const std::int64_t before = world.happened();
        world.die_after(more, power_cut);
        bool answered = false;
        world.ask(schemas::PoolRebuild{}, [&](const Answer&) { answered = true; });
        world.run_until([&] { return answered; });
        const bool died = world.happened() - before > more;
        world.let_live();
        guarded(world, [&] {
            if (pool_now(world).state != "ready") {
                check_nothing_is_served(world);
                REQUIRE(world.call(schemas::PoolRebuild{}));
            }
            CHECK(volumes_now(world) == Names{"a", "base"});
            check_quiet(world);
        });
        if (!died) break;
    }
}

}  // namespace cowslip::simulation
