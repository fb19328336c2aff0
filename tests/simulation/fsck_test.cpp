// Store, pool and kernel compared: each difference made by hand, seen, and put right or left alone as the rules say.
#include <algorithm>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/names.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

using Found = std::vector<std::string>;  // "kind subject".

// "base", "mounted" and "attached", which are what their names say, and "free".
class Compared {
public:
    Compared() {
        make_pool_and_base(world);
        for (const std::string id : {"mounted", "attached", "free"}) REQUIRE(world.call(create(id, "base")));
        REQUIRE(world.call(get("mounted")));
        REQUIRE(world.call(attach("attached")));
        world.run_for(10000);
        uuid = world.store().pool()->spec.pool.uuid;
        REQUIRE(fsck() == Found{});
    }

    schemas::SystemFsck::Reply ask(bool repair) {
        schemas::SystemFsck request;
        request.repair = repair;
        const auto reply = world.call(request);
        REQUIRE(reply);
        CHECK(reply->ok == reply->findings.empty());
        CHECK(reply->total == reply->findings.size());
        return *reply;
    }
    static Found words(const std::vector<schemas::Finding>& findings) {
        Found list;
        for (const auto& finding : findings) list.push_back(finding.kind + " " + finding.subject);
        return list;
    }
    Found fsck() {
        const Found found = words(ask(false).findings);
        CHECK(findings(world) == found);  // As status has it.
        return found;
    }
    Found repair() { return words(ask(true).findings); }
    // Found, put right, and never seen again.
    void check_repaired(const std::string& wanted) {
        CHECK(fsck() == Found{wanted});
        const auto reply = ask(true);
        CHECK(words(reply.findings) == Found{});
        CHECK(words(reply.repaired) == Found{wanted});
        CHECK(fsck() == Found{});
        CHECK(told() == Found{"finding." + wanted, "gone " + wanted});
    }
    // Found, and left alone; but `put_right` by somebody else, it has gone.
    void check_kept(const std::string& wanted, const std::function<void()>& put_right) {
        CHECK(fsck() == Found{wanted});
        const auto reply = ask(true);
        CHECK(words(reply.findings) == Found{wanted});
        CHECK(reply.repaired.empty());
        put_right();
        CHECK(fsck() == Found{});
        CHECK(told() == Found{"finding." + wanted, "gone " + wanted});
    }
    // What events have said of findings.
    Found told() {
        Found list;
        for (std::uint64_t seq = 0;;) {
            const auto events = world.store().events_since(seq, 500);
            if (events.empty()) return list;
            for (const auto& event : events) {
                seq = event.seq;
                if (event.type == "finding.gone") {
                    list.push_back(fmt::format("gone {} {}", event.body.at("kind"), event.subject));
                } else if (event.type.starts_with("finding.")) {
                    list.push_back(event.type + " " + event.subject);
                }
            }
        }
    }

    std::uint32_t thin_id(const std::string& id) { return show(world, id).thin_id; }
    DmDevice device(std::uint32_t thin_id) const { return {thin_dm_name(uuid, thin_id), thin_dm_uuid(uuid, thin_id)}; }
    FakeDmDevice& live(const DmDevice& device) { return world.kernel.devices.at(world.kernel.number_of(device)); }
    DmDevice pool_device() const { return {pool_dm_name(uuid), pool_dm_uuid(uuid)}; }
    FakePool& pool() { return world.kernel.pools.begin()->second; }
    FakeMetadata& disk() { return world.kernel.media.at("file:metadata").metadata; }
    // As somebody does who has dmsetup.
    void activate(std::uint32_t id, std::uint64_t sectors) {
        FakeDeviceMapper dm(world.kernel);
        const std::string pool_number = device_number(world.kernel.number_of(pool_device()));
        REQUIRE(dm.create(device(id)) == 0);
        REQUIRE(dm.load(device(id), {"thin", sectors, make_thin_table({pool_number, id})}, false) == 0);
        REQUIRE(dm.resume(device(id)) == 0);
    }
    void message(const std::string& text) {
        FakeDeviceMapper dm(world.kernel);
        REQUIRE(dm.message(pool_device(), text) == 0);
    }

    World world{{.seed = 1}};
    std::string uuid;
};

constexpr std::uint64_t kSectors = 64 * kMiB / 512;

}  // namespace

TEST_CASE("a volume that the pool does not have is lost, and found again when it is there", "[fsck]") {
    Compared world;
    const std::uint32_t id = world.thin_id("free");
    const FakeThin thin = world.pool().core.thins.at(id);
    world.pool().core.thins.erase(id);
    world.check_kept("lost free", [&] {
        CHECK(show(world.world, "free").state == "lost");
        CHECK(word(world.world.ask_once(create("clone", "free"))) == "needs_repair");
        world.pool().core.thins[id] = thin;
    });
    CHECK(show(world.world, "free").state == "ready");
    REQUIRE(world.world.call(create("clone", "free")));
}

