// Mounts that others use, that leaked, that are damaged or left over.
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/files.h"
#include "common/holders.h"
#include "tests/device/mount_lab.h"
#include "tests/device/other_process.h"

using namespace cowslip;
using namespace cowslip::mount_conformance;

namespace {

schemas::Mount mount_template(MountLab& lab, const std::string& id, const std::string& fs = "ext4") {
    auto mount = mount_of(make_template(lab, fs), id);
    mount.fs = fs;
    const auto mounted = lab.actor().handle(mount);
    INFO((mounted ? "" : mounted.error().message));
    REQUIRE(mounted);
    return mount;
}

schemas::Unmount::Reply unmount(MountLab& lab, const schemas::Unmount& request) {
    const auto reply = lab.actor().handle(request);
    INFO((reply ? "" : reply.error().message));
    REQUIRE(reply);
    return *reply;
}

dev_t number_of(const schemas::DeviceRef& device) {
    struct stat status {};
    REQUIRE(stat(device.path.c_str(), &status) == 0);
    return status.st_rdev;
}

void leak_mounts() {
    if (unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) _exit(1);
}

}  // namespace

TEST_CASE("whoever keeps a mount busy is named with what he does", "[device][mount]") {
    MountLab lab;
    const auto mount = mount_template(lab, "x");
    const std::string path = lab.rootfs("x");
    std::ofstream(path + "/file") << "content";
    const auto detail_of = [&](const std::function<void()>& use) {
        const OtherProcess other(use);
        const auto reply = unmount(lab, unmount_of(mount));
        CHECK(reply.busy);
        REQUIRE(reply.holders.size() == 1);
        CHECK(reply.holders[0].pid == static_cast<std::uint32_t>(other.pid()));
        CHECK(reply.holders[0].command == "a-holder");
        return reply.holders[0].detail;
    };
    CHECK(detail_of([&] { (void)!chdir(path.c_str()); }) == "has '" + path + "' as its working directory");
    CHECK(detail_of([&] { open((path + "/file").c_str(), O_RDONLY); }) == "has '" + path + "/file' open");

    std::filesystem::create_directory(path + "/proc");
    REQUIRE(::mount("none", (path + "/proc").c_str(), "proc", 0, nullptr) == 0);
    const auto reply = unmount(lab, unmount_of(mount));
    CHECK(reply.busy);
    REQUIRE(reply.holders.size() == 1);
    CHECK(reply.holders[0].pid == 0);
    CHECK(reply.holders[0].detail == "'" + path + "/proc' is mounted on it");
    REQUIRE(umount2((path + "/proc").c_str(), 0) == 0);
    CHECK_FALSE(unmount(lab, unmount_of(mount)).busy);
    CHECK(lab.deactivate(mount.device));
}

TEST_CASE("a mount that leaked into another namespace does not keep its device", "[device][mount]") {
    MountLab lab;
    const auto mount = mount_template(lab, "x");
    const OtherProcess leaker(leak_mounts);
    const auto holders = find_holders(number_of(mount.device), Hold::device);
    CHECK(std::any_of(holders.begin(), holders.end(), [&](const auto& holder) {
        return holder.pid == static_cast<std::uint32_t>(leaker.pid()) &&
               holder.detail.find("mounted in mount namespace") != std::string::npos;
    }));
    CHECK_FALSE(unmount(lab, unmount_of(mount)).busy);
    CHECK(list(lab).empty());
    CHECK(lab.deactivate(mount.device));
}

TEST_CASE("a leaked mount goes also when the actor died between umount and rmdir", "[device][mount]") {
    MountLab lab;
    const auto mount = mount_template(lab, "x");
    const OtherProcess leaker(leak_mounts);
    run({"umount", lab.rootfs("x")});
    CHECK_FALSE(lab.deactivate(mount.device));
    CHECK_FALSE(unmount(lab, unmount_of(mount)).busy);
    CHECK(lab.deactivate(mount.device));
}

