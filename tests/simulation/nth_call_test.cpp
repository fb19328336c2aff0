// Each call of device-mapper, of the host and of the file systems fails, once or from then on: every request is
// answered, nothing that was answered is lost, and when the calls go well again all is as it should be.
//
// COWSLIP_NTH_STRIDE=10: every tenth call.
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/names.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

// Each request in turn: asked once, and answered in whatever way; or again and again, until it is done.
class Job {
public:
    explicit Job(World& world) : world_(world) {}
    bool until_done = true;

    template <class Message>
    void done(const Message& message) {
        for (int attempt = 0; attempt < 6; ++attempt) {
            const std::string answer = word(world_.ask_once(message));
            if (answer == "ok" || answer == "already_exists" || !until_done) return;
            world_.run_for(10000);
        }
        FAIL(fmt::format("{} is not done though all goes well again", Message::kType));
    }
    void make_pool() {
        schemas::PoolCreate pool;
        pool.loop_bytes = 1024 * kMiB;
        done(pool);
    }
    void create(const std::string& id, const std::string& parent, std::uint64_t bytes = 0) {
        schemas::VolumeCreate request = simulation::create(id, parent);
        request.size_bytes = bytes;
        done(request);
    }
    void whole() {
        make_pool();
        create("base", "", 64 * kMiB);
        create("clone", "base");
        done(get("clone"));
        create("of an active one", "clone");
        done(attach("of an active one"));
        done(detach("of an active one"));
        done(put("clone"));
        done(remove_and_wait("of an active one"));
        done(schemas::SystemCleanup{});
        done(get("clone"));
    }

private:
    World& world_;
};

// Gives false when there was no such call any more.
bool fail_call(std::int64_t number, bool for_ever) {
    CAPTURE(number, for_ever);
    Options options;
    options.seed = 1;
    options.device_actors = 2;
    options.mount_actors = 1;
    World world(options);
    bool met = false;
    guarded(world, [&] {
        Job job(world);
        if (for_ever) job.make_pool();
        world.call_faults = {.fail_at = number, .for_ever = for_ever};
        job.until_done = !for_ever;
        job.whole();
        met = world.call_faults.calls > number;
        world.call_faults.heal();
        job.until_done = true;
        job.whole();
        check_quiet(world);
        CHECK(show(world, "clone").leases.size() == 1);
        CHECK(
            world.mounts.is_mounted(thin_dm_uuid(world.store().pool()->spec.pool.uuid, show(world, "clone").thin_id)));
        CHECK_FALSE(exists(world, "of an active one"));
    });
    return met;
}

}  // namespace

namespace {

// What volumes and their pool go through over time, each asked once and answered in whatever way. False: there was no
// such call any more.
bool fail_call_over_time(std::int64_t number) {
    CAPTURE(number);
    World world({.seed = 1, .device_actors = 2, .mount_actors = 1});
    bool met = false;
    guarded(world, [&] {
        make_pool_and_base(world);
        REQUIRE(world.call(create("a", "base")));
        REQUIRE(world.call(create("image", "base")));
        REQUIRE(world.call(get("a")));
        world.run_for(10000);
        world.call_faults = {.fail_at = number, .for_ever = false};
        world.ask_once(schemas::VolumeResize{.id = "a", .size_bytes = 128 * kMiB});
        world.ask_once(schemas::VolumeTrim{.id = "a"});
        world.ask_once(schemas::PoolMeasure{});
        world.ask_once(schemas::PoolMeasure{.exact = true});
        world.ask_once(schemas::VolumeFreeze{.id = "image", .warm = 1, .warm_mounted = true});
        world.run_for(500);
        schemas::VolumeCreate taken = create("taken", "image");
        taken.get = true;
        world.ask_once(taken);
        schemas::VolumePut ending = put("taken");
        ending.remove = true;
        world.ask_once(ending);
        world.ask_once(schemas::VolumeRename{.id = "image", .new_id = "renamed"});
        world.ask_once(schemas::SystemFsck{.repair = true});
        world.ask_once(schemas::StoreBackup{});
        world.ask_once(schemas::PoolGrow{.data_bytes = 2048 * kMiB, .devices = {}});
        world.ask_once(put("a"));
        world.ask_once(schemas::PoolRepair{.spare = ""});
        world.ask_once(schemas::SystemCleanup{});
        world.ask_once(schemas::PoolCheck{});
        world.ask_once(schemas::PoolStart{.read_only = true});
        world.ask_once(schemas::SystemCleanup{});
        world.ask_once(schemas::PoolStart{});
        met = world.call_faults.calls > number;
        world.call_faults.heal();
        world.run_for(60000);
        REQUIRE(world.call(schemas::SystemCleanup{}));  // It may be read-only still.
        REQUIRE(world.call(get("a")));
        REQUIRE(world.call(schemas::SystemFsck{.repair = true}));  // A metadata snapshot whose release failed is held.
        REQUIRE(world.call(create("b", "a")));
        CHECK(exists(world, "image") != exists(world, "renamed"));
        check_quiet(world);
    });
    return met;
}

}  // namespace

TEST_CASE("any one call of what a pool goes through over time fails, and nothing is lost or left over", "[nth]") {
    const auto stride = static_cast<std::int64_t>(number_from_environment("COWSLIP_NTH_STRIDE", 1));
    for (std::int64_t number = 0; fail_call_over_time(number); number += stride) {
    }
}

TEST_CASE("any one call fails: all requests are answered, and nothing is lost or left over", "[nth]") {
    const auto stride = static_cast<std::int64_t>(number_from_environment("COWSLIP_NTH_STRIDE", 1));
    for (std::int64_t number = 0; fail_call(number, false); number += stride) {
    }
}

TEST_CASE("from any one on, all calls fail for a while: all requests are answered, and nothing is lost or left over",
          "[nth]") {
    const auto stride = static_cast<std::int64_t>(number_from_environment("COWSLIP_NTH_STRIDE", 1));
    for (std::int64_t number = 0; fail_call(number, true); number += stride) {
    }
}

}  // namespace cowslip::simulation
