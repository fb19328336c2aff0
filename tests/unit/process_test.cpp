#include "common/process.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <thread>

#include <catch2/catch.hpp>

using namespace std::chrono_literals;
using cowslip::Errc;
using cowslip::ProcessOptions;
using cowslip::run_process;

namespace {

ProcessOptions shell(const std::string& script) {
    return {.arguments = {"sh", "-c", script}, .timeout = 20s};
}

std::string temporary_file() {
    std::string path = "/tmp/cowslip-process-test-XXXXXX";
    const int fd = mkstemp(path.data());
    REQUIRE(fd >= 0);
    close(fd);
    return path;
}

std::string content(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

// A zombie is dead: an orphan's belongs to process 1, which may take its time.
bool exists(pid_t pid) {
    const std::string stat = content("/proc/" + std::to_string(pid) + "/stat");
    return !stat.empty() && stat.find(") Z") == std::string::npos;
}

bool gone_soon(pid_t pid) {
    for (int i = 0; i < 200 && exists(pid); ++i) std::this_thread::sleep_for(20ms);
    return !exists(pid);
}

// A process in the state Z would be found by waitpid.
bool has_children() {
    return waitpid(-1, nullptr, WNOHANG) >= 0;
}

}  // namespace

TEST_CASE("a process's output, errors and exit status come back apart", "[process]") {
    const auto result = run_process(shell("echo out; echo err >&2; exit 3"));
    REQUIRE(result);
    CHECK(result->output == "out\n");
    CHECK(result->errors == "err\n");
    CHECK(result->exit_status == 3);
    CHECK_FALSE(result->output_cut);
    CHECK_FALSE(has_children());
}

TEST_CASE("a death by signal is 128 and its number, as in a shell", "[process]") {
    const auto result = run_process(shell("kill -9 $$"));
    REQUIRE(result);
    CHECK(result->exit_status == 128 + SIGKILL);
}

TEST_CASE("a program that does not exist is unavailable, and its package is named if we know it", "[process]") {
    // A missing mkfs reached the client as not_found, as if the volume that it asked for were unknown.
    const auto unknown = run_process({.arguments = {"no-such-program-here"}});
    REQUIRE_FALSE(unknown);
    CHECK(unknown.error().code == Errc::unavailable);

    const auto absolute = run_process({.arguments = {"/no/such/program"}});
    REQUIRE_FALSE(absolute);
    CHECK(absolute.error().code == Errc::unavailable);

    const auto known = run_process({.arguments = {"thin_delta"}});
    if (!known) CHECK_THAT(known.error().message, Catch::Contains("apt-get install thin-provisioning-tools"));
    CHECK_FALSE(run_process({.arguments = {}}));
    CHECK_FALSE(has_children());
}

TEST_CASE("a file that cannot be executed is an error and no silent exit status", "[process]") {
    const std::string path = temporary_file();
    const auto result = run_process({.arguments = {path}});
    REQUIRE_FALSE(result);
    CHECK(result.error().code == Errc::permission_denied);
    CHECK_FALSE(has_children());
    std::filesystem::remove(path);
}

TEST_CASE("programs in sbin are found without a PATH", "[process]") {
    const std::string path = getenv("PATH");
    unsetenv("PATH");
    const auto result = run_process({.arguments = {"ldconfig", "--version"}});
    setenv("PATH", path.c_str(), 1);
    REQUIRE(result);
    CHECK(result->exit_status == 0);
}

TEST_CASE("output past the limit is read and dropped, and the process is not stopped by it", "[process]") {
    ProcessOptions options = shell("head -c 1000000 /dev/zero; echo end >&2");
    options.output_limit_bytes = 1000;
    const auto result = run_process(options);
    REQUIRE(result);
    CHECK(result->exit_status == 0);
    CHECK(result->output.size() == 1000);
    CHECK(result->output_cut);
    CHECK(result->errors == "end\n");
}

TEST_CASE("output of more than a pipe holds comes whole", "[process]") {
    ProcessOptions options = shell("head -c 3000000 /dev/zero | tr '\\0' x");
    options.output_limit_bytes = 4000000;
    const auto result = run_process(options);
    REQUIRE(result);
    CHECK(result->output == std::string(3000000, 'x'));
    CHECK_FALSE(result->output_cut);
}

TEST_CASE("a process that takes too long is killed with its whole group, and no zombie stays", "[process]") {
    const std::string path = temporary_file();
    ProcessOptions options = shell("trap '' TERM; sleep 1000 & echo $! >" + path + "; echo $$ >>" + path + "; wait");
    options.timeout = 300ms;
    const auto begin = std::chrono::steady_clock::now();
    const auto result = run_process(options);
    REQUIRE_FALSE(result);
    CHECK(result.error().code == Errc::timed_out);
    CHECK(std::chrono::steady_clock::now() - begin < 10s);
    std::istringstream pids(content(path));
    pid_t background = 0;
    pid_t leader = 0;
    pids >> background >> leader;
    REQUIRE(leader > 0);
    CHECK(gone_soon(background));
    CHECK_FALSE(exists(leader));
    CHECK_FALSE(has_children());
    std::filesystem::remove(path);
}

TEST_CASE("a process that leaves another behind does not keep us waiting, nor the other alive", "[process]") {
    const auto begin = std::chrono::steady_clock::now();
    const auto result = run_process(shell("sleep 1000 & echo $!"));
    REQUIRE(result);
    CHECK(std::chrono::steady_clock::now() - begin < 10s);
    CHECK(gone_soon(std::stoi(result->output)));
}

TEST_CASE("a child has no descriptors but 0 to 2 and those it was given", "[process]") {
    const int leaked = open("/dev/null", O_RDONLY);  // Not close-on-exec.
    const int given = open("/dev/null", O_RDONLY | O_CLOEXEC);
    REQUIRE(given > leaked);
    ProcessOptions options = {.arguments = {"ls", "/proc/self/fd"}};  // One more is ls's own, of the folder.
    options.inherited_fds = {given};
    const auto result = run_process(options);
    close(leaked);
    close(given);
    REQUIRE(result);
    std::set<int> fds;
    std::istringstream lines(result->output);
    for (int fd = 0; lines >> fd;) fds.insert(fd);
    CHECK(fds.count(given) == 1);
    CHECK(fds.size() == 5);
    CHECK((leaked == 3 || fds.count(leaked) == 0));
}

TEST_CASE("an inherited lock is the parent's own, so it holds as long as either lives", "[process]") {
    const std::string path = temporary_file();
    const int lock = open(path.c_str(), O_RDWR | O_CLOEXEC);
    const int other = open(path.c_str(), O_RDWR | O_CLOEXEC);
    REQUIRE(flock(lock, LOCK_EX) == 0);
    REQUIRE(flock(other, LOCK_EX | LOCK_NB) != 0);
    ProcessOptions options = shell("flock --unlock " + std::to_string(lock));
    options.inherited_fds = {lock};
    const auto result = run_process(options);
    REQUIRE(result);
    CHECK(result->exit_status == 0);
    CHECK(flock(other, LOCK_EX | LOCK_NB) == 0);
    close(other);
    close(lock);
    std::filesystem::remove(path);
}

TEST_CASE("a child dies with its parent", "[process]") {
    const std::string path = temporary_file();
    const pid_t parent = fork();
    REQUIRE(parent >= 0);
    if (parent == 0) {
        (void)run_process(shell("echo $$ >" + path + "; exec sleep 1000"));
        _exit(0);
    }
    for (int i = 0; i < 500 && content(path).empty(); ++i) std::this_thread::sleep_for(20ms);
    const pid_t child = std::stoi(content(path));
    CHECK(exists(child));
    kill(parent, SIGKILL);
    REQUIRE(waitpid(parent, nullptr, 0) == parent);
    CHECK(gone_soon(child));
    std::filesystem::remove(path);
}

TEST_CASE("a child starts with no signal blocked or ignored, and with an empty stdin", "[process]") {
    sigset_t blocked;
    sigset_t old;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &old);
    const auto handler = signal(SIGPIPE, SIG_IGN);
    const auto result = run_process({.arguments = {"grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"}});
    const auto input = run_process({.arguments = {"cat"}});
    signal(SIGPIPE, handler);
    sigprocmask(SIG_SETMASK, &old, nullptr);
    REQUIRE(result);
    CHECK(result->output == "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    REQUIRE(input);
    CHECK(input->output.empty());
}

TEST_CASE("a child speaks English whatever our locale", "[process]") {
    setenv("LC_ALL", "de_DE.UTF-8", 1);
    const auto result = run_process(shell("echo $LC_ALL"));
    unsetenv("LC_ALL");
    REQUIRE(result);
    CHECK(result->output == "C\n");
}
