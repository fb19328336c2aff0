#include "services/ctl/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <catch2/catch.hpp>

#include "tests/fakes/scripted_manager.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip::ctl {

using std::chrono::milliseconds;

TEST_CASE("a service that dies is started again at once, then ever later", "[ctl]") {
    Backoff backoff;
    std::vector<std::int64_t> delays;
    for (int i = 0; i < 9; ++i) delays.push_back(backoff.after_death(true).count());
    CHECK(delays == std::vector<std::int64_t>{0, 100, 200, 400, 800, 1600, 3200, 5000, 5000});
    for (int i = 0; i < 100; ++i) CHECK(backoff.after_death(true) == milliseconds(5000));
}

TEST_CASE("a service that did not die of its start is forgiven its earlier deaths", "[ctl]") {
    Backoff backoff;
    for (int i = 0; i < 5; ++i) backoff.after_death(true);
    CHECK(backoff.after_death(true) == milliseconds(1600));
    CHECK(backoff.after_death(false) == milliseconds(0));
    CHECK(backoff.after_death(true) == milliseconds(100));
}

namespace {

struct Supervised {
    explicit Supervised(const std::string& manager_script) {
        plan.folder = {.dir = folder.path(), .run = folder.path()};
        plan.manager = {"/bin/sh", "-c", manager_script};
        plan.actors = {{"device", {"/bin/sh", "-c", "touch " + folder / "actor-started"}}};
    }
    Result<void> run() {
        auto stop = StopSignal::watch();
        return Supervisor(plan, console, *stop).run();
    }
    bool actor_was_started() const { return std::ifstream(folder / "actor-started").good(); }

    TemporaryFolder folder;
    Supervisor::Plan plan;
    std::ostringstream out;
    std::ostringstream err;
    Console console{.out = out, .err = err};
};

}  // namespace

TEST_CASE("a manager that finds its folder taken ends the supervisor, before any actor is lent out", "[ctl]") {
    Supervised supervised("exit 5");
    const auto result = supervised.run();
    REQUIRE_FALSE(result);
    CHECK(result.error().code == Errc::in_use);
    CHECK_THAT(result.error().message, Catch::Contains("another one serves this folder"));
    CHECK_FALSE(supervised.actor_was_started());
}

TEST_CASE("a manager that gives up before it was ready ends the supervisor", "[ctl]") {
    Supervised supervised("exit 70");
    CHECK(supervised.run().error().code == Errc::unavailable);
    Supervised missing("");
    missing.plan.manager = {"/nonexistent/program"};
    CHECK(missing.run().error().code == Errc::not_found);
}

TEST_CASE("a manager that was killed before it was ready is started again", "[ctl]") {
    Supervised supervised("");
    const std::string marker = supervised.folder / "second";
    supervised.plan.manager = {"/bin/sh", "-c",
                               "if [ -e " + marker + " ]; then exit 5; fi; touch " + marker + "; kill -9 $$"};
    CHECK(supervised.run().error().code == Errc::in_use);
    CHECK_THAT(supervised.err.str(), Catch::Contains("was killed by signal 9") && Catch::Contains("starting it again"));
}

TEST_CASE("a manager that asks to be started again is, also before it was ready", "[ctl]") {
    // 75 says that its store was full and that there is room now; it was taken for giving up.
    Supervised supervised("");
    const std::string marker = supervised.folder / "second";
    supervised.plan.manager = {"/bin/sh", "-c",
                               "if [ -e " + marker + " ]; then exit 5; fi; touch " + marker + "; exit 75"};
    CHECK(supervised.run().error().code == Errc::in_use);
    CHECK_THAT(supervised.err.str(), Catch::Contains("ended with status 75") && Catch::Contains("starting it again"));
}

namespace {

constexpr const char* kStandInFolder = "COWSLIP_TEST_STAND_IN";

std::vector<std::string> lines_of(const std::string& path) {
    std::ifstream file(path);
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
}

std::size_t count_alive(const std::vector<std::string>& pids) {
    return static_cast<std::size_t>(std::count_if(pids.begin(), pids.end(), [](const std::string& pid) {
        return ::kill(static_cast<pid_t>(std::stol(pid)), 0) == 0;
    }));
}

}  // namespace

// Not a test: the manager of the next one, which starts this program for it. Until there is a file
// `calm`, each actor that has written down its pid is said to be stuck, but for a watcher.
TEST_CASE("a stand-in for the manager", "[.stand-in]") {
    const char* folder = std::getenv(kStandInFolder);
    if (folder == nullptr) return;
    const std::string path = folder;
    BusContext context;
    const auto actors_door = ServerSocket::bind(context, path + "/actors.sock", 0600);
    ScriptedManager manager(path);
    manager.on<schemas::SystemStatus>([path](const schemas::SystemStatus&) {
        schemas::SystemStatus::Reply reply;
        const bool calm = std::ifstream(path + "/calm").good();
        for (const auto& pid : lines_of(path + "/pids")) {
            const auto number = static_cast<std::uint32_t>(std::stoul(pid));
            reply.actors.push_back({"", "mount", number, false, calm ? "" : "mount.mount", calm ? 0U : 5001U});
        }
        reply.actors.push_back({"", "mount", 1, true, "", 0});
        reply.actors.push_back({"", "device", 1, false, "", 0});
        return Result<schemas::SystemStatus::Reply>(reply);
    });
    manager.start();
    for (;;) ::pause();
}

