// The manager through its messages: the lives of volumes, in order, and what the pool says about them.
#include <algorithm>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/names.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

FakePool& pool_of(World& world) {
    return world.kernel.pools.begin()->second;
}

FakeMetadata& disk_of(World& world) {
    return world.kernel.media.at("file:metadata").metadata;
}

std::uint32_t next_thin_id(World& world) {
    return world.store().pool()->next_thin_id;
}

schemas::VolumeRemove must_exist(const std::string& id) {
    schemas::VolumeRemove request = remove(id);
    request.must_exist = true;
    return request;
}

}  // namespace

TEST_CASE("removing an unknown volume is success unless it must exist", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    CHECK_FALSE(world.call(remove("nobody"))->existed);
    CHECK_FALSE(world.call(remove_and_wait("nobody"))->existed);
    CHECK(word(world.ask_once(must_exist("nobody"))) == "not_found");
    CHECK(world.call(must_exist("base"))->existed);
    CHECK(word(world.ask_once(must_exist("base"))) == "not_found");
    check_quiet(world);
}

TEST_CASE("a remove that means another life of the name changes nothing", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    const std::uint32_t first = show(world, "a").thin_id;
    REQUIRE(world.call(remove("a")));
    REQUIRE(world.call(create("a", "base")));
    const std::uint32_t second = show(world, "a").thin_id;
    CHECK(second > first);
    schemas::VolumeRemove old = remove("a");
    old.thin_id = first;
    CHECK_FALSE(world.call(old)->existed);
    CHECK(show(world, "a").thin_id == second);
    old.must_exist = true;
    CHECK(word(world.ask_once(old)) == "not_found");
    old.thin_id = second;
    CHECK(world.call(old)->existed);
    CHECK_FALSE(exists(world, "a"));
}

TEST_CASE("a clone outlives its parent, and is cloned and mounted like any other", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("child", "base")));
    REQUIRE(world.call(remove_and_wait("base")));
    REQUIRE(world.call(create("grandchild", "child")));
    CHECK(show(world, "grandchild").parent == "child");
    CHECK(show(world, "child").parent == "base");
    CHECK(show(world, "grandchild").size_bytes == 64 * kMiB);
    REQUIRE(world.call(remove_and_wait("child")));
    CHECK(world.call(get("grandchild")));
    check_quiet(world);
}

TEST_CASE("a volume is made and mounted with the options that were asked for, or configured, and its clones like it",
          "[manager]") {
    Options options{.seed = 1};
    options.manager.filesystems["ext4"] = {.mkfs = "reserved-percent=1", .mount = "nodev"};
    World world(options);
    make_pool_and_base(world);  // As it is configured.
    const auto uuid_of = [&](const std::string& id) {
        return thin_dm_uuid(world.store().pool()->spec.pool.uuid, show(world, id).thin_id);
    };
    const auto made_with = [&](const std::string& id) { return world.content(uuid_of(id)).options; };
    const auto mounted_with = [&](const std::string& id) {
        REQUIRE(world.call(get(id)));
        return world.mounts.directories.at(volume_directory(id)).mount->chosen;
    };
    CHECK(mounted_with("base") == "nodev");
    schemas::VolumeCreate request = create("own", "");
    request.size_bytes = 64 * kMiB;
    request.mkfs_options = "journal-mib=8,inode-size=512";
    request.mount_options = "commit=30";
    REQUIRE(world.call(request));
    CHECK(show(world, "own").mkfs_options == "inode-size=512,journal-mib=8");
    CHECK(mounted_with("own") == "commit=30");
    request = create("bare", "");
    request.size_bytes = 64 * kMiB;
    request.mkfs_options = "";
    request.mount_options = "";
    REQUIRE(world.call(request));
    CHECK(mounted_with("bare").empty());
    REQUIRE(world.call(create("clone", "own")));
    request = create("other clone", "own");
    request.mount_options = "sync";
    REQUIRE(world.call(request));
    CHECK(mounted_with("clone") == "commit=30");
    CHECK(mounted_with("other clone") == "sync");
    CHECK(show(world, "other clone").mkfs_options == "inode-size=512,journal-mib=8");
    CHECK(made_with("base") == "reserved-percent=1");
    CHECK(made_with("own") == "inode-size=512,journal-mib=8");
    CHECK(made_with("clone") == "inode-size=512,journal-mib=8");
    CHECK(made_with("bare").empty());

    // Also where the machine has begun anew, and from the pool's own backup.
    world.cut_power();
    world.run_for(5000);
    CHECK(mounted_with("clone") == "commit=30");
    check_quiet(world);
}

