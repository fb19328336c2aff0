// The pool made larger while it is used: by an operator's word, refused where it cannot be, and whole after a death or
// a power cut at any step.
#include <algorithm>

#include <catch2/catch.hpp>

#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

constexpr std::uint64_t kGrowMiB = kMiB / 512;

schemas::PoolGrow grow(std::uint64_t data_mib, std::uint64_t metadata_mib = 0) {
    return {data_mib * kMiB, metadata_mib * kMiB, {}};
}

schemas::PoolStatus::Reply size_of_pool(World& world) {
    return body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{}));
}

FakePool& growing_pool(World& world) {
    return world.kernel.pools.begin()->second;
}

DmDevice device_to_write(World& world, const std::string& id) {
    const std::string path = show(world, id).device.value();
    return {path.substr(path.rfind('/') + 1), ""};
}

std::size_t times_told(World& world, const std::string& type) {
    const auto events = world.store().events_since(0, 500);
    return static_cast<std::size_t>(
        std::count_if(events.begin(), events.end(), [&](const auto& event) { return event.type == type; }));
}

void fill_up_metadata(World& world) {
    world.kernel.used_metadata_blocks = growing_pool(world).core.metadata_blocks;
    growing_pool(world).mode = PoolMode::ro;
}

}  // namespace

TEST_CASE("a pool in files grows while its volumes are used", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(get("base")));
    const auto grown = world.call(grow(2048, 64));
    REQUIRE(grown);
    CHECK(grown->changed);
    CHECK(grown->pool.data.total_bytes == 2048 * kMiB);
    CHECK(grown->pool.metadata.total_bytes == 64 * kMiB);
    CHECK(world.store().pool()->spec.data_sectors == 2048 * kGrowMiB);
    CHECK(world.store().pool()->spec.metadata_sectors == 64 * kGrowMiB);
    CHECK(times_told(world, "pool.extended") == 1);
    CHECK(world.store().unfinished_operations().empty());
    CHECK_FALSE(world.call(grow(2048))->changed);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(put("base")));
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(schemas::PoolStart{}));
    CHECK(size_of_pool(world).data.total_bytes == 2048 * kMiB);
    check_quiet(world);
}

TEST_CASE("a growth that cannot be is refused, and changes nothing", "[manager]") {
    World world({.seed = 1});
    CHECK(word(world.ask_once(grow(2048))) == "not_found");
    make_pool_and_base(world);
    const auto before = size_of_pool(world);
    CHECK(word(world.ask_once(grow(512))) == "invalid_argument");
    CHECK(word(world.ask_once(grow(0, 1))) == "invalid_argument");
    CHECK(word(world.ask_once(grow(0))) == "invalid_argument");
    CHECK(word(world.ask_once(grow(0, 16 * 1024))) == "invalid_argument");  // More than the kernel uses.
    world.kernel.file_system_sectors = 1536 * kGrowMiB;
    const Answer refused = world.ask_once(grow(2048));
    CHECK(word(refused) == "no_space");
    CHECK(size_of_pool(world).data.total_bytes == before.data.total_bytes);
    CHECK(times_told(world, "pool.extended") == 0);
    CHECK(world.store().unfinished_operations().empty());
    REQUIRE(world.call(schemas::SystemCleanup{}));
    CHECK(word(world.ask_once(grow(2048))) == "unavailable");
    REQUIRE(world.call(schemas::PoolStart{}));
    check_quiet(world);
}

TEST_CASE("a pool that is full of data is in service again as soon as it has grown", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(get("base")));
    CHECK(world.kernel.write(device_to_write(world, "base"), 1U << 20U) == ENOSPC);
    world.run_for(1000);
    CHECK(size_of_pool(world).mode == "out_of_data_space");
    const Answer refused = world.ask_once(create("a", "base"));
    CHECK(word(refused) == "no_space");
    CHECK(refused.error->message.find("cowslip pool grow") != std::string::npos);
    REQUIRE(world.call(grow(2048)));
    CHECK(size_of_pool(world).mode == "rw");
    CHECK(world.kernel.write(device_to_write(world, "base"), 1) == 0);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(put("base")));
    check_quiet(world);
}

// Who waits for the pool to be writable holds it: a growth that waited for them would never come.
TEST_CASE("full metadata grow, and what waited for room goes on", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(3000);
    world.kernel.used_metadata_blocks =
        growing_pool(world).core.metadata_blocks - growing_pool(world).core.thins.size() - 1;
    const std::string waits = world.send_once(create("a", "base"));  // Fills them: what became of it is not known.
    world.run_for(2000);
    fill_up_metadata(world);
    world.run_for(2000);
    CHECK(has_finding(world, "pool default"));
    const std::string cleanup = world.send_once(schemas::SystemCleanup{});  // Waits for the create.
    world.run_for(1000);
    REQUIRE(world.call(grow(0, 64)));
    CHECK(word(world.answer(waits)) == "ok");
    CHECK(word(world.answer(cleanup)) == "ok");
    CHECK_FALSE(has_finding(world, "pool default"));
    REQUIRE(world.call(schemas::PoolStart{}));
    check_quiet(world);
}

