// The main job under random faults, and a small one under a death at every single point of it.
#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/names.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

// One volume name and what its only client knows of it: requests one after the other, so each
// answer can be foretold from the ones before. A power cut ends leases; one during a request leaves
// open on which side of it the request was carried out.
class NameClient {
public:
    NameClient(World& world, std::string name, std::string parent, int steps)
        : world_(world), name_(std::move(name)), parent_(std::move(parent)), steps_(steps) {
        next();
    }
    bool done() const { return done_; }
    bool exists() const { return exists_; }
    std::optional<bool> leased() const { return leased_; }  // Nothing: it cannot be known.
    const std::string& name() const { return name_; }
    const std::string& wrong() const { return wrong_; }
    void power_was_cut() {
        leased_ = false;
        cut_meanwhile_ = true;
    }

private:
    using Words = std::vector<std::string>;
    void expect(const Answer& answer, const Words& allowed) {
        const std::string got = word(answer);
        if (std::find(allowed.begin(), allowed.end(), got) != allowed.end() || !wrong_.empty()) return;
        wrong_ = fmt::format("{}: expected {}, got {} {}", name_, allowed.front(), got,
                             answer.error ? answer.error->message : "");
    }

    template <class Message>
    void ask(const Message& message, std::function<void(const Answer&)> done) {
        cut_meanwhile_ = false;
        world_.ask(message, std::move(done));
    }
    // The pool's metadata are being repaired: nothing was changed.
    bool refused_for_repair(const Answer& answer) const {
        return answer.error && answer.error->code == Errc::needs_repair && world_.commits_failed() > 0;
    }

    // What a lease is that was taken by the request answered just now.
    std::optional<bool> taken() const { return cut_meanwhile_ ? std::nullopt : std::optional(true); }

    void next() {
        if (steps_-- == 0) {
            done_ = true;
            return;
        }
        switch (world_.between(0, 7)) {
            case 0:
                return ask_create(false);
            case 1:
                return ask_create(true);
            case 2:
                return ask_get();
            case 3:
                return ask_attach();
            case 4:
                return ask_detach();
            case 5:
                return ask_put(false);
            case 6:
                return ask_put(true);
            case 7:
                return ask_remove();
        }
    }

    void ask_create(bool with_get) {
        schemas::VolumeCreate message = create(name_, parent_);
        message.get = with_get;
        ask(message, [this, with_get](const Answer& answer) {
            if (refused_for_repair(answer)) return world_.at(5000, [this, with_get] { ask_create(with_get); });
            expect(answer, {exists_ ? "already_exists" : "ok"});
            if (!exists_ && with_get) leased_ = taken();
            if (!exists_) attached_ = false;
            exists_ = true;
            next();
        });
    }
    // A lease of the other mode stands in the way; whether there is one may be unknown.
    template <class Message>
    void ask_for_lease(const Message& message, bool attached) {
        const std::optional<bool> before = leased_;
        ask(message, [this, message, attached, before](const Answer& answer) {
            if (refused_for_repair(answer))
                return world_.at(5000, [this, message, attached] { ask_for_lease(message, attached); });
            const bool in_the_way = attached_ != attached && before != false;
            Words allowed = {exists_ ? "ok" : "not_found"};
            if (exists_ && in_the_way) {
                const bool certain = before == true && !cut_meanwhile_;
                if (certain) allowed.clear();
                allowed.emplace_back("in_use");
            }
            expect(answer, allowed);
            if (!answer.error) {
                leased_ = taken();
                attached_ = attached;
            } else if (exists_ && !cut_meanwhile_) {
                leased_ = true;
            }
            next();
        });
    }
    void ask_get() { ask_for_lease(get(name_), false); }
    void ask_attach() { ask_for_lease(attach(name_), true); }
    void ask_detach() {
        ask(detach(name_), [this](const Answer& answer) {
            expect(answer, {"ok"});
            if (attached_) leased_ = false;
            next();
        });
    }
    void ask_put(bool with_remove, bool force = false) {
        schemas::VolumePut message = put(name_);
        message.all_holders = true;
        message.remove = with_remove;
        message.force = force;
        ask(message, [this, with_remove, force](const Answer& answer) {
            if (refused_for_repair(answer)) {
                const bool gives_up = world_.chance(0.5);
                return world_.at(5000, [this, with_remove, gives_up] { ask_put(with_remove, gives_up); });
            }
            expect(answer, {"ok"});
            // Only of a mount that somebody had a lease on is anything promised.
            const auto reply = decode_as<schemas::VolumePut::Reply>(std::string_view(answer.body));
            const bool promises = reply->changed && !attached_ && !with_remove && !force;
            if (promises) CHECK_FALSE(world_.is_cut_off(name_));
            leased_ = false;
            if (with_remove) exists_ = false;
            next();
        });
    }
    void ask_remove() {
        const std::optional<bool> before = leased_;
        const bool wait = world_.chance(0.5);
        ask(wait ? remove_and_wait(name_) : remove(name_), [this, before](const Answer& answer) {
            if (before == false) expect(answer, {"ok"});
            if (before == true && !cut_meanwhile_) expect(answer, {"in_use"});
            if (before != false) expect(answer, {"in_use", "ok"});
            if (!answer.error) {
                exists_ = false;
                leased_ = false;
            } else if (!cut_meanwhile_) {
                leased_ = true;
            }
            next();
        });
    }