TEST_CASE("a thin id without a row is never deleted and never used, and forgotten when its owner deletes it",
          "[fsck]") {
    Compared world;
    REQUIRE(world.world.call(create("a", "base")));
    const std::uint32_t id = world.thin_id("a");
    REQUIRE(world.world.call(remove_and_wait("a")));
    world.message(fmt::format("create_thin {}", id));
    world.check_kept(fmt::format("foreign-thin {}", id), [&] {
        CHECK(world.pool().core.thins.contains(id));
        CHECK(world.world.store().quarantined().size() == 1);
        world.message(fmt::format("delete {}", id));
    });
    CHECK(world.world.store().quarantined().empty());
}

TEST_CASE("a thin id with another birth than its row's may be another's", "[fsck]") {
    Compared world;
    FakeThin& thin = world.pool().core.thins.at(world.thin_id("free"));
    const std::uint64_t born = thin.transaction_id;
    thin.transaction_id = 1;
    world.check_kept("wrong-birth free", [&] { thin.transaction_id = born; });
}

TEST_CASE("a device that is active without a lease is put away unless somebody has it open", "[fsck]") {
    Compared world;
    const std::uint32_t id = world.thin_id("free");
    world.activate(id, kSectors);
    world.world.opened.insert(world.device(id).uuid);
    CHECK(world.fsck() == Found{"stray-device free"});
    CHECK(world.repair() == Found{"stray-device free"});
    CHECK(findings(world.world) == Found{"busy free", "stray-device free"});
    world.world.opened.clear();
    world.live(world.device(id)).openers = 0;
    world.world.run_for(5000);
    CHECK(world.fsck() == Found{});
    CHECK(world.world.kernel.number_of(world.device(id)) == 0);
}

TEST_CASE("a device that was made and never loaded is put away", "[fsck]") {
    Compared world;
    FakeDeviceMapper dm(world.world.kernel);
    REQUIRE(dm.create(world.device(world.thin_id("free"))) == 0);
    world.check_repaired("stray-device free");
    REQUIRE(world.world.call(get("free")));
}

TEST_CASE("a mount without a lease is unmounted, and its device put away", "[fsck]") {
    Compared world;
    const std::uint32_t id = world.thin_id("free");
    world.activate(id, kSectors);
    world.world.mounts.directories["free"] = {
        .id = "free", .mount_point = true, .mount = {{thin_dm_uuid(world.uuid, id), {}}}};
    world.live(world.device(id)).openers = 1;
    world.check_repaired("stray-mount free");
    world.world.run_for(5000);
    CHECK(world.world.kernel.number_of(world.device(id)) == 0);
    check_quiet(world.world);
}

TEST_CASE("a directory that is left over is removed", "[fsck]") {
    Compared world;
    world.world.mounts.directories["free"] = {.id = "free", .mount_point = true, .mount = {}};
    world.check_repaired("stray-mount free");
    check_quiet(world.world);
}

TEST_CASE("a mount of something else is not ours to unmount", "[fsck]") {
    Compared world;
    world.world.mounts.directories["theirs"] = {.id = "", .mount_point = true, .mount = {{"7:0", {}}}};
    world.check_kept("foreign-mount theirs", [&] { world.world.mounts.directories.erase("theirs"); });
}

TEST_CASE("a lease whose mount or device is gone is made true again", "[fsck]") {
    Compared world;
    const std::uint32_t id = world.thin_id("mounted");
    SECTION("its mount") {
        world.world.mounts.directories.erase("mounted");
        world.live(world.device(id)).openers = 0;
    }
    SECTION("both") {
        world.world.mounts.directories.erase("mounted");
        world.world.kernel.devices.erase(world.world.kernel.number_of(world.device(id)));
    }
    world.check_repaired("broken-lease mounted");
    CHECK(world.world.mounts.is_mounted(thin_dm_uuid(world.uuid, id)));
    CHECK(show(world.world, "mounted").leases.size() == 1);
    check_quiet(world.world);
}

TEST_CASE("a lease that can never be true again is ended", "[fsck]") {
    Compared world;
    const std::uint32_t id = world.thin_id("attached");
    world.world.kernel.devices.erase(world.world.kernel.number_of(world.device(id)));
    world.pool().core.thins.erase(id);
    CHECK(world.fsck() == Found{"broken-lease attached", "lost attached"});
    CHECK(world.repair() == Found{"lost attached"});
    CHECK(show(world.world, "attached").leases.empty());
    CHECK(world.fsck() == Found{"lost attached"});
}

