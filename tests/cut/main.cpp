// cowslip-cut: records what a service writes, and looks at what a power cut at any point would have left.
// deploy/torture runs it; tests/README.md says what it shows.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <iostream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>

#include "tests/cut/audit.h"
#include "tests/cut/native.h"
#include "tests/cut/recording.h"
#include "tests/cut/workload.h"

namespace {

using namespace cowslip;
using namespace cowslip::cut;

struct Arguments {
    WorkloadOptions workload;
    NativeOptions native;
    std::string log;
    std::string earlier;
    std::string point;
    std::string file;
    std::size_t points = 1000;
    std::size_t share = 0;
    std::size_t shares = 1;
    std::size_t enough = 3;  // Losses, and it ends.
};

void report(const Point& point, std::uint64_t seed, const std::string& text) {
    std::cout << fmt::format("LOSS at point {} (seed {}): {}\n", to_string(point), seed, text);
}

Result<int> check(const Arguments& arguments) {
    const Recording recording = TRY(Recording::open(arguments.log, arguments.earlier));
    std::vector<Point> points;
    if (arguments.point.empty()) {
        const auto all = choose_points(TRY(recording.entries_to_cut(Recording::Seen::natively)), arguments.points);
        // A stretch of them: the disk is replayed once.
        const std::size_t first = all.size() * arguments.share / arguments.shares;
        const std::size_t last = all.size() * (arguments.share + 1) / arguments.shares;
        points.assign(all.begin() + static_cast<std::ptrdiff_t>(first),
                      all.begin() + static_cast<std::ptrdiff_t>(last));
    } else {
        points.push_back(TRY(parse_point(arguments.point)));
    }
    NativeChecker checker(recording, arguments.native);
    std::size_t looked_at = 0;
    std::size_t losses = 0;
    const auto begun = std::chrono::steady_clock::now();
    for (const Point& point : points) {
        ++looked_at;
        const std::string text = checker.complaint(point);
        if (text.empty()) continue;
        report(point, arguments.native.seed, text);
        if (++losses >= arguments.enough) break;
    }
    const auto took = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begun).count();
    std::cerr << fmt::format("{} points of {} entries, {} recoveries cut again, {:.1f} ms each\n", looked_at,
                             recording.entries().size(), checker.recoveries_cut(),
                             took / static_cast<double>(std::max<std::size_t>(looked_at, 1)));
    std::cout << fmt::format("{} {} {}\n", looked_at, losses, checker.recoveries_cut());
    return losses == 0 ? 0 : 1;
}

// One a line, for a kernel.
Result<int> list_points(const Arguments& arguments) {
    const Recording recording = TRY(Recording::open(arguments.log, arguments.earlier));
    for (const Point& point :
         choose_points(TRY(recording.entries_to_cut(Recording::Seen::by_a_kernel)), arguments.points)) {
        std::cout << to_string(point) << '\n';
    }
    return 0;
}

Result<int> lay_out_disk(const Arguments& arguments) {
    const Recording recording = TRY(Recording::open(arguments.log, arguments.earlier));
    const Point point = TRY(parse_point(arguments.point));
    TRY(lay_out(recording, point, arguments.native.seed, arguments.file));
    return 0;
}

Result<int> audit_service(const Arguments& arguments) {
    const Recording recording = TRY(Recording::open(arguments.log, arguments.earlier));
    const Point point = TRY(parse_point(arguments.point));
    const History history(recording.marks(point.entry), arguments.native.believe_begun);
    const auto looked = audit(arguments.workload.state, history);
    const std::string text = looked ? *looked : looked.error().message;
    if (text.empty()) return 0;
    report(point, arguments.native.seed, text);
    return 1;
}

Result<int> work(const Arguments& arguments) {
    TRY(run_workload(arguments.workload));
    return 0;
}

