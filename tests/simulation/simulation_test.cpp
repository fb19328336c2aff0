// The main job under random faults, and a small one under a death at every single point of it.
#include <cstdlib>
#include <iostream>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <catch2/catch.hpp>

#include "tests/simulation/world.h"

namespace cowslip::simulation {
namespace {

using namespace schemas;

// One volume name and what its only client knows of it: requests one after the other, so each
// answer can be foretold from the ones before.
class NameClient {
public:
    NameClient(World& world, std::string name, std::string parent, int steps)
        : world_(world), name_(std::move(name)), parent_(std::move(parent)), steps_(steps) {
        next();
    }
    bool done() const { return done_; }
    bool exists() const { return exists_; }
    bool leased() const { return leased_; }
    const std::string& name() const { return name_; }
    const std::string& wrong() const { return wrong_; }
    void leases_ended() { leased_ = false; }  // A reboot.

private:
    void expect(const Answer& answer, std::optional<Errc> error) {
        const std::optional<Errc> got = answer.error ? std::optional(answer.error->code) : std::nullopt;
        if (got == error || !wrong_.empty()) return;
        wrong_ = fmt::format("{}: expected {}, got {} {}", name_, error ? to_string(*error) : "ok",
                             got ? to_string(*got) : "ok", answer.error ? answer.error->message : "");
    }

    void next() {
        if (steps_-- == 0) {
            done_ = true;
            return;
        }
        switch (world_.between(0, 5)) {
            case 0:
                return create(false);
            case 1:
                return create(true);
            case 2:
                return get();
            case 3:
                return put(false);
            case 4:
                return put(true);
            case 5:
                return remove();
        }
    }

    void create(bool with_get) {
        VolumeCreate message;
        message.id = name_;
        message.parent = parent_;
        message.get = with_get;
        world_.ask(message, [this, with_get](const Answer& answer) {
            expect(answer, exists_ ? std::optional(Errc::already_exists) : std::nullopt);
            leased_ = leased_ || (!exists_ && with_get);
            exists_ = true;
            next();
        });
    }
    void get() {
        VolumeGet message;
        message.id = name_;
        world_.ask(message, [this](const Answer& answer) {
            expect(answer, exists_ ? std::nullopt : std::optional(Errc::not_found));
            leased_ = exists_;
            next();
        });
    }
    void put(bool with_remove) {
        VolumePut message;
        message.id = name_;
        message.remove = with_remove;
        world_.ask(message, [this, with_remove](const Answer& answer) {
            expect(answer, std::nullopt);
            leased_ = false;
            if (with_remove) exists_ = false;
            next();
        });
    }
    void remove() {
        VolumeRemove message;
        message.id = name_;
        message.wait = world_.chance(0.5);
        world_.ask(message, [this](const Answer& answer) {
            expect(answer, leased_ ? std::optional(Errc::in_use) : std::nullopt);
            exists_ = exists_ && leased_;
            next();
        });
    }