TEST_CASE("a file open in a leaked mount keeps the device, and the process is named", "[device][mount]") {
    MountLab lab;
    const auto mount = mount_template(lab, "x");
    std::ofstream(lab.rootfs("x") + "/file") << "content";
    OtherProcess leaker([&] {
        leak_mounts();
        open((lab.rootfs("x") + "/file").c_str(), O_RDONLY);
    });
    const dev_t number = number_of(mount.device);
    CHECK_FALSE(unmount(lab, unmount_of(mount)).busy);
    CHECK_FALSE(lab.deactivate(mount.device));
    const auto holders = find_holders(number, Hold::device);
    REQUIRE(holders.size() == 1);
    CHECK(holders[0].pid == static_cast<std::uint32_t>(leaker.pid()));
    CHECK_THAT(holders[0].detail, Catch::Contains("/file' open"));
    leaker.end();
    CHECK(lab.deactivate(mount.device));
}

TEST_CASE("directories left over at any stage are listed and can be put away", "[device][mount]") {
    MountLab lab;
    const std::string folder = lab.mounts_folder() + "/x";
    const auto check = [&](const std::string& id) {
        const auto mounts = list(lab);
        REQUIRE(mounts.size() == 1);
        CHECK(mounts[0].directory == "x");
        CHECK(mounts[0].id == id);
        CHECK(mounts[0].dm_uuid.empty());
        schemas::Unmount request;
        request.directory = "x";
        CHECK_FALSE(unmount(lab, request).busy);
        CHECK_FALSE(std::filesystem::exists(folder));
    };
    std::filesystem::create_directory(folder);
    check("");
    std::filesystem::create_directory(folder);
    std::ofstream(folder + "/id.new") << "half of";
    check("");
    std::filesystem::create_directory(folder);
    std::ofstream(folder + "/id") << "";
    check("");
    std::filesystem::create_directory(folder);
    std::ofstream(folder + "/id") << "another";  // Not that of this directory.
    check("");
    std::filesystem::create_directory(folder);
    std::ofstream(folder + "/id") << "x";
    check("x");
    std::filesystem::create_directories(folder + "/rootfs");
    std::ofstream(folder + "/id") << "x";
    check("x");

    // And a mount makes good whatever it finds.
    std::filesystem::create_directories(folder + "/rootfs");
    std::filesystem::permissions(folder, std::filesystem::perms(0700));
    std::ofstream(folder + "/id") << "tor";
    std::ofstream(folder + "/id.new") << "torn";
    const auto mount = mount_template(lab, "x");
    CHECK(list(lab).at(0).id == "x");
    CHECK((std::filesystem::status(folder).permissions() == std::filesystem::perms(0711)));
    CHECK_FALSE(unmount(lab, unmount_of(mount)).busy);
    CHECK(std::filesystem::is_empty(lab.mounts_folder()));
}

TEST_CASE("what lies in the folder of mounts and is none of ours stays", "[device][mount]") {
    MountLab lab;
    std::ofstream(lab.mounts_folder() + "/file") << "x";
    std::filesystem::create_directory_symlink("/etc", lab.mounts_folder() + "/link");
    CHECK(list(lab).empty());

    auto mount = mount_of(make_template(lab), "link");
    CHECK_FALSE(lab.actor().handle(mount));
    CHECK_FALSE(std::filesystem::exists("/etc/rootfs"));
    CHECK_FALSE(lab.actor().handle(unmount_of(mount)));
    CHECK(std::filesystem::exists(lab.mounts_folder() + "/link"));

    std::filesystem::create_directory(lab.mounts_folder() + "/y");
    std::filesystem::create_directory_symlink("/mnt", lab.mounts_folder() + "/y/rootfs");
    mount = mount_of(mount.device, "y");
    CHECK_FALSE(lab.actor().handle(mount));

    // A file system that is not on a device of ours.
    std::filesystem::create_directories(lab.mounts_folder() + "/z/rootfs");
    REQUIRE(::mount("none", lab.rootfs("z").c_str(), "tmpfs", 0, nullptr) == 0);
    mount = mount_of(mount.device, "z");
    CHECK(code_of(lab.actor().handle(mount)) == Errc::in_use);
    CHECK(code_of(lab.actor().handle(unmount_of(mount))) == Errc::invalid_argument);
    auto mounts = list(lab);
    REQUIRE(mounts.size() == 2);
    CHECK_FALSE(mounts[1].dm_uuid.empty());
    REQUIRE(umount2(lab.rootfs("z").c_str(), 0) == 0);
}

