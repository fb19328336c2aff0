// How far a pool may go, and how much volumes may be promised: all of them, and those of one label.
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

template <class Set>
schemas::PoolSetLimits limits(const Set& set) {
    schemas::PoolSetLimits request;
    set(request);
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

TEST_CASE("volumes are promised so much of the pool's data as the limit says, and no more", "[quota]") {
    World world({.seed = 1});
    make_pool_and_base(world);  // 1024 MiB, and 64 of them promised.
    const auto promised = [&] {
        return body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{})).promised_bytes / kMiB;
    };
    CHECK(promised() == 64);
    REQUIRE(world.call(limits([](auto& to) { to.overprovision_percent = 200; })));
    CHECK(word(world.ask_once(of_team("a", 1900))) == "ok");
    const Answer refused = world.ask_once(of_team("b", 100));
    CHECK(word(refused) == "no_space");
    INFO(refused.error->message);
    CHECK(refused.error->message.find("volumes are promised 1.9 GiB of the pool's 1 GiB, and this takes 100 MiB more, "
                                      "past the 200 % that may be") != std::string::npos);
    CHECK(word(world.ask_once(to_size("a", 2000))) == "no_space");
    CHECK(word(world.ask_once(of_team("b", 50))) == "ok");
    CHECK(promised() == 2014);
    world.kill_manager();
    world.run_for(5000);
    CHECK(promised() == 2014);
    CHECK(word(world.ask_once(of_team("c", 100))) == "no_space");
    REQUIRE(world.call(remove_and_wait("a")));
    CHECK(promised() == 114);
    CHECK(word(world.ask_once(of_team("c", 100))) == "ok");
    REQUIRE(world.call(limits([](auto& to) { to.overprovision_percent = 0; })));
    CHECK(word(world.ask_once(of_team("d", 9000))) == "ok");
    check_quiet(world);
}

TEST_CASE("what was promised by a pool that is gone, or before a rebuild, does not count", "[quota]") {
    // The sums of labels outlived their pool.
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(quota(1000)));
    REQUIRE(world.call(of_team("a", 600)));
    CHECK(used_mib(world) == 600);
    REQUIRE(world.call(schemas::PoolDestroy{.name = "default"}));
    make_pool_and_base(world);
    REQUIRE(world.call(quota(1000)));
    CHECK(used_mib(world) == 0);
    CHECK(word(world.ask_once(of_team("a", 900))) == "ok");
    check_quiet(world);
}

TEST_CASE("a pool that did not grow by itself does so from when it has a limit, and goes as far as the last one says",
          "[quota]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const auto status = [&] { return body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{})); };
    const auto fill = [&](std::uint64_t percent) {
        world.kernel.pools.begin()->second.core.remap(show(world, "base").thin_id,
                                                      status().data.total_bytes / 65536 * percent / 100);
    };
    REQUIRE(world.call(limits([](auto& to) {
        to.max_bytes = 1280 * kMiB;
        to.grow_step_bytes = 128 * kMiB;
    })));
    CHECK(status().limits.grow_step_bytes == 128 * kMiB);
    fill(98);
    world.run_for(5000);
    CHECK(status().data.total_bytes == 1152 * kMiB);
    CHECK(status().low_water > 0);
    fill(99);
    world.run_for(5000);
    CHECK(status().data.total_bytes == 1280 * kMiB);
    fill(99);
    world.run_for(5000);
    CHECK(status().data.total_bytes == 1280 * kMiB);
    REQUIRE(world.call(limits([](auto& to) { to.max_bytes = 2048 * kMiB; })));
    world.run_for(5000);
    CHECK(status().data.total_bytes == 1408 * kMiB);
    REQUIRE(world.call(limits([](auto& to) { to.max_bytes = 0; })));
    CHECK(status().limits.grow_step_bytes == 0);
    fill(99);
    world.run_for(5000);
    CHECK(status().data.total_bytes == 1408 * kMiB);
    check_quiet(world);
}

TEST_CASE("limits that cannot be are refused, and those that are stay", "[quota]") {
    World world({.seed = 1});
    CHECK(word(world.ask_once(limits([](auto& to) { to.min_free_bytes = 1; }))) == "not_found");
    make_pool_and_base(world);
    REQUIRE(world.call(limits([](auto& to) { to.min_free_bytes = 64 * kMiB; })));
    CHECK(word(world.ask_once(limits([](auto& to) { to.max_bytes = 512 * kMiB; }))) == "invalid_argument");
    CHECK(word(world.ask_once(limits([](auto& to) { to.grow_step_bytes = 64 * kMiB; }))) == "invalid_argument");
    CHECK(word(world.ask_once(limits([](auto& to) {
              to.max_bytes = 2048 * kMiB;
              to.grow_step_bytes = 1;
          }))) == "invalid_argument");
    const auto found = body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{})).limits;
    CHECK((found.min_free_bytes == 64 * kMiB && found.max_bytes == 0));
    check_quiet(world);
}

TEST_CASE("of a full pool everybody is told who may be writing to it", "[quota]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    for (const char* id : {"a", "b", "c"}) REQUIRE(world.call(create(id, "base")));
    schemas::VolumeGet reader = get("a");
    reader.read_only = true;
    REQUIRE(world.call(reader));
    REQUIRE(world.call(get("b")));
    REQUIRE(world.call(attach("c")));
    world.kernel.pools.begin()->second.mode = PoolMode::out_of_data_space;
    world.run_for(1000);
    std::vector<std::string> told;
    for (const auto& event : body_of<schemas::EventSince>(world.ask_once(schemas::EventSince{})).events) {
        const auto& body = event.body;
        if (event.type == "volume.no_space") told.push_back(event.subject + " " + body.at("writes"));
    }
    CHECK(told == std::vector<std::string>{"b fail", "c fail"});
    world.kernel.pools.begin()->second.mode = PoolMode::rw;
    check_quiet(world);
}

}  // namespace cowslip::simulation
