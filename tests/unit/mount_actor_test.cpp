#include "services/mount_actor/mount_actor.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/codec.h"
#include "common/names.h"
#include "tests/fakes/fake_mounts.h"
#include "tests/fakes/hooked_filesystems.h"
#include "tests/fakes/mount_conformance.h"

using namespace cowslip;
using namespace cowslip::mount_conformance;

namespace {

struct Death {};

constexpr const char* kPoolUuid = "0123456789abcdef0123456789abcdef";

class FakeWorld : public World {
public:
    FakeMountState state;

    FakeWorld() { state.own_pool = kPoolUuid; }
    Filesystems& filesystems() override { return mounts_; }
    schemas::DeviceRef make_device(std::uint64_t /*size_mib*/) override {
        const std::string uuid = thin_dm_uuid(kPoolUuid, next_++);
        devices_.insert(uuid);
        return {.path = "/dev/mapper/" + uuid, .dm_uuid = uuid};
    }
    schemas::DeviceRef snapshot(const schemas::DeviceRef& origin) override {
        const auto device = make_device(0);
        state.file_systems[device.dm_uuid] = state.file_systems.at(origin.dm_uuid);
        return device;
    }
    std::function<void()> hold(const std::string& directory) override {
        state.holders[directory] = {schemas::Holder{.pid = 7, .command = "sleep", .detail = "has it open"}};
        return [this, directory] { state.holders.erase(directory); };
    }
    bool run_until(int effects, const std::function<void(MountActor&)>& commands) override {
        HookedFilesystems mortal(mounts_, [&effects](std::string_view) {
            if (effects-- == 0) throw Death{};
        });
        MountActor actor(mortal);
        try {
            commands(actor);
        } catch (const Death&) {
            return false;
        }
        return true;
    }

private:
    std::uint32_t next_ = kFirstThinId;
    std::set<std::string> devices_;
    FakeMounts mounts_{state, FakeDevices{.is_active = [this](const schemas::DeviceRef& device) {
                           return device.path == "/dev/mapper/" + device.dm_uuid && devices_.contains(device.dm_uuid);
                       }}};
};

}  // namespace

TEST_CASE("the fake mounts behave as the kernel's do", "[mount_actor]") {
    for (const auto& one : kCases) {
        DYNAMIC_SECTION(one.name) {
            FakeWorld world;
            one.run(world);
        }
    }
}

TEST_CASE("a failed sync keeps the mount and is told, unless it is forced", "[mount_actor]") {
    FakeWorld world;
    MountActor actor(world.filesystems());
    const auto mount = mount_of(make_template(world), "x");
    REQUIRE(actor.handle(mount));
    world.state.sync_errors[mount.device.dm_uuid] = EIO;
    auto unmount = unmount_of(mount);
    const auto kept = actor.handle(unmount);
    REQUIRE(kept);
    CHECK(kept->sync_error == EIO);
    CHECK(world.state.is_mounted(mount.device.dm_uuid));
    unmount.force = true;
    const auto forced = actor.handle(unmount);
    REQUIRE(forced);
    CHECK(forced->sync_error == EIO);
    CHECK(list(world).empty());
}

TEST_CASE("a file system on a pool that takes no writes is shut down and not synced before its unmount",
          "[mount_actor]") {
    FakeWorld world;
    MountActor actor(world.filesystems());
    const auto mount = mount_of(make_template(world), "v");
    REQUIRE(actor.handle(mount));
    std::vector<std::string> effects;
    HookedFilesystems hooked(world.filesystems(), [&](std::string_view effect) { effects.emplace_back(effect); });
    MountActor watched(hooked);
    const auto reply = watched.handle(schemas::Unmount{"v", mount.device.dm_uuid, true, false, true});
    REQUIRE(reply);
    CHECK(reply->sync_error == EIO);  // What it had not written is lost.
    CHECK(std::count(effects.begin(), effects.end(), "sync") == 0);
    REQUIRE(effects.size() > 2);
    CHECK(effects.at(0) == "shut_down");
    CHECK(effects.at(1) == "unmount");
    CHECK(world.state.directories.empty());
}

