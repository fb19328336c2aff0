// Clones of an image that are kept ready: made ahead, taken with one commit, given up where there is no room.
#include <algorithm>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/names.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

enum class Kept { active, mounted };

schemas::VolumeFreeze warm(const std::string& id, std::uint32_t count, Kept kept = Kept::active) {
    schemas::VolumeFreeze message;
    message.id = id;
    message.warm = count;
    message.warm_mounted = kept == Kept::mounted;
    return message;
}

schemas::VolumeCreate create_and_get(const std::string& id, const std::string& parent = "base") {
    schemas::VolumeCreate message = create(id, parent);
    message.get = true;
    return message;
}

schemas::VolumePut put_and_remove(const std::string& id) {
    schemas::VolumePut message = put(id);
    message.remove = true;
    return message;
}

void wait_until_warm(World& world, const std::string& id = "base") {
    world.run_until([&] {
        const auto row = world.ready() ? world.store().find_volume(id) : std::nullopt;
        if (!row) return false;
        const auto state = show(world, id).warm;
        return state && state->ready == state->wanted;
    });
}

void make_warm(World& world, std::uint32_t count, Kept kept = Kept::active) {
    make_pool_and_base(world);
    REQUIRE(world.call(warm("base", count, kept)));
    wait_until_warm(world);
    world.run_for(5000);  // What was idle is put away.
}

std::vector<VolumeRow> clones(World& world, const std::string& id = "base") {
    return world.store().warm_clones(world.store().find_volume(id)->thin_id);
}

std::size_t active_devices(World& world) {
    return world.kernel.devices.size() - world.kernel.pools.size();
}

std::uint64_t warm_taken(World& world) {
    auto counters = body_of<schemas::SystemStatus>(world.ask_once(schemas::SystemStatus{})).counters;
    return counters["warm_taken"];
}

int commands(const World& world) {
    int sum = 0;
    for (const auto& [type, count] : world.commands) {
        if (type != schemas::ReadPoolStatus::kType) sum += count;
    }
    return sum;
}

// Nothing is made ahead meanwhile.
void hold_filling(World& world) {
    world.hold_commands(schemas::CreateSnap::kType);
}

bool was_told(World& world, const std::string& type, const std::string& subject) {
    for (const auto& event : body_of<schemas::EventSince>(world.ask_once(schemas::EventSince{})).events) {
        if (event.type == type && event.subject == subject) return true;
    }
    return false;
}

void check_found_nothing(World& world) {
    const auto report = world.call(schemas::SystemFsck{});
    REQUIRE(report);
    for (const auto& finding : report->findings) FAIL_CHECK(finding.kind << " " << finding.subject);
    CHECK(findings(world).empty());
}

void main_job(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(warm("base", 2, Kept::mounted)));
    world.run_for(1000);
    REQUIRE(world.call(create_and_get("a")));
    REQUIRE(world.call(create("b", "base")));
    REQUIRE(world.call(put_and_remove("a")));
    REQUIRE(world.call(create_and_get("a")));
}

void end_of_an_image(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(warm("base", 2, Kept::mounted)));
    world.run_for(1000);
    REQUIRE(world.call(create_and_get("a")));
    REQUIRE(world.call(remove("base")));
}

}  // namespace

