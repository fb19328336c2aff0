#include "services/device_actor/device_actor.h"

#include <catch2/catch.hpp>

#include "common/names.h"
#include "tests/fakes/fake_device_mapper.h"
#include "tests/fakes/fake_host.h"

namespace cowslip {
namespace {

using namespace schemas;

constexpr std::uint64_t kTag = std::uint64_t{7} << 32U;
constexpr std::uint64_t kGib = 2097152;

const std::string kUuid = "0123456789abcdef0123456789abcdef";

struct Crash {};

// As one who has lost his store knows it.
PoolSpec some_loop_pool() {
    PoolSpec spec;
    spec.backing = "loop";
    return spec;
}

// A machine with one actor. Its kernel outlives the actor.
struct Lab {
    FakeKernel kernel;
    FakeDeviceMapper dm{kernel};
    FakeHost host{kernel};
    DeviceActor actor{dm, host};

    PoolRef pool{kUuid, pool_dm_name(kUuid)};
    PoolSpec spec{.pool = {kUuid, pool_dm_name(kUuid)},
                  .backing = "loop",
                  .data_path = {},
                  .metadata_path = {},
                  .data_sectors = kGib,
                  .metadata_sectors = 32768};
    DmDevice pool_device{pool_dm_name(kUuid), pool_dm_uuid(kUuid)};

    Lab() = default;
    Lab(const Lab&) = delete;

    DmDevice thin(std::uint32_t id) const { return {thin_dm_name(kUuid, id), thin_dm_uuid(kUuid, id)}; }
    FakePool& core() { return kernel.pools.at(kernel.number_of(pool_device)); }
    bool suspended(const DmDevice& device) { return kernel.devices.at(kernel.number_of(device)).suspended; }

    void make_pool() {
        REQUIRE(actor.create_pool({.spec = spec, .own_transaction_id = kTag + 1}));
        REQUIRE(actor.set_transaction_id({pool, 0, kTag + 1})->error_number == 0);
    }
    Outcome judged(const Verdict& verdict) const {
        return judge(verdict.error_number, verdict.status, kTag + 1, kTag + 1);
    }
    Outcome create_thin(std::uint32_t id) { return judged(actor.create_thin({pool, id}).value()); }
    CreateSnap::Reply snap(std::uint32_t id, std::uint32_t origin) {
        return actor.create_snap({pool, id, origin, true}).value();
    }
    Activate::Reply activate(std::uint32_t id, std::uint64_t sectors = 65536, bool read_only = false) {
        return actor.activate({pool, id, sectors, read_only}).value();
    }
    // A volume, active and open.
    void mount(std::uint32_t id) {
        REQUIRE(create_thin(id) == Outcome::done);
        REQUIRE(activate(id).error_number == 0);
        kernel.open(thin(id));
    }
};

// Runs `command` again and again, dying before its first effect, then its second, and so on, until
// one run gets through; after each death a new actor repeats it. `check` looks at what is there then.
template <class Prepare, class Command, class Check>
void die_everywhere(Prepare prepare, Command command, Check check) {
    bool finished = false;
    for (int crash_at = 0; !finished; ++crash_at) {
        CAPTURE(crash_at);
        REQUIRE(crash_at < 50);
        Lab world;
        prepare(world);
        int left = crash_at;
        world.kernel.before_effect = [&](const std::string&) {
            if (left-- == 0) throw Crash();
        };
        try {
            finished = command(world);  // Not inside REQUIRE: Catch would swallow the crash.
        } catch (const Crash&) {
        }
        world.kernel.before_effect = nullptr;
        const bool repeated = command(world);
        REQUIRE(repeated);
        check(world);
    }
}

}  // namespace

TEST_CASE("a new pool on loop files is formatted, live and empty", "[device_actor]") {
    Lab world;
    const auto state = world.actor.create_pool({.spec = world.spec});
    REQUIRE(state);
    CHECK(state->loaded);
    CHECK(state->superblock.valid);
    CHECK(state->superblock.transaction_id == 0);
    CHECK(state->data_device == "/dev/loop0");
    CHECK(state->metadata_device == "/dev/loop1");
    CHECK(state->spec.pool.uuid == kUuid);
    CHECK(world.kernel.own_pool == kUuid);
    CHECK(state->spec.data_sectors == kGib);
    CHECK(parse_thin_pool_status(state->status)->total_data_blocks == kGib / 128);
    CHECK(world.kernel.nodes.contains(world.pool.device));
}

TEST_CASE("creating a pool that is loaded only reports", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    const auto state = world.actor.create_pool({.spec = world.spec, .force = true});
    REQUIRE(state);
    CHECK(state->loaded);
    CHECK(state->superblock.transaction_id == kTag + 1);
    CHECK(world.core().core.thins.contains(2));
}

TEST_CASE("creating a pool survives the actor's death at any point", "[device_actor][crash]") {
    die_everywhere([](Lab&) {}, [](Lab& world) { return world.actor.create_pool({.spec = world.spec}).has_value(); },
                   [](Lab& world) {
                       CHECK(world.kernel.devices.size() == 1);
                       CHECK(world.kernel.blocks.size() == 2);
                       CHECK(world.create_thin(2) == Outcome::unknown);  // Its id is still 0.
                       CHECK(world.core().mode == PoolMode::rw);
                   });
}

TEST_CASE("a pool that was half made when the power went is made again, a used one is not", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.kernel.reboot();
    CHECK(world.actor.create_pool({.spec = world.spec}).error().code == Errc::in_use);
    REQUIRE(world.actor.create_pool({.spec = world.spec, .own_transaction_id = kTag + 1}));
    CHECK(world.core().core.transaction_id == 0);
}

TEST_CASE("a pool is not made over what is in use, holds something or is not listed", "[device_actor]") {
    Lab world;
    world.kernel.add_disk("/dev/vda", kGib);
    world.kernel.add_disk("/dev/vdb", 32768);
    world.spec.backing = "pair";
    world.spec.data_path = "/dev/vda";
    world.spec.metadata_path = "/dev/vdb";
    world.spec.data_sectors = 0;
    world.spec.metadata_sectors = 0;
    const auto code = [&](bool force) {
        return world.actor.create_pool({.spec = world.spec, .force = force}).error().code;
    };
    CHECK(code(true) == Errc::permission_denied);
    world.kernel.allowed_devices = {"/dev/vda", "/dev/vdb"};
    world.kernel.media.at("/dev/vda").signature = "ext4 file system";
    CHECK(code(false) == Errc::in_use);
    world.kernel.media.at("/dev/vda").signature.clear();
    world.kernel.media.at("/dev/vdb").metadata.damaged = true;  // Another's, and perhaps it can be mended.
    CHECK(code(false) == Errc::in_use);
    world.kernel.blocks.at("/dev/vda").in_use = true;
    CHECK(code(true) == Errc::in_use);
    CHECK(world.kernel.effects.empty() == false);  // It looked for a half made device; nothing else:
    CHECK_FALSE(world.kernel.effects.contains("zero"));
    CHECK_FALSE(world.kernel.effects.contains("load"));
    world.kernel.blocks.at("/dev/vda").in_use = false;
    const auto state = world.actor.create_pool({.spec = world.spec, .force = true});
    REQUIRE(state);
    CHECK(state->spec.data_sectors == kGib);
    CHECK(state->spec.data_path == "/dev/vda");
}

TEST_CASE("a pool on two devices keeps the names that it was given", "[device_actor]") {
    // The reply named them as the kernel does, so the next start looked for /dev/vda in root's list.
    Lab world;
    world.kernel.add_disk("/dev/vda", kGib);
    world.kernel.add_disk("/dev/vdb", 32768);
    world.kernel.blocks["/dev/virtio-data"] = world.kernel.blocks.at("/dev/vda");
    world.kernel.blocks["/dev/virtio-metadata"] = world.kernel.blocks.at("/dev/vdb");
    world.kernel.allowed_devices = {"/dev/virtio-data", "/dev/virtio-metadata"};
    world.spec.backing = "pair";
    world.spec.data_path = "/dev/virtio-data";
    world.spec.metadata_path = "/dev/virtio-metadata";
    world.spec.data_sectors = 0;
    auto state = world.actor.create_pool({.spec = world.spec});
    REQUIRE(state);
    REQUIRE(world.actor.set_transaction_id({world.pool, 0, kTag + 1})->error_number == 0);
    for (int repeat = 0; repeat < 2; ++repeat) {
        CHECK(state->data_device == "/dev/vda");
        CHECK(state->spec.data_path == "/dev/virtio-data");
        CHECK(state->spec.metadata_path == "/dev/virtio-metadata");
        REQUIRE(world.actor.stop_pool({state->spec}));
        state = world.actor.start_pool({state->spec, kTag + 1, kTag + 1});
        REQUIRE(state);
    }
}

TEST_CASE("a pool starts only over its own metadata, within the window of ids", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    world.kernel.reboot();
    world.kernel.effects.clear();
    FakeMetadata& metadata = world.kernel.media.at("file:metadata").metadata;
    const FakeMetadata good = metadata;
    std::string saw;
    SECTION("all zero") {
        metadata = {};
        saw = "all zero";
    }
    SECTION("damaged") {
        metadata.damaged = true;
        saw = "damaged";
    }
    SECTION("another pool's") {
        metadata.transaction_id = (std::uint64_t{8} << 32U) + 1;
        saw = "another pool";
    }
    SECTION("older than the store") {
        metadata.transaction_id = kTag;
        saw = "older";
    }
    SECTION("newer than the store") {
        metadata.transaction_id = kTag + 3;
        saw = "newer";
    }
    const auto refused = world.actor.start_pool({world.spec, kTag + 1, kTag + 2});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::needs_repair);
    CHECK_THAT(refused.error().message, Catch::Contains(saw));
    CHECK_FALSE(world.kernel.effects.contains("load"));
    metadata = good;
    REQUIRE(world.actor.start_pool({world.spec, kTag + 1, kTag + 2}));
    CHECK(world.core().core.thins.contains(2));
}