    World& world_;
    std::string name_;
    std::string parent_;
    int steps_;
    bool exists_ = false;
    bool leased_ = false;
    bool done_ = false;
    std::string wrong_;
};

void make_pool_and_base(World& world) {
    PoolCreate pool;
    pool.loop_bytes = 1ULL << 30U;
    const auto made = world.call(pool);
    INFO((made ? "" : made.error().message));
    REQUIRE(made);
    VolumeCreate base;
    base.id = "base";
    base.size_bytes = 64ULL << 20U;
    const auto created = world.call(base);
    INFO((created ? "" : created.error().message));
    REQUIRE(created);
}

void check_quiet(World& world) {
    world.stop_faults();
    std::string complaint;
    for (int i = 0; i < 20; ++i) {
        world.run_for(10000);
        complaint = world.complaint();
        if (complaint.empty()) return;
    }
    FAIL(complaint);
}

std::string history_of(const World& world) {
    std::string text;
    for (const auto& line : world.history()) text += line + "\n";
    return text;
}

// Runs `job`; a failure shows the seed and the whole history.
void guarded(World& world, const std::function<void()>& job) {
    try {
        job();
    } catch (...) {
        std::cerr << history_of(world);
        throw;
    }
}

std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::stoull(text);
}

Options random_options(std::uint64_t seed) {
    std::mt19937_64 random(seed * 7919 + 1);
    const auto up_to = [&](double most) { return std::uniform_real_distribution<>(0, most)(random); };
    Options options;
    options.seed = seed;
    options.device_actors = 1 + static_cast<int>(random() % 4);
    options.mount_actors = 1 + static_cast<int>(random() % 3);
    options.faults = {.lose_message = up_to(0.1),
                      .repeat_message = up_to(0.2),
                      .actor_dies = up_to(0.02),
                      .actor_stalls = up_to(0.05),
                      .manager_dies = up_to(0.01),
                      .power_cut = seed % 3 == 0 ? up_to(0.002) : 0,
                      .commit_fails = 0};
    return options;
}

}  // namespace

TEST_CASE("whatever dies, stalls or is lost, what was answered holds and nothing is left over", "[simulation]") {
    spdlog::set_level(spdlog::level::off);
    const std::uint64_t first = number_from_environment("COWSLIP_SEED", 1);
    const std::uint64_t count = number_from_environment("COWSLIP_SEEDS", 50);
    for (std::uint64_t seed = first; seed < first + count; ++seed) {
        CAPTURE(seed);
        World world(random_options(seed));
        guarded(world, [&] {
            make_pool_and_base(world);
            std::vector<std::unique_ptr<NameClient>> clients;
            for (int i = 0; i < 6; ++i) {
                clients.push_back(
                    std::make_unique<NameClient>(world, fmt::format("volume-{}", i), i % 3 == 2 ? "" : "base", 12));
            }
            world.run_until([&] {
                return std::all_of(clients.begin(), clients.end(), [](const auto& client) { return client->done(); });
            });
            check_quiet(world);
            const bool rebooted = seed % 3 == 0;  // Ends leases: get and rm of a leased one may differ.
            for (const auto& client : clients) {
                if (!rebooted && !client->wrong().empty()) FAIL(client->wrong());
                VolumeExists exists;
                exists.id = client->name();
                const auto answer = world.call(exists);
                REQUIRE(answer);
                if (!rebooted) CHECK(answer->exists == client->exists());
                VolumeShow show;
                show.id = client->name();
                if (!answer->exists || rebooted) continue;
                const auto shown = world.call(show);
                REQUIRE(shown);
                CHECK(shown->leases.size() == (client->leased() ? 1 : 0));
            }
        });
    }
}

TEST_CASE("a death at any effect or turn of the main job loses nothing and leaves nothing", "[simulation]") {
    for (std::int64_t die_at = 0;; ++die_at) {
        CAPTURE(die_at);
        Options options;
        options.seed = 1;
        options.die_at = die_at;
        World world(options);
        guarded(world, [&] {
            make_pool_and_base(world);
            VolumeCreate clone;
            clone.id = "clone";
            clone.parent = "base";
            REQUIRE(world.call(clone));
            VolumeGet get;
            get.id = "clone";
            REQUIRE(world.call(get));
            VolumeCreate snapshot;
            snapshot.id = "of an active one";
            snapshot.parent = "clone";
            snapshot.get = true;
            REQUIRE(world.call(snapshot));
            VolumePut put;
            put.id = "clone";
            put.remove = true;
            REQUIRE(world.call(put));
            check_quiet(world);
            VolumeShow show;
            show.id = "of an active one";
            const auto shown = world.call(show);
            REQUIRE(shown);
            CHECK(shown->mount.has_value());
            VolumeExists exists;
            exists.id = "clone";
            CHECK_FALSE(world.call(exists)->exists);
        });
        if (world.happened() <= die_at) break;
    }
}

}  // namespace cowslip::simulation