TEST_CASE("clones of an image are made ahead, active and mounted as it was asked for", "[warm]") {
    const Kept kept = GENERATE(Kept::active, Kept::mounted);
    World world({.seed = 1});
    make_pool_and_base(world);
    const auto frozen = world.call(warm("base", 3, kept));
    REQUIRE(frozen);
    CHECK(frozen->changed);
    CHECK(frozen->volume.kind == "image");
    REQUIRE(frozen->volume.warm);
    CHECK(frozen->volume.warm->wanted == 3);
    CHECK(frozen->volume.warm->mounted == (kept == Kept::mounted));
    wait_until_warm(world);
    world.run_for(60000);
    CHECK(show(world, "base").warm->ready == 3);
    CHECK(clones(world).size() == 3);
    CHECK(active_devices(world) == 3);
    CHECK(world.mounts.directories.size() == (kept == Kept::mounted ? 3 : 0));
    CHECK(body_of<schemas::VolumeList>(world.ask_once(schemas::VolumeList{})).volumes.size() == 1);
    CHECK(body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{})).volumes == 1);
    check_found_nothing(world);
    const auto again = world.call(warm("base", 3, kept));
    REQUIRE(again);
    CHECK_FALSE(again->changed);
    schemas::VolumeFreeze without;
    without.id = "base";
    CHECK(world.call(without)->volume.warm->wanted == 3);
    check_quiet(world);
}

TEST_CASE("a create takes a mounted clone with one command and one commit", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 2, Kept::mounted);
    hold_filling(world);
    const std::uint32_t oldest = clones(world).front().thin_id;
    const int before = commands(world);
    const int renames = world.commands[schemas::RenameMount::kType];
    const int commits = static_cast<int>(
        body_of<schemas::SystemStatus>(world.ask_once(schemas::SystemStatus{})).counters.at("commits"));
    schemas::VolumeCreate request = create_and_get("a");
    request.labels = {{"team", "blue"}};
    const auto created = world.call(request);
    REQUIRE(created);
    CHECK(commands(world) == before + 1);
    CHECK(world.commands[schemas::RenameMount::kType] == renames + 1);
    CHECK(static_cast<int>(
              body_of<schemas::SystemStatus>(world.ask_once(schemas::SystemStatus{})).counters.at("commits")) <=
          commits + 2);  // The filling's intent is the other one.
    CHECK(created->path == "/fake/mnt/a/rootfs");
    CHECK(created->volume.thin_id == oldest);
    const auto volume = show(world, "a");
    CHECK(volume.kind == "volume");
    CHECK(volume.parent == "base");
    CHECK(volume.labels == request.labels);
    CHECK(volume.leases.size() == 1);
    CHECK(volume.mount == created->path);
    CHECK(world.mounts.directories.at("a").id == "a");
    CHECK(was_told(world, "volume.created", "a"));
    CHECK(warm_taken(world) == 1);
    world.let_go();
    wait_until_warm(world);
    CHECK(clones(world).size() == 2);
    check_found_nothing(world);
    REQUIRE(world.call(put_and_remove("a")));
    check_quiet(world);
}

TEST_CASE("a repeated create has the first answer, byte for byte, and takes no second clone", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 2, Kept::mounted);
    const Answer first = world.ask_once(create_and_get("a"), {.request_id = "one"});
    REQUIRE(word(first) == "ok");
    const bool another = GENERATE(false, true);
    if (another) world.kill_manager();
    const Answer second = world.ask_once(create_and_get("a"), {.request_id = "one"});
    CHECK(second.frame == first.frame);
    wait_until_warm(world);
    CHECK(thins_of_volumes(world) == 5);  // The template, the image, "a" and two.
    check_quiet(world);
}

TEST_CASE("a create that does not get takes a clone, and nothing stays mounted below its name", "[warm]") {
    const Kept kept = GENERATE(Kept::active, Kept::mounted);
    World world({.seed = 1});
    make_warm(world, 1, kept);
    hold_filling(world);
    const std::uint32_t clone = clones(world).front().thin_id;
    const auto created = world.call(create("a", "base"));
    REQUIRE(created);
    CHECK(created->path.empty());
    CHECK(created->volume.thin_id == clone);
    CHECK(show(world, "a").leases.empty());
    const bool at_once = GENERATE(false, true);
    if (!at_once) world.run_for(10000);
    if (!at_once) CHECK(world.mounts.directories.empty());
    const int activations = world.commands[schemas::Activate::kType];
    const auto got = world.call(get("a"));
    REQUIRE(got);
    CHECK(got->path == "/fake/mnt/a/rootfs");
    if (at_once) CHECK(world.commands[schemas::Activate::kType] == activations);
    world.let_go();
    check_quiet(world);
}