TEST_CASE("only the pool of its own folder is changed by an actor", "[device_actor]") {
    // Whatever had a uuid that begins with COWSLIP was served: also another service's.
    Lab world;
    world.make_pool();
    world.mount(2);
    const PoolRef other{std::string(32, 'b'), pool_dm_name(std::string(32, 'b'))};
    PoolSpec other_spec = world.spec;
    other_spec.pool = other;
    world.kernel.before_effect = [](const std::string& effect) { FAIL(effect); };
    const auto refused = [](const auto& result) {
        return !result && (result.error().code == Errc::permission_denied || result.error().code == Errc::in_use);
    };
    const auto all_refused = [&](const PoolRef& pool, const PoolSpec& spec) {
        CHECK(refused(world.actor.create_thin({pool, 3})));
        CHECK(refused(world.actor.create_snap({pool, 3, 2, true})));
        CHECK(refused(world.actor.delete_thin({pool, 2})));
        CHECK(refused(world.actor.activate({pool, 2, 65536, false})));
        CHECK(refused(world.actor.deactivate({pool, 2})));
        CHECK(refused(world.actor.resume({pool, 2})));
        CHECK(refused(world.actor.set_transaction_id({pool, 0, kTag + 1})));
        CHECK(refused(world.actor.list_thins({pool})));
        CHECK(refused(world.actor.create_pool({.spec = spec, .force = true})));
        CHECK(refused(world.actor.start_pool({spec, 0, kTag})));
        CHECK(refused(world.actor.stop_pool({spec})));
    };
    SECTION("one that is not there") {
        all_refused(other, other_spec);
    }
    SECTION("a live one, by a service that has another") {
        world.kernel.own_pool = other.uuid;
        all_refused(world.pool, world.spec);
    }
    SECTION("a live one, by a service that has none") {
        world.kernel.own_pool.reset();
        all_refused(world.pool, world.spec);
    }
}

TEST_CASE("a folder's pool changes only where it is made anew", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.actor.stop_pool({world.spec}));
    PoolSpec other = world.spec;
    other.pool = {std::string(32, 'b'), pool_dm_name(std::string(32, 'b'))};
    CHECK(world.actor.start_pool({other, kTag + 1, kTag + 1}).error().code == Errc::permission_denied);
    CHECK(world.actor.create_pool({.spec = other}).error().code == Errc::in_use);
    REQUIRE(world.actor.stop_pool({other}));  // The create that was refused is undone.
    CHECK(world.kernel.own_pool == kUuid);
    world.kernel.own_pool.reset();  // Made before there was a record of it.
    REQUIRE(world.actor.start_pool({world.spec, kTag + 1, kTag + 1}));
    CHECK(world.kernel.own_pool == kUuid);
    REQUIRE(world.actor.stop_pool({world.spec}));
    REQUIRE(world.actor.create_pool({.spec = other, .force = true}));
    CHECK(world.kernel.own_pool == other.pool.uuid);
}