TEST_CASE("options of a file system that are wrong make no volume", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const auto refused = [&](const std::string& parent, const char* fs, std::optional<std::string> mkfs,
                             std::optional<std::string> mount) {
        schemas::VolumeCreate request = create("a", parent);
        request.fs = fs;
        request.mkfs_options = std::move(mkfs);
        request.mount_options = std::move(mount);
        return word(world.ask_once(request)) == "invalid_argument";
    };
    CHECK(refused("", "ext4", "O=^has_journal", std::nullopt));
    CHECK(refused("", "ext4", std::nullopt, "errors=panic"));
    CHECK(refused("", "xfs", "bytes-per-inode=8192", std::nullopt));
    CHECK(refused("", "none", std::nullopt, "nodev"));
    CHECK(refused("base", "", "inode-size=512", std::nullopt));
    CHECK(refused("base", "", std::nullopt, "norecovery"));
    CHECK_FALSE(exists(world, "a"));
    check_quiet(world);
}

TEST_CASE("requests about one name are carried out in order of arrival", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const std::vector<std::string> ids = {
        world.send_once(create("a", "base")), world.send_once(create("b", "a")), world.send_once(get("b")),
        world.send_once(create("c", "b")),    world.send_once(put("b")),         world.send_once(remove("b")),
        world.send_once(create("b", "c")),    world.send_once(remove("a")),      world.send_once(create("a", "b")),
    };
    for (const auto& id : ids) CHECK(word(world.answer(id)) == "ok");
    CHECK(show(world, "b").parent == "c");
    CHECK(show(world, "a").parent == "b");
    check_quiet(world);
}

TEST_CASE("requests about one name keep their order when the pool has to be started first", "[manager]") {
    // Bug: each went through the pool's start on its own, and they came out of it in another order.
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.kernel.pools.empty());
    const std::vector<std::string> ids = {
        world.send_once(create("a", "base")),
        world.send_once(create("b", "a")),
        world.send_once(get("b")),
        world.send_once(put("b")),
        world.send_once(remove("b")),
        world.send_once(create("b", "a")),
    };
    for (const auto& id : ids) {
        const Answer answer = world.answer(id);
        INFO((answer.error ? answer.error->message : ""));
        CHECK(word(answer) == "ok");
    }
    check_quiet(world);
}

TEST_CASE("a create behind an unfinished removal of the name waits for its verdict and is a new life", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    const std::uint32_t first = show(world, "a").thin_id;
    world.hold_commands(schemas::DeleteThin::kType);
    const std::string removal = world.send_once(remove_and_wait("a"));
    const std::string creation = world.send_once(create("a", "base"));
    world.run_for(5000);
    CHECK(world.answers(removal).empty());
    world.let_go();
    CHECK(word(world.answer(removal)) == "ok");
    CHECK(word(world.answer(creation)) == "ok");
    CHECK(show(world, "a").thin_id > first);

    // Without waiting the name is free at once, whatever becomes of the blocks.
    world.hold_commands(schemas::DeleteThin::kType);
    REQUIRE(world.call(remove("a")));
    REQUIRE(world.call(create("a", "base")));
    world.let_go();
    check_quiet(world);
    CHECK(exists(world, "a"));
}

TEST_CASE("removals past the bound wait for a place, and are busy at their deadline", "[manager]") {
    Options options{.seed = 1};
    options.manager.max_behind = 2;
    World world(options);
    make_pool_and_base(world);
    for (const auto* id : {"a", "b", "c"}) REQUIRE(world.call(create(id, "base")));
    world.run_for(10000);
    world.hold_commands(schemas::DeleteThin::kType);
    REQUIRE(world.call(remove("a")));
    REQUIRE(world.call(remove("b")));
    CHECK(word(world.ask_once(remove("c"), {.timeout_ms = 1000})) == "busy");
    CHECK(exists(world, "c"));
    const std::string waiting = world.send_once(remove("c"));
    world.run_for(1000);
    CHECK(world.answers(waiting).empty());
    world.let_go();
    CHECK(word(world.answer(waiting)) == "ok");
    check_quiet(world);
}

