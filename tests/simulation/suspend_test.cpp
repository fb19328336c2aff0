// An origin is suspended while a snapshot of it is taken. Whoever dies meanwhile, its writers must not wait for longer
// than half a second while any device actor lives (protocol.md A19).
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/names.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

// "base" is attached, "other" is there. The next actor that takes a snapshot of "base" dies when it has suspended it.
class SuspendedOrigin {
public:
    explicit SuspendedOrigin(World& world) : world_(world) {
        make_pool_and_base(world);
        REQUIRE(world.call(create("other", "base")));
        world.run_for(10000);  // Until it is not active any more.
        REQUIRE(world.call(attach("base")));
        before_effect_ = world.kernel.before_effect;
        world.kernel.before_effect = [this](const std::string& effect) {
            before_effect_(effect);
            if (died_at_ != 0 || !effect.starts_with("message create_snap") || !suspended()) return;
            died_at_ = world_.now_ms();
            throw Death{};
        };
    }

    bool suspended() {
        const std::string uuid = thin_dm_uuid(world_.store().pool()->spec.pool.uuid, thin_id());
        for (const auto& [number, device] : world_.kernel.devices) {
            if (device.device.uuid == uuid) return device.suspended;
        }
        return false;
    }

    void wait_for_death() {
        world_.run_until([&] { return died_at_ != 0; });
    }

    std::int64_t milliseconds_from_death_to_resume() {
        wait_for_death();
        REQUIRE(suspended());
        world_.run_until([&] { return !suspended(); });
        return world_.now_ms() - died_at_;
    }

private:
    std::uint32_t thin_id() {
        if (thin_id_ == 0) thin_id_ = world_.store().find_volume("base")->thin_id;
        return thin_id_;
    }
    World& world_;
    std::function<void(const std::string&)> before_effect_;
    std::int64_t died_at_ = 0;
    std::uint32_t thin_id_ = 0;
};

}  // namespace

TEST_CASE("the origin of a dead actor is resumed at once, though all other actors are at work", "[manager]") {
    const std::string stuck = GENERATE("", "device.activate", "device.read_pool_status");
    CAPTURE(stuck);
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
        CAPTURE(seed);
        World world({.seed = seed, .device_actors = 3});
        guarded(world, [&] {
            SuspendedOrigin origin(world);
            if (!stuck.empty()) world.hold_commands(stuck);
            if (stuck == "device.activate") world.ask(attach("other"), [](const Answer&) {});
            // Bug: nobody else was given the resume while the watcher was stuck in its look at the pool.
            if (!stuck.empty()) world.run_until([&] { return world.held() == 1; });
            bool made = false;
            world.ask(create("snapshot", "base"), [&](const Answer& answer) { made = word(answer) == "ok"; });
            CHECK(origin.milliseconds_from_death_to_resume() <= 500);
            world.let_go();
            world.run_until([&] { return made; });
            check_quiet(world);
        });
    }
}

TEST_CASE("an origin whose actor died with all others is resumed first thing when one has started", "[manager]") {
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
        CAPTURE(seed);
        World world({.seed = seed, .device_actors = 1});
        guarded(world, [&] {
            SuspendedOrigin origin(world);
            bool made = false;
            world.ask(create("snapshot", "base"), [&](const Answer& answer) { made = word(answer) == "ok"; });
            // These have waited for longer.
            for (int i = 0; i < 3; ++i) world.ask(create(fmt::format("{}", i), "other"), [](const Answer&) {});
            origin.wait_for_death();
            world.commands.clear();
            CHECK(origin.milliseconds_from_death_to_resume() <= 700);  // The next one starts within 320 ms.
            world.commands.erase("mount.list");
            int others = 0;
            for (const auto& [type, count] : world.commands) others += type == "device.resume" ? 0 : count;
            CHECK(others <= 1);  // One may have started before that death was known.
            world.run_until([&] { return made; });
            check_quiet(world);
        });
    }
}

TEST_CASE("an origin that cannot be resumed is a finding, and is resumed as soon as that can be", "[manager]") {
    // Bug: it was tried once, and then never again before the next start.
    World world({.seed = 1, .device_actors = 2});
    guarded(world, [&] {
        SuspendedOrigin origin(world);
        const std::uint32_t thin_id = show(world, "base").thin_id;
        world.kernel.resume_fails = {thin_dm_uuid(world.store().pool()->spec.pool.uuid, thin_id)};
        world.ask(create("snapshot", "base"), [](const Answer&) {});
        world.run_for(20000);
        CHECK(origin.suspended());
        const std::string finding = fmt::format("suspended {}", thin_id);
        CHECK(has_finding(world, finding));
        world.kernel.resume_fails.clear();
        world.run_for(2000);
        CHECK_FALSE(origin.suspended());
        CHECK_FALSE(has_finding(world, finding));
        check_quiet(world);
        std::vector<std::string> told;
        for (const auto& event : world.store().events_since(0, 500)) {
            if (event.type.starts_with("finding.")) told.push_back(event.type + " " + event.subject);
        }
        CHECK(told == std::vector<std::string>{fmt::format("finding.suspended {}", thin_id),
                                               fmt::format("finding.gone {}", thin_id)});
    });
}

}  // namespace cowslip::simulation