TEST_CASE("starting and stopping a pool survive the actor's death at any point", "[device_actor][crash]") {
    const auto stopped = [](Lab& world) {
        world.make_pool();
        REQUIRE(world.create_thin(2) == Outcome::done);
        REQUIRE(world.actor.stop_pool({world.spec}));
    };
    die_everywhere(
        stopped,
        [](Lab& world) {
            return world.actor.start_pool({world.spec, kTag + 1, kTag + 1}).has_value();
        },
        [](Lab& world) { CHECK(world.create_thin(3) == Outcome::done); });
    die_everywhere([](Lab& world) { world.make_pool(); },
                   [](Lab& world) { return world.actor.stop_pool({world.spec}).has_value(); },
                   [](Lab& world) {
                       CHECK(world.kernel.devices.empty());
                       CHECK(world.kernel.blocks.empty());
                       CHECK(world.kernel.nodes.empty());
                   });
}

TEST_CASE("a loop file that is gone or too short is named before any load", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.kernel.reboot();
    world.kernel.media.at("file:data").sectors--;
    CHECK(world.actor.start_pool({world.spec, kTag + 1, kTag + 1}).error().code == Errc::needs_repair);
    world.kernel.media.erase("file:data");
    CHECK(world.actor.start_pool({world.spec, kTag + 1, kTag + 1}).error().code == Errc::needs_repair);
    CHECK(world.kernel.devices.empty());
}

TEST_CASE("a pool whose reload was cut off in the middle is resumed at its start", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.dm.suspend(world.pool_device, SuspendMode::freeze) == 0);
    CHECK(world.actor.read_pool_status({world.pool})->suspended);
    const auto state = world.actor.start_pool({world.spec, kTag + 1, kTag + 1});
    REQUIRE(state);
    CHECK_FALSE(state->suspended);
    CHECK_FALSE(world.suspended(world.pool_device));
}

TEST_CASE("a pool with an active thin does not stop, and the thin is named", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    const auto refused = world.actor.stop_pool({world.spec});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::in_use);
    CHECK_THAT(refused.error().details.at("holders").front(), Catch::Contains(world.thin(2).name));
    CHECK(world.create_thin(3) == Outcome::done);
}

TEST_CASE("the status of a pool that is not loaded is no error", "[device_actor]") {
    Lab world;
    world.kernel.own_pool = kUuid;
    const auto state = world.actor.read_pool_status({world.pool, true});
    REQUIRE(state);
    CHECK_FALSE(state->loaded);
    CHECK(world.actor.create_thin({world.pool, 2})->error_number == ENXIO);
    CHECK(world.actor.create_thin({world.pool, 2})->status.empty());
    CHECK(world.activate(2).error_number == ENXIO);
}

TEST_CASE("the transaction id is compared, and only goes up", "[device_actor]") {
    Lab world;
    world.make_pool();
    const auto wrong = world.actor.set_transaction_id({world.pool, kTag, kTag + 9});
    CHECK(wrong->error_number == EINVAL);
    CHECK(parse_thin_pool_status(wrong->status)->transaction_id == kTag + 1);
    CHECK(world.actor.set_transaction_id({world.pool, kTag + 1, kTag}).error().code == Errc::invalid_argument);
    CHECK(world.actor.set_transaction_id({world.pool, kTag + 1, kTag + 2})->error_number == 0);
}

TEST_CASE("each message comes back with the kernel's errno and the status after it", "[device_actor]") {
    Lab world;
    world.make_pool();
    CHECK(world.create_thin(2) == Outcome::done);
    CHECK(world.actor.create_thin({world.pool, 2})->error_number == EEXIST);
    CHECK(world.create_thin(2) == Outcome::refused);
    CHECK(world.snap(3, 9).verdict.error_number == ENODATA);
    CHECK(world.actor.delete_thin({world.pool, 9})->verdict.error_number == ENODATA);
    world.kernel.fail_commits = 1;
    CHECK(world.create_thin(4) == Outcome::unknown);
    CHECK(world.actor.delete_thin({world.pool, 2})->verdict.error_number == EOPNOTSUPP);
}

TEST_CASE("an active origin is suspended round the snapshot, and resumed", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    std::vector<std::string> order;
    world.kernel.before_effect = [&](const std::string& effect) { order.push_back(effect); };
    const auto reply = world.snap(3, 2);
    const std::string name = world.thin(2).name;
    CHECK(order == std::vector<std::string>{"suspend " + name, "message create_snap 3 2", "resume " + name});
    CHECK(world.judged(reply.verdict) == Outcome::done);
    CHECK_FALSE(reply.torn);
    CHECK_FALSE(world.suspended(world.thin(2)));
}

TEST_CASE("an inactive origin is not touched", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    CHECK(world.judged(world.snap(3, 2).verdict) == Outcome::done);
    CHECK_FALSE(world.kernel.effects.contains("suspend"));
}

TEST_CASE("an origin is suspended even if the manager thinks that it is not active", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    REQUIRE(world.actor.create_snap({world.pool, 3, 2, false}));
    CHECK(world.kernel.effects.at("suspend") == 1);
}

TEST_CASE("a snapshot of an origin that somebody resumed meanwhile is deleted as torn", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    world.kernel.before_effect = [&](const std::string& effect) {
        if (effect == "message create_snap 3 2") {
            world.kernel.devices.at(world.kernel.number_of(world.thin(2))).suspended = false;
        }
    };
    const auto reply = world.snap(3, 2);
    CHECK(reply.torn);
    CHECK_FALSE(world.core().core.thins.contains(3));
    CHECK_FALSE(world.suspended(world.thin(2)));
}

TEST_CASE("the origin is resumed when the snapshot is refused, and when the pool has no space", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    CHECK(world.snap(2, 2).verdict.error_number == EEXIST);
    CHECK_FALSE(world.suspended(world.thin(2)));
    CHECK(world.kernel.write(world.thin(2), 1U << 20U) == ENOSPC);
    const auto reply = world.snap(3, 2);
    CHECK(world.judged(reply.verdict) == Outcome::done);
    CHECK(world.kernel.effects.at("suspend_no_flush") == 1);  // A flush would wait for space.
    CHECK_FALSE(world.suspended(world.thin(2)));
}

TEST_CASE("a resume that fails for good is reported with the verdict", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    world.kernel.resume_fails = {world.thin(2).uuid};
    const auto reply = world.snap(3, 2);
    CHECK(world.judged(reply.verdict) == Outcome::done);
    CHECK(reply.resume_error_number == EIO);
    CHECK(world.kernel.paused <= std::chrono::seconds(2));
    world.kernel.resume_fails.clear();
    const auto resumed = world.actor.resume({world.pool, 2});
    CHECK(resumed->was_suspended);
    CHECK(resumed->error_number == 0);
    CHECK_FALSE(world.suspended(world.thin(2)));
    CHECK_FALSE(world.actor.resume({world.pool, 2})->was_suspended);
    CHECK_FALSE(world.actor.resume({world.pool, 99})->was_suspended);
}