TEST_CASE("a thin id that is there at the first attempt is somebody else's: it is left alone and another one taken",
          "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const std::uint32_t theirs = next_thin_id(world);
    pool_of(world).core.thins[theirs] = {.transaction_id = pool_of(world).core.transaction_id};
    REQUIRE(world.call(create("a", "base")));
    CHECK(show(world, "a").thin_id == theirs + 1);
    CHECK(world.store().quarantined().size() == 1);
    CHECK(has_finding(world, fmt::format("foreign-thin {}", theirs)));
    REQUIRE(world.call(remove_and_wait("a")));
    world.cut_power();
    CHECK(has_finding(world, fmt::format("foreign-thin {}", theirs)));
    CHECK(pool_of(world).core.thins.count(theirs) == 1);
}

TEST_CASE("thin ids that somebody has made while no manager looked are left alone, and ours lie above them",
          "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.cut_power();
    disk_of(world).thins[1000] = {.transaction_id = disk_of(world).transaction_id};
    CHECK(has_finding(world, "foreign-thin 1000"));
    REQUIRE(world.call(create("a", "base")));
    CHECK(show(world, "a").thin_id == 1001);
}

TEST_CASE("a clone of a parent that the pool does not have is refused, undone, and remembered as refused",
          "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    pool_of(world).core.thins.erase(show(world, "base").thin_id);
    const Answer refused = world.ask_once(create("a", "base"), {.request_id = "one"});
    CHECK(word(refused) == "needs_repair");
    CHECK_FALSE(exists(world, "a"));
    CHECK(world.ask_once(create("a", "base"), {.request_id = "one"}).frame == refused.frame);
    world.run_for(5000);
    CHECK(world.store().unfinished_operations().empty());
    CHECK(world.store().quarantined().empty());
}

TEST_CASE("a volume that the pool has lost is named, cannot be used, and can be removed", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    const std::uint32_t thin_id = show(world, "a").thin_id;
    world.run_for(10000);
    world.cut_power();
    disk_of(world).thins.erase(thin_id);
    CHECK(show(world, "a").state == "lost");
    CHECK(has_finding(world, "lost a"));
    CHECK(word(world.ask_once(get("a"))) == "needs_repair");
    CHECK(word(world.ask_once(attach("a"))) == "needs_repair");
    CHECK(word(world.ask_once(create("b", "a"))) == "needs_repair");
    CHECK(show(world, "base").state == "ready");
    CHECK(world.call(remove_and_wait("a"))->existed);
    REQUIRE(world.call(create("a", "base")));
    CHECK(show(world, "a").state == "ready");
    check_quiet(world);
    CHECK_FALSE(has_finding(world, "lost a"));
}

TEST_CASE("a pool that is full of data takes no creates and carries out removals", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(create("small", "base")));
    world.run_for(10000);
    FakePool& pool = pool_of(world);
    pool.core.remap(show(world, "a").thin_id, pool.core.data_blocks);
    pool.mode = PoolMode::out_of_data_space;
    world.run_for(3000);
    CHECK(has_finding(world, "data default") == false);
    CHECK(word(world.ask_once(create("b", "base"))) == "no_space");
    CHECK(world.call(get("base")));
    CHECK(world.call(put("base")));
    CHECK(world.call(remove_and_wait("small"))->existed);  // The pool is as full as before.
    CHECK(pool.mode == PoolMode::out_of_data_space);
    CHECK(world.call(remove_and_wait("a"))->existed);
    world.run_for(3000);
    CHECK(world.call(create("b", "base")));
    check_quiet(world);
}

TEST_CASE("a pool that is full of metadata takes no creates", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(10000);
    pool_of(world).mode = PoolMode::ro;
    world.run_for(3000);
    CHECK(word(world.ask_once(create("a", "base"), {.timeout_ms = 5000})) == "no_space");
    CHECK(word(world.ask_once(remove("base"))) == "ok");
    CHECK_FALSE(exists(world, "base"));
    world.run_for(5000);
    CHECK_FALSE(world.store().unfinished_operations().empty());
    pool_of(world).mode = PoolMode::rw;
    check_quiet(world);
}

TEST_CASE("the create that fills the metadata is neither lost nor done twice", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(10000);
    FakePool& pool = pool_of(world);
    const std::uint64_t roomy = world.kernel.used_metadata_blocks;
    world.kernel.used_metadata_blocks = pool.core.metadata_blocks - pool.core.thins.size() - 1;
    CHECK(word(world.ask_once(create("a", "base"), {.request_id = "one", .timeout_ms = 5000})) == "accepted");
    CHECK(thins_of_volumes(world) == 3);
    CHECK_FALSE(exists(world, "a"));
    CHECK(word(world.ask_once(create("b", "base"), {.timeout_ms = 5000})) == "no_space");
    world.kernel.used_metadata_blocks = roomy;  // It was grown.
    pool.mode = PoolMode::rw;
    CHECK(word(world.answer(world.send_once(create("a", "base"), {.request_id = "one"}), 2)) == "ok");
    CHECK(thins_of_volumes(world) == 3);
    CHECK(world.store().quarantined().empty());
    check_quiet(world);
}