TEST_CASE("what a sync has lost is told by each put, until one is forced", "[mount_actor]") {
    // The kernel tells a sync error once: the second put succeeded without a word, a forced one after
    // a failed one told no loss, and with an actor that died in between it was forgotten.
    FakeWorld world;
    MountActor actor(world.filesystems());
    const auto mount = mount_of(make_template(world), "x");
    auto unmount = unmount_of(mount);
    const auto sync_error = [&] {
        const auto reply = actor.handle(unmount);
        REQUIRE(reply);
        return reply->sync_error;
    };
    REQUIRE(actor.handle(mount));
    world.state.sync_errors[mount.device.dm_uuid] = ENOSPC;
    const bool dies_in_sync = GENERATE(false, true);
    const bool dies_in_umount = GENERATE(false, true);
    CAPTURE(dies_in_sync, dies_in_umount);
    if (dies_in_sync) {
        world.state.sync_errors.clear();
        world.state.directories.at("x").unsynced = 0;
    }
    const std::int32_t expected = dies_in_sync ? EIO : ENOSPC;
    for (int repeat = 0; repeat < 2; ++repeat) {
        CHECK(sync_error() == expected);
        CHECK(world.state.is_mounted(mount.device.dm_uuid));
    }
    unmount.force = true;
    if (dies_in_umount) {
        CHECK_FALSE(world.run_until(2, [&](MountActor& mortal) { (void)mortal.handle(unmount); }));
        CHECK_FALSE(world.state.is_mounted(mount.device.dm_uuid));
    }
    CHECK(sync_error() == expected);
    CHECK(list(world).empty());
    REQUIRE(actor.handle(mount));
    unmount.force = false;
    CHECK(sync_error() == 0);
}

TEST_CASE("an actor that died in a sync of a sound pool has lost nothing", "[mount_actor]") {
    // A put after kill -9 of a mount actor in syncfs said EIO, though nothing was lost.
    FakeWorld world;
    MountActor actor(world.filesystems());
    const auto mount = mount_of(make_template(world), "x");
    REQUIRE(actor.handle(mount));
    world.state.directories.at("x").unsynced = 0;
    auto unmount = unmount_of(mount);
    unmount.pool_sound = true;
    const auto reply = actor.handle(unmount);
    REQUIRE(reply);
    CHECK(reply->sync_error == 0);
    CHECK_FALSE(world.state.is_mounted(mount.device.dm_uuid));
}

TEST_CASE("the note of a lost sync does not outlive its mount", "[mount_actor]") {
    FakeWorld world;
    MountActor actor(world.filesystems());
    const auto mount = mount_of(make_template(world), "x");
    REQUIRE(actor.handle(mount));
    world.state.sync_errors[mount.device.dm_uuid] = EIO;
    REQUIRE(actor.handle(unmount_of(mount)));
    world.state.reboot();
    REQUIRE(actor.handle(mount));
    CHECK(actor.handle(unmount_of(mount))->sync_error == 0);
    CHECK(list(world).empty());
}

TEST_CASE("a mount label is part of what is mounted, where the kernel has SELinux", "[mount_actor]") {
    FakeWorld world;
    MountActor actor(world.filesystems());
    auto mount = mount_of(make_template(world), "x");
    mount.mount_label = "system_u:object_r:container_file_t:s0:c1,c2";
    const auto refused = actor.handle(mount);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message == "mount label given, but this kernel has no SELinux: leave --mount-label away");

    world.state.has_selinux = true;
    REQUIRE(actor.handle(mount));
    REQUIRE(actor.handle(mount));
    CHECK(list(world).at(0).mount_label == mount.mount_label);
    mount.mount_label = "system_u:object_r:container_file_t:s0:c1,c3";
    CHECK(code_of(actor.handle(mount)) == Errc::in_use);
    mount.mount_label = std::string(256, 'x');
    CHECK(code_of(actor.handle(mount)) == Errc::invalid_argument);
}