TEST_CASE("a repeated snapshot of an active origin leaves nothing suspended, wherever the first died",
          "[device_actor][crash]") {
    die_everywhere(
        [](Lab& world) {
            world.make_pool();
            world.mount(2);
        },
        [](Lab& world) {
            return world.actor.create_snap({world.pool, 3, 2, true}).has_value();
        },
        [](Lab& world) {
            CHECK(world.core().core.thins.contains(3));
            CHECK_FALSE(world.suspended(world.thin(2)));
        });
}

TEST_CASE("activation is by comparing, whatever a dead actor left", "[device_actor][crash]") {
    die_everywhere(
        [](Lab& world) {
            world.make_pool();
            REQUIRE(world.create_thin(2) == Outcome::done);
        },
        [](Lab& world) { return world.activate(2).error_number == 0; },
        [](Lab& world) {
            const auto table = world.dm.table(world.thin(2)).value();
            REQUIRE(table);
            CHECK(table->sectors == 65536);
            CHECK_FALSE(world.suspended(world.thin(2)));
            CHECK(world.kernel.nodes.at(world.thin(2).name) == world.kernel.number_of(world.thin(2)));
        });
}

TEST_CASE("an active thin is not touched again, and gets another table if its own differs", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    world.kernel.effects.clear();
    CHECK(world.activate(2).path == "/dev/mapper/" + world.thin(2).name);
    CHECK(world.kernel.effects.size() == 1);  // The create that the kernel refuses.
    CHECK(world.activate(2, 131072).error_number == 0);
    CHECK(world.dm.table(world.thin(2)).value()->sectors == 131072);
    CHECK(world.activate(2, 131072, true).error_number == 0);
    CHECK(world.dm.find(world.thin(2)).value()->read_only);
    REQUIRE(world.dm.suspend(world.thin(2), SuspendMode::freeze) == 0);
    CHECK(world.activate(2, 131072, true).error_number == 0);
    CHECK_FALSE(world.suspended(world.thin(2)));
}

TEST_CASE("a table that waits, left by a dead actor, does not become live by a resume", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    const auto live = world.dm.table(world.thin(2)).value();
    REQUIRE(world.dm.load(world.thin(2), {live->type, 8, live->parameters}, false) == 0);
    CHECK(world.activate(2).error_number == 0);
    CHECK(world.dm.table(world.thin(2)).value()->sectors == 65536);
    CHECK_FALSE(world.dm.find(world.thin(2)).value()->inactive_table);
}

TEST_CASE("an old node that points at another device is made anew", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    REQUIRE(world.create_thin(3) == Outcome::done);
    REQUIRE(world.activate(3).error_number == 0);
    world.kernel.nodes[world.thin(2).name] = world.kernel.number_of(world.thin(3));
    CHECK(world.activate(2).error_number == 0);
    CHECK(world.kernel.nodes.at(world.thin(2).name) == world.kernel.number_of(world.thin(2)));
}

TEST_CASE("a thin that cannot be activated leaves no device, and the pool's status tells why", "[device_actor]") {
    Lab world;
    world.make_pool();
    const auto reply = world.activate(2);
    CHECK(reply.error_number == ENODATA);
    CHECK_FALSE(reply.pool_status.empty());
    CHECK(world.kernel.devices.size() == 1);
}

TEST_CASE("one thin id cannot be activated under two names of ours", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    REQUIRE(world.dm.create({"somebody", world.thin(2).uuid}) == 0);
    CHECK(world.activate(2).error_number == 0);  // It is found by its uuid, under whatever name.
    CHECK(world.kernel.devices.size() == 2);
    REQUIRE(world.create_thin(3) == Outcome::done);
    REQUIRE(world.dm.create({world.thin(3).name, "foreign"}) == 0);
    CHECK(world.activate(3).error_number == EBUSY);
}

TEST_CASE("a thin that somebody has open stays, with the holder's name", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    const auto busy = world.actor.deactivate({world.pool, 2});
    CHECK(busy->error_number == EBUSY);
    REQUIRE(busy->holders.size() == 1);
    CHECK(busy->holders[0].command == "postgres");
    CHECK(world.kernel.paused == std::chrono::milliseconds(0));  // It will not go away by waiting.
    const auto kept = world.actor.delete_thin({world.pool, 2});
    CHECK(kept->verdict.error_number == EBUSY);
    CHECK(kept->holders.size() == 1);
    CHECK(world.core().core.thins.contains(2));
    world.kernel.close(world.thin(2));
    CHECK(world.actor.deactivate({world.pool, 2})->error_number == 0);
    CHECK(world.actor.deactivate({world.pool, 2})->error_number == 0);
    CHECK(world.judged(world.actor.delete_thin({world.pool, 2})->verdict) == Outcome::done);
}

TEST_CASE("a live device gets a larger table without a frozen file system and without waiting for writes",
          "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    const std::uint64_t larger = 2 * 65536;
    std::vector<std::string> effects;
    world.kernel.before_effect = [&](const std::string& effect) {
        effects.push_back(effect.substr(0, effect.find(' ')));
    };
    const auto reply = world.actor.activate({world.pool, 2, larger, false});
    REQUIRE(reply);
    CHECK(reply->error_number == 0);
    CHECK(effects == std::vector<std::string>{"create", "load", "suspend_no_flush", "resume"});
    CHECK(world.dm.table(world.thin(2)).value()->sectors == larger);
    CHECK_FALSE(world.dm.find(world.thin(2)).value()->suspended);
}

TEST_CASE("those who open a device for a moment are waited for, for at most two seconds", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    REQUIRE(world.activate(2).error_number == 0);
    world.kernel.short_openers = 3;
    CHECK(world.actor.deactivate({world.pool, 2})->error_number == 0);
    REQUIRE(world.activate(2).error_number == 0);
    world.kernel.paused = {};
    world.kernel.short_openers = 1000;
    const auto busy = world.actor.deactivate({world.pool, 2});
    CHECK(busy->error_number == EBUSY);
    CHECK(busy->holders.at(0).command == "(udev-worker)");
    CHECK(world.kernel.paused <= std::chrono::seconds(2));
}