// Becomes the command, in which each fsync and fdatasync succeeds and does nothing: a service that forgets them.
Result<int> forget_syncs(std::vector<std::string> command) {
    constexpr auto kNumber = static_cast<std::uint32_t>(offsetof(seccomp_data, nr));
    std::array<sock_filter, 5> program = {
        sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kNumber),
        sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsync, 1, 0),
        sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fdatasync, 0, 1),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO),  // With errno 0: success.
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
        return errno_error(errno, "filter the syncs");
    std::vector<char*> words;
    words.reserve(command.size() + 1);
    for (std::string& word : command) words.push_back(word.data());
    words.push_back(nullptr);
    ::execvp(words.front(), words.data());
    return errno_error(errno, "run '" + command.front() + "'");
}

}  // namespace

int main(int argc, char** argv) {
    Arguments arguments;
    CLI::App app("Power cuts: a service's writes are recorded, and cut anywhere");
    app.require_subcommand(1);
    const auto recorded = [&](CLI::App* command) {
        command->add_option("--log", arguments.log, "the recording")->required();
        command->add_option("--earlier", arguments.earlier, "the recording that it begins after a cut of");
        command->add_option("--seed", arguments.native.seed, "of what is lost of the writes that are not durable");
    };
    auto* worker = app.add_subcommand("work", "be the clients of a service whose disk is recorded");
    worker->add_option("--state", arguments.workload.state, "the service's state folder")->required();
    worker->add_option("--prefix", arguments.workload.prefix, "of names");
    worker->add_option("--seed", arguments.workload.seed);
    worker->add_option("--clients", arguments.workload.clients)->check(CLI::Range(1, 64));
    worker->add_option("--rounds", arguments.workload.rounds, "of each client")->check(CLI::Range(0, 10000));
    worker->add_flag("!--no-pool", arguments.workload.make_pool, "it is there");
    auto* checker =
        app.add_subcommand("check", "look at points without a kernel; the last line is POINTS LOSSES CUT-AGAIN");
    recorded(checker);
    checker->add_option("--points", arguments.points, "how many")->check(CLI::Range(1, 100000000));
    checker->add_option("--point", arguments.point, "this one: ENTRY.VARIANT");
    checker->add_option("--share", arguments.share, "which of the shares");
    checker->add_option("--shares", arguments.shares)->check(CLI::Range(1, 1024));
    checker->add_option("--enough", arguments.enough, "losses, and it ends")->check(CLI::Range(1, 1000000));
    checker->add_flag("--believe-begun", arguments.native.believe_begun,
                      "as if a request were answered when it is sent");
    auto* lister = app.add_subcommand("points", "choose points for a kernel, one a line");
    recorded(lister);
    lister->add_option("--points", arguments.points, "how many")->check(CLI::Range(1, 100000000));
    auto* replayer = app.add_subcommand("lay-out", "make a disk as a cut has left it");
    recorded(replayer);
    replayer->add_option("--point", arguments.point, "ENTRY.VARIANT")->required();
    replayer->add_option("FILE", arguments.file)->required();
    auto* auditor = app.add_subcommand("audit", "ask a service that has come back whether all is there");
    recorded(auditor);
    auditor->add_option("--point", arguments.point, "ENTRY.VARIANT")->required();
    auditor->add_option("--state", arguments.workload.state, "the service's state folder")->required();
    auto* forgetter = app.add_subcommand("forget-syncs", "run a command whose fsync and fdatasync do nothing");
    forgetter->prefix_command();
    CLI11_PARSE(app, argc, argv);
    spdlog::set_level(spdlog::level::off);
    try {
        const auto status = worker->parsed()     ? work(arguments)
                            : checker->parsed()  ? check(arguments)
                            : lister->parsed()   ? list_points(arguments)
                            : replayer->parsed() ? lay_out_disk(arguments)
                            : auditor->parsed()  ? audit_service(arguments)
                                                 : forget_syncs(forgetter->remaining());
        if (status) return *status;
        std::cerr << "cowslip-cut: " << status.error().message << '\n';
    } catch (const std::exception& failure) {
        std::cerr << "cowslip-cut: " << failure.what() << '\n';
    }
    return 2;
}
