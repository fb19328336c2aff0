#include "common/holders.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include <catch2/catch.hpp>

#include "tests/device/other_process.h"

using cowslip::find_holders;
using cowslip::Hold;
using cowslip::OtherProcess;

namespace {

// A file system of its own that needs no device. Needs root.
struct OwnTmpfs {
    std::string path = "/tmp/cowslip-holders-XXXXXX";
    dev_t device = 0;

    OwnTmpfs() {
        REQUIRE(mkdtemp(path.data()) != nullptr);
        REQUIRE(mount("none", path.c_str(), "tmpfs", 0, "") == 0);
        struct stat status {};
        REQUIRE(stat(path.c_str(), &status) == 0);
        device = status.st_dev;
        close(open((path + "/file").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    }
    ~OwnTmpfs() {
        umount2(path.c_str(), MNT_DETACH);
        rmdir(path.c_str());
    }
};

std::string detail_of(const std::vector<cowslip::schemas::Holder>& holders, pid_t pid) {
    for (const auto& holder : holders) {
        if (holder.pid != static_cast<std::uint32_t>(pid)) continue;
        CHECK((pid == 0 || holder.command == "a-holder"));
        return holder.detail;
    }
    return "not found";
}

}  // namespace

TEST_CASE("whoever uses a file system is named with what he does there", "[device][holders]") {
    const OwnTmpfs tmpfs;
    CHECK(find_holders(tmpfs.device, Hold::file_system).empty());
    const std::string file = tmpfs.path + "/file";
    {
        const OtherProcess other([&] { (void)!chdir(tmpfs.path.c_str()); });
        CHECK(detail_of(find_holders(tmpfs.device, Hold::file_system), other.pid()) ==
              "has '" + tmpfs.path + "' as its working directory");
    }
    {
        const OtherProcess other([&] { (void)!chroot(tmpfs.path.c_str()); });
        CHECK(detail_of(find_holders(tmpfs.device, Hold::file_system), other.pid()) ==
              "has '" + tmpfs.path + "' as its root directory");
    }
    {
        const OtherProcess other([&] { open(file.c_str(), O_RDONLY); });
        CHECK(detail_of(find_holders(tmpfs.device, Hold::file_system), other.pid()) == "has '" + file + "' open");
    }
    {
        const OtherProcess other([&] {
            const int fd = open(file.c_str(), O_RDONLY);
            (void)mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
            close(fd);
        });
        CHECK(detail_of(find_holders(tmpfs.device, Hold::file_system), other.pid()) == "has '" + file + "' mapped");
    }
    CHECK(find_holders(tmpfs.device, Hold::file_system).empty());
}

TEST_CASE("what is mounted on a file system holds it", "[device][holders]") {
    const OwnTmpfs tmpfs;
    const std::string below = tmpfs.path + "/below";
    REQUIRE(mkdir(below.c_str(), 0700) == 0);
    REQUIRE(mount("none", below.c_str(), "tmpfs", 0, "") == 0);
    const auto holders = find_holders(tmpfs.device, Hold::file_system);
    CHECK(umount2(below.c_str(), 0) == 0);
    REQUIRE(holders.size() == 1);
    CHECK(detail_of(holders, 0) == "'" + below + "' is mounted on it");
}

TEST_CASE("a mount that leaked into another namespace holds the device, not the mount", "[device][holders]") {
    const OwnTmpfs tmpfs;
    const OtherProcess other([&] {
        if (unshare(CLONE_NEWNS) != 0) _exit(1);
        if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) _exit(1);
    });
    CHECK(find_holders(tmpfs.device, Hold::file_system).empty());
    const auto holders = find_holders(tmpfs.device, Hold::device);
    REQUIRE(holders.size() >= 2);  // This machine may have namespaces that all mounts propagate to.
    CHECK(detail_of(holders, 0) == "mounted at '" + tmpfs.path + "'");
    CHECK_THAT(detail_of(holders, other.pid()),
               Catch::StartsWith("mounted in mount namespace 40") && Catch::EndsWith(" at '" + tmpfs.path + "'"));
}

TEST_CASE("a search for holders is bounded in number and time", "[device][holders]") {
    const OwnTmpfs tmpfs;
    const auto use = [&] { (void)!chdir(tmpfs.path.c_str()); };
    const OtherProcess first(use);
    const OtherProcess second(use);
    CHECK(find_holders(tmpfs.device, Hold::file_system).size() == 2);
    CHECK(find_holders(tmpfs.device, Hold::file_system, {.count = 1}).size() == 1);
    CHECK(find_holders(tmpfs.device, Hold::file_system, {.time = std::chrono::milliseconds(0)}).empty());
}
