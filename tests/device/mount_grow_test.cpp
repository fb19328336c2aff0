// A device that became larger than its file system.
#include <filesystem>
#include <fstream>

#include <catch2/catch.hpp>

#include "common/files.h"
#include "tests/device/mount_lab.h"

using namespace cowslip;
using namespace cowslip::mount_conformance;

namespace {
constexpr std::uintmax_t kMiB = 1U << 20U;
}

TEST_CASE("a file system grows to its device, before anybody sees it or in a repeat", "[device][mount]") {
    const std::string fs = GENERATE("ext4", "xfs");
    const bool mounted_before = GENERATE(false, true);
    CAPTURE(fs, mounted_before);
    MountLab lab;
    const auto device = make_template(lab, fs);
    auto mount = mount_of(device, "x");
    mount.fs = fs;
    REQUIRE(lab.actor().handle(mount));
    std::ofstream(lab.rootfs("x") + "/file") << "content";
    if (!mounted_before) REQUIRE(lab.actor().handle(unmount_of(mount)));

    lab.resize(device, 1500);
    mount.grow = true;
    const auto grown = lab.actor().handle(mount);
    INFO((grown ? "" : grown.error().message));
    REQUIRE(grown);
    CHECK(grown->grown);
    CHECK(std::filesystem::space(grown->path).capacity > 1300 * kMiB);
    CHECK(read_file(grown->path + "/file").value() == "content");
    const auto again = lab.actor().handle(mount);
    REQUIRE(again);
    CHECK(again->grown);
    CHECK(std::filesystem::space(grown->path).capacity > 1300 * kMiB);

    REQUIRE(lab.actor().handle(unmount_of(mount)));
    if (fs == "ext4") run({"e2fsck", "-f", "-n", device.path});
    if (fs == "xfs") run({"xfs_repair", "-n", device.path});
}

TEST_CASE("a growth by next to nothing is done, too", "[device][mount]") {
    const std::string fs = GENERATE("ext4", "xfs");
    CAPTURE(fs);
    MountLab lab;
    const auto device = make_template(lab, fs);
    auto mount = mount_of(device, "x");
    mount.fs = fs;
    mount.grow = true;
    for (const std::uint64_t more : {0, 1, 2}) {
        CAPTURE(more);
        lab.resize(device, (fs == "xfs" ? 300 : 64) + more);
        const auto grown = lab.actor().handle(mount);
        INFO((grown ? "" : grown.error().message));
        REQUIRE(grown);
        CHECK(grown->grown);
        REQUIRE(lab.actor().handle(unmount_of(mount)));
    }
}

TEST_CASE("a read-only mount is not grown", "[device][mount]") {
    MountLab lab;
    const auto device = make_template(lab);
    lab.resize(device, 500);
    auto mount = mount_of(device, "x");
    mount.grow = true;
    mount.read_only = true;
    const auto mounted = lab.actor().handle(mount);
    REQUIRE(mounted);
    CHECK_FALSE(mounted->grown);
    CHECK(std::filesystem::space(mounted->path).capacity < 64 * kMiB);
}