TEST_CASE("a create that wants another size, other options or a mount label is made as it wants it", "[warm]") {
    World world({.seed = 1});
    world.mounts.has_selinux = true;
    make_warm(world, 1, Kept::mounted);
    schemas::VolumeCreate request = create_and_get("a");
    const std::string what = GENERATE(as<std::string>(), "size", "options", "label", "filling");
    CAPTURE(what);
    if (what == "size") request.size_bytes = 128 * kMiB;
    if (what == "options") request.mount_options = "nodev";
    if (what == "label") request.mount_label = "a:b:c";
    if (what == "filling") request.filling = true;
    const auto created = world.call(request);
    REQUIRE(created);
    CHECK(warm_taken(world) == 0);
    CHECK(clones(world).size() == 1);
    if (what == "size") CHECK(created->volume.size_bytes == 128 * kMiB);
    if (what == "options") CHECK(world.mounts.directories.at("a").mount->chosen == "nodev");
    if (what == "label") CHECK(world.mounts.directories.at("a").mount->options.mount_label == "a:b:c");
    if (what == "filling") CHECK(created->volume.state == "creating");
    if (what == "filling") REQUIRE(world.call(put_and_remove("a")));
    check_quiet(world);
}

TEST_CASE("what refuses a create refuses it with warm clones as well", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 1, Kept::mounted);
    CHECK(word(world.ask_once(create_and_get("base"))) == "already_exists");
    schemas::PoolQuota quota;
    quota.label = "team=blue";
    quota.max_bytes = kMiB;
    REQUIRE(world.call(quota));
    schemas::VolumeCreate request = create_and_get("a");
    request.labels = {{"team", "blue"}};
    CHECK(word(world.ask_once(request)) == "no_space");
    CHECK(warm_taken(world) == 0);
    // What is promised is counted when it has its name.
    quota.max_bytes = 64 * kMiB;
    REQUIRE(world.call(quota));
    REQUIRE(world.call(request));
    CHECK(warm_taken(world) == 1);
    request.id = "b";
    CHECK(word(world.ask_once(request)) == "no_space");
    check_quiet(world);
}

TEST_CASE("a create takes a warm clone where the pool's clock has no snapshot left", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 1, Kept::mounted);
    constexpr std::uint32_t kNearlyOver = (1U << 24U) - 1000;
    world.kernel.media.at("file:metadata").metadata.time = kNearlyOver;
    world.kernel.pools.begin()->second.core.time = kNearlyOver;
    world.run_for(5000);
    CHECK(world.call(create_and_get("a")));
    CHECK(word(world.ask_once(create_and_get("b"))) == "no_space");
    world.run_for(60000);
    CHECK(clones(world).empty());
}

TEST_CASE("many creates at once take a clone each, and the others are made", "[warm]") {
    World world({.seed = 1, .device_actors = 4, .mount_actors = 4});
    make_warm(world, 4, Kept::mounted);
    std::vector<std::string> sent;
    for (int i = 0; i < 8; ++i) sent.push_back(world.send_once(create_and_get(fmt::format("v{}", i))));
    for (const std::string& id : sent) CHECK(word(world.answer(id)) == "ok");
    CHECK(warm_taken(world) >= 4);
    wait_until_warm(world);
    check_quiet(world);
}