TEST_CASE("metadata that the kernel has marked are larger after their repair", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(get("base")));
    growing_pool(world).core.needs_check = true;
    world.kernel.media.at("file:metadata").metadata.needs_check = true;
    growing_pool(world).mode = PoolMode::ro;
    world.run_for(1000);
    const std::uint64_t before = size_of_pool(world).metadata.total_bytes;
    REQUIRE(world.call(grow(0, 64)));
    CHECK(size_of_pool(world).metadata.total_bytes == before);
    CHECK(size_of_pool(world).state == "needs_repair");
    schemas::PoolRepair repair;
    repair.evict = true;
    REQUIRE(world.call(repair));
    CHECK(size_of_pool(world).metadata.total_bytes == 64 * kMiB);
    check_quiet(world);
}

TEST_CASE("a pool on two devices takes what they have become", "[manager]") {
    World world({.seed = 1});
    world.kernel.add_disk("/dev/vda", 1024 * kGrowMiB);
    world.kernel.add_disk("/dev/vdb", 32 * kGrowMiB);
    world.kernel.allowed_devices = {"/dev/vda", "/dev/vdb"};
    schemas::PoolCreate pool;
    pool.data_device = "/dev/vda";
    pool.metadata_device = "/dev/vdb";
    REQUIRE(world.call(pool));
    CHECK(word(world.ask_once(grow(2048))) == "invalid_argument");
    CHECK_FALSE(world.call(grow(0))->changed);
    world.kernel.media.at("/dev/vda").sectors = 3072 * kGrowMiB;
    world.kernel.media.at("/dev/vdb").sectors = 48 * kGrowMiB;
    REQUIRE(world.call(grow(0))->changed);
    CHECK(size_of_pool(world).data.total_bytes == 3072 * kMiB);
    CHECK(size_of_pool(world).metadata.total_bytes == 48 * kMiB);
    // By itself at the next start.
    world.kernel.media.at("/dev/vda").sectors = 4096 * kGrowMiB;
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(schemas::PoolStart{}));
    CHECK(size_of_pool(world).data.total_bytes == 4096 * kMiB);
    CHECK(times_told(world, "pool.extended") == 2);
    check_quiet(world);
}

namespace {

void add_disks(World& world) {
    for (const std::string path : {"/dev/vda", "/dev/vdb", "/dev/vdc"}) {
        world.kernel.add_disk(path, 1040 * kGrowMiB);  // 16 are metadata.
        world.kernel.allowed_devices.insert(path);
    }
}

void make_on_device(World& world) {
    if (!world.kernel.media.contains("/dev/vda")) add_disks(world);
    schemas::PoolCreate pool;
    pool.devices = {"/dev/vda"};
    REQUIRE(world.call(pool));
    REQUIRE(world.call(create("base")));
}

// 1 GiB of the 2 that its devices have.
void make_with_reserve(World& world, schemas::PoolLimits limits = {}) {
    if (!world.kernel.media.contains("/dev/vda")) add_disks(world);
    schemas::PoolCreate pool;
    pool.devices = {"/dev/vda", "/dev/vdb"};
    pool.data_bytes = 1024 * kMiB;
    pool.metadata_bytes = 8 * kMiB;
    pool.limits = limits;
    REQUIRE(world.call(pool));
    REQUIRE(world.call(create("base")));
}

schemas::PoolGrow by_devices(std::vector<std::string> paths) {
    schemas::PoolGrow request;
    request.devices = std::move(paths);
    return request;
}

}  // namespace

TEST_CASE("a pool with devices of its own grows by whole devices", "[manager]") {
    World world({.seed = 1});
    make_on_device(world);
    CHECK(size_of_pool(world).backing == "devices");
    CHECK(word(world.ask_once(grow(2048))) == "no_space");
    CHECK_FALSE(world.call(grow(0))->changed);
    REQUIRE(world.call(get("base")));
    const auto grown = world.call(by_devices({"/dev/vdb", "/dev/vdc"}));
    REQUIRE(grown);
    CHECK(grown->changed);
    CHECK(grown->pool.data.total_bytes == 3072 * kMiB);
    CHECK(grown->pool.devices == std::vector<std::string>{"/dev/vda", "/dev/vdb", "/dev/vdc"});
    CHECK_FALSE(world.call(by_devices({"/dev/vdb"}))->changed);
    REQUIRE(world.call(put("base")));
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(schemas::PoolStart{}));
    CHECK(size_of_pool(world).data.total_bytes == 3072 * kMiB);
    check_quiet(world);
}

