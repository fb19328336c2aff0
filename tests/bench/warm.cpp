// cowslip-bench warm: create --get of a clone of an image that keeps clones ready, and of one that keeps none, in turns
// and each when nothing else goes on. Prints JSON: milliseconds of either.
#include <chrono>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "common/client.h"
#include "schemas/pool_manager.h"
#include "tests/bench/commands.h"
#include "tests/bench/workers.h"

namespace cowslip::bench::warm {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kTimeout{120};
constexpr std::chrono::milliseconds kPause{5};

struct Options {
    std::string socket;
    std::string cold;
    std::string warm;
    unsigned cycles = 50;
};

// All clones of it that are wanted are ready, and nothing goes on behind a reply.
Result<void> wait_until_quiet(Client& client, const std::string& image) {
    const auto deadline = Clock::now() + kTimeout;
    while (Clock::now() < deadline) {
        const auto status = TRY(client.call(schemas::SystemStatus{}, kTimeout));
        const auto volume = TRY(client.call(schemas::VolumeShow{.id = image}, kTimeout));
        if (status.behind_reply == 0 && volume.warm && volume.warm->ready == volume.warm->wanted) return {};
        std::this_thread::sleep_for(kPause);
    }
    return Error{Errc::timed_out, "the clones of '" + image + "' are not ready"};
}

Result<double> create_and_get(Client& client, const std::string& parent, const std::string& id) {
    schemas::VolumeCreate create;
    create.id = id;
    create.parent = parent;
    create.get = true;
    const auto start = Clock::now();
    TRY(client.call(create, kTimeout));
    const double took_ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    schemas::VolumePut put;
    put.id = id;
    put.remove = true;
    TRY(client.call(put, kTimeout));
    return took_ms;
}

Result<int> run(const Options& options) {
    BusContext context;
    auto client = TRY(Client::connect(context, options.socket));
    const auto taken = [&]() -> Result<std::uint64_t> {
        return TRY(client.call(schemas::SystemStatus{}, kTimeout)).counters["warm_taken"];
    };
    std::vector<double> cold;
    std::vector<double> warm;
    const std::uint64_t before = TRY(taken());
    for (unsigned i = 0; i < options.cycles; ++i) {
        TRY(wait_until_quiet(client, options.warm));
        cold.push_back(TRY(create_and_get(client, options.cold, fmt::format("cold-{}", i))));
        TRY(wait_until_quiet(client, options.warm));
        warm.push_back(TRY(create_and_get(client, options.warm, fmt::format("warm-{}", i))));
    }
    if (TRY(taken()) - before != options.cycles) return Error{Errc::internal, "not all warm clones were taken"};
    std::cout << fmt::format("{{\"cold_p50\":{:.2f},\"cold_p99\":{:.2f},\"warm_p50\":{:.2f},\"warm_p99\":{:.2f}}}\n",
                             percentile(cold, 0.5), percentile(cold, 0.99), percentile(warm, 0.5),
                             percentile(warm, 0.99));
    return 0;
}

int command(int argc, char** argv) {
    Options options;
    CLI::App app("create --get with and without a clone that is ready");
    app.add_option("--socket", options.socket, "the clients' socket of a service")->required();
    app.add_option("--cold", options.cold, "an image without warm clones")->required();
    app.add_option("--warm", options.warm, "one that has some")->required();
    app.add_option("--cycles", options.cycles, "of each")->check(CLI::Range(1, 100000));
    CLI11_PARSE(app, argc, argv);
    const auto status = run(options);
    if (!status) {
        std::cerr << "cowslip-bench warm: " << status.error().message << '\n';
        return 1;
    }
    return *status;
}

}  // namespace cowslip::bench::warm
