// Templates.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include <catch2/catch.hpp>

#include "tests/device/mount_lab.h"

using namespace cowslip;
using namespace cowslip::mount_conformance;

namespace {

schemas::MakeFilesystem request_of(const schemas::DeviceRef& device, const std::string& fs) {
    schemas::MakeFilesystem request;
    request.device = device;
    request.fs = fs;
    return request;
}

}  // namespace

TEST_CASE("a file system too small is refused with the least size", "[device][mount]") {
    MountLab lab;
    const auto xfs = lab.actor().handle(request_of(lab.make_device(299), "xfs"));
    CHECK(code_of(xfs) == Errc::invalid_argument);
    CHECK_THAT(xfs.error().message, Catch::Contains("at least 300 MiB"));
    CHECK(lab.actor().handle(request_of(lab.make_device(300), "xfs")));
    const auto ext4 = lab.actor().handle(request_of(lab.make_device(15), "ext4"));
    CHECK(code_of(ext4) == Errc::invalid_argument);
    CHECK_THAT(ext4.error().message, Catch::Contains("at least 16 MiB"));
    const auto smallest = lab.make_device(16);
    CHECK(lab.actor().handle(request_of(smallest, "ext4")));
    CHECK_THAT(run({"dumpe2fs", "-h", smallest.path}), Catch::Contains("has_journal"));
}

TEST_CASE("a template is clean, sealed and cheap", "[device][mount]") {
    MountLab lab;
    const auto ext4 = lab.make_device(10240);
    REQUIRE(lab.actor().handle(request_of(ext4, "ext4")));
    CHECK(lab.mapped_kib(ext4) < 16 * 1024);
    const std::string header = run({"dumpe2fs", "-h", ext4.path});
    CHECK_THAT(header, Catch::Contains("Filesystem state:         clean"));
    CHECK_THAT(header, Catch::Contains("Filesystem features:      has_journal ext_attr resize_inode dir_index "
                                       "filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink "
                                       "extra_isize metadata_csum\n"));
    run({"e2fsck", "-f", "-n", ext4.path});
    CHECK(lab.deactivate(ext4));  // Nobody has it open.

    const auto xfs = lab.make_device(10240);
    REQUIRE(lab.actor().handle(request_of(xfs, "xfs")));
    CHECK(lab.mapped_kib(xfs) < 80 * 1024);
    run({"xfs_repair", "-n", xfs.path});
    CHECK(lab.deactivate(xfs));
}

TEST_CASE("a template has the options that were asked for", "[device][mount]") {
    MountLab lab;
    auto request = request_of(lab.make_device(512), "ext4");
    request.options = "bytes-per-inode=65536,inode-size=512,journal-mib=16,reserved-percent=3";
    REQUIRE(lab.actor().handle(request));
    const std::string header = run({"dumpe2fs", "-h", request.device.path});
    CHECK_THAT(header, Catch::Contains("Inode count:              8192\n"));
    CHECK_THAT(header,
               Catch::Contains("Inode size:               512\n") || Catch::Contains("Inode size:\t          512\n"));
    CHECK_THAT(header, Catch::Contains("Total journal size:       16M\n"));
    CHECK_THAT(header, Catch::Contains("Reserved block count:     3932\n"));
    run({"e2fsck", "-f", "-n", request.device.path});

    request = request_of(lab.make_device(512), "xfs");
    request.options = "inode-percent=10,inode-size=1024,log-mib=100";
    REQUIRE(lab.actor().handle(request));
    const std::string made =
        run({"xfs_db", "-r", "-c", "sb 0", "-c", "p inodesize imax_pct logblocks", request.device.path});
    CHECK(made == "inodesize = 1024\nimax_pct = 10\nlogblocks = 25600");
    run({"xfs_repair", "-n", request.device.path});

    request.options = "log-mib=20";
    CHECK(code_of(lab.actor().handle(request)) == Errc::invalid_argument);
    request = request_of(lab.make_device(16), "ext4");
    request.options = "journal-mib=1024";  // mke2fs says by itself what does not fit.
    CHECK_THAT(lab.actor().handle(request).error().message, Catch::Contains("journal"));
}