TEST_CASE("a mount label on a kernel without SELinux is a named error, and nothing is mounted", "[device][mount]") {
    if (access("/sys/fs/selinux/enforce", F_OK) == 0) {
        WARN("skipped: this kernel has SELinux");
        return;
    }
    MountLab lab;
    auto mount = mount_of(make_template(lab), "x");
    mount.mount_label = "system_u:object_r:container_file_t:s0:c1,c2";
    const auto refused = lab.actor().handle(mount);
    CHECK(code_of(refused) == Errc::invalid_argument);
    CHECK(refused.error().message == "mount label given, but this kernel has no SELinux: leave --mount-label away");
    CHECK(list(lab).empty());
    mount.mount_label.clear();
    REQUIRE(lab.actor().handle(mount));
    CHECK_FALSE(unmount(lab, unmount_of(mount)).busy);
}

TEST_CASE("a damaged file system needs repair, in the kernel's own words", "[device][mount]") {
    const std::string fs = GENERATE("ext4", "xfs");
    CAPTURE(fs);
    MountLab lab;
    const auto device = make_template(lab, fs);
    auto mount = mount_of(device, "x");
    mount.fs = fs;
    run({"dd", "if=/dev/urandom", "of=" + device.path, "bs=4096", "count=1", "oflag=direct", "status=none"});
    const auto refused = lab.actor().handle(mount);
    CHECK(code_of(refused) == Errc::needs_repair);
    INFO(refused.error().message);
    CHECK_THAT(refused.error().message, Catch::Contains(fs == "xfs" ? "XFS (dm-" : "EXT4-fs (dm-"));
    CHECK(list(lab).empty());
    CHECK(lab.deactivate(device));
}

TEST_CASE("a power cut that tore ext4's superblock does not cost the volume", "[device][mount]") {
    // Its checksum lies in the second of the superblock's two sectors: mount refused it, and so did get, for ever.
    MountLab lab;
    const auto mount = mount_template(lab, "x");
    const std::string before = lab.mounts_folder() + "/.before";
    const auto sector = [](const std::string& from, const std::string& to, const std::string& which) {
        run({"dd", "if=" + from, "of=" + to, "bs=512", "skip=" + which, "seek=" + which, "count=1",
             "conv=notrunc,fsync", "status=none"});
    };
    const auto has_file = [&](const schemas::DeviceRef& device, bool read_only) {
        auto again = mount_of(device, "y");
        again.read_only = read_only;
        const auto mounted = lab.actor().handle(again);
        INFO((mounted ? "" : mounted.error().message));
        REQUIRE(mounted);
        CHECK(read_file(lab.rootfs("y") + "/file", 100).value_or("") == "content");
        CHECK_FALSE(unmount(lab, unmount_of(again)).busy);
    };

    std::ofstream(lab.rootfs("x") + "/file") << "content";
    run({"sync", "-f", lab.rootfs("x")});
    const auto mounted = lab.crash_image(mount.device);
    sector(lab.crash_image(make_template(lab)).path, mounted.path, "3");
    const auto damaged = lab.crash_image(mounted);
    has_file(mounted, false);
    has_file(lab.crash_image(mounted), true);

    sector(mount.device.path, before, "2");  // As it is while it is mounted.
    CHECK_FALSE(unmount(lab, unmount_of(mount)).busy);
    sector(before, mount.device.path, "2");
    has_file(mount.device, false);

    // More than torn: neither inodes nor blocks.
    run({"dd", "if=/dev/zero", "of=" + damaged.path, "bs=8", "seek=128", "count=1", "conv=notrunc,fsync",
         "status=none"});
    CHECK(code_of(lab.actor().handle(mount_of(damaged, "y"))) == Errc::needs_repair);
    CHECK(list(lab).empty());
}

