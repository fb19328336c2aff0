#include "common/filesystem_options.h"

#include <catch2/catch.hpp>

namespace cowslip {
namespace {

std::string mkfs_complaint(const std::string& fs, const std::string& text) {
    const auto checked = check_mkfs_options(fs, text);
    REQUIRE_FALSE(checked);
    CHECK(checked.error().code == Errc::invalid_argument);
    return checked.error().message;
}

std::string mount_complaint(const std::string& fs, const std::string& text) {
    const auto checked = check_mount_options(fs, text);
    REQUIRE_FALSE(checked);
    CHECK(checked.error().code == Errc::invalid_argument);
    return checked.error().message;
}

}  // namespace

TEST_CASE("options of a file system are put in the order of their names", "[filesystem]") {
    CHECK(check_mkfs_options("ext4", "").value().empty());
    CHECK(check_mkfs_options("none", "").value().empty());
    CHECK(check_mkfs_options("ext4", "journal-mib=64,bytes-per-inode=8192").value() ==
          "bytes-per-inode=8192,journal-mib=64");
    CHECK(check_mkfs_options("xfs", "log-mib=2047,inode-size=1024").value() == "inode-size=1024,log-mib=2047");
    CHECK(check_mount_options("ext4", "nosuid,commit=30,nodev").value() == "commit=30,nodev,nosuid");
    CHECK(check_mount_options("xfs", "prjquota,allocsize=65536").value() == "allocsize=65536,prjquota");
    const auto options = split_options("commit=30,nodev");
    CHECK(options == std::map<std::string, std::string>{{"commit", "30"}, {"nodev", ""}});
}

TEST_CASE("an option that is not listed is refused, with those that are", "[filesystem]") {
    CHECK_THAT(mkfs_complaint("ext4", "O=^has_journal"),
               Catch::Contains("ext4 has no 'O' here: bytes-per-inode=4096..67108864, inode-size=256|512|1024, "));
    CHECK_THAT(mkfs_complaint("xfs", "bytes-per-inode=8192"), Catch::Contains("inode-percent=1..100"));
    for (const std::string text :
         {"norecovery", "nobarrier", "ro", "rw", "context=a", "nouuid", "logdev=/dev/sda", "nodelalloc", "commit=5"}) {
        CAPTURE(text);
        CHECK_THAT(mount_complaint("xfs", text), Catch::Contains("mount options: xfs has no '"));
    }
    CHECK_THAT(mount_complaint("ext4", "journal_path=/dev/sda"), Catch::Contains("nodelalloc"));
    CHECK_THAT(mkfs_complaint("none", "inode-size=512"), Catch::Contains("a volume without a file system has none"));
}

TEST_CASE("an option's value is within its bounds, and written in one way", "[filesystem]") {
    for (const std::string text : {"commit=0", "commit=901", "commit=", "commit", "commit=030", "commit=+3",
                                   "commit=3s", "commit=99999999999999999999"}) {
        CAPTURE(text);
        CHECK(mount_complaint("ext4", text) == "mount options: 'commit' must be commit=1..900");
    }
    CHECK_THAT(mount_complaint("ext4", "errors=panic"), Catch::Contains("must be errors=continue|remount-ro"));
    CHECK_THAT(mount_complaint("ext4", "nodev=1"), Catch::Contains("'nodev' must be nodev"));
    CHECK_THAT(mkfs_complaint("ext4", "inode-size=300"), Catch::Contains("must be inode-size=256|512|1024"));
    for (const std::string text :
         {"nodev,nodev", "commit=1,commit=2", "nodev=", "nodev,", "data=journal,data=journal"}) {
        CAPTURE(text);
        CHECK_THAT(mount_complaint("ext4", text), Catch::Contains("has one twice, or an empty one"));
    }
    CHECK_THAT(mount_complaint("ext4", ",nodev"), Catch::Contains("ext4 has no '' here"));
    CHECK_THAT(mount_complaint("ext4", std::string(256, 'x')), Catch::Contains("at most 255 bytes"));
}

}  // namespace cowslip