TEST_CASE("a file system is grown when asked, also by a repeat, but not read-only", "[mount_actor]") {
    FakeWorld world;
    MountActor actor(world.filesystems());
    auto mount = mount_of(make_template(world), "x");
    auto& file_system = world.state.file_systems[mount.device.dm_uuid];
    file_system.fills_device = false;
    mount.grow = true;

    mount.read_only = true;
    auto reply = actor.handle(mount);
    REQUIRE(reply);
    CHECK_FALSE(reply->grown);
    CHECK_FALSE(file_system.fills_device);
    REQUIRE(actor.handle(unmount_of(mount)));

    mount.read_only = false;
    reply = actor.handle(mount);
    REQUIRE(reply);
    CHECK(reply->grown);
    CHECK(file_system.fills_device);

    file_system.fills_device = false;
    reply = actor.handle(mount);
    REQUIRE(reply);
    CHECK(reply->grown);
    CHECK(file_system.fills_device);
}

TEST_CASE("only the mount that is meant is trimmed", "[mount_actor]") {
    FakeWorld world;
    MountActor actor(world.filesystems());
    const auto mount = mount_of(make_template(world), "x");
    schemas::Trim trim{.directory = "x", .dm_uuid = mount.device.dm_uuid, .offset_bytes = 0, .length_bytes = 1 << 20};
    CHECK(code_of(actor.handle(trim)) == Errc::invalid_argument);
    REQUIRE(actor.handle(mount));
    CHECK(actor.handle(trim)->trimmed_bytes == 4096);
    trim.dm_uuid = thin_dm_uuid(kPoolUuid, 4711);
    CHECK(code_of(actor.handle(trim)) == Errc::invalid_argument);
    trim.directory = "../x";
    CHECK(code_of(actor.handle(trim)) == Errc::invalid_argument);
    CHECK(world.state.trims[mount.device.dm_uuid].size() == 1);
}

TEST_CASE("a template's root is prepared before it is reported", "[mount_actor]") {
    FakeWorld world;
    CHECK(world.state.file_systems[make_template(world).dm_uuid].root_prepared);
}

TEST_CASE("mounts are listed in pages, in byte order, left over directories among them", "[mount_actor]") {
    FakeWorld world;
    MountActor actor(world.filesystems());
    for (int i = 0; i < 2050; ++i) world.state.directories[fmt::format("{:04}", i)];
    const auto first = actor.handle(schemas::ListMounts{});
    REQUIRE(first);
    CHECK(first->mounts.size() == 2048);
    CHECK(first->more);
    CHECK(first->mounts.front().dm_uuid.empty());
    const auto second = actor.handle(schemas::ListMounts{.after = first->mounts.back().directory});
    REQUIRE(second);
    REQUIRE(second->mounts.size() == 2);
    CHECK(second->mounts.back().directory == "2049");
    CHECK_FALSE(second->more);
}

TEST_CASE("commands come as bytes, and an unknown or malformed one is an error", "[mount_actor]") {
    FakeWorld world;
    MountActor actor(world.filesystems());
    const auto send = [&](std::string_view type, const std::string& body) {
        const auto document = decode(body);
        REQUIRE(document);
        return actor.handle(type, document->root());
    };
    const auto mount = mount_of(make_template(world), "x");
    const auto bytes = send("mount.mount", encode(mount));
    REQUIRE(bytes);
    const auto reply = decode_as<schemas::Mount::Reply>(std::string_view(*bytes));
    REQUIRE(reply);
    CHECK(reply->path == "/fake/mnt/x/rootfs");
    CHECK(send("mount.list", encode(schemas::ListMounts{})));
    CHECK(send("mount.unmount", encode(unmount_of(mount))));
    CHECK(code_of(send("mount.unmount", encode(std::map<std::string, int>{{"directory", 3}}))) ==
          Errc::invalid_argument);
    CHECK(code_of(send("mount.explode", encode(mount))) == Errc::unimplemented);
}
