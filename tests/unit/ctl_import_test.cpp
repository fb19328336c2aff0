// `import` against the other end of the wire: whatever goes wrong, no half-filled volume is left, and
// nobody else's is touched.

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/files.h"
#include "common/process.h"
#include "services/ctl/command_line.h"
#include "services/ctl/json.h"
#include "tests/fakes/scripted_manager.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip::ctl {

namespace {

using namespace schemas;

struct Importing {
    Importing() {
        std::filesystem::create_directory(folder / "rootfs");
        std::filesystem::create_directory(folder / "source");
        std::ofstream(folder / "source/file") << "hello";
        const auto made = run_process({.arguments = {"tar", "-C", folder / "source", "-cf", folder / "good.tar", "."}});
        REQUIRE((made && made->exit_status == 0));
        std::ofstream(folder / "bad.tar") << "this is no archive";
        manager.on<VolumeCreate>([this](const VolumeCreate& request) -> Result<VolumeCreate::Reply> {
            CHECK((request.get && request.filling && request.holder == "import" && request.fs == "xfs"));
            VolumeCreate::Reply reply;
            reply.path = folder / "rootfs";
            return reply;
        });
        manager.on<VolumePut>([this](const VolumePut& request) -> Result<VolumePut::Reply> {
            CHECK((request.id == "base" && request.holder == "import"));
            CHECK(request.filled != request.remove);
            CHECK(request.force == request.remove);
            ++(request.remove ? removed : filled);
            return VolumePut::Reply{true};
        });
    }
    // As the shell has it: in the folder it was started in.
    int run(const std::string& archive, const std::vector<std::string>& more = {}) {
        std::vector<std::string> args{"import", "base", archive, "--fs", "xfs", "--socket", folder / "clients.sock"};
        args.insert(args.end(), more.begin(), more.end());
        Console console{.out = out, .err = err};
        auto stop = StopSignal::watch();
        const auto before = std::filesystem::current_path();
        const int code = ctl::run(args, console, *stop);
        std::filesystem::current_path(before);
        return code;
    }

    TemporaryFolder folder;
    ScriptedManager manager{folder.path()};
    std::atomic<int> filled = 0;
    std::atomic<int> removed = 0;
    std::ostringstream out;
    std::ostringstream err;
};

bool skipped() {
    if (::geteuid() == 0) return false;
    WARN("skipped: needs root");
    return true;
}

}  // namespace

TEST_CASE_METHOD(Importing, "an import fills the volume, makes it ready, and says how much it was", "[ctl]") {
    if (skipped()) return;
    manager.start();
    CHECK(run(folder / "good.tar") == 0);
    CHECK(read_file(folder / "rootfs/file").value() == "hello");
    CHECK((filled == 1 && removed == 0));
    CHECK_THAT(out.str(), Catch::StartsWith("imported 'base': 2 files, 5 B, "));
    out.str("");
    CHECK(run(folder / "good.tar", {"--json"}) == 0);
    const auto json = Json::parse(out.str());
    CHECK((json["id"] == "base" && json["files"] == 2 && json["bytes"] == 5 && json["seconds"].is_number()));
}

TEST_CASE_METHOD(Importing, "an import that fails removes its volume", "[ctl]") {
    if (skipped()) return;
    manager.start();
    CHECK(run(folder / "bad.tar") == 2);
    CHECK((filled == 0 && removed == 1));
}

TEST_CASE_METHOD(Importing, "an archive that is not there is found out before a volume is made", "[ctl]") {
    if (skipped()) return;
    manager.start();
    CHECK(run(folder / "absent.tar") == 3);
    CHECK(manager.types_asked().empty());
}

TEST_CASE_METHOD(Importing, "an import from a stdin that is closed makes no volume", "[ctl]") {
    // The archive's descriptor was -1 or, worse, whatever had been opened in stdin's place.
    if (skipped()) return;
    manager.start();
    const Fd kept(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
    ::close(STDIN_FILENO);
    const auto filled_in = fill_standard_fds();
    const int code = run("-");
    if (kept) ::dup2(kept.get(), STDIN_FILENO);
    CHECK(filled_in);
    CHECK(code == 2);
    CHECK_THAT(err.str(), Catch::Contains("read stdin: it is closed"));
    CHECK(manager.types_asked().empty());
}

TEST_CASE_METHOD(Importing, "an import onto a name that is taken touches nothing", "[ctl]") {
    if (skipped()) return;
    manager.on<VolumeCreate>([](const VolumeCreate&) -> Result<VolumeCreate::Reply> {
        return Error{Errc::already_exists, "create 'base': there is one"};
    });
    manager.start();
    CHECK(run(folder / "good.tar") == 4);
    CHECK((filled == 0 && removed == 0));
}

TEST_CASE_METHOD(Importing, "an import whose volume was accepted too late gives it up", "[ctl]") {
    if (skipped()) return;
    manager.on_raw(VolumeCreate::kType, [](const Request&) { return Result<std::string>(encode(Accepted{true, 9})); });
    manager.start();
    CHECK(run(folder / "good.tar") == 8);
    CHECK((filled == 0 && removed == 1));
}

TEST_CASE_METHOD(Importing, "an import whose volume could not be made ready removes it", "[ctl]") {
    if (skipped()) return;
    manager.on<VolumePut>([this](const VolumePut& request) -> Result<VolumePut::Reply> {
        if (request.filled) return Error{Errc::no_space, "put 'base': the pool is full"};
        ++removed;
        return VolumePut::Reply{true};
    });
    manager.start();
    CHECK(run(folder / "good.tar") == 6);
    CHECK(removed == 1);
}

TEST_CASE_METHOD(Importing, "an interrupted import removes its volume, even while the archive stalls", "[ctl]") {
    if (skipped()) return;
    std::array<int, 2> ends{};
    REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
    const Fd reading(ends[0]);
    const Fd writing(ends[1]);        // Open and silent.
    auto mask = StopSignal::watch();  // Blocked before another thread is made.
    manager.start();
    std::thread other([] {
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
        ::kill(::getpid(), SIGINT);
    });
    CHECK(run(reading.path()) == 130);
    other.join();
    mask->caught();
    CHECK((filled == 0 && removed == 1));
}

}  // namespace cowslip::ctl
