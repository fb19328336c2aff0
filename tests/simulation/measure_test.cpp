// What volumes take of the pool: counted when asked, remembered, and never in the way of others who want the one
// metadata snapshot.
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/names.h"
#include "common/thin_pool.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

constexpr std::uint64_t kBlock = 65536;

void write(World& world, const std::string& id, std::uint64_t blocks) {
    const std::string uuid = thin_dm_uuid(world.store().pool()->spec.pool.uuid, show(world, id).thin_id);
    REQUIRE(world.kernel.write({.name = "", .uuid = uuid}, blocks) == 0);
}

schemas::PoolMeasure exactly() {
    schemas::PoolMeasure message;
    message.exact = true;
    return message;
}

}  // namespace

TEST_CASE("what volumes have mapped, and have for themselves, is counted when somebody asks", "[measure]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(attach("base")));
    write(world, "base", 10);
    CHECK_FALSE(show(world, "base").mapped_bytes);
    REQUIRE(world.call(create("clone", "base")));
    REQUIRE(world.call(attach("clone")));
    write(world, "clone", 3);
    const auto active = world.call(schemas::PoolMeasure{});
    REQUIRE(active);
    CHECK(active->volumes == 2);
    CHECK(show(world, "base").mapped_bytes == 10 * kBlock);
    CHECK_FALSE(show(world, "base").exclusive_bytes);
    CHECK(show(world, "clone").mapped_bytes == 13 * kBlock);
    REQUIRE(world.call(detach("clone")));
    world.run_for(10000);  // It is not active any more.
    const auto all = world.call(exactly());
    REQUIRE(all);
    CHECK(all->volumes == 3);  // With the template.
    const schemas::Volume clone = show(world, "clone");
    CHECK(clone.mapped_bytes == 13 * kBlock);
    CHECK(clone.exclusive_bytes == 3 * kBlock);
    CHECK(clone.shared_bytes == 10 * kBlock);
    // What is known of the active ones is newer; when the rest was counted is still told.
    write(world, "base", 1);
    world.run_for(60000);
    REQUIRE(world.call(schemas::PoolMeasure{}));
    CHECK(show(world, "base").mapped_bytes == 11 * kBlock);
    CHECK(show(world, "base").as_of == clone.as_of);
    // Discards may have left less than was counted then as its own: nothing is said of what is shared.
    world.kernel.pools.begin()->second.core.remap(clone.thin_id, 1);
    REQUIRE(world.call(attach("clone")));
    REQUIRE(world.call(schemas::PoolMeasure{}));
    CHECK(show(world, "clone").mapped_bytes == kBlock);
    CHECK_FALSE(show(world, "clone").shared_bytes);
    check_quiet(world);
}

TEST_CASE("to count exactly waits for its turn with the metadata snapshot, and so do others", "[measure]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.hold_commands(schemas::ListThins::kType);
    const std::string first = world.send_once(exactly());
    const std::string second = world.send_once(schemas::SystemFsck{});
    world.run_for(30000);
    CHECK(world.held() == 1);
    // Nobody else waits.
    REQUIRE(world.call(create("clone", "base")));
    REQUIRE(world.call(get("clone")));
    world.let_go();
    CHECK(word(world.answer(first)) == "ok");
    CHECK(word(world.answer(second)) == "ok");
    check_quiet(world);
}

TEST_CASE("another program's metadata snapshot is not taken from it, and nothing is forgotten", "[measure]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(exactly()));
    world.kernel.pools.begin()->second.core.held_root = 7;
    CHECK(word(world.ask_once(exactly())) == "in_use");
    CHECK(show(world, "base").exclusive_bytes);
    world.kernel.pools.begin()->second.core.held_root = 0;
    REQUIRE(world.call(schemas::SystemCleanup{}));
    CHECK(word(world.ask_once(exactly())) == "unavailable");
}

TEST_CASE("a death at any effect or turn of an exact count holds no metadata snapshot afterwards", "[measure]") {
    const auto count = [](World& world) {
        make_pool_and_base(world);
        REQUIRE(world.call(exactly()));
    };
    die_everywhere(false, count, [](World& world) {
        CHECK(world.kernel.pools.begin()->second.core.held_root == 0);
        REQUIRE(world.call(exactly()));
        CHECK(show(world, "base").exclusive_bytes);
    });
}

TEST_CASE("what is active and nobody's volume, or in a pool that cannot tell, is not counted", "[measure]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(attach("base")));
    const std::string uuid = world.store().pool()->spec.pool.uuid;
    FakeDeviceMapper dm(world.kernel);
    const dev_t pool = world.kernel.pools.begin()->first;
    const DmDevice theirs{thin_dm_name(uuid, 77), thin_dm_uuid(uuid, 77)};
    REQUIRE(dm.message(world.kernel.devices.at(pool).device, "create_thin 77") == 0);
    REQUIRE(dm.create(theirs) == 0);
    REQUIRE(dm.load(theirs, {"thin", 2048, make_thin_table({device_number(pool), 77})}, false) == 0);
    REQUIRE(dm.resume(theirs) == 0);
    CHECK(world.call(schemas::PoolMeasure{})->volumes == 1);
    CHECK(world.call(exactly())->volumes == 2);  // With the template.
    world.kernel.pools.begin()->second.mode = PoolMode::fail;
    CHECK(body_of<schemas::PoolMeasure>(world.ask_once(schemas::PoolMeasure{})).volumes == 0);
    CHECK(word(world.ask_once(exactly())) == "unavailable");
}

}  // namespace cowslip::simulation