TEST_CASE("a pool takes a part of its devices, and of the rest what it is told to", "[manager]") {
    World world({.seed = 1});
    make_with_reserve(world);
    CHECK(size_of_pool(world).data.total_bytes == 1024 * kMiB);
    CHECK(size_of_pool(world).metadata.total_bytes == 8 * kMiB);
    CHECK(size_of_pool(world).reserve_bytes == 1024 * kMiB);
    REQUIRE(world.call(get("base")));
    CHECK(word(world.ask_once(grow(512))) == "invalid_argument");
    CHECK(word(world.ask_once(grow(4096))) == "no_space");
    CHECK(word(world.ask_once(grow(0, 32))) == "no_space");
    CHECK(size_of_pool(world).data.total_bytes == 1024 * kMiB);
    REQUIRE(world.call(grow(1536, 12))->changed);
    CHECK(size_of_pool(world).data.total_bytes == 1536 * kMiB);
    CHECK(size_of_pool(world).metadata.total_bytes == 12 * kMiB);
    CHECK(size_of_pool(world).reserve_bytes == 512 * kMiB);
    // To the reserve, and to the pool what is said.
    auto request = by_devices({"/dev/vdc"});
    request.data_bytes = 1536 * kMiB;
    CHECK_FALSE(world.call(request)->changed);
    CHECK(size_of_pool(world).reserve_bytes == 1536 * kMiB);
    REQUIRE(world.call(put("base")));
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(schemas::PoolStart{}));
    CHECK(size_of_pool(world).data.total_bytes == 1536 * kMiB);
    CHECK(size_of_pool(world).metadata.total_bytes == 12 * kMiB);
    CHECK(size_of_pool(world).reserve_bytes == 1536 * kMiB);
    REQUIRE(world.call(grow(0))->changed);  // All.
    CHECK(size_of_pool(world).data.total_bytes == 3072 * kMiB);
    CHECK(size_of_pool(world).metadata.total_bytes == 16 * kMiB);
    CHECK(size_of_pool(world).reserve_bytes == 0);
    check_quiet(world);
}

TEST_CASE("what a pool's own device has become larger by is taken when the pool is grown", "[manager]") {
    World world({.seed = 1});
    make_on_device(world);
    world.kernel.media.at("/dev/vda").sectors += 1024 * kGrowMiB;
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(schemas::PoolStart{}));
    CHECK(size_of_pool(world).data.total_bytes == 1024 * kMiB);
    SECTION("all of it") {
        REQUIRE(world.call(grow(0))->changed);
        CHECK(size_of_pool(world).data.total_bytes == 2048 * kMiB);
    }
    SECTION("a part of it") {
        REQUIRE(world.call(grow(1536))->changed);
        CHECK(size_of_pool(world).data.total_bytes == 1536 * kMiB);
        CHECK(size_of_pool(world).reserve_bytes == 512 * kMiB);
    }
    check_quiet(world);
}

TEST_CASE("only a pool with devices of its own takes a part of them", "[manager]") {
    World world({.seed = 1});
    add_disks(world);
    schemas::PoolCreate pool;
    pool.data_bytes = 1024 * kMiB;
    CHECK(word(world.ask_once(pool)) == "invalid_argument");
    pool.loop_bytes = 1024 * kMiB;
    CHECK(word(world.ask_once(pool)) == "invalid_argument");
    pool.loop_bytes = 0;
    pool.devices = {"/dev/vda"};
    pool.data_bytes = 2048 * kMiB;  // More than it has.
    CHECK(word(world.ask_once(pool)) == "invalid_argument");
    pool.data_bytes = 0;
    pool.limits.max_bytes = 2048 * kMiB;
    CHECK(word(world.ask_once(pool)) == "invalid_argument");
}

TEST_CASE("a device that cannot become the pool's is refused, and forgotten", "[manager]") {
    World world({.seed = 1});
    make_on_device(world);
    world.kernel.media.at("/dev/vdb").signature = "ext4 file system";
    world.kernel.allowed_devices.erase("/dev/vdc");
    CHECK(word(world.ask_once(by_devices({"/dev/vdb"}))) == "in_use");
    CHECK(word(world.ask_once(by_devices({"/dev/vdc"}))) == "permission_denied");
    CHECK(size_of_pool(world).devices == std::vector<std::string>{"/dev/vda"});
    CHECK(world.store().unfinished_operations().empty());
    world.kernel.media.at("/dev/vdb").signature.clear();
    REQUIRE(world.call(by_devices({"/dev/vdb"})));
    CHECK(size_of_pool(world).devices == std::vector<std::string>{"/dev/vda", "/dev/vdb"});
    check_quiet(world);
}

