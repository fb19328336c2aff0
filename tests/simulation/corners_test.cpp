// What seldom happens: requests without a pool or with one that is not believed, sizes past every bound, rebuilds of
// each kind of pool whose actors die, messages at the actors' door that nobody can read.
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "schemas/device_actor.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

// Everything that wants a pool and its volume "a"; with what it is answered.
std::map<std::string, std::string> ask_each(World& world) {
    std::map<std::string, std::string> answers;
    const auto ask = [&](const auto& message) {
        answers[std::decay_t<decltype(message)>::kType] = word(world.ask_once(message));
    };
    ask(create("new", "a"));
    ask(get("a"));
    ask(attach("a"));
    ask(schemas::VolumeResize{.id = "a", .size_bytes = 1024 * kMiB});
    ask(schemas::VolumeFreeze{.id = "a"});
    ask(schemas::VolumeRename{.id = "a", .new_id = "b"});
    ask(schemas::VolumeLabel{.id = "a", .set = {{"k", "v"}}, .remove = {}});
    ask(schemas::VolumeTrim{.id = "a"});
    ask(schemas::PoolGrow{.data_bytes = 2048 * kMiB, .devices = {}});
    ask(schemas::PoolQuota{.label = "k=v", .max_bytes = 1024 * kMiB});
    ask(schemas::PoolMeasure{});
    ask(schemas::PoolRepair{.spare = ""});
    ask(schemas::PoolStop{});
    ask(schemas::PoolCheck{});
    ask(schemas::PoolRewind{});
    ask(schemas::PoolDestroy{.name = "default"});
    return answers;
}

}  // namespace

TEST_CASE("without a pool every request that wants one is told so", "[manager]") {
    World world({.seed = 1});
    for (const auto& [type, answer] : ask_each(world)) {
        INFO(type << " " << answer);
        CHECK((answer == "unavailable" || answer == "not_found"));
    }
    CHECK(word(world.ask_once(schemas::SystemFsck{})) == "ok");
    CHECK(word(world.ask_once(schemas::SystemCleanup{})) == "ok");
}

TEST_CASE("a pool that is not believed is changed by no request", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    world.run_for(70000);
    world.kernel.pools.begin()->second.core.transaction_id += 100;
    world.run_for(3000);
    const std::uint64_t messages = world.kernel.effects["message"];
    for (const auto& [type, answer] : ask_each(world)) {
        INFO(type << " " << answer);
        const bool may_be = type == schemas::VolumeLabel::kType || type == schemas::PoolQuota::kType ||
                            type == schemas::PoolStop::kType;
        CHECK((answer != "ok" || may_be));
    }
    CHECK(world.kernel.effects["message"] == messages);
    CHECK(exists(world, "a"));
}

TEST_CASE("sizes of a pool past their bounds are refused", "[manager]") {
    World world({.seed = 1});
    const auto refused = [&](const auto& change) {
        schemas::PoolCreate request;
        request.loop_bytes = 1024 * kMiB;
        change(request);
        return word(world.ask_once(request));
    };
    CHECK(refused([](auto& request) { request.loop_bytes = 1; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.loop_bytes = (1ULL << 60U) + 1; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.block_size_bytes = 4096; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.block_size_bytes = 2ULL << 30U; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.block_size_bytes = 65536 + 4096; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.metadata_bytes = 4096; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.metadata_bytes = 64ULL << 30U; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.limits.max_bytes = 512 * kMiB; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.limits.max_bytes = 1ULL << 55U; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.limits.grow_step_bytes = 64 * kMiB; }) == "invalid_argument");
    CHECK(refused([](auto& request) {
              request.limits.max_bytes = 2048 * kMiB;
              request.limits.grow_step_bytes = 4096;
          }) == "invalid_argument");
    CHECK(refused([](auto& request) {
              request.limits.max_bytes = 2048 * kMiB;
              request.limits.grow_step_bytes = 1ULL << 51U;
          }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.data_bytes = 64 * kMiB; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.adopt = "theirs"; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.limits.quotas["no label"] = 1; }) == "invalid_argument");
    CHECK(refused([](auto& request) { request.limits.max_bytes = 2048 * kMiB; }) == "ok");
}

