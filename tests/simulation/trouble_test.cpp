// Where one thing has gone wrong, the next does: what was to put it right is refused, fails or cannot be read.
#include <cerrno>
#include <utility>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/names.h"
#include "schemas/device_actor.h"
#include "schemas/mount_actor.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

using Instead = std::optional<Result<std::string>>;

// Commands of these types are refused, each with its error.
void refuse_these(World& world, std::map<std::string, Error> errors) {
    world.answer_instead = [errors = std::move(errors)](const schemas::Command& command) -> Instead {
        const auto found = errors.find(command.type);
        if (found == errors.end()) return std::nullopt;
        return found->second;
    };
}

schemas::PoolStatus::Reply pool_as_told(World& world) {
    return body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{}));
}

FakePool& pool_in_kernel(World& world) {
    return world.kernel.pools.begin()->second;
}

void mark_needs_check(World& world) {
    FakePool& pool = pool_in_kernel(world);
    pool.core.needs_check = true;
    pool.mode = PoolMode::ro;
    world.kernel.media.at(pool.medium).metadata.needs_check = true;
}

void adopt_their_pool(World& world, const std::string& options, bool accept_no_zeroing = false) {
    world.kernel.add_disk("/dev/vda", 2097152);
    world.kernel.add_disk("/dev/vdb", 32768);
    world.kernel.allowed_devices = {"/dev/mapper/theirs"};
    FakeDeviceMapper dm(world.kernel);
    const DmDevice theirs{"theirs", ""};
    REQUIRE(dm.create(theirs) == 0);
    REQUIRE(dm.load(theirs, {"thin-pool", 2097152, "/dev/vdb /dev/vda 128 0 " + options}, false) == 0);
    REQUIRE(dm.resume(theirs) == 0);
    schemas::PoolCreate request;
    request.adopt = "theirs";
    request.accept_no_zeroing = accept_no_zeroing;
    REQUIRE(world.call(request));
}

}  // namespace

TEST_CASE("a pool whose mended metadata could not be loaded at once is loaded by itself", "[trouble]") {
    // Bug: `pool repair` found nothing to do, and `pool start` asked for a repair.
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(10000);
    mark_needs_check(world);
    world.kernel.media.at(pool_in_kernel(world).medium).metadata.leaf_damaged = true;
    refuse_these(world, {{schemas::StartPool::kType, {Errc::unavailable, "start pool: no memory"}}});
    world.run_for(20000);
    CHECK(pool_as_told(world).state != "ready");
    CHECK(world.kernel.pools.empty());
    world.answer_instead = nullptr;
    world.run_for(20000);
    CHECK(pool_as_told(world).state == "ready");
    REQUIRE(world.call(get("base")));
    check_quiet(world);
    CHECK(findings(world).empty());
}