    World& world_;
    std::string name_;
    std::string parent_;
    int steps_;
    bool exists_ = false;
    std::optional<bool> leased_ = false;
    bool attached_ = false;  // If leased.
    bool cut_meanwhile_ = false;
    bool done_ = false;
    std::string wrong_;
};

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
                      .slow_reply = up_to(0.2),
                      .repeat_reply = up_to(0.2),
                      .refuse_command = seed % 5 == 1 ? up_to(0.05) : 0,
                      .break_connection = seed % 5 == 0 ? up_to(0.05) : 0,
                      .manager_dies = up_to(0.01),
                      .power_cut = seed % 3 == 0 ? up_to(0.002) : 0,
                      .commit_fails = seed % 4 == 0 ? up_to(0.01) : 0};
    if (seed % 2 == 1) options.manager.reconcile_ms = 50 + static_cast<std::int64_t>(random() % 1000);
    return options;
}

// Looks at store, pool and kernel while all this goes on must not take what is under way for what is wrong.
void check_nothing_was_found(World& world) {
    for (std::uint64_t seq = 0;;) {
        const auto events = world.store().events_since(seq, 500);
        if (events.empty()) return;
        for (const auto& event : events) {
            seq = event.seq;
            INFO(event.type << " " << event.subject << " " << event.body.begin()->second);
            for (const std::string kind : {"broken-lease", "foreign-mount", "foreign-thin", "held-snapshot", "lost",
                                           "stray-device", "stray-mount", "suspended", "wrong-birth", "wrong-size"}) {
                CHECK(event.type != "finding." + kind);
            }
        }
    }
}

// Of every second seed; what is asked for here may come upon a fault.
void make_warm_image(World& world, std::uint64_t seed) {
    if (seed % 2 != 0) return;
    const auto until_done = [&](const auto& message) {
        auto done = world.call(message);
        while (!done && done.error().code == Errc::needs_repair && world.commits_failed() > 0) {
            world.run_for(5000);
            done = world.call(message);
        }
        INFO((done ? "" : done.error().message));
        REQUIRE(done);
    };
    until_done(create("image", "base"));
    until_done(schemas::VolumeFreeze{
        .id = "image", .warm = static_cast<std::uint32_t>(1 + seed / 2 % 3), .warm_mounted = seed % 4 == 0});
}

void check_against(World& world, const NameClient& client) {
    INFO(client.name());
    if (!client.wrong().empty()) FAIL(client.wrong());
    REQUIRE(exists(world, client.name()) == client.exists());
    if (!client.exists() || !client.leased()) return;
    CHECK(show(world, client.name()).leases.size() == (*client.leased() ? 1 : 0));
}

}  // namespace