TEST_CASE("a volume that is being filled is nobody's parent and is seen by nobody until it is", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    CHECK(word(world.ask_once(schemas::VolumePut{.id = "base", .holder = "", .filled = true})) == "invalid_argument");
    schemas::VolumeCreate filling = create("a", "base");
    filling.get = true;
    filling.filling = true;
    REQUIRE(world.call(filling));
    CHECK_FALSE(exists(world, "a"));
    CHECK(word(world.ask_once(create("b", "a"))) == "not_found");
    CHECK(word(world.ask_once(get("a"))) == "not_found");
    CHECK(word(world.ask_once(attach("a"))) == "not_found");
    CHECK(word(world.ask_once(schemas::VolumeFreeze{.id = "a"})) == "not_found");
    CHECK(word(world.ask_once(schemas::VolumeRename{.id = "a", .new_id = "b"})) == "not_found");
    world.kill_manager();
    REQUIRE(world.call(schemas::VolumePut{.id = "a", .holder = "", .filled = true}));
    CHECK(exists(world, "a"));
    REQUIRE(world.call(create("b", "a")));
    check_quiet(world);
}

TEST_CASE("who is no actor, or cannot be understood, is not listened to at the actors' door", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const auto hello = [](const std::string& kind, const std::string& name, std::uint32_t version = 1) {
        schemas::FromActorOf<schemas::Empty> message;
        message.v = version;
        message.hello = schemas::Hello{kind, name, 1, ""};
        return encode(message);
    };
    const std::size_t actors = body_of<schemas::SystemStatus>(world.ask_once(schemas::SystemStatus{})).actors.size();
    world.hear("device-9-0000abcd", "\xc1");
    world.hear("device-9-0000abcd", encode(7));
    world.hear("device-9-0000abcd", hello("device", "device-9-0000abcd", 2));
    world.hear("device-9-0000abcd", hello("device", "device-8-0000abcd"));
    world.hear("kitchen-9-0000abcd", hello("kitchen", "kitchen-9-0000abcd"));
    world.run_for(100);
    const auto status = body_of<schemas::SystemStatus>(world.ask_once(schemas::SystemStatus{}));
    CHECK(status.actors.size() == actors);
    CHECK(status.counters.at("unreadable_actor_messages") == 3);
    REQUIRE(world.call(create("a", "base")));
    check_quiet(world);
}

namespace {

void lose_store_of(World& world) {
    world.run_for(70000);
    lose_store(world);
}

}  // namespace

TEST_CASE("the store of each kind of pool is made anew, though actors die of the work at first", "[rebuild]") {
    const std::string kind = GENERATE("loop", "pair", "devices", "adopted");
    const std::string type =
        GENERATE("", schemas::ExaminePool::kType, schemas::StartPool::kType, schemas::InspectPool::kType,
                 schemas::ListThins::kType, schemas::ReadInternal::kType, schemas::ListActive::kType,
                 schemas::SetTransactionId::kType, schemas::StopPool::kType);
    CAPTURE(kind, type);
    World world({.seed = 1});
    world.kernel.add_disk("/dev/vda", 2097152);
    world.kernel.add_disk("/dev/vdb", 32768);
    world.kernel.allowed_devices = {"/dev/vda", "/dev/vdb", "/dev/mapper/theirs"};
    schemas::PoolCreate pool;
    schemas::PoolRebuild rebuild;
    if (kind == "loop") pool.loop_bytes = 1024 * kMiB;
    if (kind == "pair") {
        pool.data_device = rebuild.data_device = "/dev/vda";
        pool.metadata_device = rebuild.metadata_device = "/dev/vdb";
    }
    if (kind == "devices") {
        pool.devices = {"/dev/vda", "/dev/vdb"};
        rebuild.devices = {"/dev/vda"};
    }
    if (kind == "adopted") {
        FakeDeviceMapper dm(world.kernel);
        const DmDevice theirs{"theirs", ""};
        REQUIRE(dm.create(theirs) == 0);
        REQUIRE(dm.load(theirs, {"thin-pool", 2097152, "/dev/vdb /dev/vda 128 0 0"}, false) == 0);
        REQUIRE(dm.resume(theirs) == 0);
        pool.adopt = rebuild.adopt = "theirs";
    }
    REQUIRE(world.call(pool));
    schemas::VolumeCreate base = create("base");
    base.size_bytes = 64 * kMiB;
    REQUIRE(world.call(base));
    REQUIRE(world.call(create("a", "base")));
    lose_store_of(world);
    world.deadly = {type};
    const std::string first = word(world.ask_once(rebuild));
    CHECK((first == "ok" || !type.empty()));
    world.deadly.clear();
    if (first != "ok") REQUIRE(world.call(rebuild));
    CHECK(exists(world, "base"));
    CHECK(exists(world, "a"));
    REQUIRE(world.call(get("a")));
    check_quiet(world);
}

}  // namespace cowslip::simulation