TEST_CASE("clones are given up where no volume is made for want of room, and made again where there is more",
          "[warm]") {
    World world({.seed = 1});
    make_warm(world, 3, Kept::mounted);
    schemas::PoolSetLimits limits;
    const bool data = GENERATE(true, false);
    const auto status = body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{}));
    const std::uint64_t total = data ? status.data.total_bytes : status.metadata.total_bytes;
    auto& limit = data ? limits.min_free_bytes : limits.min_free_metadata_bytes;
    limit = total + 4096;
    REQUIRE(world.call(limits));
    world.run_for(10000);
    CHECK(clones(world).empty());
    CHECK(thins_of_volumes(world) == 2);
    CHECK(was_told(world, "volume.warm_given_up", "base"));
    CHECK(show(world, "base").warm->wanted == 3);
    // A volume may be made, and no clone ahead.
    limit = total * 9 / 10;
    REQUIRE(world.call(limits));
    CHECK(world.call(create("a", "base")));
    world.run_for(60000);
    CHECK(clones(world).empty());
    limit = total / 2;
    REQUIRE(world.call(limits));
    wait_until_warm(world);
    check_quiet(world);
}

TEST_CASE("an image goes with its clones, and so they go when none are wanted any more", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 3, Kept::mounted);
    SECTION("removed") {
        REQUIRE(world.call(remove("base")));
        world.run_for(10000);
        CHECK(thins_of_volumes(world) == 1);  // The template.
        CHECK_FALSE(exists(world, "base"));
    }
    SECTION("removed, and waited for") {
        REQUIRE(world.call(remove_and_wait("base")));
        world.run_for(10000);
        CHECK(thins_of_volumes(world) == 1);
    }
    SECTION("none wanted") {
        const auto none = world.call(warm("base", 0));
        REQUIRE(none);
        CHECK(none->changed);
        CHECK_FALSE(none->volume.warm);
        world.run_for(10000);
        CHECK(thins_of_volumes(world) == 2);
        CHECK(show(world, "base").kind == "image");
    }
    SECTION("fewer wanted") {
        REQUIRE(world.call(warm("base", 1, Kept::mounted)));
        world.run_for(10000);
        CHECK(thins_of_volumes(world) == 3);
        CHECK(show(world, "base").warm->ready == 1);
    }
    SECTION("more wanted, and not mounted") {
        REQUIRE(world.call(warm("base", 4)));
        wait_until_warm(world);
        CHECK(thins_of_volumes(world) == 6);
    }
    check_found_nothing(world);
    check_quiet(world);
}

TEST_CASE("an image that is renamed keeps its clones", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 2, Kept::mounted);
    schemas::VolumeRename rename;
    rename.id = "base";
    rename.new_id = "first";
    REQUIRE(world.call(rename));
    REQUIRE(world.call(create_and_get("a", "first")));
    CHECK(show(world, "a").parent == "first");
    CHECK(warm_taken(world) == 1);
    wait_until_warm(world, "first");
    check_quiet(world);
}

TEST_CASE("only so many clones are kept, of one image and of all", "[warm]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    CHECK(word(world.ask_once(warm("base", 65))) == "invalid_argument");
    CHECK(show(world, "base").kind == "volume");
    schemas::VolumeFreeze mounted_alone;
    mounted_alone.id = "base";
    mounted_alone.warm_mounted = true;
    CHECK(word(world.ask_once(mounted_alone)) == "invalid_argument");
    for (int i = 0; i < 5; ++i) REQUIRE(world.call(create(fmt::format("image-{}", i), "base")));
    for (int i = 0; i < 4; ++i) REQUIRE(world.call(warm(fmt::format("image-{}", i), 64)));
    const Answer refused = world.ask_once(warm("image-4", 1));
    REQUIRE(word(refused) == "no_space");
    CHECK_THAT(refused.error->message, Catch::Contains("--warm 0"));
    REQUIRE(world.call(warm("image-0", 63)));
    REQUIRE(world.call(warm("image-4", 1)));
}

