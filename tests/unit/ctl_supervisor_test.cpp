#include "services/ctl/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <fstream>
#include <sstream>

#include <catch2/catch.hpp>

#include "tests/fakes/temporary_folder.h"

namespace cowslip::ctl {

using std::chrono::milliseconds;

TEST_CASE("a service that dies is started again at once, then ever later", "[ctl]") {
    Backoff backoff;
    const milliseconds soon(50);
    std::vector<std::int64_t> delays;
    for (int i = 0; i < 9; ++i) delays.push_back(backoff.after_death(soon).count());
    CHECK(delays == std::vector<std::int64_t>{0, 100, 200, 400, 800, 1600, 3200, 5000, 5000});
    for (int i = 0; i < 100; ++i) CHECK(backoff.after_death(soon) == milliseconds(5000));
}

TEST_CASE("a service that lived for ten seconds is forgiven its earlier deaths", "[ctl]") {
    Backoff backoff;
    for (int i = 0; i < 5; ++i) backoff.after_death(milliseconds(1));
    CHECK(backoff.after_death(milliseconds(9999)) == milliseconds(1600));
    CHECK(backoff.after_death(milliseconds(10000)) == milliseconds(0));
    CHECK(backoff.after_death(milliseconds(1)) == milliseconds(100));
}

namespace {

struct Supervised {
    explicit Supervised(const std::string& manager_script) {
        plan.folder = {.dir = folder.path(), .run = folder.path()};
        plan.manager = {"/bin/sh", "-c", manager_script};
        plan.actors = {{"/bin/sh", "-c", "touch " + folder / "actor-started"}};
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
