// What a mounted volume looks like to those who use it.
#include <dirent.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include <catch2/catch.hpp>

#include "common/files.h"
#include "common/mountinfo.h"
#include "tests/device/mount_lab.h"

using namespace cowslip;
using namespace cowslip::mount_conformance;

namespace {

mode_t mode_of(const std::string& path) {
    struct stat status {};
    REQUIRE(lstat(path.c_str(), &status) == 0);
    CHECK(status.st_uid == 0);
    CHECK(status.st_gid == 0);
    return status.st_mode & 07777U;
}

MountEntry entry_of(const std::string& mount_point) {
    const auto entries = read_mountinfo();
    REQUIRE(entries);
    for (const auto& entry : *entries) {
        if (entry.mount_point == mount_point) return entry;
    }
    FAIL("nothing is mounted at " << mount_point);
    return {};
}

schemas::Mount mount_of_kind(const schemas::DeviceRef& device, const std::string& id, const std::string& fs) {
    schemas::Mount mount = mount_of(device, id);
    mount.fs = fs;
    return mount;
}

}  // namespace

TEST_CASE("a clone's mount has the layout and modes promised", "[device][mount]") {
    const std::string fs = GENERATE("ext4", "xfs");
    CAPTURE(fs);
    MountLab lab;
    const mode_t old = umask(0077);  // A service's umask must not matter.
    const auto device = lab.snapshot(make_template(lab, fs));
    const auto mount = mount_of_kind(device, "registry/image:1", fs);
    REQUIRE(mount.directory == "registry%2Fimage:1");
    const auto mounted = lab.actor().handle(mount);
    umask(old);
    INFO((mounted ? "" : mounted.error().message));
    REQUIRE(mounted);

    const std::string folder = lab.mounts_folder() + "/registry%2Fimage:1";
    CHECK(mounted->path == folder + "/rootfs");
    CHECK(mode_of(folder) == 0711);
    CHECK(mode_of(folder + "/id") == 0600);
    CHECK(read_file(folder + "/id").value() == "registry/image:1");
    CHECK(mode_of(folder + "/rootfs") == 0755);
    CHECK(std::filesystem::is_empty(folder + "/rootfs"));  // No lost+found.

    const MountEntry entry = entry_of(mounted->path);
    CHECK(entry.fs == fs);
    CHECK(entry.source == device.path);
    CHECK(find_mount_option(entry.options, "rw"));
    CHECK(find_mount_option(entry.options, "noatime"));
    CHECK(find_mount_option(entry.super_options, "no_prefetch_block_bitmaps").has_value() == (fs == "ext4"));
    CHECK_FALSE(find_mount_option(entry.options, "nosuid"));
    CHECK_FALSE(find_mount_option(entry.options, "nodev"));

    const auto space = std::filesystem::space(mounted->path);
    // Nothing is reserved for root, whose share would be 5 %; the kernel keeps up to 2 % of the device for delayed
    // allocation, which the capacity is a little below.
    CHECK((space.free - space.available) * 40 <= space.capacity);

    // What lies under the mount, seen from beside it.
    run({"umount", mounted->path});
    CHECK(mode_of(mounted->path) == 0);
    REQUIRE(lab.actor().handle(unmount_of(mount)));
    CHECK(std::filesystem::is_empty(lab.mounts_folder()));
}

TEST_CASE("what was written is there after put and get, and not in the origin or another clone", "[device][mount]") {
    const std::string fs = GENERATE("ext4", "xfs");
    CAPTURE(fs);
    MountLab lab;
    const auto origin = make_template(lab, fs);
    const auto first = mount_of_kind(lab.snapshot(origin), "first", fs);
    const auto second = mount_of_kind(lab.snapshot(origin), "second", fs);
    REQUIRE(lab.actor().handle(first));
    REQUIRE(lab.actor().handle(second));  // Beside it, though the file systems have one uuid.
    std::ofstream(lab.rootfs("first") + "/file") << std::string(100000, 'x');
    std::filesystem::permissions(lab.rootfs("first"), std::filesystem::perms(0700));
    const auto unmounted = lab.actor().handle(unmount_of(first));
    REQUIRE(unmounted);
    CHECK(unmounted->sync_error == 0);
    CHECK_FALSE(unmounted->busy);
    REQUIRE(lab.deactivate(first.device));

    const auto third = mount_of_kind(lab.snapshot(origin), "third", fs);
    REQUIRE(lab.actor().handle(third));
    CHECK(std::filesystem::is_empty(lab.rootfs("second")));
    CHECK(std::filesystem::is_empty(lab.rootfs("third")));

    lab.activate_again(first.device);
    REQUIRE(lab.actor().handle(first));
    CHECK(read_file(lab.rootfs("first") + "/file", 1U << 20U).value() == std::string(100000, 'x'));
    CHECK(mode_of(lab.rootfs("first")) == 0700);  // The user's, once it was.
}

