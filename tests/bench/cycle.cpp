// cowslip-bench cycle: the main job through the bus, by K processes with one long-lived client each:
// create a clone of a base, get it, write 4 KiB, put it, remove it. Prints JSON: milliseconds per
// step and for the sum of the replies; cycles per second until nothing is left behind the replies;
// and counts per cycle. The same steps as cowslip-bench bare.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <iostream>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "common/client.h"
#include "schemas/pool_manager.h"
#include "tests/bench/commands.h"
#include "tests/bench/workers.h"

namespace cowslip::bench::cycle {

using Clock = std::chrono::steady_clock;

struct Options {
    std::string socket;
    std::string base;
    unsigned workers = 1;
    unsigned cycles = 50;
    bool two_requests = false;
    bool no_write = false;
};

constexpr std::array kSteps{"create", "get", "write", "put", "rm"};
using Times = std::array<double, kSteps.size() + 1>;  // And the sum.
constexpr std::chrono::seconds kTimeout{120};

double since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

Result<void> write_4k(const std::string& root) {
    const std::string path = root + "/written";
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return errno_error(errno, "open '" + path + "'");
    const std::string block(4096, 'x');
    const ssize_t written = ::write(fd, block.data(), block.size());
    ::close(fd);
    if (written != 4096) return errno_error(errno, "write '" + path + "'");
    return {};
}

Result<Times> one_cycle(Client& client, const Options& options, const std::string& id) {
    Times times{};
    auto start = Clock::now();
    const auto done = [&](std::size_t which) {
        times[which] = since(start);
        start = Clock::now();
    };
    schemas::VolumeCreate create;
    create.id = id;
    create.parent = options.base;
    create.get = options.two_requests;
    std::string path = TRY(client.call(create, kTimeout)).path;
    done(0);
    if (!options.two_requests) {
        schemas::VolumeGet get;
        get.id = id;
        path = TRY(client.call(get, kTimeout)).path;
    }
    done(1);
    if (!options.no_write) TRY(write_4k(path));
    done(2);
    schemas::VolumePut put;
    put.id = id;
    put.remove = options.two_requests;
    TRY(client.call(put, kTimeout));
    done(3);
    if (!options.two_requests) {
        schemas::VolumeRemove remove;
        remove.id = id;
        TRY(client.call(remove, kTimeout));
    }
    done(4);
    for (std::size_t i = 0; i < kSteps.size(); ++i) times.back() += times[i];
    return times;
}

// The worker is connected before it says that it is ready, and the clock runs when all may begin: as it is for the
// bare program, whose workers have device-mapper open.
Result<void> work(const Options& options, unsigned worker, std::span<Times> results, Gate& gate) {
    BusContext context;
    auto client = TRY(Client::connect(context, options.socket));
    schemas::VolumeExists exists;
    exists.id = options.base;
    TRY(client.call(exists, kTimeout));
    gate.ready_and_wait();
    for (std::size_t i = 0; i < results.size(); ++i) {
        results[i] = TRY(one_cycle(client, options, fmt::format("bench-{}-{}", worker, i)));
    }
    return {};
}

Result<schemas::SystemStatus::Reply> settled(Client& client) {
    for (;;) {
        auto status = TRY(client.call(schemas::SystemStatus{}, kTimeout));
        if (status.behind_reply == 0) return status;
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
}

Result<int> run(const Options& options) {
    auto workers = TRY(Workers<Times>::fork(
        options.workers, options.cycles,
        [&](unsigned worker, std::span<Times> results, Gate& gate) { return work(options, worker, results, gate); }));
    // Only now: a context has threads, and those do not survive a fork.
    BusContext context;
    auto client = TRY(Client::connect(context, options.socket));
    workers.wait_for_ready();
    auto before = TRY(settled(client));
    const auto start = Clock::now();
    workers.let_go();
    TRY(workers.wait());
    const auto after = TRY(settled(client));
    const double seconds = since(start) / 1000;

    const auto cycles = static_cast<double>(workers.results().size());
    std::ostringstream out;
    out << "{";
    for (std::size_t step = 0; step <= kSteps.size(); ++step) {
        std::vector<double> values;
        for (const Times& cycle : workers.results()) values.push_back(cycle[step]);
        out << fmt::format("\"{0}_p50\":{1:.2f},\"{0}_p99\":{2:.2f},",
                           step == kSteps.size() ? "request_path" : kSteps[step], percentile(values, 0.5),
                           percentile(values, 0.99));
    }
    const auto per_cycle = [&](const std::string& counter) {
        return static_cast<double>(after.counters.at(counter) - before.counters[counter]) / cycles;
    };
    out << fmt::format(
        "\"rate\":{:.2f},\"store_syncs\":{:.2f},\"store_commits\":{:.2f},\"turns\":{:.2f},\"mounts\":{:.2f}}}",
        cycles / seconds, per_cycle("store_syncs"), per_cycle("commits"), per_cycle("turns"), per_cycle("mount.mount"));
    std::cout << out.str() << '\n';
    return 0;
}

int command(int argc, char** argv) {
    Options options;
    CLI::App app("The cycle create, get, write, put, rm through the bus, by K processes at once");
    app.add_option("--socket", options.socket, "the clients' socket of a service")->required();
    app.add_option("--base", options.base, "the volume to clone")->required();
    app.add_option("--workers", options.workers, "processes at once")->check(CLI::Range(1, 256));
    app.add_option("--cycles", options.cycles, "of each process")->check(CLI::Range(1, 100000));
    app.add_flag("--no-write", options.no_write, "the mounts are not real: nothing is written");
    app.add_flag("--two-requests", options.two_requests, "create --get and put --rm");
    CLI11_PARSE(app, argc, argv);
    const auto status = run(options);
    if (!status) {
        std::cerr << "cowslip-bench cycle: " << status.error().message << '\n';
        return 1;
    }
    return *status;
}

}  // namespace cowslip::bench::cycle
