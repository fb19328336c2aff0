#include "services/pool_manager/server.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include <catch2/catch.hpp>

#include "common/actor_session.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip {

namespace {

constexpr uid_t kAccount = 65534;

void become_account() {
    if (::setresgid(kAccount, kAccount, kAccount) != 0 || ::setresuid(kAccount, kAccount, kAccount) != 0) ::_exit(9);
}

// Says HELLO at the actors' door of this folder, over and over; killed in the end.
[[noreturn]] void say_hello(bool as_root) {
    const auto lock = ActorLock::take("actors", "device");
    if (!lock) ::_exit(1);
    if (!as_root) become_account();
    BusContext context;
    const schemas::Hello hello{"device", lock->incarnation(), static_cast<std::uint32_t>(::getpid()), "0"};
    std::string body = encode(schemas::FromActorOf<int>{schemas::kProtocolVersion, hello, std::nullopt});
    while (true) {
        auto socket = ClientSocket::connect(context, "actors.sock", lock->incarnation());
        for (int i = 0; socket && i < 20; ++i) {
            static_cast<void>(socket->send(body));
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
    }
}

// A manager that has given up root; its status is the number of actors that it knows in the end.
[[noreturn]] void manage() {
    become_account();
    auto store = Store::open("store.db");
    if (!store) ::_exit(10);
    int ends[2];
    if (::pipe(ends) != 0) ::_exit(11);
    BusContext context;
    ManagerOptions options;
    options.boot_id = "boot";
    PoolManager manager(*store, std::move(options));
    auto server = Server::open(context, {.dir = ".", .run = "."}, manager);
    if (!server) ::_exit(12);
    manager.start({}, time_now());
    std::thread stopper([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(1500));
        static_cast<void>(::write(ends[1], "x", 1));
    });
    const auto served = server->serve(ends[0]);
    stopper.join();
    ::_exit(served ? static_cast<int>(manager.known_actors().size()) : 13);
}

}  // namespace

TEST_CASE("a manager that root has started takes no actor but root", "[server]") {
    // It took whoever had its own account for one: another process of that account could answer for an actor.
    if (::geteuid() != 0) {
        WARN("skipped: needs root");
        return;
    }
    const bool as_root = GENERATE(true, false);
    CAPTURE(as_root);
    const TemporaryFolder folder;
    std::filesystem::create_directory(folder / "actors");
    REQUIRE(::chown(folder.path().c_str(), kAccount, kAccount) == 0);
    const auto run_in_folder = [&](const auto& what) {
        const pid_t child = ::fork();
        if (child != 0) return child;
        if (::chdir(folder.path().c_str()) != 0) ::_exit(8);
        what();
        ::_exit(7);
    };
    const pid_t actor = run_in_folder([&] { say_hello(as_root); });
    const pid_t manager = run_in_folder(manage);
    int status = 0;
    REQUIRE(::waitpid(manager, &status, 0) == manager);
    ::kill(actor, SIGKILL);
    ::waitpid(actor, nullptr, 0);
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == (as_root ? 1 : 0));
}

}  // namespace cowslip
