// A volume grows: its size first, then its device, then its file system, which never is larger than its device
// (World::complaint looks at all three).
#include <cerrno>

#include <catch2/catch.hpp>

#include "common/names.h"
#include "common/thin_pool.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

constexpr std::uint64_t kLarger = 128 * kMiB;

schemas::VolumeResize resize(const std::string& id, std::uint64_t bytes) {
    schemas::VolumeResize message;
    message.id = id;
    message.size_bytes = bytes;
    return message;
}

void grow_a_mounted_one(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(get("base")));
    REQUIRE(world.call(resize("base", kLarger)));
    REQUIRE(world.call(create("clone", "base")));
    REQUIRE(world.call(resize("clone", 2 * kLarger)));
    REQUIRE(world.call(get("clone")));
}

}  // namespace

TEST_CASE("a volume that is mounted grows at once, and its file system with it", "[resize]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(get("base")));
    world.commands.clear();
    const auto reply = world.call(resize("base", kLarger - 100));
    REQUIRE(reply);
    CHECK(reply->changed);
    CHECK(reply->volume.size_bytes == kLarger);
    CHECK(world.device_sectors("base") == kLarger / kSectorBytes);
    CHECK(world.file_system_sectors("base") == kLarger / kSectorBytes);
    CHECK(world.commands[schemas::Unmount::kType] == 0);
    check_quiet(world);
}

TEST_CASE("the file system of a volume that is not mounted writable grows with the next such mount", "[resize]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const std::string how = GENERATE("idle", "attached", "mounted read-only", "inactive");
    CAPTURE(how);
    schemas::VolumeGet read_only = get("base");
    read_only.read_only = true;
    world.run_for(10000);  // Until it is not active any more.
    REQUIRE(world.device_sectors("base") == 0);
    if (how == "attached") REQUIRE(world.call(attach("base")));
    if (how == "mounted read-only") REQUIRE(world.call(read_only));
    if (how == "idle") {
        REQUIRE(world.call(get("base")));
        REQUIRE(world.call(put("base")));
        REQUIRE(world.device_sectors("base") != 0);
    }
    REQUIRE(world.call(resize("base", kLarger)));
    CHECK(world.device_sectors("base") == (how == "inactive" ? 0 : kLarger / kSectorBytes));
    CHECK(world.file_system_sectors("base") == 64 * kMiB / kSectorBytes);
    REQUIRE(world.call(detach("base")));
    REQUIRE(world.call(put("base")));
    REQUIRE(world.call(get("base")));
    CHECK(world.file_system_sectors("base") == kLarger / kSectorBytes);
    check_quiet(world);
    REQUIRE(world.call(put("base")));
    check_quiet(world);  // Nothing stays active.
}

TEST_CASE("a volume without a file system grows as well", "[resize]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    schemas::VolumeCreate raw = create("raw");
    raw.fs = "none";
    raw.size_bytes = 64 * kMiB;
    REQUIRE(world.call(raw));
    REQUIRE(world.call(attach("raw")));
    REQUIRE(world.call(resize("raw", kLarger)));
    CHECK(world.device_sectors("raw") == kLarger / kSectorBytes);
    CHECK(world.store().find_volume("raw")->fs_sectors == kLarger / kSectorBytes);
    check_quiet(world);
}

TEST_CASE("a volume never gets smaller, and the size it has is success", "[resize]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const auto same = world.call(resize("base", 64 * kMiB));
    REQUIRE(same);
    CHECK_FALSE(same->changed);
    CHECK(word(world.ask_once(resize("base", 32 * kMiB))) == "invalid_argument");
    CHECK(word(world.ask_once(resize("base", 0))) == "invalid_argument");
    CHECK(word(world.ask_once(resize("base", ~std::uint64_t{0}))) == "invalid_argument");
    CHECK(word(world.ask_once(resize("nobody", kLarger))) == "not_found");
    CHECK(show(world, "base").size_bytes == 64 * kMiB);
    CHECK(world.store().unfinished_operations().empty());
}