TEST_CASE("a repair waits for what keeps the pool from being put away, and says what it was", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(get("base")));
    mark_needs_check(world);
    world.run_for(2000);
    const schemas::PoolRepair evict{.evict = true, .spare = ""};
    const Error in_use{Errc::in_use, "stop pool: a device of it is active"};
    SECTION("for some seconds") {
        int left = 3;
        world.answer_instead = [&](const schemas::Command& command) -> Instead {
            if (command.type != schemas::StopPool::kType || left-- <= 0) return std::nullopt;
            return in_use;
        };
        CHECK(word(world.ask_once(evict)) == "ok");
    }
    SECTION("and no longer") {
        refuse_these(world, {{schemas::StopPool::kType, in_use}});
        CHECK(word(world.ask_once(evict)) == "in_use");
    }
    SECTION("nor where that cannot be seen") {
        refuse_these(world, {{schemas::StopPool::kType, in_use},
                             {schemas::ListActive::kType, {Errc::unavailable, "list active: no memory"}}});
        CHECK(word(world.ask_once(evict)) == "unavailable");
    }
    SECTION("and it fails for another reason") {
        refuse_these(world, {{schemas::StopPool::kType, {Errc::internal, "stop pool: no memory"}}});
        CHECK(word(world.ask_once(evict)) == "internal");
    }
    world.answer_instead = nullptr;
    world.run_for(20000);
    CHECK(word(world.ask_once(evict)) == "ok");
    REQUIRE(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("a copy that is not whole, or of another time, is not put in the place of damaged metadata", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(10000);
    mark_needs_check(world);
    FakeMetadata& metadata = world.kernel.media.at(pool_in_kernel(world).medium).metadata;
    metadata.leaf_damaged = true;
    const bool whole = GENERATE(false, true);
    world.change_answer = [&](const schemas::Command& command, Result<std::string> answer) -> Result<std::string> {
        if (command.type != schemas::RepairMetadata::kType || !answer) return answer;
        auto reply = *decode_as<schemas::RepairMetadata::Reply>(std::string_view(*answer));
        if (!whole) reply.sound = false;
        reply.transaction_id += 100;
        return encode(reply);
    };
    world.run_for(3000);
    const Answer refused = world.ask_once(schemas::PoolRepair{.spare = ""});
    REQUIRE(word(refused) == "needs_repair");
    CHECK_THAT(refused.error->message, Catch::Contains(whole ? "not this pool" : "no whole copy"));
    CHECK(metadata.leaf_damaged);
    world.change_answer = nullptr;
    REQUIRE(world.call(schemas::PoolRepair{.spare = ""}));
    REQUIRE(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("damage that the kernel comes upon while volumes are leased is told, and waits for an operator",
          "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(get("base")));
    world.kernel.media.at(pool_in_kernel(world).medium).metadata.leaf_damaged = true;
    pool_in_kernel(world).core.leaf_damaged = true;
    CHECK(word(world.ask_once(create("b", "base"), {.timeout_ms = 5000})) != "ok");
    const Answer refused = world.ask_once(get("a"));
    CHECK(word(refused) == "needs_repair");
    CHECK_THAT(refused.error->message, Catch::Contains("damaged block"));
    CHECK(show(world, "base").leases.size() == 1);
    REQUIRE(world.call(schemas::PoolRepair{.evict = true, .spare = ""}));
    REQUIRE(world.call(get("a")));
    check_quiet(world);
}

TEST_CASE("a pool that is destroyed meanwhile is not repaired, and one with work left over is not destroyed",
          "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    world.run_for(10000);
    world.hold_commands(schemas::DeleteThin::kType);
    REQUIRE(world.call(remove("a")));
    const schemas::PoolDestroy destroy{.name = "default"};
    const Answer refused = world.ask_once(destroy, {.timeout_ms = 10000});
    CHECK(word(refused) == "in_use");
    CHECK_THAT(refused.error->message, Catch::Contains("unfinished"));
    world.let_go();
    REQUIRE(world.call(schemas::PoolStart{}));
    world.run_for(10000);
    world.hold_commands(schemas::DiscardPool::kType);
    const std::string destroyed = world.send_once(destroy);
    world.run_until([&] { return world.held() == 1; });
    const std::string repaired = world.send_once(schemas::PoolRepair{.spare = ""});
    world.run_for(1000);
    world.let_go();
    CHECK(word(world.answer(destroyed)) == "ok");
    CHECK(body_of<schemas::PoolRepair>(world.answer(repaired)).how == "nothing");
    CHECK(pool_as_told(world).state == "none");
}

TEST_CASE("a growth whose pool cannot be let run again is told, and it is resumed by the next look", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    refuse_these(world, {{schemas::GrowPool::kType, {Errc::internal, "grow pool: no memory"}},
                         {schemas::Resume::kType, {Errc::internal, "resume: no memory"}}});
    CHECK(word(world.ask_once(schemas::PoolGrow{.data_bytes = 2048 * kMiB, .devices = {}})) == "internal");
    CHECK(world.store().unfinished_operations().empty());
    world.kernel.devices.at(world.kernel.pools.begin()->first).suspended = true;
    REQUIRE(world.call(schemas::SystemFsck{.repair = true}));
    CHECK(has_finding(world, "suspended default"));
    world.answer_instead = nullptr;
    REQUIRE(world.call(schemas::SystemFsck{.repair = true}));
    CHECK(findings(world).empty());
    REQUIRE(world.call(schemas::PoolGrow{.data_bytes = 2048 * kMiB, .devices = {}}));
    check_quiet(world);
}

TEST_CASE("a growth that was accepted is done when its pool is there again", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.hold_commands(schemas::GrowPool::kType);
    const schemas::PoolGrow grow{.data_bytes = 2048 * kMiB, .devices = {}};
    CHECK(word(world.ask_once(grow, {.request_id = "one", .timeout_ms = 500})) == "accepted");
    world.cut_power();
    world.let_go();
    refuse_these(world, {{schemas::StartPool::kType, {Errc::unavailable, "start pool: no memory"}}});
    world.run_until([&] { return world.ready(); });
    CHECK(pool_as_told(world).data.total_bytes != 2048 * kMiB);
    CHECK(word(world.ask_once(schemas::PoolGrow{.data_bytes = 4096 * kMiB, .devices = {}})) == "unavailable");
    world.answer_instead = nullptr;
    REQUIRE(world.call(schemas::PoolStart{}));
    CHECK(word(world.answer(world.send_once(grow, {.request_id = "one"}), 2)) == "ok");
    CHECK(pool_as_told(world).data.total_bytes == 2048 * kMiB);
    check_quiet(world);
}

TEST_CASE("what an older service has left in a form that nobody reads is named, and keeps nothing else", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(1000);
    Store& store = world.store();
    VolumeRow half = *store.find_volume("base");
    half.thin_id = *store.spend_thin_id();
    half.name = "half";
    half.state = "creating";
    half.born_min = store.pool()->confirmed;
    half.born_max = 0;
    store.insert_volume(half);
    store.insert_operation({1, OperationType::create, half.thin_id, "", "\xc1"});
    store.insert_operation({2, OperationType::grow, std::nullopt, "", "\xc1"});
    store.insert_operation({3, OperationType::rewind, std::nullopt, "", "\xc1"});
    store.insert_operation({4, OperationType::create_pool, std::nullopt, "", "\xc1"});
    world.run_for(1000);
    world.kill_manager();
    world.run_until([&] { return world.ready(); });
    world.run_for(10000);
    CHECK(has_finding(world, "parked "));
    CHECK_FALSE(exists(world, "half"));
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(schemas::PoolStop{}));
    CHECK(word(world.ask_once(schemas::PoolRewind{})) == "in_use");
    CHECK(word(world.ask_once(schemas::PoolDestroy{.name = "default"})) == "in_use");
    REQUIRE(world.call(get("a")));
}

TEST_CASE("an answer that nobody can read is an error, and what was begun is undone", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(attach("base")));
    std::string type = schemas::CreateSnap::kType;
    world.answer_instead = [&](const schemas::Command& command) -> Instead {
        if (command.type != type) return std::nullopt;
        return encode(7);
    };
    CHECK(word(world.ask_once(create("a", "base"))) == "invalid_argument");
    type = schemas::Activate::kType;
    CHECK(word(world.ask_once(schemas::VolumeResize{.id = "base", .size_bytes = 128 * kMiB})) == "invalid_argument");
    world.answer_instead = nullptr;
    world.run_for(10000);
    CHECK_FALSE(exists(world, "a"));
    CHECK(show(world, "base").size_bytes == 128 * kMiB);
    REQUIRE(world.call(detach("base")));
    REQUIRE(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("a large volume that cannot be given back in parts is deleted at once", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    schemas::VolumeCreate large = create("large");
    large.fs = "none";
    large.size_bytes = 1ULL << 40U;
    REQUIRE(world.call(large));
    const bool lost = GENERATE(false, true);
    if (lost) {
        pool_in_kernel(world).core.thins.erase(show(world, "large").thin_id);
        REQUIRE(world.call(schemas::SystemFsck{}));
        CHECK(show(world, "large").state == "lost");
    }
    refuse_these(world, {{schemas::DiscardThin::kType, {Errc::internal, "discard: no memory"}}});
    REQUIRE(world.call(remove_and_wait("large")));
    CHECK_FALSE(exists(world, "large"));
    check_quiet(world);
    CHECK(findings(world).empty());
}

TEST_CASE("an adopted pool is served as its owner has made it, and is for him to repair and to resume", "[trouble]") {
    World world({.seed = 1});
    adopt_their_pool(world, "2 skip_block_zeroing error_if_no_space", true);
    const auto status = pool_as_told(world);
    CHECK_THAT(status.warnings.front(), Catch::Contains("not zeroed"));
    schemas::VolumeCreate raw = create("raw");
    raw.fs = "none";
    raw.size_bytes = 64 * kMiB;
    REQUIRE(world.call(raw));
    CHECK(word(world.ask_once(schemas::PoolRepair{.spare = ""})) == "invalid_argument");
    world.kernel.devices.at(world.kernel.pools.begin()->first).suspended = true;
    REQUIRE(world.call(schemas::SystemFsck{.repair = true}));
    CHECK(has_finding(world, "suspended default"));
    world.kernel.devices.at(world.kernel.pools.begin()->first).suspended = false;
    REQUIRE(world.call(schemas::SystemFsck{}));
    CHECK(findings(world).empty());
    check_quiet(world);
}

TEST_CASE("an adopted pool that its owner loads late in the boot is waited for", "[trouble]") {
    World world({.seed = 1});
    adopt_their_pool(world, "0");
    schemas::VolumeCreate raw = create("raw");
    raw.fs = "none";
    raw.size_bytes = 64 * kMiB;
    REQUIRE(world.call(raw));
    world.run_for(70000);
    world.cut_power();
    const bool late = GENERATE(false, true);
    world.run_for(10000);
    CHECK_FALSE(world.ready());
    if (late) world.run_for(30000);
    CHECK(world.ready() == late);
    FakeDeviceMapper dm(world.kernel);
    const DmDevice theirs{"theirs", ""};
    REQUIRE(dm.create(theirs) == 0);
    REQUIRE(dm.load(theirs, {"thin-pool", 2097152, "/dev/vdb /dev/vda 128 0 0"}, false) == 0);
    REQUIRE(dm.resume(theirs) == 0);
    REQUIRE(world.call(attach("raw")));
    check_quiet(world);
}

TEST_CASE("what the kernel says of a pool with a damaged superblock or another metadata device is told", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.kernel.media.at("file:metadata").metadata.damaged = true;
    world.run_for(3000);
    CHECK(pool_as_told(world).state == "ready");  // What is loaded is in memory, and sound.
    world.kernel.media.at("file:metadata").metadata.damaged = false;
    world.change_answer = [](const schemas::Command& command, Result<std::string> answer) -> Result<std::string> {
        if (command.type != schemas::ReadPoolStatus::kType || !answer) return answer;
        auto state = *decode_as<schemas::PoolState>(std::string_view(*answer));
        if (!state.metadata_device.empty()) state.metadata_device = "/dev/loop77";
        return encode(state);
    };
    world.run_for(3000);
    const Answer refused = world.ask_once(get("base"));
    CHECK(word(refused) == "needs_repair");
    CHECK_THAT(refused.error->message, Catch::Contains("/dev/loop77"));
    world.change_answer = nullptr;
    world.run_for(3000);
    REQUIRE(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("what cannot be judged of a pool that was not loaded is said as it was answered", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(schemas::SystemCleanup{}));
    refuse_these(world, {{schemas::StartPool::kType, {Errc::needs_repair, "start pool: it is not as it was"}},
                         {schemas::ExaminePool::kType, {Errc::internal, "examine pool: no memory"}}});
    const Answer refused = world.ask_once(schemas::PoolStart{});
    CHECK(word(refused) == "needs_repair");
    CHECK_THAT(refused.error->message, Catch::Contains("not as it was"));
    CHECK(pool_as_told(world).state == "frozen");
    world.answer_instead = nullptr;
    world.kill_manager();
    REQUIRE(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("a label that is another's keeps a pool out of service, though it cannot be put away", "[trouble]") {
    World other({.seed = 2});
    make_pool_and_base(other);
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(schemas::SystemCleanup{}));
    FakeMedium& data = world.kernel.media.at("file:data");
    const FakeMedium own = data;
    data = other.kernel.media.at("file:data");
    refuse_these(world, {{schemas::StopPool::kType, {Errc::internal, "stop pool: no memory"}}});
    const bool read_only = GENERATE(false, true);
    CHECK(word(world.ask_once(schemas::PoolStart{.read_only = read_only})) == "needs_repair");
    CHECK(word(world.ask_once(get("base"))) == "needs_repair");
    world.answer_instead = nullptr;
    data = own;
    world.kill_manager();
    REQUIRE(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("a read-only look is no service: it is not checked, and a damaged pool's label may wait", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(schemas::PoolStart{.read_only = true}));
    CHECK(word(world.ask_once(schemas::PoolCheck{})) == "in_use");
    REQUIRE(world.call(schemas::SystemCleanup{}));
    // Full metadata: the pool is read-only, and its label cannot be read for now.
    world.kernel.used_metadata_blocks = 1U << 20U;
    world.answer_instead = [](const schemas::Command& command) -> Instead {
        if (command.type != schemas::ReadInternal::kType) return std::nullopt;
        return Error{Errc::internal, "read the pool's label: no memory"};
    };
    const std::string answer = word(world.ask_once(schemas::PoolStart{}));
    CHECK((answer == "ok" || answer == "internal"));
    world.answer_instead = nullptr;
    world.kernel.used_metadata_blocks = 10;
    world.repair_pools();
    if (!world.kernel.pools.empty()) pool_in_kernel(world).mode = PoolMode::rw;
    world.run_for(5000);
    REQUIRE(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("a service that stops makes no last backup into a pool that does not take one", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(70000);
    REQUIRE(world.call(create("a", "base")));
    const std::string why = GENERATE(as<std::string>(), "stopped", "read-only", "frozen");
    CAPTURE(why);
    if (why == "stopped") {
        refuse_these(world, {{schemas::WriteInternal::kType, {Errc::internal, "write: no memory"}}});
        REQUIRE(world.call(schemas::SystemCleanup{}));
    }
    if (why == "read-only") mark_needs_check(world);
    if (why == "frozen") pool_in_kernel(world).core.transaction_id += 100;
    if (why == "read-only") REQUIRE(word(world.ask_once(get("base"))) != "accepted");
    world.run_for(1500);
    const int written = world.commands[schemas::WriteInternal::kType];
    world.stop_admitting();
    world.run_for(3000);
    CHECK(world.drained());
    CHECK(world.commands[schemas::WriteInternal::kType] == written);
    world.answer_instead = nullptr;
    world.kill_manager();
    world.run_until([&] { return world.ready(); });
    CHECK(exists(world, "a"));
}

TEST_CASE("a lease whose device is gone is put all the same", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(attach("base")));
    const std::string uuid = thin_dm_uuid(world.store().pool()->spec.pool.uuid, show(world, "base").thin_id);
    world.kernel.devices.erase(world.kernel.number_of({"", uuid}));
    REQUIRE(world.call(schemas::SystemFsck{}));
    CHECK(has_finding(world, "broken-lease base"));
    CHECK(world.call(schemas::LeaseList{})->leases.front().path.empty());
    REQUIRE(world.call(detach("base")));
    REQUIRE(world.call(schemas::SystemFsck{}));
    CHECK(findings(world).empty());
    check_quiet(world);
}

TEST_CASE("a put that also removes waits for its place, and has ended no lease when it gives up", "[trouble]") {
    ManagerOptions manager;
    manager.max_behind = 1;
    World world({.seed = 1, .manager = manager});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(get("base")));
    world.run_for(10000);
    world.hold_commands(schemas::DeleteThin::kType);
    REQUIRE(world.call(remove("a")));
    schemas::VolumePut away = put("base");
    away.remove = true;
    CHECK(word(world.ask_once(away, {.timeout_ms = 1000})) == "busy");
    CHECK(show(world, "base").leases.size() == 1);
    world.let_go();
    REQUIRE(world.call(away));
    CHECK_FALSE(exists(world, "base"));
    check_quiet(world);
}

TEST_CASE("a backup is made without room for no longer, and without its pool's metadata where these cannot be read",
          "[trouble]") {
    bool room = true;
    ManagerOptions manager;
    manager.has_room = [&] { return room; };
    manager.process_counters = [] { return std::map<std::string, std::uint64_t>{{"syncs", 7}}; };
    World world({.seed = 1, .manager = manager});
    make_pool_and_base(world);
    CHECK(body_of<schemas::SystemStatus>(world.ask_once(schemas::SystemStatus{})).counters.at("syncs") == 7);
    REQUIRE(world.call(schemas::StoreBackup{}));
    room = false;
    world.run_for(2000);
    CHECK(word(world.ask_once(schemas::StoreBackup{})) == "no_space");
    room = true;
    world.run_for(2000);
    REQUIRE(world.call(get("base")));
    mark_needs_check(world);
    world.run_for(2000);
    const auto without = world.call(schemas::StoreBackup{});
    REQUIRE(without);
    CHECK_FALSE(without->dump);
    CHECK_THAT(without->no_dump, Catch::Contains("not in service"));
    world.repair_pools();
    world.run_for(2000);
    CHECK(world.call(schemas::StoreBackup{})->dump);
    check_quiet(world);
}

TEST_CASE("at a start a stranger's mount is told of, and a device that lost its table is made anew", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(attach("base")));
    const std::string uuid = thin_dm_uuid(world.store().pool()->spec.pool.uuid, show(world, "base").thin_id);
    world.kill_manager();
    world.mounts.directories["theirs"] = {.id = "", .mount_point = true, .mount = {{"7:0", {}}}};
    world.kernel.devices.at(world.kernel.number_of({"", uuid})).live.reset();
    world.run_until([&] { return world.ready(); });
    CHECK(has_finding(world, "foreign-mount theirs"));
    CHECK(world.device_sectors("base") != 0);
    CHECK(show(world, "base").leases.size() == 1);
    world.mounts.directories.erase("theirs");
    REQUIRE(world.call(schemas::SystemFsck{}));
    CHECK(findings(world).empty());
    check_quiet(world);
}

TEST_CASE("a comparison that could not be made by itself is told, and made the next time", "[trouble]") {
    ManagerOptions manager;
    manager.reconcile_ms = 2000;
    World world({.seed = 1, .manager = manager});
    make_pool_and_base(world);
    refuse_these(world, {{schemas::ListThins::kType, {Errc::internal, "thin_ls: no memory"}}});
    world.run_for(20000);
    CHECK(findings(world) == std::vector<std::string>{"unchecked default"});
    world.answer_instead = nullptr;
    world.run_for(20000);
    CHECK(findings(world).empty());
    check_quiet(world);
}

TEST_CASE("a device that somebody makes active while the pool is put away for its repair is put away, too",
          "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(10000);
    const std::string uuid = world.store().pool()->spec.pool.uuid;
    const std::uint32_t base = show(world, "base").thin_id;
    bool made = false;
    world.answer_instead = [&](const schemas::Command& command) -> Instead {
        if (command.type != schemas::StopPool::kType || std::exchange(made, true)) return std::nullopt;
        FakeDeviceMapper dm(world.kernel);
        const DmDevice thin{thin_dm_name(uuid, base), thin_dm_uuid(uuid, base)};
        const std::string pool = device_number(world.kernel.pools.begin()->first);
        REQUIRE(dm.create(thin) == 0);
        REQUIRE(dm.load(thin, {"thin", 64 * kMiB / 512, make_thin_table({pool, base})}, false) == 0);
        REQUIRE(dm.resume(thin) == 0);
        return Error{Errc::in_use, "stop pool: a device of it is active"};
    };
    mark_needs_check(world);
    world.run_for(20000);
    CHECK(made);
    CHECK(pool_as_told(world).state == "ready");
    CHECK(world.device_sectors("base") == 0);
    REQUIRE(world.call(get("base")));
    check_quiet(world);
}

TEST_CASE("what the pool had lost before its metadata were damaged is no loss of their repair", "[trouble]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    world.run_for(10000);
    const std::uint32_t a = show(world, "a").thin_id;
    pool_in_kernel(world).core.thins.erase(a);
    FakeMetadata& metadata = world.kernel.media.at(pool_in_kernel(world).medium).metadata;
    metadata.thins.erase(a);
    REQUIRE(world.call(schemas::SystemFsck{}));
    CHECK(findings(world) == std::vector<std::string>{"lost a"});
    mark_needs_check(world);
    metadata.leaf_damaged = true;
    world.run_for(20000);
    CHECK(pool_as_told(world).state == "ready");
    CHECK_FALSE(metadata.leaf_damaged);
    REQUIRE(world.call(get("base")));
    REQUIRE(world.call(remove_and_wait("a")));
    check_quiet(world);
}

TEST_CASE("a new pool whose label's place is taken is not made, and what was made of it is gone", "[trouble]") {
    World world({.seed = 1});
    world.answer_instead = [&](const schemas::Command& command) -> Instead {
        if (command.type != schemas::CreateThin::kType) return std::nullopt;
        FakeDeviceMapper dm(world.kernel);
        const auto status = *dm.status(world.kernel.devices.at(world.kernel.pools.begin()->first).device);
        return encode(schemas::Verdict{EEXIST, status->parameters});
    };
    schemas::PoolCreate request;
    request.loop_bytes = 1024 * kMiB;
    const Answer refused = world.ask_once(request);
    CHECK(word(refused) == "in_use");
    CHECK_THAT(refused.error->message, Catch::Contains("label"));
    CHECK(world.kernel.devices.empty());
    CHECK(pool_as_told(world).state == "none");
    world.answer_instead = nullptr;
    make_pool_and_base(world);
    check_quiet(world);
}

}  // namespace cowslip::simulation