TEST_CASE("a lease that cannot be made true now is kept", "[fsck]") {
    // Bug: what the kernel refused for the moment ended it.
    Compared world;
    const std::uint32_t id = world.thin_id("mounted");
    world.world.mounts.directories.erase("mounted");
    world.live(world.device(id)).openers = 0;
    world.world.answer_instead = [](const schemas::Command& command) -> std::optional<Result<std::string>> {
        if (command.type != schemas::Mount::kType) return std::nullopt;
        return Error{Errc::unavailable, "mount: the device is not there yet"};
    };
    CHECK(world.repair() == Found{"broken-lease mounted"});
    CHECK(show(world.world, "mounted").leases.size() == 1);
    world.world.answer_instead = nullptr;
    CHECK(world.repair() == Found{});
    CHECK(world.world.mounts.is_mounted(thin_dm_uuid(world.uuid, id)));
    check_quiet(world.world);
}

TEST_CASE("a device with another size than its volume is left alone while it has a lease", "[fsck]") {
    Compared world;
    const std::uint32_t id = world.thin_id("attached");
    FakeDmDevice::Table& table = *world.live(world.device(id)).live;
    table.target.sectors = kSectors / 2;
    world.check_kept("wrong-size attached", [&] { table.target.sectors = kSectors; });
}

TEST_CASE("a device that somebody left suspended is resumed", "[fsck]") {
    Compared world;
    SECTION("a volume's") {
        const std::uint32_t id = world.thin_id("attached");
        world.live(world.device(id)).suspended = true;
        world.check_repaired(fmt::format("suspended {}", id));
        CHECK_FALSE(world.live(world.device(id)).suspended);
    }
    SECTION("the pool's") {
        world.live(world.pool_device()).suspended = true;
        world.check_repaired("suspended default");
        CHECK_FALSE(world.live(world.pool_device()).suspended);
    }
}

TEST_CASE("a metadata snapshot that another program holds is released only when that is asked for", "[fsck]") {
    Compared world;
    world.message("reserve_metadata_snap");
    world.pool().core.thins.erase(world.thin_id("free"));  // Not seen meanwhile.
    CHECK(world.fsck() == Found{"held-snapshot default"});
    CHECK_FALSE(world.ask(false).pool_compared);
    CHECK(world.pool().core.held_root != 0);
    CHECK(world.repair() == Found{"lost free"});
    CHECK(world.pool().core.held_root == 0);
}

TEST_CASE("one that a dead actor of ours holds is released by the next", "[fsck]") {
    Compared world;
    bool died = false;
    const auto before = world.world.kernel.before_effect;
    world.world.kernel.before_effect = [&](const std::string& effect) {
        before(effect);
        if (died || effect != "message release_metadata_snap" || world.pool().core.held_root == 0) return;
        died = true;
        throw Death{};
    };
    CHECK(world.fsck() == Found{});
    CHECK(died);
    CHECK(world.pool().core.held_root == 0);
}

TEST_CASE("a list of thin ids that could not be read changes nothing", "[fsck]") {
    Compared world;
    const std::uint32_t id = world.thin_id("free");
    world.pool().core.thins.erase(id);
    world.world.kernel.list_thins_fails = true;
    CHECK(word(world.world.ask_once(schemas::SystemFsck{})) == "internal");
    CHECK(findings(world.world) == Found{"unchecked default"});
    CHECK(show(world.world, "free").state == "ready");
    world.world.kernel.list_thins_fails = false;
    CHECK(world.fsck() == Found{"lost free"});
    world.world.kernel.list_thins_fails = true;
    CHECK(word(world.world.ask_once(schemas::SystemFsck{})) == "internal");
    CHECK(findings(world.world) == Found{"lost free", "unchecked default"});
}

TEST_CASE("now and then it is looked without being asked", "[fsck]") {
    Compared world;
    world.live(world.device(world.thin_id("attached"))).suspended = true;
    world.world.run_for(599 * 1000);
    CHECK(findings(world.world) == Found{fmt::format("suspended {}", world.thin_id("attached"))});
}

TEST_CASE("without a pool, and with a stopped one, all is well", "[fsck]") {
    World world({.seed = 1});
    CHECK(world.call(schemas::SystemFsck{})->ok);
    make_pool_and_base(world);
    REQUIRE(world.call(schemas::SystemCleanup{}));
    const auto reply = world.call(schemas::SystemFsck{});
    REQUIRE(reply);
    CHECK(reply->ok);
    CHECK_FALSE(reply->pool_compared);
}

TEST_CASE("a removal that ends while a start reads the pool's list leaves no stranger behind", "[manager]") {
    // The list had the thin id still and the store its row no more: it was quarantined as somebody else's.
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    world.run_for(10000);  // It is not active any more, so that nobody waits for it.
    world.hold_commands("device.delete_thin");
    REQUIRE(world.call(remove("a")));
    REQUIRE(world.call(schemas::SystemCleanup{}));
    world.hold_replies("device.list_thins");
    const std::string start = world.send_once(schemas::PoolStart{});
    world.run_until([&] { return world.held() == 2; });
    world.let_go();
    CHECK(word(world.answer(start)) == "ok");
    check_quiet(world);
    CHECK(findings(world).empty());
}

}  // namespace cowslip::simulation