TEST_CASE("warm clones that the bound of devices has no room for stay in the pool, and are taken there", "[warm]") {
    ManagerOptions manager;
    manager.max_idle_devices = 2;
    World world({.seed = 1, .manager = manager});
    make_pool_and_base(world);
    REQUIRE(world.call(warm("base", 4, Kept::mounted)));
    world.run_for(30000);
    CHECK(clones(world).size() == 4);
    CHECK(show(world, "base").warm->ready == 2);
    CHECK(active_devices(world) == 2);
    const int activations = world.commands[schemas::Activate::kType];
    world.run_for(30000);
    CHECK(world.commands[schemas::Activate::kType] == activations);  // None takes the place of another.
    hold_filling(world);
    for (int i = 0; i < 4; ++i) REQUIRE(world.call(create_and_get(fmt::format("v{}", i))));
    CHECK(warm_taken(world) == 4);
    world.let_go();
    check_quiet(world);
}

TEST_CASE("of devices that are kept, idle ones are put away before warm ones", "[warm]") {
    ManagerOptions manager;
    manager.max_idle_devices = 2;
    manager.idle_ms = 20000;
    World world({.seed = 1, .manager = manager});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(create("b", "base")));
    world.run_for(30000);
    for (const char* id : {"a", "b"}) {
        REQUIRE(world.call(get(id)));
        REQUIRE(world.call(put(id)));
        world.run_for(100);
    }
    CHECK(active_devices(world) == 2);
    REQUIRE(world.call(warm("base", 1)));
    wait_until_warm(world);
    world.run_for(1000);
    CHECK_FALSE(show(world, "a").device);
    CHECK(show(world, "b").device);
    REQUIRE(world.call(warm("base", 2)));
    wait_until_warm(world);
    world.run_for(1000);
    CHECK_FALSE(show(world, "b").device);
    REQUIRE(world.call(get("b")));
    REQUIRE(world.call(put("b")));
    const int activations = world.commands[schemas::Activate::kType];
    world.run_for(60000);
    CHECK(show(world, "base").warm->ready == 2);
    CHECK(world.commands[schemas::Activate::kType] == activations);  // Warm ones have no time to be over.
    // A process that may keep fewer puts away the oldest.
    const auto kept = clones(world);
    world.manager_options().max_idle_devices = 1;
    world.kill_manager();
    world.run_for(10000);
    CHECK(show(world, "base").warm->ready == 1);
    CHECK(active_devices(world) == 1);
    CHECK(world.kernel.devices.size() == 2);
    check_quiet(world);
}

TEST_CASE("a pool with warm clones is stopped, cleaned up, rewound and destroyed as any other", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 2, Kept::mounted);
    SECTION("stopped") {
        REQUIRE(world.call(schemas::PoolStop{}));
        CHECK(world.kernel.devices.empty());
        CHECK(world.mounts.directories.empty());
        world.run_for(60000);
        CHECK(world.kernel.devices.empty());
        REQUIRE(world.call(schemas::PoolStart{}));
        wait_until_warm(world);
    }
    SECTION("cleaned up and rewound") {
        const auto cleaned = world.call(schemas::SystemCleanup{});
        REQUIRE(cleaned);
        CHECK(cleaned->left.empty());
        CHECK(world.mounts.directories.empty());
        REQUIRE(world.call(schemas::PoolRewind{}));
        REQUIRE(world.call(schemas::PoolStart{}));
        world.run_for(10000);
        CHECK(clones(world).size() == 2);
        return;  // The fake file systems do not move with the thin ids.
    }
    SECTION("destroyed") {
        schemas::PoolDestroy destroy;
        destroy.name = "default";
        REQUIRE(world.call(destroy));
        CHECK(world.kernel.devices.empty());
        CHECK(world.mounts.directories.empty());
        return;
    }
    check_quiet(world);
}

TEST_CASE("a start keeps what is warm, and what it misses is made ready again", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 2, Kept::mounted);
    const auto before = clones(world);
    const bool reboot = GENERATE(false, true);
    const int unmounts = world.commands[schemas::Unmount::kType];
    reboot ? world.cut_power() : world.kill_manager();
    wait_until_warm(world);
    CHECK(clones(world).size() == before.size());
    CHECK(clones(world).front().thin_id == before.front().thin_id);
    if (!reboot) CHECK(world.commands[schemas::Unmount::kType] == unmounts);
    check_found_nothing(world);
    REQUIRE(world.call(create_and_get("a")));
    CHECK(warm_taken(world) == 1);
    check_quiet(world);
}