TEST_CASE("a read-only mount cannot be written and replays a journal all the same", "[device][mount]") {
    const std::string fs = GENERATE("ext4", "xfs");
    CAPTURE(fs);
    MountLab lab;
    const auto origin = mount_of_kind(make_template(lab, fs), "origin", fs);
    REQUIRE(lab.actor().handle(origin));
    std::ofstream(lab.rootfs("origin") + "/file") << "content";
    run({"sync", "-f", lab.rootfs("origin")});
    const auto frozen = lab.snapshot(origin.device);
    const auto crashed = lab.crash_image(origin.device);
    for (const auto& device : {frozen, crashed}) {
        CAPTURE(device.dm_uuid);
        auto clone = mount_of_kind(device, "clone", fs);
        clone.read_only = true;
        const auto mounted = lab.actor().handle(clone);
        INFO((mounted ? "" : mounted.error().message));
        REQUIRE(mounted);
        CHECK(read_file(lab.rootfs("clone") + "/file").value() == "content");
        std::ofstream refused(lab.rootfs("clone") + "/other");
        CHECK_FALSE(refused.is_open());
        CHECK(list(lab).at(0).read_only);
        REQUIRE(lab.actor().handle(unmount_of(clone)));
    }
    REQUIRE(lab.actor().handle(unmount_of(origin)));
}

TEST_CASE("a journal that cannot be replayed, as the device is read-only, is an error and not skipped",
          "[device][mount]") {
    const std::string fs = GENERATE("ext4", "xfs");
    CAPTURE(fs);
    MountLab lab;
    const auto origin = mount_of_kind(make_template(lab, fs), "origin", fs);
    REQUIRE(lab.actor().handle(origin));
    std::ofstream(lab.rootfs("origin") + "/file") << "content";
    run({"sync", "-f", lab.rootfs("origin")});
    const auto crashed = lab.crash_image(origin.device);
    lab.reload(crashed, lab.thin_table(crashed), true);

    auto clone = mount_of_kind(crashed, "clone", fs);
    const auto writable = lab.actor().handle(clone);
    CHECK(code_of(writable) == Errc::invalid_argument);
    CHECK_THAT(writable.error().message, Catch::Contains("the device is read-only"));
    clone.read_only = true;
    const auto refused = lab.actor().handle(clone);
    CHECK(code_of(refused) == Errc::needs_repair);
    CHECK_THAT(refused.error().message, Catch::Contains("its journal must be replayed"));
    CHECK(list(lab).size() == 1);

    lab.reload(crashed, lab.thin_table(crashed));
    REQUIRE(lab.actor().handle(clone));
    REQUIRE(lab.actor().handle(unmount_of(clone)));
    lab.reload(crashed, lab.thin_table(crashed), true);
    CHECK(lab.actor().handle(clone));  // Clean now.
}

TEST_CASE("XFS gives up on metadata that a full pool does not take", "[device][mount]") {
    MountLab lab;
    const auto mount = mount_of_kind(make_template(lab, "xfs"), "x", "xfs");
    REQUIRE(lab.actor().handle(mount));
    const auto node = std::filesystem::canonical("/sys/dev/block/" + run({"mountpoint", "-d", lab.rootfs("x")}));
    const std::string folder = "/sys/fs/xfs/" + node.filename().string() + "/error/";
    CHECK(read_file(folder + "metadata/ENOSPC/retry_timeout_seconds").value() == "30\n");
    CHECK(read_file(folder + "metadata/EIO/retry_timeout_seconds").value() == "30\n");
    CHECK(read_file(folder + "fail_at_unmount").value() == "1\n");
}
