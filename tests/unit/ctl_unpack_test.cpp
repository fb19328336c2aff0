#include "services/ctl/unpack.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/files.h"
#include "common/process.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip::ctl {

namespace {

// One ustar entry; its data follows, padded.
std::string tar_entry(const std::string& name, char type, const std::string& data = "", const std::string& link = "",
                      unsigned mode = 0644) {
    std::string header(512, '\0');
    const auto put = [&](std::size_t at, const std::string& text) { header.replace(at, text.size(), text); };
    put(0, name);
    put(100, fmt::format("{:07o}", mode));
    put(108, fmt::format("{:07o}", 1234));
    put(116, fmt::format("{:07o}", 5678));
    put(124, fmt::format("{:011o}", data.size()));
    put(136, fmt::format("{:011o}", 1000000000));
    put(148, "        ");
    header[156] = type;
    put(157, link);
    put(257, std::string("ustar\0", 6) + "00");
    unsigned sum = 0;
    for (const char c : header) sum += static_cast<unsigned char>(c);
    put(148, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
    return header + data + std::string((512 - data.size() % 512) % 512, '\0');
}

const std::string kEnd(1024, '\0');

struct Unpacked {
    Unpacked() : outside(folder / "outside"), target(folder / "target") {
        std::filesystem::create_directory(target);
        std::filesystem::create_directory(outside);
    }
    Result<UnpackCounts> run(const std::string& archive_path) const {
        const Fd archive(::open(archive_path.c_str(), O_RDONLY | O_CLOEXEC));
        const Fd into(::open(target.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        const Fd never(::eventfd(0, EFD_CLOEXEC));
        const auto before = std::filesystem::current_path();
        auto result = unpack_tar({archive.get(), into.get(), never.get(), [](const UnpackCounts&) {}});
        std::filesystem::current_path(before);
        return result;
    }
    Result<UnpackCounts> run_bytes(const std::string& bytes) const {
        std::ofstream(folder / "test.tar", std::ios::binary) << bytes;
        return run(folder / "test.tar");
    }
    TemporaryFolder folder;
    std::string outside;
    std::string target;
};

bool is_root() {
    return ::geteuid() == 0;
}

}  // namespace

TEST_CASE("a tar is unpacked with modes, owners, times and links", "[ctl]") {
    if (!is_root()) {
        WARN("skipped: needs root");
        return;
    }
    const Unpacked unpacked;
    const auto counts =
        unpacked.run_bytes(tar_entry("./", '5', "", "", 0711) + tar_entry("./a/", '5', "", "", 0750) +
                           tar_entry("./a/file", '0', "hello", "", 04755) + tar_entry("./a/hard", '1', "", "./a/file") +
                           tar_entry("./absolute", '2', "", "/etc/passwd") + kEnd);
    REQUIRE(counts);
    CHECK(counts->files == 5);
    CHECK(counts->bytes == 5);
    struct stat status {};
    REQUIRE(::stat((unpacked.target + "/a/file").c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 04755);
    CHECK(status.st_uid == 1234);
    CHECK(status.st_gid == 5678);
    CHECK(status.st_mtime == 1000000000);
    CHECK(status.st_nlink == 2);
    REQUIRE(::stat(unpacked.target.c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 0711);
    CHECK(std::filesystem::read_symlink(unpacked.target + "/absolute") == "/etc/passwd");
}

TEST_CASE("an entry that leads outside ends the unpacking and writes nothing there", "[ctl]") {
    if (!is_root()) {
        WARN("skipped: needs root");
        return;
    }
    const Unpacked unpacked;
    const std::string archive = GENERATE_REF(
        tar_entry("../outside/evil", '0', "x"), tar_entry("a/../../outside/evil", '0', "x"),
        tar_entry(unpacked.outside + "/evil", '0', "x"),
        tar_entry("link", '2', "", "../outside") + tar_entry("link/evil", '0', "x"),
        tar_entry("link", '2', "", unpacked.outside) + tar_entry("link/evil", '0', "x"),
        tar_entry("evil", '1', "", "../outside/secret"), tar_entry("evil", '1', "", unpacked.outside + "/secret"));
    std::ofstream(unpacked.outside + "/secret") << "secret";
    const auto counts = unpacked.run_bytes(archive + kEnd);
    REQUIRE_FALSE(counts);
    CHECK(counts.error().code == Errc::invalid_argument);
    CHECK_FALSE(std::filesystem::exists(unpacked.outside + "/evil"));
    CHECK(std::filesystem::hard_link_count(unpacked.outside + "/secret") == 1);
}

TEST_CASE("what is no tar, or only a part of one, is refused", "[ctl]") {
    if (!is_root()) {
        WARN("skipped: needs root");
        return;
    }
    const Unpacked unpacked;
    CHECK(unpacked.run_bytes("this is not a tar").error().code == Errc::invalid_argument);
    CHECK(unpacked.run_bytes("").error().code == Errc::invalid_argument);
    const std::string whole = tar_entry("file", '0', std::string(5000, 'x'));
    CHECK(unpacked.run_bytes(whole.substr(0, 3000)).error().code == Errc::invalid_argument);
    CHECK(unpacked.run_bytes(kEnd)->files == 0);
}

TEST_CASE("an archive made by tar comes out the same, compressed or not", "[ctl]") {
    if (!is_root()) {
        WARN("skipped: needs root");
        return;
    }
    const Unpacked unpacked;
    const std::string source = unpacked.folder / "source";
    std::filesystem::create_directories(source + "/deep/er");
    std::ofstream(source + "/deep/er/ünïcode") << "text";
    std::ofstream(source + "/" + std::string(200, 'n')) << "a long name";
    REQUIRE(::setxattr((source + "/deep").c_str(), "trusted.cowslip", "v", 1, 0) == 0);
    REQUIRE(::mknod((source + "/null").c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0);
    const auto* flag = GENERATE("--no-auto-compress", "--gzip", "--xz", "--zstd");
    CAPTURE(flag);
    const std::string archive = unpacked.folder / "made.tar";
    const auto tar =
        run_process({.arguments = {"tar", "-C", source, "--xattrs", "--xattrs-include=*", flag, "-cf", archive, "."}});
    REQUIRE((tar && tar->exit_status == 0));
    const auto counts = unpacked.run(archive);
    INFO((counts ? "" : counts.error().message));
    REQUIRE(counts);
    const auto same =
        run_process({.arguments = {"diff", "-r", "--no-dereference", "--exclude=null", source, unpacked.target}});
    REQUIRE(same);
    CHECK(same->errors + same->output == "");
    CHECK(same->exit_status == 0);
    std::array<char, 8> value{};
    CHECK(::getxattr((unpacked.target + "/deep").c_str(), "trusted.cowslip", value.data(), value.size()) == 1);
    struct stat status {};
    REQUIRE(::stat((unpacked.target + "/null").c_str(), &status) == 0);
    CHECK(status.st_rdev == makedev(1, 3));
}

TEST_CASE("a stop is heard while the archive stalls", "[ctl]") {
    const Unpacked unpacked;
    std::array<int, 2> ends{};
    REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
    const Fd reading(ends[0]);
    const Fd writing(ends[1]);  // Open and silent.
    const Fd stop(::eventfd(1, EFD_CLOEXEC));
    const Fd into(::open(unpacked.target.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const auto before = std::filesystem::current_path();
    const auto result = unpack_tar({reading.get(), into.get(), stop.get(), [](const UnpackCounts&) {}});
    std::filesystem::current_path(before);
    REQUIRE_FALSE(result);
    CHECK(result.error().code == Errc::timed_out);
}

}  // namespace cowslip::ctl