TEST_CASE("an XFS that has shut down is not put away unless it is forced", "[device][mount]") {
    MountLab lab;
    const auto mount = mount_template(lab, "x", "xfs");
    std::ofstream(lab.rootfs("x") + "/file") << "content";
    const int root = open(lab.rootfs("x").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    REQUIRE(root >= 0);
    std::uint32_t no_log_flush = 2;
    REQUIRE(ioctl(root, _IOR('X', 125, std::uint32_t), &no_log_flush) == 0);  // XFS_IOC_GOINGDOWN
    close(root);
    const auto kept = unmount(lab, unmount_of(mount));
    CHECK(kept.sync_error == EIO);
    CHECK(list(lab).at(0).dm_uuid == mount.device.dm_uuid);
    auto forced = unmount_of(mount);
    forced.force = true;
    CHECK(unmount(lab, forced).sync_error == EIO);
    CHECK(list(lab).empty());
    CHECK(lab.deactivate(mount.device));
}

TEST_CASE("writes that a full pool has lost are told before the mount goes", "[device][mount]") {
    const std::string fs = GENERATE("ext4", "xfs");
    CAPTURE(fs);
    MountLab lab(fs == "xfs" ? 128 : 64, "1 error_if_no_space");
    const auto mount = mount_template(lab, "x", fs);
    {
        std::ofstream file(lab.rootfs("x") + "/file", std::ios::binary);
        const std::string chunk(1 << 20, 'x');
        for (int i = 0; i < (fs == "xfs" ? 200 : 50) && file; ++i) file << chunk;
        for (int i = 0; i < 40 && fs == "ext4"; ++i) {
            std::ofstream other(lab.rootfs("x") + fmt::format("/other{}", i), std::ios::binary);
            other << chunk;
        }
    }
    const auto filler = lab.make_device(200);
    run({"sh", "-c", "dd if=/dev/zero of=" + filler.path + " bs=1M count=150 oflag=direct status=none || true"});
    const auto kept = unmount(lab, unmount_of(mount));
    CHECK((kept.sync_error == EIO || kept.sync_error == ENOSPC));
    CHECK_FALSE(kept.busy);
    // The kernel has told it now, and would not again.
    CHECK(unmount(lab, unmount_of(mount)).sync_error == kept.sync_error);
    CHECK(list(lab).at(0).dm_uuid == mount.device.dm_uuid);
    auto forced = unmount_of(mount);
    forced.force = true;
    const auto given_up = unmount(lab, forced);
    CHECK_FALSE(given_up.busy);
    CHECK(given_up.sync_error == kept.sync_error);
    CHECK(list(lab).empty());
    CHECK(lab.deactivate(mount.device));
}

TEST_CASE("a sync in which the actor has died counts as failed, until it is forced", "[device][mount]") {
    // Its error was told to the dead one, and the kernel does not tell it again.
    MountLab lab;
    const auto mount = mount_template(lab, "x");
    const std::string note = lab.mounts_folder() + "/x/unsynced";
    CHECK_FALSE(std::filesystem::exists(note));
    std::ofstream(note).close();
    for (int repeat = 0; repeat < 2; ++repeat) CHECK(unmount(lab, unmount_of(mount)).sync_error == EIO);
    CHECK(list(lab).at(0).dm_uuid == mount.device.dm_uuid);
    auto forced = unmount_of(mount);
    forced.force = true;
    CHECK(unmount(lab, forced).sync_error == EIO);
    CHECK(std::filesystem::is_empty(lab.mounts_folder()));
    REQUIRE(lab.actor().handle(mount));
    CHECK(unmount(lab, unmount_of(mount)).sync_error == 0);
}

TEST_CASE("a long list of mounts comes in pages that fit a frame", "[device][mount]") {
    MountLab lab;
    for (int i = 0; i < 2100; ++i) {
        std::filesystem::create_directory(lab.mounts_folder() + fmt::format("/{:04}", i) + std::string(240, 'n'));
    }
    schemas::ListMounts request;
    std::vector<std::string> names;
    for (bool more = true; more;) {
        const auto page = lab.actor().handle(request);
        REQUIRE(page);
        REQUIRE_FALSE(page->mounts.empty());
        CHECK(page->mounts.size() <= 2048);
        CHECK(encode(*page).size() < kMaxFrameBytes);
        for (const auto& mount : page->mounts) names.push_back(mount.directory);
        request.after = names.back();
        more = page->more;
    }
    CHECK(names.size() == 2100);
    CHECK(std::is_sorted(names.begin(), names.end()));
}