TEST_CASE("a clone whose mount has got a name and whose row has not is put right by the next start", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 1, Kept::mounted);
    world.hold_replies(schemas::RenameMount::kType);
    const std::string sent = world.send_once(create_and_get("a"));
    world.run_until([&] { return world.held() == 1; });
    REQUIRE(world.mounts.directories.contains("a"));
    world.kill_manager();
    world.let_go();
    world.run_until([&] { return world.ready(); });
    CHECK_FALSE(exists(world, "a"));
    wait_until_warm(world);
    CHECK_FALSE(world.mounts.directories.contains("a"));
    CHECK(clones(world).size() == 1);
    REQUIRE(world.call(create_and_get("a")));
    check_quiet(world);
}

TEST_CASE("a clone that the pool has lost, or that is damaged, is not taken", "[warm]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const bool lost = GENERATE(true, false);
    REQUIRE(world.call(warm("base", 1)));
    wait_until_warm(world);
    const std::uint32_t thin_id = clones(world).front().thin_id;
    if (lost) {
        REQUIRE(world.call(schemas::PoolStop{}));
        world.kernel.media.at("file:metadata").metadata.thins.erase(thin_id);
        REQUIRE(world.call(schemas::PoolStart{}));
    } else {
        world.content(thin_dm_uuid(world.store().pool()->spec.pool.uuid, thin_id)).fs = "";
    }
    const auto created = world.call(create_and_get("a"));
    REQUIRE(created);
    CHECK(created->volume.thin_id != thin_id);
    wait_until_warm(world);
    CHECK(clones(world).front().thin_id != thin_id);
    REQUIRE(world.call(create_and_get("b")));
    CHECK(warm_taken(world) >= 1);
    check_found_nothing(world);
    check_quiet(world);
}

TEST_CASE("clones that were there when a commit of the pool failed are given up", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 2, Kept::mounted);
    const auto before = clones(world);
    FakePool& pool = world.kernel.pools.begin()->second;
    world.kernel.fail_commits = 1;
    world.kernel.commit(pool);
    world.run_for(60000);
    wait_until_warm(world);
    for (const VolumeRow& clone : clones(world)) CHECK(clone.thin_id > before.back().thin_id);
    CHECK(was_told(world, "volume.warm_given_up", "base"));
    REQUIRE(world.call(create_and_get("a")));
    check_quiet(world);
}

TEST_CASE("a clone that is being made when the pool leaves service keeps nobody from putting the pool away", "[warm]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(get("a")));  // The pool is not repaired by itself.
    world.run_for(10000);
    world.hold_commands(schemas::CreateSnap::kType);
    REQUIRE(world.call(warm("base", 1)));
    world.run_until([&] { return world.held() == 1; });
    world.kernel.fail_commits = 1;
    world.let_go();
    world.run_for(3000);
    CHECK(word(world.ask_once(schemas::SystemCleanup{}, {.timeout_ms = 60000})) != "timed_out");
    world.repair_pools();
    wait_until_warm(world);
    schemas::VolumePut ending = put("a");
    ending.force = true;
    REQUIRE(world.call(ending));
    check_quiet(world);
}

TEST_CASE("what fails while a clone is made is tried again, ever more slowly", "[warm]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const std::string type =
        GENERATE(as<std::string>(), schemas::CreateSnap::kType, schemas::Activate::kType, schemas::Mount::kType);
    CAPTURE(type);
    REQUIRE(world.call(schemas::VolumeFreeze{.id = "base"}));
    world.run_for(10000);
    world.answer_instead = [&](const schemas::Command& command) -> std::optional<Result<std::string>> {
        if (command.type != type) return std::nullopt;
        return Error{Errc::internal, "it does not go"};
    };
    const int before = world.commands[type];
    REQUIRE(world.call(warm("base", 1, Kept::mounted)));
    world.run_for(60000);
    CHECK(world.commands[type] - before >= 3);
    CHECK(world.commands[type] - before <= 10);
    world.answer_instead = nullptr;
    wait_until_warm(world);
    check_quiet(world);
}