TEST_CASE("a pool that needs repair takes no creates, and its removals go on when it is repaired", "[manager]") {
    // Bug: the create waited for ever.
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(get("base")));  // It waits for an operator.
    world.run_for(10000);
    SECTION("a commit failed") {
        world.kernel.fail_commits = 1;
        CHECK(word(world.ask_once(create("b", "base"), {.request_id = "one", .timeout_ms = 5000})) == "accepted");
        CHECK(word(world.ask_once(create("c", "base"), {.timeout_ms = 5000})) == "needs_repair");
        CHECK(word(world.ask_once(remove("a"), {.timeout_ms = 5000})) == "ok");
        CHECK(body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{})).needs_check);
        world.repair_pools();
        CHECK(word(world.answer(world.send_once(create("b", "base"), {.request_id = "one"}), 2)) == "ok");
    }
    SECTION("aborting a failed commit failed") {
        pool_of(world).mode = PoolMode::fail;
        world.run_for(3000);
        CHECK(word(world.ask_once(create("c", "base"), {.timeout_ms = 5000})) == "needs_repair");
        CHECK(word(world.ask_once(remove("a"), {.timeout_ms = 5000})) == "ok");
        CHECK(body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{})).mode == "Fail");
        pool_of(world).mode = PoolMode::rw;
    }
    check_quiet(world);
    CHECK(world.call(create("c", "base")));
    CHECK_FALSE(exists(world, "a"));
}

TEST_CASE("while the state file system is full there are no new volumes, but removals, and then again", "[manager]") {
    bool has_room = false;
    Options options{.seed = 1};
    options.manager.has_room = [&] { return has_room; };
    World world(options);
    schemas::PoolCreate pool;
    pool.loop_bytes = 1024 * kMiB;
    REQUIRE(world.call(pool));
    CHECK(word(world.ask_once(create("a"))) == "no_space");
    CHECK(word(world.ask_once(remove("a"))) == "ok");
    has_room = true;
    world.run_for(120000);
    CHECK(word(world.ask_once(create("a"))) == "ok");
}

namespace {

std::uint64_t discards(World& world) {
    return world.kernel.effects.contains("discard") ? world.kernel.effects.at("discard") : 0;
}

void make_large_pool(World& world) {
    schemas::PoolCreate pool;
    pool.loop_bytes = 16384 * kMiB;
    REQUIRE(world.call(pool));
    REQUIRE(world.call(create("base")));
}

void create_large(World& world, std::uint64_t mapped_blocks) {
    schemas::VolumeCreate large = create("large");
    large.size_bytes = 64ULL << 30U;
    large.fs = "none";
    REQUIRE(world.call(large));
    world.run_for(1000);
    if (world.kernel.pools.empty()) return;  // The power went.
    FakeMetadata& core = pool_of(world).core;
    const std::uint32_t thin_id = world.store().find_volume("large")->thin_id;
    if (core.thins.contains(thin_id)) core.remap(thin_id, mapped_blocks);
}

}  // namespace

TEST_CASE("a large volume is given back in parts before it is deleted, and others get on meanwhile", "[manager]") {
    World world({.seed = 1});
    make_large_pool(world);
    create_large(world, 100000);
    CHECK(word(world.ask_once(remove("large"))) == "ok");
    world.run_until([&] { return discards(world) > 2; });
    CHECK(word(world.ask_once(create("a", "base"))) == "ok");
    REQUIRE(world.call(remove_and_wait("a")));
    world.run_until([&] { return world.store().unfinished_operations().empty(); });
    CHECK(discards(world) == 9);  // 4096 at once, until 65536 are left.
    check_quiet(world);
}

TEST_CASE("a small volume, a clone and a parent of clones are deleted at once", "[manager]") {
    World world({.seed = 1});
    make_large_pool(world);
    SECTION("small") {
        create_large(world, 65536);
    }
    SECTION("a parent") {
        create_large(world, 100000);
        REQUIRE(world.call(create("clone", "large")));
    }
    SECTION("a clone") {
        create_large(world, 100000);
        REQUIRE(world.call(create("clone", "large")));
        REQUIRE(world.call(remove_and_wait("clone")));
        CHECK(discards(world) == 0);
        return;
    }
    REQUIRE(world.call(remove_and_wait("large")));
    CHECK(discards(world) == 0);
    check_quiet(world);
}