TEST_CASE("where all actors of a kind are stuck others are started, and end when they are not needed", "[ctl]") {
    // As many stuck volumes as there were actors stopped the whole service.
    Supervised supervised("");
    const std::string pids = supervised.folder / "pids";
    REQUIRE(::setenv(kStandInFolder, supervised.folder.path().c_str(), 1) == 0);
    supervised.plan.manager = {"/proc/self/exe", "[.stand-in]", "--out", supervised.folder / "stand-in.log"};
    supervised.plan.actors = {{"mount", {"/bin/sh", "-c", "echo $$ >>" + pids + "; exec sleep 1000"}}};
    supervised.plan.look_interval = milliseconds(20);
    supervised.plan.spare_time = milliseconds(100);
    auto mask = StopSignal::watch();  // Blocked before another thread is made.
    std::size_t most = 0;
    std::size_t least = 0;
    std::thread other([&] {
        const auto wait_for = [&](std::size_t wanted) {
            for (int i = 0; i < 1500 && count_alive(lines_of(pids)) != wanted; ++i)
                std::this_thread::sleep_for(milliseconds(20));
        };
        wait_for(4);
        std::this_thread::sleep_for(milliseconds(500));
        most = lines_of(pids).size();
        std::ofstream(supervised.folder / "calm").close();
        wait_for(1);
        std::this_thread::sleep_for(milliseconds(500));
        least = count_alive(lines_of(pids));
        ::kill(::getpid(), SIGTERM);
    });
    const auto result = supervised.run();
    other.join();
    mask->caught();
    ::unsetenv(kStandInFolder);
    INFO((result ? supervised.err.str() : result.error().message));
    CHECK(result);
    CHECK(most == 4);
    CHECK(least == 1);
    CHECK(lines_of(pids).size() == 4);
}

TEST_CASE("a manager that stands by takes the place of one that dies, and another stands by then", "[ctl]") {
    Supervised supervised("");
    const std::string managers = supervised.folder / "managers";
    const std::string waiting = supervised.folder / "waiting";
    REQUIRE(::setenv(kStandInFolder, supervised.folder.path().c_str(), 1) == 0);
    const std::string manager = "echo $$ >>" + managers + "; exec " +
                                std::filesystem::read_symlink("/proc/self/exe").string() + " '[.stand-in]' --out " +
                                (supervised.folder / "stand-in.log");
    supervised.plan.manager = {"/bin/sh", "-c", manager};
    supervised.plan.standby = {"/bin/sh", "-c", "echo $$ >>" + waiting + "; read word || exit 0; " + manager};
    supervised.plan.actors.clear();
    supervised.plan.look_interval = milliseconds(20);
    auto mask = StopSignal::watch();  // Blocked before another thread is made.
    std::thread other([&] {
        const auto wait_for = [](const std::string& file, std::size_t lines) {
            for (int i = 0; i < 1500 && lines_of(file).size() < lines; ++i)
                std::this_thread::sleep_for(milliseconds(20));
            return lines_of(file).size() >= lines;
        };
        const auto kill_last = [](const std::string& file) {
            ::kill(static_cast<pid_t>(std::stol(lines_of(file).back())), SIGKILL);
        };
        if (wait_for(waiting, 1)) kill_last(managers);
        if (wait_for(managers, 2) && wait_for(waiting, 2)) kill_last(waiting);  // It is missed, and no manager for it.
        if (wait_for(waiting, 3)) kill_last(managers);
        wait_for(managers, 3);
        ::kill(::getpid(), SIGTERM);
    });
    const auto result = supervised.run();
    other.join();
    mask->caught();
    ::unsetenv(kStandInFolder);
    INFO((result ? supervised.err.str() : result.error().message));
    CHECK(result);
    REQUIRE(lines_of(managers).size() == 3);
    REQUIRE(lines_of(waiting).size() >= 3);
    CHECK(lines_of(managers)[1] == lines_of(waiting)[0]);
    CHECK(lines_of(managers)[2] == lines_of(waiting)[2]);
    CHECK(count_alive(lines_of(managers)) == 0);
    CHECK(count_alive(lines_of(waiting)) == 0);
}

TEST_CASE("a service that gave up its privileges still ends with a supervisor that is killed", "[ctl]") {
    std::array<int, 2> ends{};
    REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
    const Fd reading(ends[0]);
    Fd writing(ends[1]);
    const pid_t supervisor = ::fork();
    if (supervisor == 0) {
        if (::fork() == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            const auto account = service_account();
            const bool dropped = account && drop_privileges(*account);
            if (::write(writing.get(), dropped ? "y" : "n", 1) != 1) ::_exit(1);
        }
        for (;;) ::pause();
    }
    writing.close();
    char answer = 0;
    REQUIRE(::read(reading.get(), &answer, 1) == 1);
    CHECK(answer == 'y');
    ::kill(supervisor, SIGKILL);
    ::waitpid(supervisor, nullptr, 0);
    pollfd handle{.fd = reading.get(), .events = POLLIN, .revents = 0};
    REQUIRE(::poll(&handle, 1, 10000) == 1);  // Its end, as both are gone.
    CHECK(::read(reading.get(), &answer, 1) == 0);
}

}  // namespace cowslip::ctl