TEST_CASE("whatever dies, stalls or is lost, what was answered holds and nothing is left over", "[simulation]") {
    const std::uint64_t first = number_from_environment("COWSLIP_SEED", 1);
    const std::uint64_t count = number_from_environment("COWSLIP_SEEDS", 50);
    for (std::uint64_t seed = first; seed < first + count; ++seed) {
        CAPTURE(seed);
        World world(random_options(seed));
        guarded(world, [&] {
            make_pool_and_base(world);
            make_warm_image(world, seed);
            std::vector<std::unique_ptr<NameClient>> clients;
            for (int i = 0; i < 6; ++i) {
                const std::array<const char*, 3> parents = {"base", seed % 2 == 0 ? "image" : "base", ""};
                clients.push_back(std::make_unique<NameClient>(world, fmt::format("volume-{}", i),
                                                               parents.at(static_cast<std::size_t>(i) % 3), 12));
            }
            world.on_power_cut = [&] {
                for (const auto& client : clients) client->power_was_cut();
            };
            world.run_until([&] {
                return std::all_of(clients.begin(), clients.end(), [](const auto& client) { return client->done(); });
            });
            check_quiet(world);
            for (const auto& client : clients) check_against(world, *client);
            if (world.commits_failed() == 0) check_nothing_was_found(world);
        });
    }
}

namespace {

// What clients mostly do; under one fault each request is done at last. The name of the removed clone is
// used again behind the reply (X12 of protocol.md).
void main_job(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(create("clone", "base")));
    REQUIRE(world.call(get("clone")));
    schemas::VolumeCreate snapshot = create("of an active one", "clone");
    snapshot.get = true;
    REQUIRE(world.call(snapshot));
    schemas::VolumePut ending = put("clone");
    ending.remove = true;
    REQUIRE(world.call(ending));
    schemas::VolumeCreate again = create("clone", "base");
    again.get = true;
    REQUIRE(world.call(again));
}

void whole_life(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(create("clone", "base")));
    REQUIRE(world.call(attach("clone")));
    REQUIRE(world.call(detach("clone")));
    REQUIRE(world.call(get("clone")));
    REQUIRE(world.call(put("clone")));
    REQUIRE(world.call(remove_and_wait("clone")));
    REQUIRE(world.call(create("clone", "base")));
    REQUIRE(world.call(get("clone")));
    REQUIRE(world.call(schemas::SystemCleanup{}));
    REQUIRE(world.call(get("clone")));
}

// A start opens a generation: its compare-and-swap must not be sent before it is recorded.
void start_again(World& world) {
    make_pool_and_base(world);
    world.kill_manager();
    world.run_for(1000);
    REQUIRE(world.call(create("clone", "base")));
    world.run_for(1000);
}

}  // namespace

TEST_CASE("a death at any effect or turn of a new start loses nothing and leaves nothing", "[simulation]") {
    die_everywhere(false, start_again, [](World& world) { CHECK(exists(world, "clone")); });
}

TEST_CASE("a power cut at any effect or turn of a new start loses nothing", "[simulation]") {
    die_everywhere(true, start_again, [](World& world) { CHECK(exists(world, "clone")); });
}

TEST_CASE("a death at any effect or turn of the main job loses nothing and leaves nothing", "[simulation]") {
    die_everywhere(false, main_job, [](World& world) {
        const std::string uuid = world.store().pool()->spec.pool.uuid;
        for (const std::string id : {"clone", "of an active one"}) {
            CHECK(show(world, id).leases.size() == 1);
            CHECK(world.mounts.is_mounted(thin_dm_uuid(uuid, show(world, id).thin_id)));
        }
    });
}

TEST_CASE("a death at any effect or turn of a volume's whole life loses nothing and leaves nothing", "[simulation]") {
    die_everywhere(false, whole_life, [](World& world) { CHECK(show(world, "clone").mount.has_value()); });
}

TEST_CASE("a power cut at any effect or turn of the main job loses only leases", "[simulation]") {
    die_everywhere(true, main_job, [](World& world) {
        CHECK(exists(world, "of an active one"));
        CHECK(exists(world, "clone"));
    });
}

TEST_CASE("a power cut at any effect or turn of a volume's whole life loses only leases", "[simulation]") {
    die_everywhere(true, whole_life, [](World& world) { CHECK(exists(world, "clone")); });
}

}  // namespace cowslip::simulation
