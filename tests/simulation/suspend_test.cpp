// An origin is suspended while a snapshot of it is taken. Whoever dies meanwhile, its writers must not wait for longer
// than half a second while any device actor lives (protocol.md A19).
#include <algorithm>
#include <cstdio>

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

// What is done to the kernel while clones of "base", which is attached, are asked for.
struct Clones {
    explicit Clones(World& of) : world(of) {
        make_pool_and_base(world);
        world.run_for(10000);  // Its template is not active any more.
        REQUIRE(world.call(attach("base")));
        origin = show(world, "base").thin_id;
        before_effect = world.kernel.before_effect;
        world.kernel.before_effect = [this](const std::string& effect) {
            before_effect(effect);
            if (effect.starts_with("suspend ")) ++suspends;
            unsigned thin_id = 0;
            unsigned from = 0;
            if (std::sscanf(effect.c_str(), "message create_snap %u %u", &thin_id, &from) != 2) return;
            sources[thin_id] = from;
            CHECK_FALSE(given.contains(from));  // It may have been written to.
        };
    }
    ~Clones() { world.kernel.before_effect = before_effect; }
    void ask_for(const std::string& id) {
        ++asked;
        world.ask(create(id, "base"), [this](const Answer& answer) {
            CHECK(word(answer) == "ok");
            if (!answer.error) given.insert(body_of<schemas::VolumeCreate>(answer).volume.thin_id);
            --asked;
        });
    }
    // How many are taken from the origin itself, of those that there are.
    std::size_t taken_from_origin() const {
        return static_cast<std::size_t>(
            std::count_if(sources.begin(), sources.end(), [&](const auto& entry) { return entry.second == origin; }));
    }
    World& world;
    std::uint32_t origin = 0;
    std::function<void(const std::string&)> before_effect;
    int asked = 0;
    int suspends = 0;
    std::set<std::uint32_t> given;                   // Thin ids of clones that somebody has.
    std::map<std::uint32_t, std::uint32_t> sources;  // By thin id: what it was taken from.
};

void ask_for_three_clones(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(attach("base")));
    int answered = 0;
    for (const char* id : {"a", "b", "c"}) world.ask(create(id, "base"), [&](const Answer&) { ++answered; });
    world.run_until([&] { return answered == 3; });
}

void check_three_clones(World& world) {
    for (const char* id : {"a", "b", "c"}) {
        CHECK(show(world, id).parent == "base");
        REQUIRE(world.call(get(id)));
        REQUIRE(world.call(put(id)));
    }
    check_quiet(world);
}

}  // namespace

TEST_CASE("clones of an active origin that are asked for at once suspend it once", "[manager]") {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
        CAPTURE(seed);
        World world({.seed = seed, .device_actors = 4});
        guarded(world, [&] {
            Clones clones(world);
            for (int i = 0; i < 64; ++i) clones.ask_for(fmt::format("{}", i));
            world.run_until([&] { return clones.asked == 0; });
            CHECK(clones.sources.size() == 64);
            // The first arrives alone; while it is taken all others do.
            CHECK(clones.suspends <= 2);
            CHECK(clones.taken_from_origin() == static_cast<std::size_t>(clones.suspends));
            for (int i = 0; i < 64; ++i) CHECK(show(world, fmt::format("{}", i)).parent == "base");
            check_quiet(world);
        });
    }
}

TEST_CASE("a clone that is asked for when its origin is being suspended is taken from the origin again", "[manager]") {
    World world({.seed = 1, .device_actors = 4});
    guarded(world, [&] {
        Clones clones(world);
        world.hold_replies(schemas::CreateSnap::kType);
        clones.ask_for("a");
        world.run_until([&] { return world.held() == 1; });
        // What was written by now is in none of them, and whoever asks now may have seen it written.
        clones.ask_for("late");
        world.run_for(1000);
        CHECK(clones.sources.size() == 1);
        world.let_go();
        world.run_until([&] { return clones.asked == 0; });
        CHECK(clones.taken_from_origin() == 2);
        CHECK(clones.sources.at(show(world, "late").thin_id) == clones.origin);
        check_quiet(world);
    });
}

TEST_CASE("clones of an active origin are made where the first of them is refused or its actors die", "[manager]") {
    World world({.seed = 1, .device_actors = 4});
    guarded(world, [&] {
        make_pool_and_base(world);
        REQUIRE(world.call(attach("base")));
        std::map<std::string, std::string> answers;
        const auto ask = [&](const std::string& id) {
            world.ask(create(id, "base"), [&, id](const Answer& answer) { answers[id] = word(answer); });
        };
        bool refused = false;
        SECTION("refused") {
            world.answer_instead = [&](const schemas::Command& command) -> std::optional<Result<std::string>> {
                if (refused || command.type != schemas::CreateSnap::kType) return std::nullopt;
                refused = true;
                return Error{Errc::internal, "refused by the test"};
            };
            for (const char* id : {"a", "b", "c"}) ask(id);
            world.run_until([&] { return answers.size() == 3; });
        }
        SECTION("deadly") {
            world.deadly.insert(schemas::CreateSnap::kType);
            ask("a");
            world.run_until([&] { return answers.size() == 1; });
            world.deadly.clear();
            ask("b");
            ask("c");
            world.run_until([&] { return answers.size() == 3; });
        }
        CHECK(answers == std::map<std::string, std::string>{{"a", "internal"}, {"b", "ok"}, {"c", "ok"}});
        check_quiet(world);
    });
}

TEST_CASE("a death at each step of clones that are taken together", "[simulation]") {
    die_everywhere(false, ask_for_three_clones, check_three_clones);
}

TEST_CASE("a power cut at each step of clones that are taken together", "[simulation]") {
    die_everywhere(true, ask_for_three_clones, check_three_clones);
}

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
