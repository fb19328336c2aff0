// As root these look at owners, too; what needs no root is looked at in any case.
#include "common/state_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>

#include "tests/fakes/temporary_folder.h"

using namespace cowslip;

namespace {

struct stat about(const std::string& path) {
    struct stat status {};
    REQUIRE(::lstat(path.c_str(), &status) == 0);
    return status;
}

mode_t mode(const std::string& path) {
    return about(path).st_mode & 07777U;
}

// Whether `work` says yes in a child process, which may then give up its rights for good.
bool in_child(const std::function<bool()>& work) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(work() ? 0 : 1);
    int status = 0;
    return child > 0 && ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool is_root() {
    return ::geteuid() == 0;
}

const Account kNobody{"nobody", 65534, 65534};

Account account() {
    return is_root() ? kNobody : Account{"me", ::geteuid(), ::getegid()};
}

}  // namespace

TEST_CASE("a state folder's paths are absolute, and run is in it unless named", "[state]") {
    const auto folder = resolve_state_folder("/var/lib/cowslip/a/");
    REQUIRE(folder);
    CHECK(folder->dir == "/var/lib/cowslip/a");
    CHECK(folder->clients_socket() == "/var/lib/cowslip/a/run/clients.sock");
    const auto split = resolve_state_folder("/var/lib/x/../a", "/run/cowslip/a/");
    REQUIRE(split);
    CHECK(split->dir == "/var/lib/a");
    CHECK(split->run == "/run/cowslip/a");
    CHECK(split->actors() == "/run/cowslip/a/actors");
    const auto relative = resolve_state_folder("here");
    REQUIRE(relative);
    CHECK(relative->dir == std::filesystem::current_path().string() + "/here");
    CHECK_FALSE(resolve_state_folder(""));
}

TEST_CASE("everything is made with its owner and mode, whatever the umask, and again with the same result", "[state]") {
    const TemporaryFolder temporary;
    const mode_t before = ::umask(0077);
    const auto folder = resolve_state_folder(temporary / "a/b");
    REQUIRE(folder);
    for (int i = 0; i < 2; ++i) {
        const auto made = ensure_state_folder(*folder, account());
        CAPTURE(made ? "" : made.error().message);
        REQUIRE(made);
        const std::vector<std::pair<std::string, mode_t>> expected = {
            {folder->dir, 0711},      {folder->store(), 0700},  {folder->run, 0750},
            {folder->actors(), 0755}, {folder->mounts(), 0711}, {folder->pool(), 0700}};
        for (const auto& [path, bits] : expected) {
            CAPTURE(path);
            CHECK(mode(path) == bits);
            const bool accounts = path == folder->store() || path == folder->run;
            if (is_root()) CHECK(about(path).st_uid == (accounts ? kNobody.uid : 0));
            if (is_root()) CHECK(about(path).st_gid == (accounts ? kNobody.gid : 0));
            ::chmod(path.c_str(), 0700);  // The second time puts it right.
        }
    }
    ::umask(before);
}

TEST_CASE("an empty folder of mktemp's becomes a state folder that others can pass", "[state]") {
    const TemporaryFolder temporary;
    REQUIRE(mode(temporary.path()) == 0700);
    REQUIRE(ensure_state_folder(*resolve_state_folder(temporary.path()), account()));
    CHECK(mode(temporary.path()) == 0711);
    if (!is_root()) return;
    CHECK(in_child([&] { return drop_privileges(kNobody) && std::filesystem::is_empty(temporary / "store"); }));
}

TEST_CASE("run may lie elsewhere", "[state]") {
    const TemporaryFolder temporary;
    const auto folder = resolve_state_folder(temporary / "state", temporary / "deep/run");
    REQUIRE(ensure_state_folder(*folder, account()));
    CHECK(mode(temporary / "deep/run") == 0750);
    CHECK(mode(temporary / "deep/run/actors") == 0755);
    CHECK_FALSE(std::filesystem::exists(temporary / "state/run"));
}

TEST_CASE("a folder with other things in it keeps its owner and mode", "[state]") {
    const TemporaryFolder temporary;
    std::ofstream(temporary / "letter") << "dear";
    ::chmod(temporary.path().c_str(), 0755);
    REQUIRE(ensure_state_folder(*resolve_state_folder(temporary.path()), account()));
    CHECK(mode(temporary.path()) == 0755);
    CHECK(mode(temporary / "store") == 0700);
}