TEST_CASE("each option of a mount is one that the kernel takes", "[device][mount]") {
    MountLab lab;
    const std::vector<std::pair<std::string, std::vector<std::string>>> options = {
        {"ext4",
         {"dirsync", "discard", "lazytime", "nodev", "noexec", "nosuid", "sync", "commit=30", "data=journal",
          "data=ordered", "data=writeback", "errors=continue", "errors=remount-ro", "nodelalloc"}},
        {"xfs",
         {"dirsync", "discard", "lazytime", "nodev", "noexec", "nosuid", "sync", "allocsize=65536", "gquota", "inode32",
          "largeio", "logbsize=32768", "logbsize=262144", "logbufs=2", "prjquota", "uquota", "wsync"}}};
    for (const auto& [fs, texts] : options) {
        const auto device = lab.make_device(512);
        REQUIRE(lab.actor().handle(request_of(device, fs)));
        for (const std::string& text : texts) {
            CAPTURE(fs, text);
            schemas::Mount mount;
            mount.device = device;
            mount.id = "a";
            mount.directory = "a";
            mount.fs = fs;
            mount.options = text;
            const auto mounted = lab.actor().handle(mount);
            INFO((mounted ? "" : mounted.error().message));
            REQUIRE(mounted);
            // Repeated, it is there.
            CHECK(lab.actor().handle(mount));
            // Those that are the kernel's default are not listed by it.
            const std::string listed = run({"findmnt", "-n", "-o", "OPTIONS", mounted->path});
            const bool is_default = text == "data=ordered" || text == "errors=continue";
            const std::string shown = text == "gquota"            ? "grpquota"
                                      : text == "uquota"          ? "usrquota"
                                      : text == "allocsize=65536" ? "allocsize=64k"
                                      : text == "logbsize=32768"  ? "logbsize=32k"
                                      : text == "logbsize=262144" ? "logbsize=256k"
                                                                  : text;
            if (!is_default) CHECK_THAT("," + listed, Catch::Contains("," + shown));
            CHECK_THAT(listed, Catch::Contains("noatime"));
            REQUIRE(lab.actor().handle(schemas::Unmount{.directory = "a", .dm_uuid = device.dm_uuid}));
        }
    }
}

TEST_CASE("a device that somebody uses, or that has other names, is not formatted", "[device][mount]") {
    MountLab lab;
    const auto device = lab.make_device(64);
    const int claim = open(device.path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
    REQUIRE(claim >= 0);
    const auto claimed = lab.actor().handle(request_of(device, "ext4"));
    close(claim);
    CHECK(code_of(claimed) == Errc::in_use);

    auto wrong = request_of(device, "ext4");
    wrong.device.path = lab.make_device(64).path;  // Its path, another life.
    CHECK(code_of(lab.actor().handle(wrong)) == Errc::invalid_argument);
    wrong.device.path = "/dev/mapper/no-such-device";
    CHECK(code_of(lab.actor().handle(wrong)) == Errc::unavailable);
    wrong.device.path = "/dev/null";
    CHECK(code_of(lab.actor().handle(wrong)) == Errc::invalid_argument);
    wrong.device.path = lab.mounts_folder();
    CHECK(code_of(lab.actor().handle(wrong)) == Errc::invalid_argument);
    CHECK(lab.mapped_kib(device) == 0);
}

TEST_CASE("what an interrupted mkfs left is gone before the next", "[device][mount]") {
    MountLab lab;
    const auto device = lab.make_device(64);
    run({"dd", "if=/dev/urandom", "of=" + device.path, "bs=1M", "count=60", "oflag=direct", "status=none"});
    REQUIRE(lab.mapped_kib(device) >= 60 * 1024);
    REQUIRE(lab.actor().handle(request_of(device, "ext4")));
    CHECK(lab.mapped_kib(device) < 8 * 1024);
    run({"e2fsck", "-f", "-n", device.path});
}

TEST_CASE("where the pool does not zero its blocks, all tables are written", "[device][mount]") {
    MountLab lab(1024, "1 skip_block_zeroing");
    auto request = request_of(lab.make_device(512), "ext4");
    request.stale_blocks = true;
    REQUIRE(lab.actor().handle(request));
    CHECK(lab.mapped_kib(request.device) > 16 * 1024);
    run({"e2fsck", "-f", "-n", request.device.path});
}

TEST_CASE("the actor's lock is held as long as an mkfs runs", "[device][mount]") {
    MountLab lab;
    const std::string path = lab.mounts_folder() + "/../lock";
    const int lock = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    REQUIRE(flock(lock, LOCK_EX) == 0);
    auto filesystems = KernelFilesystems::open(lab.mounts_folder(), lab.uuid_file(), {lock});
    REQUIRE(filesystems);
    // An mkfs that tells what it was given: the first of its name in PATH.
    const std::string bin = lab.mounts_folder() + "/../bin";
    std::filesystem::create_directory(bin);
    std::ofstream(bin + "/mkfs.ext4") << "#!/bin/sh\nreadlink /proc/self/fd/* >" << bin << "/fds\nexit 1\n";
    std::filesystem::permissions(bin + "/mkfs.ext4", std::filesystem::perms(0755));
    const std::string old = getenv("PATH");
    setenv("PATH", (bin + ":" + old).c_str(), 1);
    MountActor actor(*filesystems);
    const auto made = actor.handle(request_of(lab.make_device(64), "ext4"));
    setenv("PATH", old.c_str(), 1);
    close(lock);
    CHECK(code_of(made) == Errc::internal);
    std::ifstream fds(bin + "/fds");
    const std::string text((std::istreambuf_iterator<char>(fds)), {});
    CHECK_THAT(text, Catch::Contains("/lock\n"));
    CHECK_THAT(text, !Catch::Contains("/dev/mapper/"));
}

TEST_CASE("a tool that fails is quoted", "[device][mount]") {
    MountLab lab(64, "1 error_if_no_space");
    const auto made = lab.actor().handle(request_of(lab.make_device(400), "xfs"));
    REQUIRE_FALSE(made);
    INFO(made.error().message);
    CHECK_THAT(made.error().message, Catch::Contains("mkfs.xfs"));
}