TEST_CASE("only a pool with devices of its own grows by devices", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    CHECK(word(world.ask_once(by_devices({"/dev/vda"}))) == "invalid_argument");
    schemas::PoolCreate mixed;
    mixed.loop_bytes = 1024 * kMiB;
    mixed.devices = {"/dev/vda"};
    CHECK(word(world.ask_once(mixed)) == "invalid_argument");
}

TEST_CASE("an adopted pool is not grown", "[manager]") {
    World world({.seed = 1});
    world.kernel.add_disk("/dev/vda", 1024 * kGrowMiB);
    world.kernel.add_disk("/dev/vdb", 32 * kGrowMiB);
    world.kernel.allowed_devices = {"/dev/mapper/vg-pool"};
    FakeDeviceMapper dm(world.kernel);
    const DmDevice owned{"vg-pool", "LVM-1"};
    REQUIRE(dm.create(owned) == 0);
    REQUIRE(dm.load(owned, {"thin-pool", 1024 * kGrowMiB, "/dev/vdb /dev/vda 128 0"}, false) == 0);
    REQUIRE(dm.resume(owned) == 0);
    schemas::PoolCreate pool;
    pool.adopt = "vg-pool";
    REQUIRE(world.call(pool));
    CHECK(word(world.ask_once(grow(0))) == "invalid_argument");
}

namespace {

// With volumes that are got and made meanwhile.
void grow_in_a_life(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    int answered = 0;
    const auto done = [&](const Answer& answer) {
        CHECK_FALSE(answer.error);
        ++answered;
    };
    world.ask(grow(2048, 64), done);
    world.ask(get("a"), done);
    world.ask(create("b", "base"), done);
    world.run_until([&] { return answered == 3; });
}

void check_grown(World& world) {
    const schemas::PoolSpec spec = world.store().pool()->spec;
    CHECK(spec.data_sectors == 2048 * kGrowMiB);
    CHECK(spec.metadata_sectors == 64 * kGrowMiB);
    CHECK(world.kernel.media.at("file:data").sectors == spec.data_sectors);
    CHECK(world.kernel.media.at("file:metadata").sectors == spec.metadata_sectors);
    CHECK(size_of_pool(world).data.total_bytes == 2048 * kMiB);
    CHECK(size_of_pool(world).metadata.total_bytes == 64 * kMiB);
    CHECK(size_of_pool(world).mode == "rw");
    CHECK(world.store().unfinished_operations().empty());
    for (const std::string id : {"base", "a", "b"}) CHECK(exists(world, id));
    CHECK(body_of<schemas::SystemFsck>(world.ask_once(schemas::SystemFsck{})).ok);
}

}  // namespace

TEST_CASE("a death at any effect or turn of a growth loses nothing", "[simulation]") {
    die_everywhere(false, grow_in_a_life, check_grown);
}

TEST_CASE("a power cut at any effect or turn of a growth loses nothing", "[simulation]") {
    die_everywhere(true, grow_in_a_life, check_grown);
}

TEST_CASE("a death or power cut at any effect or turn of a growth by a device loses nothing", "[simulation]") {
    die_everywhere(
        GENERATE(false, true),
        [](World& world) {
            make_on_device(world);
            REQUIRE(world.call(by_devices({"/dev/vdb"})));
        },
        [](World& world) {
            CHECK(size_of_pool(world).data.total_bytes == 2048 * kMiB);
            CHECK(size_of_pool(world).devices == std::vector<std::string>{"/dev/vda", "/dev/vdb"});
            CHECK(exists(world, "base"));
            CHECK(world.store().unfinished_operations().empty());
        });
}

TEST_CASE("a death or power cut at any effect or turn of a growth from the reserve loses nothing", "[simulation]") {
    die_everywhere(
        GENERATE(false, true),
        [](World& world) {
            make_with_reserve(world);
            world.kernel.media.at("/dev/vda").sectors = 2064 * kGrowMiB;
            world.kernel.media.at("/dev/vdb").sectors = 2064 * kGrowMiB;
            REQUIRE(world.call(grow(3072, 12)));
        },
        [](World& world) {
            CHECK(size_of_pool(world).data.total_bytes == 3072 * kMiB);
            CHECK(size_of_pool(world).metadata.total_bytes == 12 * kMiB);
            CHECK(size_of_pool(world).reserve_bytes == 1024 * kMiB);
            CHECK(exists(world, "base"));
            CHECK(world.store().unfinished_operations().empty());
        });
}

}  // namespace cowslip::simulation