TEST_CASE("a node whose device is gone goes with the next deactivation", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.kernel.nodes[world.thin(2).name] = 77;
    CHECK(world.actor.deactivate({world.pool, 2})->error_number == 0);
    CHECK_FALSE(world.kernel.nodes.contains(world.thin(2).name));
}

TEST_CASE("a delete removes the device first, and names who has the thin active under another name", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    REQUIRE(world.activate(2).error_number == 0);
    const auto table = world.dm.table(world.thin(2)).value();
    const DmDevice foreign{"lvm", "LVM-x"};
    REQUIRE(world.dm.create(foreign) == 0);
    REQUIRE(world.dm.load(foreign, *table, false) == 0);
    REQUIRE(world.dm.resume(foreign) == 0);
    const auto busy = world.actor.delete_thin({world.pool, 2});
    CHECK(busy->verdict.error_number == EBUSY);
    REQUIRE(busy->holders.size() == 1);
    CHECK_THAT(busy->holders[0].detail, Catch::Contains("'lvm'"));
    REQUIRE(world.dm.remove(foreign) == 0);
    CHECK(world.judged(world.actor.delete_thin({world.pool, 2})->verdict) == Outcome::done);
    CHECK(world.actor.delete_thin({world.pool, 2})->verdict.error_number == ENODATA);
}

TEST_CASE("active devices are listed by thin id, page by page, without the pool", "[device_actor]") {
    Lab world;
    for (std::uint32_t id = 4101; id > 1; --id) world.kernel.devices[1000 + id].device = world.thin(id);
    REQUIRE(world.dm.create({"other", thin_dm_uuid(std::string(32, 'f'), 1)}) == 0);
    const auto first = world.actor.list_active({world.pool});
    REQUIRE(first);
    CHECK(first->more);
    REQUIRE(first->devices.size() == kMaxListed);
    CHECK(first->devices.front().thin_id == 2);
    CHECK_FALSE(first->devices.front().live_table);
    const auto rest = world.actor.list_active({world.pool, first->devices.back().thin_id});
    CHECK_FALSE(rest->more);
    CHECK(rest->devices.size() == 4100 - kMaxListed);
    CHECK(rest->devices.back().thin_id == 4101);
}

TEST_CASE("active devices are listed with what a manager compares", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    REQUIRE(world.dm.suspend(world.thin(2), SuspendMode::freeze) == 0);
    const auto list = world.actor.list_active({world.pool});
    REQUIRE(list->devices.size() == 1);  // Without the pool's own device.
    const auto& device = list->devices[0];
    CHECK(device.thin_id == 2);
    CHECK(device.size_sectors == 65536);
    CHECK(device.open_count == 1);
    CHECK(device.suspended);
    CHECK(device.live_table);
    CHECK_FALSE(device.read_only);
}

TEST_CASE("what active devices have mapped, and thins have for themselves, is told to who asks for it",
          "[device_actor]") {
    Lab world;
    world.make_pool();
    world.mount(2);
    REQUIRE(world.kernel.write(world.thin(2), 3) == 0);
    REQUIRE(world.actor.create_snap({world.pool, 3, 2, true}));
    REQUIRE(world.activate(3).error_number == 0);
    REQUIRE(world.kernel.write(world.thin(3), 2) == 0);
    CHECK_FALSE(world.actor.list_active({world.pool})->devices.at(0).mapped_sectors.has_value());
    CHECK(world.actor.list_active({world.pool, -1, true})->devices.at(0).mapped_sectors == 3 * 128);
    CHECK(world.actor.list_thins({world.pool})->thins.at(1).exclusive_blocks == 0);
    const auto counted = world.actor.list_thins({world.pool, -1, false, true});
    CHECK(counted->thins.at(1).mapped_blocks == 5);
    CHECK(counted->thins.at(1).exclusive_blocks == 2);
}

TEST_CASE("the pool's own list has each thin's birth mark, and holds no metadata snapshot", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    REQUIRE(world.actor.set_transaction_id({world.pool, kTag + 1, kTag + 2}));
    REQUIRE(world.actor.create_snap({world.pool, 3, 2, false}));
    const auto list = world.actor.list_thins({world.pool});
    REQUIRE(list);
    REQUIRE(list->thins.size() == 2);
    CHECK(list->thins[0].transaction_id == kTag + 1);
    CHECK(list->thins[1].transaction_id == kTag + 2);
    CHECK_FALSE(list->more);
    CHECK(parse_thin_pool_status(list->verdict.status)->held_root == 0);
    CHECK(world.actor.list_thins({world.pool, 2})->thins.size() == 1);
    world.kernel.list_thins_fails = true;
    CHECK_FALSE(world.actor.list_thins({world.pool}));
    CHECK(world.core().core.held_root == 0);
}

TEST_CASE("a metadata snapshot that is held is released only on order, and never in an adopted pool",
          "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.dm.message(world.pool_device, kReserveMetadataSnapMessage) == 0);
    const auto busy = world.actor.list_thins({world.pool});
    CHECK(busy->verdict.error_number == EBUSY);
    CHECK(world.core().core.held_root != 0);
    world.kernel.allowed_devices = {"/dev/mapper/theirs"};
    CHECK(world.actor.list_thins({{kUuid, "theirs"}, -1, true}).error().code == Errc::invalid_argument);
    CHECK(world.actor.list_thins({world.pool, -1, true})->verdict.error_number == 0);
    CHECK(world.core().core.held_root == 0);
}

TEST_CASE("metadata are checked, mended and replaced only while their pool is not loaded", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    CHECK(world.actor.check_metadata({world.spec}).error().code == Errc::in_use);
    CHECK(world.actor.repair_metadata({.spec = world.spec, .spare = {}}).error().code == Errc::in_use);
    CHECK(world.actor.replace_metadata({world.spec}).error().code == Errc::in_use);
    REQUIRE(world.actor.stop_pool({world.spec}));
    CHECK(world.actor.check_metadata({world.spec})->sound);
    FakeMetadata& metadata = world.kernel.media.at("file:metadata").metadata;
    metadata.needs_check = true;
    world.kernel.fail_commits = 1;
    CHECK(world.actor.check_metadata({world.spec}).error().code == Errc::unavailable);
    CHECK(metadata.needs_check);
    CHECK(world.actor.check_metadata({world.spec})->sound);
    CHECK_FALSE(metadata.needs_check);
    metadata.damaged = true;
    const auto checked = world.actor.check_metadata({world.spec});
    REQUIRE(checked);
    CHECK_FALSE(checked->sound);
    CHECK_FALSE(checked->report.empty());
    const auto mended = world.actor.repair_metadata({.spec = world.spec, .spare = {}, .transaction_id = kTag + 1});
    REQUIRE(mended);
    CHECK(mended->sound);
    CHECK(mended->transaction_id == kTag + 1);
    REQUIRE(mended->thins.size() == 1);
    CHECK(mended->thins.front().thin_id == 2);
    CHECK(metadata.damaged);
    const auto replaced = world.actor.replace_metadata({world.spec});
    REQUIRE(replaced);
    CHECK(world.kernel.media.at(replaced->damaged_copy).metadata.damaged);
    CHECK(world.actor.replace_metadata({world.spec})->damaged_copy == replaced->damaged_copy);  // Its answer was lost.
    CHECK(world.actor.check_metadata({world.spec})->sound);
}

