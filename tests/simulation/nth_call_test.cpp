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
