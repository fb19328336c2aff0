// What must be true of every Filesystems, told through the mount actor: the same cases run over the
// fake (tests/unit) and the kernel (tests/device), so that the fake cannot drift.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "common/names.h"
#include "services/mount_actor/mount_actor.h"

namespace cowslip::mount_conformance {

// A place where it can be tried.
class World {
public:
    virtual ~World() = default;
    virtual Filesystems& filesystems() = 0;
    // A blank device of ours, active.
    virtual schemas::DeviceRef make_device(std::uint64_t size_mib) = 0;
    virtual schemas::DeviceRef snapshot(const schemas::DeviceRef& origin) = 0;
    // Somebody uses the mount from now on, until the function returned is called.
    virtual std::function<void()> hold(const std::string& directory) = 0;
    // An actor that dies before its n-th effect from here. True: it had fewer, and finished.
    virtual bool run_until(int effects, const std::function<void(MountActor&)>& commands) = 0;
};

inline schemas::DeviceRef make_template(World& world, const std::string& fs = "ext4") {
    schemas::MakeFilesystem request;
    request.device = world.make_device(fs == "xfs" ? 300 : 64);
    request.fs = fs;
    const auto made = MountActor(world.filesystems()).handle(request);
    INFO((made ? "" : made.error().message));
    REQUIRE(made);
    return request.device;
}

inline schemas::Mount mount_of(const schemas::DeviceRef& device, const std::string& id) {
    schemas::Mount request;
    request.device = device;
    request.directory = volume_directory(id);
    request.id = id;
    request.fs = "ext4";
    return request;
}

inline schemas::Unmount unmount_of(const schemas::Mount& mount) {
    schemas::Unmount request;
    request.directory = mount.directory;
    request.dm_uuid = mount.device.dm_uuid;
    return request;
}

inline std::vector<schemas::MountedVolume> list(World& world) {
    const auto reply = MountActor(world.filesystems()).handle(schemas::ListMounts{});
    REQUIRE(reply);
    CHECK_FALSE(reply->more);
    return reply->mounts;
}

template <class T>
Errc code_of(const Result<T>& result) {
    REQUIRE_FALSE(result);
    INFO(result.error().message);
    CHECK_FALSE(result.error().message.empty());
    return result.error().code;
}

inline void comes_and_goes(World& world) {
    MountActor actor(world.filesystems());
    const schemas::DeviceRef origin = make_template(world);
    for (const std::string id : {"plain", "with blank", "a/b%c", "-odd"}) {
        CAPTURE(id);
        const schemas::Mount mount = mount_of(world.snapshot(origin), id);
        for (int repeat = 0; repeat < 2; ++repeat) {
            const auto mounted = actor.handle(mount);
            REQUIRE(mounted);
            CHECK_THAT(mounted->path, Catch::StartsWith("/") && Catch::EndsWith("/" + mount.directory + "/rootfs"));
            CHECK_FALSE(mounted->grown);
        }
        const auto mounts = list(world);
        REQUIRE(mounts.size() == 1);
        CHECK(mounts[0].directory == mount.directory);
        CHECK(mounts[0].id == id);
        CHECK(mounts[0].dm_uuid == mount.device.dm_uuid);
        CHECK_FALSE(mounts[0].read_only);
        CHECK(mounts[0].mount_label.empty());
        for (int repeat = 0; repeat < 2; ++repeat) {
            const auto unmounted = actor.handle(unmount_of(mount));
            REQUIRE(unmounted);
            CHECK_FALSE(unmounted->busy);
            CHECK(unmounted->sync_error == 0);
        }
        CHECK(list(world).empty());
    }
}

inline void read_only_is_kept_apart(World& world) {
    MountActor actor(world.filesystems());
    schemas::Mount mount = mount_of(make_template(world), "x");
    mount.read_only = true;
    REQUIRE(actor.handle(mount));
    REQUIRE(actor.handle(mount));
    CHECK(list(world).at(0).read_only);
    mount.read_only = false;
    CHECK(code_of(actor.handle(mount)) == Errc::in_use);
    CHECK(list(world).at(0).read_only);
    REQUIRE(actor.handle(unmount_of(mount)));
    REQUIRE(actor.handle(mount));
    CHECK_FALSE(list(world).at(0).read_only);
    REQUIRE(actor.handle(unmount_of(mount)));
}

inline void another_life_is_left_alone(World& world) {
    MountActor actor(world.filesystems());
    const schemas::Mount first = mount_of(make_template(world), "x");
    const schemas::Mount second = mount_of(world.snapshot(first.device), "x");
    REQUIRE(actor.handle(first));
    CHECK(code_of(actor.handle(second)) == Errc::in_use);
    CHECK(code_of(actor.handle(unmount_of(second))) == Errc::invalid_argument);
    auto forced = unmount_of(second);
    forced.force = true;
    CHECK(code_of(actor.handle(forced)) == Errc::invalid_argument);
    forced.dm_uuid.clear();
    CHECK(code_of(actor.handle(forced)) == Errc::invalid_argument);
    REQUIRE(list(world).size() == 1);
    CHECK(list(world)[0].dm_uuid == first.device.dm_uuid);
    REQUIRE(actor.handle(unmount_of(first)));
}

inline void what_is_not_ours_is_refused(World& world) {
    MountActor actor(world.filesystems());
    const schemas::Mount good = mount_of(make_template(world), "x");
    const auto refused = [&](const std::function<void(schemas::Mount&)>& spoil) {
        schemas::Mount bad = good;
        spoil(bad);
        const auto code = code_of(actor.handle(bad));
        CHECK(list(world).empty());
        return code;
    };
    CHECK(refused([](auto& m) { m.directory = "y"; }) == Errc::invalid_argument);
    CHECK(refused([](auto& m) { m.directory = "../x"; }) == Errc::invalid_argument);
    CHECK(refused([](auto& m) { m.directory = m.id = ""; }) == Errc::invalid_argument);
    CHECK(refused([](auto& m) { m.directory = m.id = "x\n"; }) == Errc::invalid_argument);
    CHECK(refused([](auto& m) { m.fs = "btrfs"; }) == Errc::invalid_argument);
    CHECK(refused([](auto& m) { m.device.dm_uuid = "LVM-1"; }) == Errc::invalid_argument);
    CHECK(refused([](auto& m) { m.device.dm_uuid += "9"; }) == Errc::invalid_argument);
    CHECK(refused([](auto& m) { m.mount_label = "a:b:c"; }) == Errc::invalid_argument);
    // The actors served any pool of any service on the host.
    const std::string stranger = thin_dm_uuid(std::string(32, 'e'), kFirstThinId);
    CHECK(refused([&](auto& m) { m.device.dm_uuid = stranger; }) == Errc::permission_denied);
    schemas::MakeFilesystem format;
    format.device = {.path = good.device.path, .dm_uuid = stranger};
    format.fs = "ext4";
    CHECK(code_of(actor.handle(format)) == Errc::permission_denied);
    for (const std::string directory : {"", ".", "..", "../x", "x/../../x", "/x"}) {
        schemas::Unmount unmount;
        unmount.directory = directory;
        CHECK(code_of(actor.handle(unmount)) == Errc::invalid_argument);
    }
}

inline void a_failed_mount_leaves_nothing(World& world) {
    MountActor actor(world.filesystems());
    const schemas::Mount blank = mount_of(world.make_device(64), "x");
    CHECK(code_of(actor.handle(blank)) == Errc::needs_repair);
    CHECK(list(world).empty());
}

inline void a_busy_mount_stays_whole(World& world) {
    MountActor actor(world.filesystems());
    const schemas::Mount mount = mount_of(make_template(world), "x");
    REQUIRE(actor.handle(mount));
    const auto release = world.hold(mount.directory);
    const auto busy = actor.handle(unmount_of(mount));
    REQUIRE(busy);
    CHECK(busy->busy);
    REQUIRE(busy->holders.size() == 1);
    CHECK(busy->holders[0].pid != 0);
    CHECK_FALSE(busy->holders[0].command.empty());
    CHECK_FALSE(busy->holders[0].detail.empty());
    REQUIRE(list(world).size() == 1);
    CHECK(list(world)[0].dm_uuid == mount.device.dm_uuid);
    CHECK(list(world)[0].id == "x");
    CHECK(actor.handle(mount));
    release();
    const auto free = actor.handle(unmount_of(mount));
    REQUIRE(free);
    CHECK_FALSE(free->busy);
    CHECK(list(world).empty());
}

inline void formatting_refuses_and_repeats(World& world) {
    MountActor actor(world.filesystems());
    schemas::MakeFilesystem request;
    request.device = world.make_device(64);
    request.fs = "btrfs";
    CHECK(code_of(actor.handle(request)) == Errc::invalid_argument);
    request.fs = "ext4";
    request.device.dm_uuid += "9";
    CHECK(code_of(actor.handle(request)) == Errc::invalid_argument);
    request.device.dm_uuid.pop_back();
    REQUIRE(actor.handle(request));
    REQUIRE(actor.handle(request));
    const schemas::Mount mount = mount_of(request.device, "x");
    REQUIRE(actor.handle(mount));
    CHECK(code_of(actor.handle(request)) == Errc::in_use);
    REQUIRE(actor.handle(unmount_of(mount)));
}

// Method: the command is given again and again, its actor dying before the first effect, then before
// the second, … until one comes through. After each death another actor gets it once more.
inline void a_death_anywhere_is_made_good_by_a_repeat(World& world) {
    MountActor actor(world.filesystems());
    const schemas::Mount mount = mount_of(make_template(world), "x");
    bool finished = false;
    for (int effects = 0; !finished; ++effects) {
        CAPTURE(effects);
        REQUIRE(effects < 20);
        finished = world.run_until(effects, [&](MountActor& mortal) { (void)mortal.handle(mount); });
        const auto repeated = actor.handle(mount);
        INFO((repeated ? "" : repeated.error().message));
        REQUIRE(repeated);
        REQUIRE(list(world).size() == 1);
        CHECK(list(world)[0].id == "x");
        CHECK(list(world)[0].dm_uuid == mount.device.dm_uuid);
        REQUIRE(actor.handle(unmount_of(mount)));
        REQUIRE(list(world).empty());
        // Also if what comes next is not a repeat, but its undoing.
        world.run_until(effects, [&](MountActor& mortal) { (void)mortal.handle(mount); });
        REQUIRE(actor.handle(unmount_of(mount)));
        REQUIRE(list(world).empty());
    }
    finished = false;
    for (int effects = 0; !finished; ++effects) {
        CAPTURE(effects);
        REQUIRE(effects < 20);
        REQUIRE(actor.handle(mount));
        finished = world.run_until(effects, [&](MountActor& mortal) { (void)mortal.handle(unmount_of(mount)); });
        if (!finished) CHECK(list(world).size() == 1);
        // Listed without a mount, it is put away without its device's uuid being known.
        auto again = unmount_of(mount);
        for (const auto& left : list(world)) again.dm_uuid = left.dm_uuid;
        REQUIRE(actor.handle(again));
        CHECK(list(world).empty());
    }
}

inline schemas::Mount warm_mount_of(const schemas::DeviceRef& device) {
    schemas::Mount request = mount_of(device, "unnamed");
    request.directory = warm_directory(device.dm_uuid);
    request.id.clear();
    return request;
}

inline schemas::RenameMount rename_of(const schemas::Mount& warm, const std::string& id) {
    return {.from = warm.directory, .directory = volume_directory(id), .id = id, .dm_uuid = warm.device.dm_uuid};
}

inline void a_warm_mount_gets_a_name(World& world) {
    MountActor actor(world.filesystems());
    const schemas::DeviceRef origin = make_template(world);
    const schemas::Mount warm = warm_mount_of(world.snapshot(origin));
    REQUIRE(actor.handle(warm));
    REQUIRE(actor.handle(warm));
    REQUIRE(list(world).size() == 1);
    CHECK(list(world)[0].directory == warm.directory);
    CHECK(list(world)[0].id.empty());
    CHECK(list(world)[0].dm_uuid == warm.device.dm_uuid);
    for (int repeat = 0; repeat < 2; ++repeat) {
        const auto renamed = actor.handle(rename_of(warm, "a/b"));
        REQUIRE(renamed);
        CHECK_THAT(renamed->path, Catch::EndsWith("/a%2Fb/rootfs"));
        REQUIRE(list(world).size() == 1);
        CHECK(list(world)[0].directory == "a%2Fb");
        CHECK(list(world)[0].id == "a/b");
        CHECK(list(world)[0].dm_uuid == warm.device.dm_uuid);
    }
    schemas::Mount named = mount_of(warm.device, "a/b");
    CHECK(actor.handle(named));  // It is what an ordinary mount makes.
    REQUIRE(actor.handle(unmount_of(named)));
    CHECK(list(world).empty());
    // One that got no name goes like any other.
    REQUIRE(actor.handle(warm));
    REQUIRE(actor.handle(unmount_of(warm)));
    CHECK(list(world).empty());
}

inline void a_rename_harms_no_other_life(World& world) {
    MountActor actor(world.filesystems());
    const schemas::DeviceRef origin = make_template(world);
    const schemas::Mount warm = warm_mount_of(world.snapshot(origin));
    CHECK(code_of(actor.handle(rename_of(warm, "x"))) == Errc::invalid_argument);  // Not mounted.
    REQUIRE(actor.handle(warm));
    const schemas::Mount other = mount_of(world.snapshot(origin), "x");
    REQUIRE(actor.handle(other));
    CHECK(code_of(actor.handle(rename_of(warm, "x"))) == Errc::in_use);
    const auto refused = [&](const std::function<void(schemas::RenameMount&)>& spoil) {
        schemas::RenameMount bad = rename_of(warm, "y");
        spoil(bad);
        return code_of(actor.handle(bad));
    };
    CHECK(refused([](auto& r) { r.directory = "z"; }) == Errc::invalid_argument);
    CHECK(refused([](auto& r) { r.id = r.directory = ""; }) == Errc::invalid_argument);
    CHECK(refused([](auto& r) { r.from = "x"; }) == Errc::invalid_argument);
    CHECK(refused([](auto& r) { r.from = "../x"; }) == Errc::invalid_argument);
    CHECK(refused([&](auto& r) { r.dm_uuid = other.device.dm_uuid; }) == Errc::invalid_argument);
    CHECK(refused([](auto& r) { r.dm_uuid = "LVM-1"; }) == Errc::invalid_argument);
    const std::string stranger = thin_dm_uuid(std::string(32, 'e'), kFirstThinId);
    CHECK(refused([&](auto& r) {
              r.dm_uuid = stranger;
              r.from = warm_directory(stranger);
          }) == Errc::permission_denied);
    schemas::Mount elsewhere = warm;
    elsewhere.directory = ".warm-9999";
    CHECK(code_of(actor.handle(elsewhere)) == Errc::invalid_argument);
    REQUIRE(list(world).size() == 2);
    REQUIRE(actor.handle(unmount_of(other)));
    REQUIRE(actor.handle(rename_of(warm, "x")));
    CHECK(list(world).at(0).dm_uuid == warm.device.dm_uuid);
    REQUIRE(actor.handle(unmount_of(mount_of(warm.device, "x"))));
    CHECK(list(world).empty());
}

inline void a_death_in_a_rename_is_made_good_by_a_repeat(World& world) {
    MountActor actor(world.filesystems());
    const schemas::Mount warm = warm_mount_of(make_template(world));
    const schemas::Mount named = mount_of(warm.device, "x");
    bool finished = false;
    for (int effects = 0; !finished; ++effects) {
        CAPTURE(effects);
        REQUIRE(effects < 20);
        REQUIRE(actor.handle(warm));
        // What a mount that died has left below the name is in nobody's way.
        world.run_until(2, [&](MountActor& mortal) { (void)mortal.handle(named); });
        finished = world.run_until(effects, [&](MountActor& mortal) { (void)mortal.handle(rename_of(warm, "x")); });
        REQUIRE(actor.handle(rename_of(warm, "x")));
        REQUIRE(list(world).size() == 1);
        CHECK(list(world)[0].id == "x");
        REQUIRE(actor.handle(unmount_of(named)));
        // Also if what comes next is not a repeat, but another name, or its end.
        REQUIRE(actor.handle(warm));
        const bool renamed =
            world.run_until(effects, [&](MountActor& mortal) { (void)mortal.handle(rename_of(warm, "x")); });
        if (!renamed) REQUIRE(actor.handle(rename_of(warm, "y")));
        REQUIRE(actor.handle(unmount_of(mount_of(warm.device, renamed ? "x" : "y"))));
        for (const auto& left : list(world)) {
            schemas::Unmount leftover;
            leftover.directory = left.directory;
            REQUIRE(actor.handle(leftover));
        }
        CHECK(list(world).empty());
    }
}

struct Case {
    const char* name;
    void (*run)(World&);
};

inline const std::vector<Case> kCases = {
    {"a mount comes and goes, and a repeat of either is success", comes_and_goes},
    {"read-only and writable mounts are kept apart", read_only_is_kept_apart},
    {"the mount of another life is left alone", another_life_is_left_alone},
    {"what is not ours is refused, and nothing is made", what_is_not_ours_is_refused},
    {"a failed mount leaves nothing behind", a_failed_mount_leaves_nothing},
    {"a busy mount stays whole, and its holder is named", a_busy_mount_stays_whole},
    {"formatting refuses what it must, and can be repeated", formatting_refuses_and_repeats},
    {"a death before any effect is made good by a repeat", a_death_anywhere_is_made_good_by_a_repeat},
    {"the mount of a warm clone gets a name, and a repeat is success", a_warm_mount_gets_a_name},
    {"a mount that gets a name harms no other life", a_rename_harms_no_other_life},
    {"a death while a mount gets its name is made good by a repeat", a_death_in_a_rename_is_made_good_by_a_repeat},
};

}  // namespace cowslip::mount_conformance