TEST_CASE("an adopted pool is used under its own name if root has listed it, and is never changed", "[device_actor]") {
    Lab world;
    world.kernel.add_disk("/dev/vda", kGib);
    world.kernel.add_disk("/dev/vdb", 32768);
    const DmDevice theirs{"theirs", ""};
    PoolSpec spec{.pool = {kUuid, "theirs"}, .backing = "adopted", .data_path = {}, .metadata_path = {}};
    CHECK(world.actor.inspect_pool({"theirs"}).error().code == Errc::not_found);
    REQUIRE(world.dm.create(theirs) == 0);
    REQUIRE(world.dm.load(theirs, {"thin-pool", kGib, "/dev/vdb /dev/vda 256 9 1 skip_block_zeroing"}, false) == 0);
    REQUIRE(world.dm.resume(theirs) == 0);

    const auto found = world.actor.inspect_pool({"theirs"});
    REQUIRE(found);
    CHECK(found->spec.backing == "adopted");
    CHECK(found->spec.data_path == "/dev/vda");
    CHECK(found->spec.metadata_path == "/dev/vdb");
    CHECK(found->spec.block_sectors == 256);
    CHECK(found->spec.low_water_blocks == 9);
    CHECK(found->spec.skip_zeroing);
    CHECK(found->spec.queue_if_no_space);
    CHECK(found->superblock.valid);

    CHECK(world.actor.create_thin({spec.pool, 2}).error().code == Errc::permission_denied);
    CHECK(world.actor.start_pool({spec, 0, 0}).error().code == Errc::permission_denied);
    world.kernel.allowed_devices = {"/dev/mapper/theirs"};
    CHECK(world.actor.create_thin({spec.pool, 2}).error().code == Errc::permission_denied);  // Not adopted yet.
    CHECK(world.actor.set_transaction_id({spec.pool, 0, kTag + 1})->error_number == 0);
    CHECK(world.kernel.own_pool == kUuid);
    CHECK(world.actor.start_pool({spec, kTag + 1, kTag + 1})->loaded);
    CHECK(world.actor.create_thin({spec.pool, 2})->error_number == 0);
    CHECK(world.actor.activate({spec.pool, 2, 65536, false})->error_number == 0);
    CHECK(world.actor.stop_pool({spec})->loaded);
    CHECK(world.actor.create_pool({.spec = spec}).error().code == Errc::invalid_argument);
    CHECK(world.kernel.devices.size() == 2);
    world.kernel.reboot();
    CHECK(world.actor.start_pool({spec, 0, 0}).error().code == Errc::unavailable);
}

TEST_CASE("an internal thin is written and read through a device that is there just as long", "[device_actor]") {
    Lab world;
    world.make_pool();
    CHECK(world.actor.read_internal({world.pool, 0, 0, 4096})->verdict.error_number == ENODATA);
    REQUIRE(world.create_thin(0) == Outcome::done);
    const std::string text(8192, 'x');
    CHECK(world.judged(world.actor.write_internal({world.pool, 0, 4096, text}).value()) == Outcome::done);
    const auto read = world.actor.read_internal({world.pool, 0, 4096, 8192});
    REQUIRE(read);
    CHECK(world.judged(read->verdict) == Outcome::done);
    CHECK(read->data == text);
    CHECK(world.actor.read_internal({world.pool, 0, 0, 4096})->data == std::string(4096, '\0'));
    CHECK(world.kernel.devices.size() == 1);
    world.kernel.fail_commits = 1;
    CHECK(world.judged(world.actor.write_internal({world.pool, 0, 0, text}).value()) == Outcome::unknown);
}

TEST_CASE("only whole blocks of internal thins are read or written", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(0) == Outcome::done);
    REQUIRE(world.create_thin(2) == Outcome::done);
    const auto refused = [](const auto& answer) { return !answer && answer.error().code == Errc::invalid_argument; };
    CHECK(refused(world.actor.read_internal({world.pool, 2, 0, 4096})));
    CHECK(refused(world.actor.write_internal({world.pool, 2, 0, std::string(4096, 'x')})));
    CHECK(refused(world.actor.read_internal({world.pool, 0, 512, 4096})));
    CHECK(refused(world.actor.read_internal({world.pool, 0, 0, 100})));
    CHECK(refused(world.actor.read_internal({world.pool, 0, 0, 0})));
    CHECK(refused(world.actor.read_internal({world.pool, 0, kLabelSectors * 512, 4096})));
    CHECK(refused(world.actor.read_internal({world.pool, 1, 0, kMostInternalBytes + 4096})));
    CHECK(refused(world.actor.write_internal({world.pool, 0, ~std::uint64_t{4095}, std::string(8192, 'x')})));
}

TEST_CASE("an internal thin that a dead actor left is not listed, is used, and does not keep the pool",
          "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(0) == Outcome::done);
    REQUIRE(world.activate(0, kLabelSectors).error_number == 0);
    CHECK(world.actor.list_active({world.pool})->devices.empty());
    SECTION("by the next command") {
        REQUIRE(world.actor.read_internal({world.pool, 0, 0, 4096}));
        CHECK(world.kernel.devices.size() == 1);
    }
    SECTION("by the pool's end") {
        REQUIRE(world.actor.stop_pool({world.spec}));
        CHECK(world.kernel.devices.empty());
    }
}

TEST_CASE("a growth that dies anywhere is ended by its repetition, and nobody stays suspended",
          "[device_actor][crash]") {
    die_everywhere(
        [](Lab& world) {
            world.make_pool();
            world.mount(2);
        },
        [](Lab& world) {
            world.spec.data_sectors = 2 * kGib;
            world.spec.metadata_sectors = 65536;
            return world.actor.grow_pool({world.spec}).has_value();
        },
        [](Lab& world) {
            CHECK(world.core().core.data_blocks == 2 * kGib / 128);
            CHECK(world.core().core.metadata_blocks == 65536 / 8);
            CHECK_FALSE(world.suspended(world.pool_device));
            CHECK(world.core().mode == PoolMode::rw);
        });
}

