// Stores made anew from their pools, and pools looked at without a change.
#include <algorithm>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "services/pool_manager/label.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

std::string state_now(World& world) {
    return body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{})).state;
}

std::vector<std::string> names_of_volumes(World& world) {
    std::vector<std::string> names;
    for (const auto& volume : body_of<schemas::VolumeList>(world.ask_once(schemas::VolumeList{})).volumes) {
        names.push_back(volume.id);
    }
    return names;
}

using Names = std::vector<std::string>;

FakeMetadata& committed(World& world) {
    return world.kernel.media.at("file:metadata").metadata;
}

// The first block of a volume's ext4.
void put_ext4(World& world, std::uint32_t thin_id, std::uint32_t blocks) {
    std::string bytes(kFrameBlockBytes, '\0');
    const auto put = [&](std::size_t at, std::uint32_t value) {
        for (std::size_t i = 0; i < 4; ++i) bytes[1024 + at + i] = static_cast<char>(value >> (8 * i));
    };
    put(0x4, blocks);
    put(0x18, 2);
    put(0x38, 0xEF53);
    world.kernel.media.at("file:data").contents[{thin_id, 0}] = bytes;
}

schemas::VolumeGet get_read_only(const std::string& id) {
    schemas::VolumeGet message = get(id);
    message.read_only = true;
    return message;
}

}  // namespace

TEST_CASE("a lost store is made anew from the pool, with what nobody knows under another name", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    schemas::VolumeCreate labelled = create("b", "base");
    labelled.labels = {{"team", "blue"}};
    labelled.size_bytes = 128 * kMiB;
    labelled.mount_options = "nodev";
    REQUIRE(world.call(labelled));
    REQUIRE(world.call(create("a", "base")));
    world.kill_manager();  // A generation opens, and with it goes a backup.
    world.run_for(5000);
    REQUIRE(world.call(remove_and_wait("a")));
    REQUIRE(world.call(create("c", "base")));
    const schemas::Volume b = show(world, "b");
    const schemas::Volume c = show(world, "c");
    put_ext4(world, c.thin_id, 16384);
    const std::string uuid = world.store().pool()->spec.pool.uuid;
    const std::string store_uuid = world.store().store_uuid();
    const std::uint64_t transaction_id = committed(world).transaction_id;
    world.run_for(10000);
    if (GENERATE(false, true)) world.cut_power();
    lose_store(world);
    CHECK(state_now(world) == "none");
    const auto rebuilt = world.call(schemas::PoolRebuild{});
    INFO((rebuilt ? "" : rebuilt.error().message));
    REQUIRE(rebuilt);
    const std::string recovered = fmt::format("recovered-{}", c.thin_id);
    CHECK(rebuilt->recovered == Names{recovered});
    CHECK(rebuilt->dropped == Names{"a"});
    CHECK_FALSE(rebuilt->backup_taken_at.empty());
    CHECK(rebuilt->pool.uuid == uuid);
    CHECK(names_of_volumes(world) == Names{"b", "base", recovered});
    CHECK(encode(show(world, "b").labels) == encode(b.labels));
    CHECK(show(world, "b").thin_id == b.thin_id);
    CHECK(show(world, "b").size_bytes == b.size_bytes);
    CHECK(show(world, "b").mount_options == "nodev");
    CHECK(show(world, "b").parent == "base");
    CHECK(show(world, "b").created_at == b.created_at);
    CHECK(show(world, recovered).size_bytes == 64 * kMiB);
    CHECK(show(world, recovered).fs == "ext4");
    CHECK(world.store().store_uuid() != store_uuid);
    world.run_for(10000);
    CHECK(committed(world).transaction_id > transaction_id);
    REQUIRE(world.call(create("d", "b")));
    CHECK(show(world, "d").thin_id > c.thin_id);
    REQUIRE(world.call(get("b")));
    REQUIRE(world.call(get(recovered)));
    check_quiet(world);
    world.kill_manager();
    world.run_for(5000);
    CHECK(body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{})).verdict == "normal");
    check_quiet(world);
}

