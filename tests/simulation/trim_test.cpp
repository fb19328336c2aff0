// Trims: in parts that hold nothing between them, ended by whoever does not wait any more.
#include <catch2/catch.hpp>

#include "common/names.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

constexpr std::uint64_t kPart = 256 * kMiB;

schemas::VolumeTrim trim(const std::string& id, std::uint64_t offset = 0) {
    schemas::VolumeTrim message;
    message.id = id;
    message.offset_bytes = offset;
    return message;
}

void make_mounted(World& world, const std::string& id, std::uint64_t bytes) {
    schemas::VolumeCreate message = create(id);
    message.size_bytes = bytes;
    message.get = true;
    REQUIRE(world.call(message));
}

std::string uuid_of(World& world, const std::string& id) {
    return thin_dm_uuid(world.store().pool()->spec.pool.uuid, world.store().find_volume(id)->thin_id);
}

}  // namespace

TEST_CASE("a mounted volume is trimmed part by part, up to its end", "[trim]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    make_mounted(world, "a", 2 * kPart + kMiB);
    const auto reply = world.call(trim("a"));
    REQUIRE(reply);
    CHECK(reply->complete);
    CHECK(reply->next_offset_bytes == 2 * kPart + kMiB);
    CHECK(reply->trimmed_bytes == 3 * 4096);
    CHECK(world.mounts.trims[uuid_of(world, "a")] == std::vector<std::uint64_t>{0, kPart, 2 * kPart});
    const auto rest = world.call(trim("a", 2 * kPart));
    REQUIRE(rest);
    CHECK(rest->trimmed_bytes == 4096);
    check_quiet(world);
}

TEST_CASE("only what is mounted writable is trimmed", "[trim]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    CHECK(word(world.ask_once(trim("base"))) == "invalid_argument");
    CHECK(word(world.ask_once(trim("nobody"))) == "not_found");
    REQUIRE(world.call(attach("base")));
    const Answer refused = world.ask_once(trim("base"));
    CHECK(word(refused) == "invalid_argument");
    CHECK_THAT(refused.error->message, Catch::Contains("cowslip get base"));
    REQUIRE(world.call(detach("base")));
    schemas::VolumeGet read_only = get("base");
    read_only.read_only = true;
    REQUIRE(world.call(read_only));
    CHECK(word(world.ask_once(trim("base"))) == "invalid_argument");
    CHECK(world.commands[schemas::Trim::kType] == 0);
    check_quiet(world);
}

TEST_CASE("a long trim is answered after some seconds with where to go on", "[trim]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    make_mounted(world, "a", 1024 * kPart);
    const std::int64_t began = world.now_ms();
    const auto reply = world.call(trim("a"));
    REQUIRE(reply);
    CHECK_FALSE(reply->complete);
    CHECK(world.now_ms() - began <= 6000);
    CHECK(reply->next_offset_bytes > kPart);
    const auto next = world.call(trim("a", reply->next_offset_bytes));
    REQUIRE(next);
    CHECK(world.mounts.trims[uuid_of(world, "a")].back() == next->next_offset_bytes - kPart);
    check_quiet(world);
}

TEST_CASE("a trim ends when nobody waits for it, and a put waits for one part of it", "[trim]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    make_mounted(world, "a", 1024 * kPart);
    world.send_once(trim("a"), {.request_id = "impatient", .timeout_ms = 500});
    world.run_for(2000);
    const int done = world.commands[schemas::Trim::kType];
    CHECK(done > 0);
    world.run_for(5000);
    CHECK(world.commands[schemas::Trim::kType] == done);
    const std::string going_on = world.send_once(trim("a"));
    world.run_for(500);
    const std::int64_t asked = world.now_ms();
    REQUIRE(world.call(put("a")));
    CHECK(world.now_ms() - asked <= 500);
    CHECK(word(world.answer(going_on)) == "invalid_argument");  // It is not mounted any more.
    check_quiet(world);
}

