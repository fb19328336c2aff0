// Lists that come in pages: with one entry on each, and a last one that says `more` and has nothing, all is as it is
// with one page.
#include <catch2/catch.hpp>

#include "schemas/device_actor.h"
#include "schemas/mount_actor.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

template <class Message, class Entry>
void shorten(const schemas::Command& command, Result<std::string>& answer,
             std::vector<Entry> Message::Reply::*entries) {
    if (command.type != Message::kType || !answer) return;
    auto page = *decode_as<typename Message::Reply>(std::string_view(*answer));
    if ((page.*entries).size() > 1) (page.*entries).resize(1);
    page.more = true;
    answer = encode(page);
}

void list_one_by_one(World& world) {
    world.change_answer = [](const schemas::Command& command, Result<std::string> answer) {
        shorten<schemas::ListThins>(command, answer, &schemas::ListThins::Reply::thins);
        shorten<schemas::ListActive>(command, answer, &schemas::ListActive::Reply::devices);
        shorten<schemas::ListMounts>(command, answer, &schemas::ListMounts::Reply::mounts);
        shorten<schemas::RepairMetadata>(command, answer, &schemas::RepairMetadata::Reply::thins);
        return answer;
    };
}

void make_some_volumes(World& world) {
    make_pool_and_base(world);
    for (const std::string id : {"a", "b", "c"}) {
        REQUIRE(world.call(create(id, "base")));
        REQUIRE(world.call(get(id)));
    }
    world.run_for(70000);
    list_one_by_one(world);
}

}  // namespace

TEST_CASE("volumes, devices and mounts on many pages are all seen", "[pages]") {
    World world({.seed = 1});
    make_some_volumes(world);
    const auto compared = world.call(schemas::SystemFsck{});
    REQUIRE(compared);
    CHECK(compared->ok);
    CHECK(compared->pool_compared);
    CHECK(world.call(schemas::PoolMeasure{})->volumes == 3);
    CHECK(world.call(schemas::PoolMeasure{.exact = true})->volumes == 5);  // With the template.
    CHECK(show(world, "c").mapped_bytes.has_value());
    world.kill_manager();
    world.run_for(10000);
    for (const std::string id : {"a", "b", "c"}) CHECK(show(world, id).mount.has_value());
    CHECK(findings(world).empty());
    check_quiet(world);
}

TEST_CASE("a lost store is made anew from a list on many pages", "[pages]") {
    World world({.seed = 1});
    make_some_volumes(world);
    REQUIRE(world.call(schemas::SystemCleanup{}));
    lose_store(world);
    const auto rebuilt = world.call(schemas::PoolRebuild{});
    REQUIRE(rebuilt);
    CHECK(rebuilt->recovered.empty());
    for (const std::string id : {"a", "b", "base", "c"}) CHECK(exists(world, id));
    check_quiet(world);
}

TEST_CASE("what a mended copy has is told on many pages, and a loss on the last of them is seen", "[pages]") {
    World world({.seed = 1});
    make_some_volumes(world);
    const bool loses = GENERATE(false, true);
    FakePool& pool = world.kernel.pools.begin()->second;
    pool.core.needs_check = true;
    pool.mode = PoolMode::ro;
    FakeMetadata& metadata = world.kernel.media.at(pool.medium).metadata;
    metadata.needs_check = true;
    metadata.leaf_damaged = true;
    if (loses) metadata.unmendable = {show(world, "c").thin_id};
    world.run_for(3000);
    const Answer answer = world.ask_once(schemas::PoolRepair{.evict = true, .spare = ""});
    if (!answer.error) INFO(body_of<schemas::PoolRepair>(answer).how);
    REQUIRE(word(answer) == (loses ? "needs_repair" : "ok"));
    if (loses) {
        CHECK(answer.error->details.at("lost") == std::vector<std::string>{"c"});
        return;
    }
    CHECK(body_of<schemas::PoolRepair>(answer).lost.empty());
    for (const std::string id : {"a", "b", "c"}) REQUIRE(world.call(get(id)));
    check_quiet(world);
}

}  // namespace cowslip::simulation
