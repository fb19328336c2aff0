// Whoever takes a command of one kind dies of it, all others go well: every request is answered all the same, nothing
// that was answered is lost, and when the command kills nobody any more all is as it should be.
#include <catch2/catch.hpp>

#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

// Everything that can be asked for, in whatever way it is answered. (The fake file systems do not move with the thin
// ids of a rewind: so no mount is looked at behind one.)
void ask_for_everything(World& world, bool rewind) {
    schemas::PoolCreate pool;
    pool.loop_bytes = 1024 * kMiB;
    world.ask_once(pool);
    schemas::VolumeCreate base = create("base");
    base.size_bytes = 64 * kMiB;
    world.ask_once(base);
    schemas::VolumeCreate raw = create("raw");
    raw.fs = "none";
    raw.size_bytes = 64 * kMiB;
    world.ask_once(raw);
    schemas::VolumeCreate mounted = create("mounted", "base");
    mounted.get = true;
    world.ask_once(mounted);
    world.ask_once(create("a", "base"));
    world.ask_once(get("a"));
    world.ask_once(create("of an active one", "a"));
    world.ask_once(schemas::VolumeResize{.id = "a", .size_bytes = 128 * kMiB});
    world.ask_once(schemas::VolumeTrim{.id = "a"});
    world.ask_once(schemas::PoolMeasure{});
    world.ask_once(schemas::PoolMeasure{.exact = true});
    world.ask_once(put("a"));
    world.ask_once(attach("raw"));
    world.ask_once(detach("raw"));
    world.ask_once(schemas::VolumeFreeze{.id = "of an active one", .warm = 1, .warm_mounted = true});
    world.run_for(1000);
    schemas::VolumeCreate taken = create("taken", "of an active one");
    taken.get = true;
    world.ask_once(taken);
    world.ask_once(schemas::VolumeRename{.id = "a", .new_id = "b"});
    world.ask_once(schemas::SystemFsck{.repair = true});
    world.ask_once(schemas::StoreBackup{});
    world.ask_once(schemas::PoolGrow{.data_bytes = 2048 * kMiB, .devices = {}});
    world.ask_once(schemas::PoolRepair{.evict = true, .spare = ""});
    world.ask_once(remove_and_wait("b"));
    world.ask_once(remove("raw"));
    world.ask_once(schemas::SystemCleanup{});
    world.ask_once(schemas::PoolCheck{});
    if (rewind) world.ask_once(schemas::PoolRewind{});
    world.ask_once(schemas::PoolStart{.read_only = true});
    world.ask_once(schemas::SystemCleanup{});
    world.ask_once(schemas::PoolStart{});
    world.ask_once(get("base"));
}

void die_of(const std::string& type, bool from_the_start) {
    CAPTURE(type, from_the_start);
    World world({.seed = 1});
    guarded(world, [&] {
        if (!from_the_start) {
            make_pool_and_base(world);
            REQUIRE(world.call(create("kept", "base")));
        }
        world.deadly = {type};
        ask_for_everything(world, from_the_start);
        world.kill_manager();
        world.run_for(60 * 1000);
        world.deadly.clear();
        // What is parked since actors have died of it is tried anew by the next manager.
        world.kill_manager();
        world.run_until([&] { return world.ready(); });
        world.run_for(60 * 1000);
        if (from_the_start) return;
        CHECK(exists(world, "kept"));
        CHECK(word(world.ask_once(schemas::PoolStart{})) == "ok");
        CHECK(word(world.ask_once(create("new", "kept"))) == "ok");
        CHECK(word(world.ask_once(get("new"))) == "ok");
        CHECK(word(world.ask_once(put("new"))) == "ok");
    });
}

}  // namespace

TEST_CASE("a command that kills every actor that takes it harms nothing else", "[simulation]") {
    for (const auto* commands : {&kDeviceCommands, &kMountCommands}) {
        for (const std::string& type : *commands) {
            die_of(type, false);
            die_of(type, true);
        }
    }
}

}  // namespace cowslip::simulation