TEST_CASE("a volume grows once for one request id", "[resize]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const Answer first = world.ask_once(resize("base", kLarger), {.request_id = "one"});
    REQUIRE(word(first) == "ok");
    REQUIRE(world.call(resize("base", 2 * kLarger)));
    CHECK(world.ask_once(resize("base", kLarger), {.request_id = "one"}).frame == first.frame);
    CHECK(show(world, "base").size_bytes == 2 * kLarger);
}

TEST_CASE("a file system that cannot grow now does with the next mount; the size stays", "[resize]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(get("base")));
    world.mounts.directories.at("base").mount->options.read_only = true;  // As after an error of ext4.
    const Answer failed = world.ask_once(resize("base", kLarger), {.request_id = "one"});
    CHECK(word(failed) == "in_use");
    CHECK(show(world, "base").size_bytes == kLarger);
    CHECK(world.store().unfinished_operations().empty());
    CHECK(world.ask_once(resize("base", kLarger), {.request_id = "one"}).frame == failed.frame);
    REQUIRE(world.call(put("base")));
    REQUIRE(world.call(get("base")));
    CHECK(world.file_system_sectors("base") == kLarger / kSectorBytes);
    check_quiet(world);
}

TEST_CASE("a device that did not grow has its size with the next get", "[resize]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(get("base")));
    const std::string uuid = thin_dm_uuid(world.store().pool()->spec.pool.uuid, show(world, "base").thin_id);
    world.kernel.resume_fails = {uuid};
    CHECK(word(world.ask_once(resize("base", kLarger))) == "internal");
    world.kernel.resume_fails.clear();
    world.run_for(2000);  // Until it is resumed, with the new table.
    REQUIRE(world.call(put("base")));
    REQUIRE(world.call(get("base")));
    CHECK(world.device_sectors("base") == kLarger / kSectorBytes);
    CHECK(world.file_system_sectors("base") == kLarger / kSectorBytes);
    check_quiet(world);
}

TEST_CASE("a death at any effect or turn of a growing volume leaves a file system that fits", "[resize]") {
    die_everywhere(false, grow_a_mounted_one, [](World& world) {
        CHECK(world.file_system_sectors("base") == kLarger / kSectorBytes);
        CHECK(world.file_system_sectors("clone") == 2 * kLarger / kSectorBytes);
    });
}

TEST_CASE("a power cut at any effect or turn of a growing volume leaves a file system that fits", "[resize]") {
    die_everywhere(true, grow_a_mounted_one, [](World& world) {
        CHECK(show(world, "base").size_bytes == kLarger);
        REQUIRE(world.call(get("base")));
        CHECK(world.file_system_sectors("base") == kLarger / kSectorBytes);
        REQUIRE(world.call(get("clone")));
        CHECK(world.file_system_sectors("clone") == 2 * kLarger / kSectorBytes);
    });
}

TEST_CASE("a device whose actor dies while it is suspended to grow is resumed at once", "[resize]") {
    World world({.seed = 1, .device_actors = 3});
    guarded(world, [&] {
        make_pool_and_base(world);
        REQUIRE(world.call(attach("base")));
        const std::string uuid = thin_dm_uuid(world.store().pool()->spec.pool.uuid, show(world, "base").thin_id);
        const auto before_effect = world.kernel.before_effect;
        std::int64_t died_at = 0;
        const auto suspended = [&] {
            for (const auto& [number, device] : world.kernel.devices) {
                if (device.device.uuid == uuid) return device.suspended;
            }
            return false;
        };
        world.kernel.before_effect = [&](const std::string& effect) {
            before_effect(effect);
            if (died_at != 0 || !suspended()) return;
            died_at = world.now_ms();
            throw Death{};
        };
        bool grown = false;
        world.hold_commands(schemas::Activate::kType);  // Whoever gets the second copy is slow with it.
        world.ask(resize("base", kLarger), [&](const Answer& answer) { grown = word(answer) == "ok"; });
        world.run_until([&] { return world.held() == 1; });
        world.let_go();
        world.run_until([&] { return died_at != 0; });
        world.hold_commands(schemas::Activate::kType);
        world.run_until([&] { return !suspended(); });
        CHECK(world.now_ms() - died_at <= 500);
        world.let_go();
        world.run_until([&] { return grown; });
        CHECK(world.device_sectors("base") == kLarger / kSectorBytes);
        check_quiet(world);
    });
}

}  // namespace cowslip::simulation
