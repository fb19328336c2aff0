// How much the volumes of one label may be promised.
#include <catch2/catch.hpp>

#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

schemas::PoolQuota quota(std::uint64_t mib, const std::string& label = "team=blue") {
    return {label, mib * kMiB};
}

schemas::VolumeCreate of_team(const std::string& id, std::uint64_t mib, const std::string& team = "blue") {
    schemas::VolumeCreate request = create(id);
    request.size_bytes = mib * kMiB;
    request.labels = {{"team", team}};
    return request;
}

std::uint64_t used_mib(World& world, const std::string& label = "team=blue") {
    for (const auto& quota : body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{})).quotas) {
        if (quota.label == label) return quota.bytes.used_bytes / kMiB;
    }
    return ~std::uint64_t{0};
}

schemas::VolumeResize to_size(const std::string& id, std::uint64_t mib) {
    schemas::VolumeResize request;
    request.id = id;
    request.size_bytes = mib * kMiB;
    return request;
}

}  // namespace

TEST_CASE("a create past the quota of its label is refused with what there is, and others are not", "[quota]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(of_team("a", 600)));
    const auto set = world.call(quota(1000));
    REQUIRE(set);
    CHECK(set->bytes.used_bytes == 600 * kMiB);  // What was there before counts.
    const Answer refused = world.ask_once(of_team("b", 500));
    CHECK(word(refused) == "no_space");
    CHECK(refused.error->message.find("'team=blue' have 600 MiB of their quota of 1000 MiB") != std::string::npos);
    CHECK(word(world.ask_once(of_team("b", 500, "red"))) == "ok");
    CHECK(word(world.ask_once(of_team("c", 400))) == "ok");
    CHECK(used_mib(world) == 1000);
    CHECK(word(world.ask_once(of_team("d", 1))) == "no_space");
    CHECK(word(world.ask_once(create("d"))) == "ok");
    REQUIRE(world.call(remove_and_wait("a")));
    CHECK(used_mib(world) == 400);
    CHECK(word(world.ask_once(of_team("e", 600))) == "ok");
    REQUIRE(world.call(quota(0)));
    CHECK(word(world.ask_once(of_team("f", 5000))) == "ok");
    check_quiet(world);
}

TEST_CASE("a volume neither grows nor is labelled past a quota", "[quota]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(quota(1000)));
    REQUIRE(world.call(of_team("a", 600)));
    REQUIRE(world.call(of_team("b", 600, "red")));
    CHECK(word(world.ask_once(to_size("a", 1100))) == "no_space");
    CHECK(word(world.ask_once(to_size("a", 900))) == "ok");
    CHECK(used_mib(world) == 900);
    schemas::VolumeLabel label;
    label.id = "b";
    label.set = {{"team", "blue"}};
    CHECK(word(world.ask_once(label)) == "no_space");
    CHECK(show(world, "b").labels.at("team") == "red");
    REQUIRE(world.call(quota(1500)));
    CHECK(word(world.ask_once(label)) == "ok");
    CHECK(used_mib(world) == 1500);
    CHECK(word(world.ask_once(label)) == "ok");  // It has it already.
    label.set.clear();
    label.remove = {"team"};
    REQUIRE(world.call(label));
    CHECK(used_mib(world) == 900);
    // Below what there is: nothing is taken away, and nothing comes.
    REQUIRE(world.call(quota(100)));
    CHECK(exists(world, "a"));
    CHECK(word(world.ask_once(of_team("c", 1))) == "no_space");
    check_quiet(world);
}

TEST_CASE("a quota outlives its manager, and a create that fails leaves nothing of it used", "[quota]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(quota(1000)));
    REQUIRE(world.call(of_team("a", 600)));
    schemas::VolumeCreate nowhere = of_team("b", 100);
    nowhere.parent = "nobody";
    CHECK(word(world.ask_once(nowhere)) == "not_found");
    CHECK(used_mib(world) == 600);
    world.kill_manager();
    world.run_for(2000);
    CHECK(used_mib(world) == 600);
    CHECK(word(world.ask_once(of_team("b", 500))) == "no_space");
    CHECK(word(world.ask_once(of_team("b", 400))) == "ok");
    check_quiet(world);
}

TEST_CASE("a quota is for a label, and for so many of them", "[quota]") {
    World world({.seed = 1});
    CHECK(word(world.ask_once(quota(1))) == "not_found");
    make_pool_and_base(world);
    CHECK(word(world.ask_once(quota(1, "team"))) == "invalid_argument");
    CHECK(word(world.ask_once(quota(1, "=blue"))) == "invalid_argument");
    CHECK(word(world.ask_once(quota(1, "TEAM=blue"))) == "invalid_argument");
    CHECK(word(world.ask_once(quota(1, "team="))) == "ok");
    for (std::size_t i = 1; i < schemas::kMostQuotas; ++i) {
        REQUIRE(world.call(quota(1, "team=" + std::to_string(i))));
    }
    CHECK(word(world.ask_once(quota(1, "team=one-more"))) == "invalid_argument");
    CHECK(word(world.ask_once(quota(2, "team="))) == "ok");
}

}  // namespace cowslip::simulation
