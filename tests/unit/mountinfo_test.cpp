#include "common/mountinfo.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include <catch2/catch.hpp>

using cowslip::find_mount_option;
using cowslip::parse_mountinfo_line;
using cowslip::read_mountinfo;

TEST_CASE("a line of mountinfo is taken apart, whatever number of propagation words it has", "[mountinfo]") {
    const std::string words = GENERATE("", "shared:3 ", "shared:3 master:1 propagate_from:2 unbindable ");
    const auto entry = parse_mountinfo_line("36 35 253:4 / /d/mnt/x/rootfs rw,noatime " + words +
                                            "- ext4 /dev/mapper/cowslip-0-3 rw,stripe=16");
    REQUIRE(entry);
    CHECK(entry->id == 36);
    CHECK(entry->parent_id == 35);
    CHECK(entry->device == makedev(253, 4));
    CHECK(entry->root == "/");
    CHECK(entry->mount_point == "/d/mnt/x/rootfs");
    CHECK(entry->options == "rw,noatime");
    CHECK(entry->fs == "ext4");
    CHECK(entry->source == "/dev/mapper/cowslip-0-3");
    CHECK(entry->super_options == "rw,stripe=16");
}

TEST_CASE("escaped bytes of a mount point come back as they were", "[mountinfo]") {
    const auto entry =
        parse_mountinfo_line(R"(1 2 0:5 /a\040b /with\040blank\011tab\012line\134back\043hash\9 rw - tmpfs none rw)");
    REQUIRE(entry);
    CHECK(entry->root == "/a b");
    CHECK(entry->mount_point == "/with blank\ttab\nline\\back#hash\\9");
}

TEST_CASE("a malformed line of mountinfo is nothing", "[mountinfo]") {
    const auto line = GENERATE("", "x", "1 2", "1 2 3 / / rw - ext4 a rw", "1 2 3:x / / rw - ext4 a rw",
                               "1 2 3:4 / / rw", "1 2 3:4 / / rw ext4 a rw", "1 2 3:4 / / rw - ext4 a");
    CAPTURE(line);
    CHECK_FALSE(parse_mountinfo_line(line));
}

TEST_CASE("a mount option is found by its whole name, with or without a value", "[mountinfo]") {
    const std::string options = R"(ro,seclabel,context="a_u:b_r:c_t:s0:c1,ro2=x,c\0402",stripe=16,path=a\134b)";
    CHECK(find_mount_option(options, "ro") == "");
    CHECK(find_mount_option(options, "context") == "a_u:b_r:c_t:s0:c1,ro2=x,c 2");
    CHECK(find_mount_option(options, "stripe") == "16");
    CHECK(find_mount_option(options, "path") == "a\\b");
    CHECK_FALSE(find_mount_option(options, "ro2"));
    CHECK_FALSE(find_mount_option(options, "con"));
    CHECK_FALSE(find_mount_option("", "ro"));
}

TEST_CASE("our own mounts can be read, and the root is among them", "[mountinfo]") {
    const auto entries = read_mountinfo();
    REQUIRE(entries);
    struct stat root {};
    REQUIRE(stat("/proc", &root) == 0);
    CHECK(std::any_of(entries->begin(), entries->end(),
                      [&](const auto& entry) { return entry.mount_point == "/proc" && entry.device == root.st_dev; }));
    CHECK_FALSE(read_mountinfo("/proc/self/no-such-file"));
}