TEST_CASE("a folder that could not serve is refused with the command to run, and nothing is made", "[state]") {
    if (!is_root()) return;
    const TemporaryFolder temporary;
    std::ofstream(temporary / "letter") << "dear";
    std::string cure;
    SECTION("not to be passed") {
        ::chmod(temporary.path().c_str(), 0700);
        cure = "chmod o+x '" + temporary.path() + "'";
    }
    SECTION("written by anybody, like /tmp") {
        ::chmod(temporary.path().c_str(), 01777);
        cure = "chmod go-w '" + temporary.path() + "'";
        std::filesystem::create_directory(temporary / "store");  // Planted; it is not the account's.
    }
    SECTION("somebody else's") {
        REQUIRE(::chown(temporary.path().c_str(), 12345, 0) == 0);
        ::chmod(temporary.path().c_str(), 0755);
        cure = "chown root '" + temporary.path() + "'";
    }
    const mode_t before = mode(temporary.path());
    const auto refused = ensure_state_folder(*resolve_state_folder(temporary.path()), kNobody);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::permission_denied);
    CHECK_THAT(refused.error().message, Catch::Contains(cure));
    CHECK(mode(temporary.path()) == before);
    CHECK_FALSE(std::filesystem::exists(temporary / "run"));
}

TEST_CASE("a symbolic link in the place of one of our folders is not followed", "[state]") {
    const TemporaryFolder temporary;
    const TemporaryFolder elsewhere;
    const mode_t before = mode(elsewhere.path());
    REQUIRE(ensure_state_folder(*resolve_state_folder(temporary.path()), account()));
    std::filesystem::remove(temporary / "run/actors");
    std::filesystem::create_directory_symlink(elsewhere.path(), temporary / "run/actors");
    CHECK_FALSE(ensure_state_folder(*resolve_state_folder(temporary.path()), account()));
    CHECK(mode(elsewhere.path()) == before);
}

TEST_CASE("the store's lock has one holder, whose pid the next one is told", "[state]") {
    const TemporaryFolder temporary;
    const auto folder = resolve_state_folder(temporary.path());
    REQUIRE(ensure_state_folder(*folder, account()));
    const auto lock = lock_store(*folder);
    REQUIRE(lock);
    CHECK((::fcntl(*lock, F_GETFD) & FD_CLOEXEC) != 0);
    const auto second = lock_store(*folder);
    REQUIRE_FALSE(second);
    CHECK(second.error().code == Errc::in_use);
    CHECK_THAT(second.error().message, Catch::Contains("pid " + std::to_string(::getpid()) + ")"));
    ::close(*lock);
    const auto third = lock_store(*folder);
    REQUIRE(third);
    ::close(*third);
}

TEST_CASE("the service's account is not root", "[state]") {
    const auto found = service_account();
    REQUIRE(found);
    CHECK_FALSE(found->name.empty());
    CHECK((found->uid != 0) == (is_root() || ::geteuid() != 0));
}

// What /proc/self/status says of us.
static std::string status_line(const std::string& key) {
    std::ifstream file("/proc/thread-self/status");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with(key + ":")) return line.substr(key.size() + 1);
    }
    return "";
}

TEST_CASE("dropped privileges are gone for good: ids, groups, every capability set, and new ones by exec", "[state]") {
    if (!is_root()) return;
    CHECK(in_child([] {
        const auto dropped = drop_privileges(kNobody);
        if (!dropped) std::cerr << dropped.error().message << '\n';
        bool good = dropped.has_value();
        const auto expect = [&good](const std::string& key, const std::string& value) {
            std::istringstream line(status_line(key));
            std::string all;
            for (std::string word; line >> word;) all += word + " ";
            if (all == value) return;
            std::cerr << key << " is '" << all << "' instead of '" << value << "'\n";
            good = false;
        };
        expect("Uid", "65534 65534 65534 65534 ");
        expect("Gid", "65534 65534 65534 65534 ");
        expect("Groups", "");
        for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) expect(set, "0000000000000000 ");
        expect("NoNewPrivs", "1 ");
        return good && ::setuid(0) != 0 && ::setresuid(0, 0, 0) != 0 && ::seteuid(0) != 0 && ::chown("/tmp", 0, 0) != 0;
    }));
}