TEST_CASE("a volume without a file system has warm clones that are active", "[warm]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    schemas::VolumeCreate raw = create("raw");
    raw.fs = "none";
    raw.size_bytes = 64 * kMiB;
    REQUIRE(world.call(raw));
    const auto frozen = world.call(warm("raw", 1, Kept::mounted));
    REQUIRE(frozen);
    CHECK_FALSE(frozen->volume.warm->mounted);
    wait_until_warm(world, "raw");
    const int activations = world.commands[schemas::Activate::kType];
    REQUIRE(world.call(create("a", "raw")));
    REQUIRE(world.call(attach("a")));
    CHECK(warm_taken(world) == 1);
    CHECK(world.commands[schemas::Activate::kType] <= activations + 1);  // That of the next one.
    check_quiet(world);
}

TEST_CASE("what an image takes of the pool has what its warm clones take", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 2, Kept::mounted);
    for (const VolumeRow& clone : clones(world)) {
        const std::string uuid = world.store().pool()->spec.pool.uuid;
        REQUIRE(world.kernel.write({thin_dm_name(uuid, clone.thin_id), thin_dm_uuid(uuid, clone.thin_id)}, 1) == 0);
    }
    REQUIRE(world.call(schemas::PoolMeasure{.exact = true}));
    const auto image = show(world, "base");
    CHECK(image.exclusive_bytes == 2 * 65536);
    CHECK(*image.mapped_bytes == *image.exclusive_bytes + *image.shared_bytes);
    check_quiet(world);
}

TEST_CASE("a store that is made anew loses no clone that was given a name since its backup", "[warm]") {
    World world({.seed = 1});
    make_warm(world, 1, Kept::mounted);
    world.run_for(120 * 1000);  // The pool has a backup of it by then.
    const auto created = world.call(create_and_get("a"));
    REQUIRE(created);
    REQUIRE(world.call(put("a")));
    lose_store(world);
    const auto rebuilt = world.call(schemas::PoolRebuild{});
    REQUIRE(rebuilt);
    const std::string recovered = fmt::format("recovered-{}", created->volume.thin_id);
    CHECK(exists(world, recovered));
    CHECK(show(world, "base").warm->wanted == 1);
    wait_until_warm(world);
    check_quiet(world);
}

TEST_CASE("a death at any effect or turn of taking warm clones loses nothing and leaves nothing", "[warm]") {
    die_everywhere(false, main_job, [](World& world) {
        wait_until_warm(world);
        CHECK(clones(world).size() == 2);
        CHECK(show(world, "a").leases.size() == 1);
        CHECK(world.mounts.directories.at("a").id == "a");
        CHECK(exists(world, "b"));
    });
}

TEST_CASE("a power cut at any effect or turn of taking warm clones loses only leases", "[warm]") {
    die_everywhere(true, main_job, [](World& world) {
        wait_until_warm(world);
        CHECK(clones(world).size() == 2);
        CHECK(exists(world, "a"));
        CHECK(exists(world, "b"));
        CHECK(world.call(get("a")));
    });
}

TEST_CASE("a death or power cut at any effect or turn of an image's removal leaves none of its clones", "[warm]") {
    const bool power_cut = GENERATE(false, true);
    die_everywhere(power_cut, end_of_an_image, [](World& world) {
        CHECK_FALSE(exists(world, "base"));
        CHECK(exists(world, "a"));
        CHECK(thins_of_volumes(world) == 2);
    });
}

}  // namespace cowslip::simulation