TEST_CASE("a start takes up files that had grown before a power cut, a read-only one what the metadata know",
          "[device_actor]") {
    Lab world;
    world.make_pool();
    world.kernel.reboot();
    world.kernel.media.at("file:data").sectors = 2 * kGib;
    const bool read_only = GENERATE(false, true);
    const auto state = world.actor.start_pool({world.spec, kTag + 1, kTag + 1, read_only});
    REQUIRE(state);
    CHECK(state->spec.data_sectors == (read_only ? kGib : 2 * kGib));
    CHECK(world.core().core.data_blocks == (read_only ? kGib : 2 * kGib) / 128);
}

TEST_CASE("more metadata are taken up before more data, which needs them", "[device_actor]") {
    Lab world;
    world.make_pool();
    std::vector<std::string> steps;
    world.kernel.before_effect = [&](const std::string& effect) {
        steps.push_back(effect.substr(0, effect.find(' ')));
    };
    world.spec.data_sectors = 2 * kGib;
    world.spec.metadata_sectors = 65536;
    REQUIRE(world.actor.grow_pool({world.spec}));
    CHECK(steps == std::vector<std::string>{"extend", "extend", "suspend_no_flush", "resume", "load",
                                            "suspend_no_flush", "resume"});
    steps.clear();
    REQUIRE(world.actor.grow_pool({world.spec}));  // There is nothing to do: nobody is suspended.
    CHECK(steps == std::vector<std::string>{"extend", "extend"});
}

TEST_CASE("what a creation made is discarded to the last trace, wherever the actor dies", "[device_actor][crash]") {
    die_everywhere([](Lab& world) { world.make_pool(); },
                   [](Lab& world) {
                       return world.actor.discard_pool({world.spec, kTag + 1, {}}).has_value();
                   },
                   [](Lab& world) {
                       CHECK(world.kernel.devices.empty());
                       CHECK(world.kernel.blocks.empty());
                       CHECK(world.kernel.media.empty());
                       CHECK_FALSE(world.kernel.own_pool);
                   });
}

TEST_CASE("of two devices only metadata that are the new pool's are zeroed when it is discarded", "[device_actor]") {
    Lab world;
    world.kernel.add_disk("/dev/vda", kGib);
    world.kernel.add_disk("/dev/vdb", 32768);
    world.kernel.allowed_devices = {"/dev/vda", "/dev/vdb"};
    world.spec.backing = "pair";
    world.spec.data_path = "/dev/vda";
    world.spec.metadata_path = "/dev/vdb";
    world.spec.data_sectors = world.spec.metadata_sectors = 0;
    FakeMetadata& metadata = world.kernel.media.at("/dev/vdb").metadata;
    SECTION("it was made") {
        world.make_pool();
        REQUIRE(world.actor.discard_pool({world.spec, kTag + 1, {}}));
        CHECK_FALSE(metadata.formatted);
        CHECK_FALSE(world.kernel.own_pool);
    }
    SECTION("it was refused") {
        metadata = {.formatted = true, .block_sectors = 128, .transaction_id = kTag + 99};
        REQUIRE_FALSE(world.actor.create_pool({.spec = world.spec, .own_transaction_id = kTag + 1}));
        REQUIRE(world.actor.discard_pool({world.spec, kTag + 1, {}}));
        CHECK(metadata.formatted);
    }
    SECTION("another pool lies there by now") {
        world.make_pool();
        REQUIRE(world.actor.stop_pool({world.spec}));
        metadata.transaction_id = kTag + 99;
        REQUIRE(world.actor.discard_pool({world.spec, kTag + 1, {}}));
        CHECK(metadata.formatted);
    }
}

TEST_CASE("a pool that is started read-only takes no message, whatever its transaction id", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    REQUIRE(world.actor.stop_pool({world.spec}));
    CHECK_FALSE(world.actor.start_pool({world.spec, kTag + 7, kTag + 9}));
    const auto state = world.actor.start_pool({world.spec, kTag + 7, kTag + 9, true});
    REQUIRE(state);
    CHECK(state->loaded);
    CHECK(parse_thin_pool_status(state->status)->mode == PoolMode::ro);
    CHECK(world.actor.create_thin({world.pool, 3})->error_number == EOPNOTSUPP);
    CHECK(world.activate(2, 65536, true).error_number == 0);
    REQUIRE(world.actor.deactivate({world.pool, 2}));
    REQUIRE(world.actor.stop_pool({world.spec}));
    world.kernel.media.at("file:metadata").metadata = {};
    CHECK(world.actor.start_pool({world.spec, 0, kTag + 9, true}).error().code == Errc::needs_repair);
    CHECK_FALSE(world.kernel.media.at("file:metadata").metadata.formatted);
}

TEST_CASE("a pool that was left loaded read-only is loaded anew where it is to be written", "[device_actor]") {
    // Bug: when an actor had died of the look at its label, the next start took it for one without metadata space.
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    REQUIRE(world.actor.stop_pool({world.spec}));
    REQUIRE(world.actor.start_pool({world.spec, kTag + 1, kTag + 1, true}));
    REQUIRE(world.activate(2, 65536, true).error_number == 0);
    CHECK(world.actor.start_pool({world.spec, kTag + 1, kTag + 1}).error().code == Errc::in_use);
    REQUIRE(world.actor.deactivate({world.pool, 2}));
    const auto state = world.actor.start_pool({world.spec, kTag + 1, kTag + 1});
    REQUIRE(state);
    CHECK(parse_thin_pool_status(state->status)->mode == PoolMode::rw);
    CHECK(world.create_thin(3) == Outcome::done);
}

TEST_CASE("a pool is examined without being loaded, also by a folder that knows no more than its uuid",
          "[device_actor]") {
    Lab world;
    CHECK(world.actor.examine_pool({some_loop_pool()}).error().code == Errc::not_found);
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    const auto live = world.actor.examine_pool({world.spec});
    REQUIRE(live);
    CHECK(live->state.loaded);
    REQUIRE(world.actor.stop_pool({world.spec}));
    const std::uint64_t loads = world.kernel.effects["load"];
    const auto found = world.actor.examine_pool({some_loop_pool()});
    REQUIRE(found);
    CHECK_FALSE(found->state.loaded);
    CHECK(found->state.superblock.transaction_id == kTag + 1);
    CHECK(found->state.spec.pool.uuid == kUuid);
    CHECK(found->state.spec.pool.device == pool_dm_name(kUuid));
    CHECK(found->state.spec.data_sectors == kGib);
    CHECK(found->state.spec.metadata_sectors == 32768);
    CHECK(found->listed);
    REQUIRE(found->thins.size() == 1);
    CHECK(found->thins.front().transaction_id == kTag + 1);
    CHECK(world.kernel.effects["load"] == loads);
    world.kernel.media.at("file:metadata").metadata.damaged = true;
    CHECK_FALSE(world.actor.examine_pool({world.spec})->listed);
}