TEST_CASE("all that is mounted writable is trimmed when that is due, also by a manager that has started since",
          "[trim]") {
    ManagerOptions manager;
    manager.trim_ms = 600 * 1000;
    World world({.seed = 1, .manager = manager});
    make_pool_and_base(world);
    make_mounted(world, "a", 2 * kPart);
    REQUIRE(world.call(get("base")));
    for (int tenth = 0; tenth < 5; ++tenth) {
        world.run_for(90 * 1000);
        world.kill_manager();
        world.run_for(10 * 1000);
    }
    CHECK(world.commands[schemas::Trim::kType] == 0);
    world.run_for(200 * 1000);
    CHECK(world.commands[schemas::Trim::kType] == 3);
    bool told = false;
    for (std::uint64_t seq = 0;;) {
        const auto events = world.store().events_since(seq, 500);
        if (events.empty()) break;
        seq = events.back().seq;
        for (const auto& event : events)
            told = told || (event.type == "pool.trimmed" && event.body.at("bytes") == "12288");
    }
    CHECK(told);
    check_quiet(world);
}

TEST_CASE("a death at any effect or turn of a trim changes nothing but what is trimmed", "[trim]") {
    const auto job = [](World& world) {
        make_pool_and_base(world);
        REQUIRE(world.call(get("base")));
        REQUIRE(world.call(trim("base")));
    };
    die_everywhere(false, job, [](World& world) { CHECK(show(world, "base").mount.has_value()); });
}

TEST_CASE("behind its end there is nothing of a volume to trim, and in a pool that needs repair nothing is", "[trim]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    CHECK(word(world.ask_once(trim(""))) == "invalid_argument");
    REQUIRE(world.call(get("base")));
    const auto behind = world.call(trim("base", 4 * kPart));
    REQUIRE(behind);
    CHECK(behind->complete);
    CHECK(behind->trimmed_bytes == 0);
    CHECK(world.commands[schemas::Trim::kType] == 0);
    // One that waits for another's part is told as well.
    world.hold_commands(schemas::Trim::kType);
    const std::string first = world.send_once(trim("base"));
    const std::string second = world.send_once(trim("base"));
    world.run_until([&] { return world.held() == 1; });
    FakePool& pool = world.kernel.pools.begin()->second;
    pool.core.needs_check = true;
    pool.mode = PoolMode::ro;
    world.run_for(3000);
    world.let_go();
    CHECK(word(world.answer(first)) == "ok");
    CHECK(word(world.answer(second)) == "needs_repair");
    CHECK(word(world.ask_once(trim("base"))) == "needs_repair");
    CHECK(world.commands[schemas::Trim::kType] == 1);
    world.repair_pools();
    check_quiet(world);
}

TEST_CASE("one volume that cannot be trimmed keeps none of the others from it", "[trim]") {
    ManagerOptions manager;
    manager.trim_ms = 600 * 1000;
    World world({.seed = 1, .manager = manager});
    world.run_for(320 * 1000);
    world.run_for(320 * 1000);  // Also without a pool it comes due.
    make_pool_and_base(world);
    make_mounted(world, "a", kPart);
    make_mounted(world, "b", kPart);
    schemas::VolumeGet read_only = get("base");
    read_only.read_only = true;
    REQUIRE(world.call(read_only));
    REQUIRE(world.call(create("attached", "base")));
    REQUIRE(world.call(attach("attached")));
    const std::string refused = uuid_of(world, "a");
    world.answer_instead = [&](const schemas::Command& command) -> std::optional<Result<std::string>> {
        if (command.type != schemas::Trim::kType) return std::nullopt;
        if (decode_as<schemas::Trim>(command.body)->dm_uuid != refused) return std::nullopt;
        return Error{Errc::unimplemented, "its device takes no discards"};
    };
    world.run_for(1200 * 1000);
    CHECK(world.mounts.trims[refused].empty());
    CHECK_FALSE(world.mounts.trims[uuid_of(world, "b")].empty());
    CHECK(world.mounts.trims[uuid_of(world, "base")].empty());
    CHECK(word(world.ask_once(trim("a"))) == "unimplemented");
    check_quiet(world);
}

}  // namespace cowslip::simulation