TEST_CASE("a store that is older than its pool is made anew, without losing what it alone knows", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.kill_manager();
    const FakeDisk::Image older = world.take_store();
    REQUIRE(world.call(create("a", "base")));
    world.kill_manager();
    world.run_for(10000);
    world.kill_manager();
    world.put_store(older);
    world.run_for(5000);
    CHECK(state_now(world) == "frozen");
    const bool backups_damaged = GENERATE(false, true);
    const std::uint32_t a = committed(world).thins.rbegin()->first;
    if (backups_damaged) {
        for (auto& [place, bytes] : world.kernel.media.at("file:data").contents) {
            if (place.first == schemas::kBackupsThinId) bytes[40] = static_cast<char>(bytes[40] ^ 1);
        }
    }
    REQUIRE(world.call(schemas::PoolRebuild{}));
    const Names expected = backups_damaged ? Names{"base", fmt::format("recovered-{}", a)} : Names{"a", "base"};
    CHECK(names_of_volumes(world) == expected);
    CHECK(state_now(world) == "ready");
    check_quiet(world);
}

TEST_CASE("a removal that was acknowledged is finished after a rebuild", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    world.run_for(10000);
    world.hold_commands(schemas::DeleteThin::kType);
    REQUIRE(world.call(remove("a")));
    world.run_for(70000);
    world.kill_manager();
    world.put_store({});
    world.kill_held_actors();  // With the thin id still in the pool.
    world.let_go();
    world.run_for(1000);
    REQUIRE(world.call(schemas::PoolRebuild{}));
    CHECK(names_of_volumes(world) == Names{"base"});
    check_quiet(world);
}

TEST_CASE("of a torn backup nothing is taken: the one before it counts", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(70000);
    REQUIRE(world.call(create("a", "base")));
    world.run_for(70000);
    const std::string uuid = world.store().pool()->spec.pool.uuid;
    auto& contents = world.kernel.media.at("file:data").contents;
    std::string heads;
    for (std::uint64_t at = 0; at < kBackupHeadsBytes; at += kFrameBlockBytes) {
        const auto block = contents.find({schemas::kBackupsThinId, at});
        heads += block != contents.end() ? block->second : std::string(kFrameBlockBytes, '\0');
    }
    const auto backups = find_backups(heads, uuid);
    REQUIRE(backups.size() >= 2);
    contents.at({schemas::kBackupsThinId, backup_area_offset(backups.front().sequence)})[50] ^= 1;
    const std::uint32_t a = show(world, "a").thin_id;
    lose_store(world);
    REQUIRE(world.call(schemas::PoolRebuild{}));
    CHECK(names_of_volumes(world) == Names{"base", fmt::format("recovered-{}", a)});
    check_quiet(world);
}

TEST_CASE("a backup from before a rewind, which counts thin ids anew, names nothing", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(create("b", "base")));
    REQUIRE(world.call(remove_and_wait("a")));
    world.kill_manager();
    world.run_for(70000);
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(schemas::PoolRewind{}));
    const bool started = GENERATE(false, true);
    if (started) {
        REQUIRE(world.call(schemas::PoolStart{}));
        world.run_for(5000);
    }
    lose_store(world);
    REQUIRE(world.call(schemas::PoolRebuild{}));
    const Names expected = started ? Names{"b", "base"} : Names{"recovered-2", "recovered-3", "recovered-4"};
    CHECK(names_of_volumes(world) == expected);
    check_quiet(world);
}

TEST_CASE("a transaction id that another program has set is taken back by a rebuild", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(70000);
    const std::uint64_t ours = committed(world).transaction_id;
    if (GENERATE(false, true)) {
        world.cut_power();
        committed(world).transaction_id = 12345;
    } else {
        world.kernel.pools.begin()->second.core.transaction_id = 12345;
        committed(world).transaction_id = 12345;
    }
    world.run_for(10000);
    CHECK(state_now(world) == "frozen");
    REQUIRE(world.call(schemas::PoolRebuild{}));
    world.run_for(5000);
    CHECK(world.kernel.pools.begin()->second.core.transaction_id > ours);
    CHECK(world.kernel.pools.begin()->second.core.transaction_id >> 32U == ours >> 32U);
    check_quiet(world);
}