TEST_CASE("the file system on a thin is found through a device of its own, or through the one that is there",
          "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(2) == Outcome::done);
    CHECK(world.actor.find_filesystem({world.pool, 2})->fs == "none");
    std::string block(4096, '\0');
    block.replace(0, 4, "XFSB");
    block[6] = 0x10;   // 4096.
    block[14] = 0x20;  // 8192 blocks.
    world.kernel.media.at("file:data").contents[{2, 0}] = block;
    CHECK(world.actor.find_filesystem({world.pool, 2})->fs == "xfs");
    CHECK(world.actor.find_filesystem({world.pool, 2})->size_sectors == 65536);
    CHECK(world.kernel.devices.size() == 1);
    REQUIRE(world.activate(2).error_number == 0);
    CHECK(world.actor.find_filesystem({world.pool, 2})->fs == "xfs");
    CHECK(world.kernel.devices.size() == 2);
    CHECK(world.actor.find_filesystem({world.pool, 9})->error_number == ENODATA);
}

TEST_CASE("values that no sane manager sends are refused before anything is looked at", "[device_actor]") {
    Lab world;
    world.make_pool();
    world.kernel.effects.clear();
    const auto refused = [](const auto& result) { return !result && result.error().code == Errc::invalid_argument; };
    CHECK(refused(world.actor.create_thin({world.pool, kLastThinId + 1})));
    CHECK(refused(world.actor.create_snap({world.pool, 3, kLastThinId + 1, false})));
    CHECK(refused(world.actor.activate({world.pool, 2, 0, false})));
    CHECK(refused(world.actor.activate({world.pool, 2, ~std::uint64_t{0}, false})));
    for (const auto& uuid : {std::string("x"), std::string(), std::string(32, 'A'), kUuid + "0"}) {
        CHECK(refused(world.actor.deactivate({{uuid, pool_dm_name(kUuid)}, 2})));
    }
    for (const auto* name : {"", "a/b", "..", "control", "a b"}) {
        CHECK(refused(world.actor.create_thin({{kUuid, name}, 2})));
        CHECK(refused(world.actor.inspect_pool({name})));
    }
    auto spec = world.spec;
    spec.pool.device = "other";
    CHECK(refused(world.actor.stop_pool({spec})));
    spec = world.spec;
    spec.backing = "nfs";
    CHECK(refused(world.actor.start_pool({spec, 0, 0})));
    spec = world.spec;
    spec.block_sectors = 100;
    CHECK(refused(world.actor.create_pool({.spec = spec})));
    spec = world.spec;
    spec.metadata_sectors = 8;
    CHECK(refused(world.actor.create_pool({.spec = spec})));
    CHECK(world.kernel.effects.empty());
}

TEST_CASE("a command arrives as bytes and is answered with bytes", "[device_actor]") {
    Lab world;
    world.make_pool();
    const std::string bytes = encode(CreateThin{.pool = world.pool, .thin_id = 2});
    const auto document = decode(bytes);
    const auto answer = world.actor.handle(CreateThin::kType, document->root()).body;
    REQUIRE(answer);
    CHECK(decode_as<Verdict>(*answer)->error_number == 0);
    CHECK(world.core().core.thins.contains(2));
    CHECK(world.actor.handle("device.brew", document->root()).body.error().code == Errc::unimplemented);
    for (const auto* type :
         {DiscardPool::kType, WriteInternal::kType, ReadInternal::kType, CreatePool::kType, InspectPool::kType,
          StartPool::kType, StopPool::kType, ReadPoolStatus::kType, SetTransactionId::kType, CreateSnap::kType,
          DeleteThin::kType, Activate::kType, Deactivate::kType, Resume::kType, ListActive::kType, ListThins::kType}) {
        const auto refused = world.actor.handle(type, decode(encode(NoFields{}))->root()).body;
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::invalid_argument);
    }
}

TEST_CASE("the pool's own device is resumed if it was left suspended, but not an adopted one's", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.dm.suspend(world.pool_device, SuspendMode::freeze) == 0);
    CHECK(world.actor.resume({world.pool, 0, true})->was_suspended);
    CHECK_FALSE(world.suspended(world.pool_device));
    CHECK_FALSE(world.actor.resume({world.pool, 0, true})->was_suspended);
    CHECK(world.actor.resume({{kUuid, "theirs"}, 0, true}).error().code == Errc::invalid_argument);
}

TEST_CASE("metadata are counted anew only while nobody has loaded them, and once", "[device_actor]") {
    Lab world;
    world.make_pool();
    REQUIRE(world.create_thin(5) == Outcome::done);
    REQUIRE(world.snap(9, 5).verdict.error_number == 0);
    RewindClock command{world.spec, kTag + 1, kTag + 2, 2, ""};
    CHECK(world.actor.rewind_clock(command).error().code == Errc::in_use);
    REQUIRE(world.actor.stop_pool({world.spec}));
    FakeMetadata& disk = world.kernel.media.at("file:metadata").metadata;
    disk.time = 16777000;

    SECTION("of another pool") {
        command.confirmed = kTag + 2;
    }
    SECTION("that need a check") {
        disk.needs_check = true;
    }
    SECTION("with other volumes") {
        command.volumes = 3;
    }
    if (command.confirmed != kTag + 1 || disk.needs_check || command.volumes != 2) {
        CHECK(world.actor.rewind_clock(command).error().code == Errc::needs_repair);
        CHECK(disk.transaction_id == kTag + 1);
        return;
    }
    for (int copy = 1; copy <= 2; ++copy) {
        CAPTURE(copy);
        const auto rewound = world.actor.rewind_clock(command);
        REQUIRE(rewound);
        CHECK(rewound->superblock.transaction_id == kTag + 2);
        CHECK(rewound->superblock.time < 10);
        CHECK(world.kernel.effects["use"] == 1);
        CHECK(disk.thins.size() == 2);
        CHECK(disk.thins.contains(2));
        CHECK(disk.thins.contains(3));
    }
    CHECK(world.kernel.blocks.empty());
}

}  // namespace cowslip
