// No request hangs: each kind of request, whatever has failed, is answered by the end of its time: with its answer, its
// error, or the number of the operation that goes on.
//
// COWSLIP_NTH_STRIDE=10: every tenth request and trouble.
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

constexpr std::uint32_t kTimeMs = 3000;
constexpr std::int64_t kUnderWayMs = 500;  // To the manager and back.

struct Question {
    std::string type;
    std::function<std::string(World&)> send;  // Gives its request id.
};

template <class Message>
Question question(Message message) {
    return {Message::kType, [message](World& world) {
                Sending how;
                how.timeout_ms = kTimeMs;
                return world.send_once(message, how);
            }};
}

// Of a pool where "base" is mounted, "used" attached, "image" frozen and has warm clones, and "idle" is nobody's.
std::vector<Question> questions() {
    schemas::VolumeCreate empty = create("empty");
    empty.size_bytes = 32 * kMiB;
    schemas::VolumeCreate got = create("got", "base");
    got.get = true;
    schemas::VolumeCreate warm = create("warm", "image");
    warm.get = true;
    schemas::PoolGrow grow;
    grow.data_bytes = 2048 * kMiB;
    schemas::PoolSetLimits limits;
    limits.min_free_bytes = kMiB;
    schemas::PoolMeasure exact;
    exact.exact = true;
    return {question(create("clone", "base")),
            question(empty),
            question(got),
            question(warm),
            question(remove("idle")),
            question(remove_and_wait("idle")),
            question(schemas::VolumeResize{.id = "idle", .size_bytes = 128 * kMiB}),
            question(schemas::VolumeFreeze{.id = "idle"}),
            question(schemas::VolumeFreeze{.id = "image", .warm = 0}),
            question(schemas::VolumeRename{.id = "idle", .new_id = "other"}),
            question(schemas::VolumeLabel{.id = "idle", .set = {{"a", "b"}}, .remove = {}}),
            question(schemas::VolumeTrim{.id = "base"}),
            question(get("idle")),
            question(put("base")),
            question(attach("idle")),
            question(detach("used")),
            question(schemas::PoolQuota{.label = "a=b", .max_bytes = kMiB}),
            question(limits),
            question(schemas::PoolStart{}),
            question(grow),
            question(schemas::PoolStop{}),
            question(schemas::PoolCheck{}),
            question(schemas::PoolDestroy{.name = "default"}),
            question(schemas::PoolRewind{}),
            question(schemas::PoolRebuild{}),
            question(schemas::PoolRepair{}),
            question(schemas::PoolRepair{.evict = true, .spare = ""}),
            question(schemas::SystemCleanup{}),
            question(schemas::SystemFsck{.repair = true}),
            question(schemas::PoolMeasure{}),
            question(exact),
            question(schemas::StoreBackup{}),
            question(schemas::StoreList{}),
            question(schemas::PoolStatus{}),
            question(schemas::VolumeExists{.id = "base"}),
            question(schemas::VolumeShow{.id = "base"}),
            question(schemas::VolumeList{}),
            question(schemas::LeaseList{}),
            question(schemas::OperationList{}),
            question(schemas::OperationWait{.operation = 1}),
            question(schemas::SystemStatus{}),
            question(schemas::EventSince{})};
}

FakePool& only_pool(World& world) {
    return world.kernel.pools.begin()->second;
}

struct Trouble {
    const char* name;
    std::function<void(World&)> begin;
};

std::vector<Trouble> troubles() {
    const auto stop_device_actors = [](World& world) {
        for (const std::string& type : kDeviceCommands) world.hold_commands(type);
    };
    const auto stop_mount_actors = [](World& world) {
        for (const std::string& type : kMountCommands) world.hold_commands(type);
    };
    return {
        {"nothing", [](World&) {}},
        {"device actors are stopped", stop_device_actors},
        {"mount actors are stopped", stop_mount_actors},
        {"all actors are stopped",
         [=](World& world) {
             stop_device_actors(world);
             stop_mount_actors(world);
         }},
        {"actors die of what they are told",
         [](World& world) {
             world.deadly.insert(kDeviceCommands.begin(), kDeviceCommands.end());
             world.deadly.insert(kMountCommands.begin(), kMountCommands.end());
         }},
        {"a commit of the pool failed",
         [](World& world) {
             only_pool(world).core.needs_check = true;
             only_pool(world).mode = PoolMode::ro;
         }},
        {"each commit of the pool fails", [](World& world) { world.kernel.fail_commits = 1000000; }},
        {"the pool has failed", [](World& world) { only_pool(world).mode = PoolMode::fail; }},
        {"the pool is full of data", [](World& world) { only_pool(world).mode = PoolMode::out_of_data_space; }},
        {"the pool is full of metadata",
         [](World& world) { world.kernel.used_metadata_blocks = only_pool(world).core.metadata_blocks; }},
        {"somebody has set the transaction id", [](World& world) { only_pool(world).core.transaction_id = 5; }},
        {"the metadata cannot be read", [](World& world) { world.kernel.media.at("file:metadata").unreadable = true; }},
        {"the pool's list cannot be read", [](World& world) { world.kernel.list_thins_fails = true; }},
        {"the metadata snapshot is somebody else's", [](World& world) { only_pool(world).core.held_root = 77; }},
        {"the pool is put away", [](World& world) { REQUIRE(world.call(schemas::SystemCleanup{})); }},
        {"the machine begins anew", [](World& world) { world.cut_power(); }},
    };
}

void make_used_service(World& world) {
    make_pool_and_base(world);
    for (const char* id : {"used", "image", "idle"}) REQUIRE(world.call(create(id, "base")));
    REQUIRE(world.call(schemas::VolumeFreeze{.id = "image", .warm = 2, .warm_mounted = true}));
    REQUIRE(world.call(get("base")));
    REQUIRE(world.call(attach("used")));
    world.run_for(10000);
}

}  // namespace

TEST_CASE("each request is answered by the end of its time, whatever has failed", "[manager][deadline]") {
    const std::size_t stride = number_from_environment("COWSLIP_NTH_STRIDE", 1);
    std::size_t number = 0;
    for (const Trouble& trouble : troubles()) {
        for (const Question& asked : questions()) {
            if (number++ % stride != 0) continue;
            CAPTURE(trouble.name, asked.type);
            World world({.seed = 1});
            make_used_service(world);
            trouble.begin(world);
            for (const std::int64_t later_ms : {0, 2000}) {  // Before anybody knows of the trouble, and behind that.
                world.run_for(later_ms);
                const std::string id = asked.send(world);
                world.run_for(kTimeMs + kUnderWayMs);
                if (world.answers(id).size() != 1) FAIL(fmt::format("{} answers", world.answers(id).size()));
            }
        }
    }
}

}  // namespace cowslip::simulation