TEST_CASE("only a pool that is out of service is rebuilt", "[rebuild]") {
    World world({.seed = 1});
    CHECK(word(world.ask_once(schemas::PoolRebuild{})) == "not_found");
    make_pool_and_base(world);
    CHECK(word(world.ask_once(schemas::PoolRebuild{})) == "invalid_argument");
    REQUIRE(world.call(get("base")));
    world.kernel.pools.begin()->second.core.transaction_id += 100;
    world.run_for(3000);
    CHECK(word(world.ask_once(schemas::PoolRebuild{})) == "in_use");
    CHECK(state_now(world) == "frozen");
    CHECK(show(world, "base").leases.size() == 1);
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(schemas::PoolRebuild{}));
    REQUIRE(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("a pool that cannot be believed is not rebuilt from, and is left as it was", "[rebuild]") {
    World other({.seed = 2});
    make_pool_and_base(other);
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(10000);
    world.cut_power();
    const std::string what =
        GENERATE(as<std::string>(), "zeroed", "damaged", "metadata", "data", "no label", "damaged label");
    CAPTURE(what);
    if (what == "zeroed") committed(world) = {};
    if (what == "damaged") committed(world).damaged = true;
    if (what == "metadata") committed(world) = other.kernel.media.at("file:metadata").metadata;
    if (what == "data") world.kernel.media.at("file:data") = other.kernel.media.at("file:data");
    if (what == "damaged label") {
        for (auto& [place, bytes] : world.kernel.media.at("file:data").contents) bytes[40] ^= 1;
    }
    if (what == "no label") committed(world).thins.erase(schemas::kLabelThinId);
    if (GENERATE(false, true)) lose_store(world);
    world.run_for(5000);
    const std::string state = state_now(world);
    const std::uint64_t id = committed(world).transaction_id;
    CHECK(word(world.ask_once(schemas::PoolRebuild{})) == "needs_repair");
    CHECK(state_now(world) == state);
    CHECK(committed(world).transaction_id == id);
    CHECK(world.kernel.pools.empty());
}

TEST_CASE("a death or a power cut at any point of a rebuild leaves the old store or the new one", "[rebuild]") {
    const bool power_cut = GENERATE(false, true);
    die_everywhere(
        power_cut,
        [](World& world) {
            make_pool_and_base(world);
            world.run_for(65000);
            lose_store(world);
            REQUIRE(world.call(schemas::PoolRebuild{}));
        },
        [](World& world) {
            CHECK(names_of_volumes(world) == Names{"base"});
            CHECK(world.call(get("base")));
        });
}

TEST_CASE("a frozen pool can be looked at, and nothing of it changes", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.kill_manager();
    const FakeDisk::Image older = world.take_store();
    world.run_for(10000);
    world.kill_manager();
    world.run_for(10000);
    world.cut_power();
    world.put_store(older);
    world.run_for(5000);
    CHECK(state_now(world) == "frozen");
    CHECK(word(world.ask_once(get_read_only("base"))) == "needs_repair");
    const std::uint64_t messages = world.kernel.effects["message"];
    const std::uint64_t id = committed(world).transaction_id;
    REQUIRE(world.call(schemas::PoolStart{.read_only = true}));
    CHECK(state_now(world) == "read_only");
    CHECK(world.call(get_read_only("base")));
    CHECK(word(world.ask_once(get("base"))) == "needs_repair");
    CHECK(word(world.ask_once(create("a", "base"))) == "needs_repair");
    CHECK(word(world.ask_once(schemas::PoolStart{})) == "needs_repair");
    CHECK(world.call(put("base")));
    schemas::VolumeAttach attached = attach("base");
    attached.read_only = true;
    CHECK(world.call(attached));
    CHECK(world.call(schemas::SystemCleanup{}));
    CHECK(state_now(world) == "stopped");
    CHECK(world.kernel.pools.empty());
    CHECK(world.kernel.effects["message"] == messages);
    CHECK(committed(world).transaction_id == id);
    CHECK(word(world.ask_once(get("base"))) == "needs_repair");
    CHECK(state_now(world) == "frozen");
    // Bug: one that was stopped before it was looked at was not put away any more.
    REQUIRE(world.call(schemas::PoolStart{.read_only = true}));
    CHECK(word(world.ask_once(schemas::PoolRebuild{})) == "in_use");
    CHECK(world.call(schemas::SystemCleanup{}));
    CHECK(world.kernel.pools.empty());
    CHECK(world.call(schemas::PoolRebuild{}));
    CHECK(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("a pool that could be another's is not even looked at", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.cut_power();
    committed(world) = {};
    world.run_for(5000);
    CHECK(word(world.ask_once(schemas::PoolStart{.read_only = true})) == "needs_repair");
    CHECK(world.kernel.pools.empty());
    CHECK_FALSE(committed(world).formatted);
}

TEST_CASE("a removal that waits for the pool is not rebuilt away: the next process may do both", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    world.run_for(70000);
    world.hold_commands(schemas::DeleteThin::kType);
    REQUIRE(world.call(remove("a")));
    world.run_for(3000);
    world.kernel.pools.begin()->second.core.transaction_id += 100;
    world.run_for(3000);
    const Answer refused = world.ask_once(schemas::PoolRebuild{});
    CHECK(word(refused) == "unavailable");
    CHECK_THAT(refused.error->message, Catch::Contains("restart the service"));
    CHECK(state_now(world) == "frozen");
    world.kill_manager();
    world.kill_held_actors();
    world.let_go();
    world.run_for(5000);
    REQUIRE(world.call(schemas::PoolRebuild{}));
    CHECK(names_of_volumes(world) == Names{"base"});
    check_quiet(world);
}

TEST_CASE("a pool that cannot be written is not rebuilt from, and is put away as it was", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(70000);
    world.cut_power();
    committed(world).needs_check = true;
    lose_store(world);
    const Answer refused = world.ask_once(schemas::PoolRebuild{});
    CHECK(word(refused) == "unavailable");
    CHECK_THAT(refused.error->message, Catch::Contains("needs_check"));
    CHECK(state_now(world) == "none");
    CHECK(world.kernel.pools.empty());
    committed(world).needs_check = false;
    REQUIRE(world.call(schemas::PoolRebuild{}));
    CHECK(names_of_volumes(world) == Names{"base"});
    check_quiet(world);
}

TEST_CASE("where label and DIR/pool/uuid name two pools, the answer has both, and root decides", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(70000);
    world.cut_power();
    lose_store(world);
    const std::string own = *world.kernel.own_pool;
    const std::string other(32, '7');
    world.kernel.own_pool = other;
    const Answer refused = world.ask_once(schemas::PoolRebuild{});
    CHECK(word(refused) == "needs_repair");
    CHECK_THAT(refused.error->message, Catch::Contains(own) && Catch::Contains(other));
    CHECK(world.kernel.pools.empty());
    world.kernel.own_pool = own;
    REQUIRE(world.call(schemas::PoolRebuild{}));
    CHECK(names_of_volumes(world) == Names{"base"});
    check_quiet(world);
}

TEST_CASE("without the ring of backups everything in the pool is recovered, under names of their own", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const std::uint32_t base = show(world, "base").thin_id;
    world.run_for(70000);
    world.cut_power();
    committed(world).thins.erase(schemas::kBackupsThinId);
    lose_store(world);
    const auto rebuilt = world.call(schemas::PoolRebuild{});
    REQUIRE(rebuilt);
    CHECK(rebuilt->backup_taken_at.empty());
    CHECK(rebuilt->recovered.size() == 2);  // With the template.
    REQUIRE(world.call(attach(fmt::format("recovered-{}", base))));
}

TEST_CASE("a look at a pool goes no further where its data bear no label of its own", "[rebuild]") {
    World other({.seed = 2});
    make_pool_and_base(other);
    World world({.seed = 1});
    make_pool_and_base(world);
    CHECK(word(world.ask_once(schemas::PoolStart{.read_only = true})) == "invalid_argument");  // It is in service.
    REQUIRE(world.call(schemas::SystemCleanup{}));
    const FakeMedium own = world.kernel.media.at("file:data");
    FakeMedium& data = world.kernel.media.at("file:data");
    if (GENERATE(false, true)) {
        data = other.kernel.media.at("file:data");
    } else {
        data.contents.clear();
    }
    CHECK(word(world.ask_once(schemas::PoolStart{.read_only = true})) == "needs_repair");
    CHECK(state_now(world) == "stopped");
    CHECK(world.kernel.pools.empty());
    data = own;
    REQUIRE(world.call(schemas::PoolStart{.read_only = true}));
    REQUIRE(world.call(schemas::PoolStart{.read_only = true}));
    CHECK(state_now(world) == "read_only");
    CHECK(word(world.ask_once(schemas::PoolStart{})) == "unavailable");
    REQUIRE(world.call(get_read_only("base")));
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("what was not ours in the pool is not ours when its store is made anew", "[rebuild]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(70000);
    FakeDeviceMapper dm(world.kernel);
    REQUIRE(dm.message(world.kernel.devices.at(world.kernel.pools.begin()->first).device, "create_thin 77") == 0);
    world.kill_manager();
    world.run_for(10000);
    REQUIRE(has_finding(world, "foreign-thin 77"));
    world.kernel.pools.begin()->second.core.transaction_id += 100;
    world.run_for(3000);
    CHECK_FALSE(world.call(schemas::SystemFsck{})->pool_compared);
    CHECK(word(world.ask_once(schemas::StoreBackup{})) == "ok");
    REQUIRE(world.call(schemas::PoolRebuild{}));
    CHECK(names_of_volumes(world) == Names{"base"});
    CHECK(world.store().quarantined().size() == 1);
    REQUIRE(world.call(create("a", "base")));
    CHECK(show(world, "a").thin_id > 77);
    CHECK(world.kernel.pools.begin()->second.core.thins.contains(77));
}

}  // namespace cowslip::simulation