TEST_CASE("a large clone is given back in parts once nobody shares with it any more", "[manager]") {
    // Whoever had been made as a clone was deleted in one step for ever.
    World world({.seed = 1});
    make_large_pool(world);
    create_large(world, 100000);
    REQUIRE(world.call(create("clone", "large")));
    REQUIRE(world.call(remove_and_wait("large")));
    CHECK(discards(world) == 0);
    REQUIRE(world.call(remove_and_wait("clone")));
    CHECK(discards(world) == 9);
    check_quiet(world);
}

TEST_CASE("at a death or power cut of each step a large volume is there or goes", "[simulation]") {
    die_everywhere(
        GENERATE(false, true),
        [](World& world) {
            make_large_pool(world);
            create_large(world, 75000);
            REQUIRE(world.call(remove_and_wait("large")));
        },
        [](World& world) {
            CHECK_FALSE(exists(world, "large"));
            CHECK(exists(world, "base"));
            check_quiet(world);
        });
}

TEST_CASE("who wants a volume while its pool is put away for a repair is told to ask again", "[manager]") {
    // It was an internal error, where the answer came when the pool was in service again.
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(5000);  // Nothing is active.
    const std::string uuid = world.store().pool()->spec.pool.uuid;
    FakeDeviceMapper dm(world.kernel);
    REQUIRE(dm.remove({pool_dm_name(uuid), pool_dm_uuid(uuid)}) == 0);
    const Answer answer = world.ask_once(get("base"));
    CHECK(word(answer) == "unavailable");
    CHECK(answer.error->message.find("ask again") != std::string::npos);
    REQUIRE(world.call(get("base")));
    REQUIRE(world.call(put("base")));
    check_quiet(world);
}

TEST_CASE("a list comes in pages, in the order of names, and its filter does not break the pages", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    for (int i = 0; i < 9; ++i) {
        schemas::VolumeCreate request = create(fmt::format("v{}", i), "base");
        request.labels = {{"odd", std::to_string(i % 2)}, {"all", "yes"}};
        REQUIRE(world.call(request));
    }
    const auto names = [&](const schemas::Labels& labels, std::uint32_t limit) {
        std::vector<std::string> found;
        schemas::VolumeList page;
        page.labels = labels;
        page.limit = limit;
        for (;;) {
            const auto reply = body_of<schemas::VolumeList>(world.ask_once(page));
            CHECK(reply.volumes.size() <= limit);
            for (const auto& volume : reply.volumes) found.push_back(volume.id);
            if (!reply.more) return found;
            REQUIRE_FALSE(reply.volumes.empty());
            page.after = reply.volumes.back().id;
        }
    };
    const std::vector<std::string> odd = {"v1", "v3", "v5", "v7"};
    for (const std::uint32_t limit : {1U, 2U, 3U, 4U, 500U}) {
        CAPTURE(limit);
        CHECK(names({}, limit).size() == 10);
        CHECK(names({{"odd", "1"}, {"all", "yes"}}, limit) == odd);
        CHECK(names({{"odd", "2"}}, limit).empty());
    }
}

TEST_CASE("events have no gaps, come in pages, and tell of each thing once", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    CHECK_FALSE(world.call(create("a", "base")));
    REQUIRE(world.call(get("a")));
    world.kill_manager();
    REQUIRE(world.call(put("a")));
    REQUIRE(world.call(remove_and_wait("a")));
    std::map<std::string, int> count;
    schemas::EventSince page;
    page.limit = 3;
    for (;;) {
        const auto reply = body_of<schemas::EventSince>(world.ask_once(page));
        CHECK(reply.oldest == 1);
        for (const auto& event : reply.events) {
            CHECK(event.seq == ++page.seq);
            if (event.subject == "a") ++count[event.type];
        }
        if (!reply.more) break;
    }
    CHECK(page.seq == world.store().last_event_seq());
    CHECK(count == std::map<std::string, int>{{"volume.created", 1},
                                              {"lease.taken", 1},
                                              {"lease.ended", 1},
                                              {"volume.removed", 1},
                                              {"volume.deleted", 1}});
    page.seq = 1000000;
    CHECK(body_of<schemas::EventSince>(world.ask_once(page)).events.empty());
}

}  // namespace cowslip::simulation
