// cowslip-bench requests: one kind of request again and again, by K processes with one long-lived client each, which
// has one request outstanding at a time. Prints JSON: microseconds per request, and requests per second. Also against
// cowslip-bench echo, whose answers a client takes for a manager's.
#include <chrono>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "common/client.h"
#include "schemas/pool_manager.h"
#include "tests/bench/commands.h"
#include "tests/bench/workers.h"

namespace cowslip::bench::requests {

using Clock = std::chrono::steady_clock;

struct Options {
    std::string socket;
    std::string type;
    std::string base;
    std::string prefix = "v";
    unsigned clients = 1;
    unsigned requests = 1000;
};

constexpr std::chrono::seconds kTimeout{120};

template <class Message>
Result<void> call(Client& client, const Message& message) {
    TRY(client.call(message, kTimeout));
    return {};
}

Result<void> one_request(Client& client, const Options& options, const std::string& name) {
    if (options.type == "exists") return call(client, schemas::VolumeExists{.id = options.base});
    if (options.type == "show") return call(client, schemas::VolumeShow{.id = options.base});
    if (options.type == "create") {
        schemas::VolumeCreate create;
        create.id = name;
        create.parent = options.base;
        return call(client, create);
    }
    schemas::VolumeRemove remove;
    remove.id = name;
    return call(client, remove);
}

Result<void> work(const Options& options, unsigned worker, std::span<double> results, Gate& gate) {
    BusContext context;
    auto client = TRY(Client::connect(context, options.socket));
    TRY(call(client, schemas::VolumeExists{.id = options.base}));
    gate.ready_and_wait();
    for (std::size_t i = 0; i < results.size(); ++i) {
        const auto start = Clock::now();
        TRY(one_request(client, options, fmt::format("{}-{}-{}", options.prefix, worker, i)));
        results[i] = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
    }
    return {};
}

Result<void> run(const Options& options) {
    auto workers = TRY(Workers<double>::fork(
        options.clients, options.requests,
        [&](unsigned worker, std::span<double> results, Gate& gate) { return work(options, worker, results, gate); }));
    workers.wait_for_ready();
    const auto start = Clock::now();
    workers.let_go();
    TRY(workers.wait());
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const std::vector<double> all(workers.results().begin(), workers.results().end());
    std::cout << fmt::format("{{\"p50_us\":{:.1f},\"p99_us\":{:.1f},\"rate\":{:.1f}}}\n", percentile(all, 0.5),
                             percentile(all, 0.99), static_cast<double>(all.size()) / seconds);
    return {};
}

int command(int argc, char** argv) {
    Options options;
    CLI::App app("One kind of request, by K clients at once");
    app.add_option("--socket", options.socket, "the clients' socket of a service")->required();
    app.add_option("--type", options.type, "which")
        ->required()
        ->check(CLI::IsMember({"exists", "show", "create", "remove"}));
    app.add_option("--base", options.base, "the volume that is asked about, or cloned")->required();
    app.add_option("--prefix", options.prefix, "of the names of what is created or removed");
    app.add_option("--clients", options.clients, "processes at once")->check(CLI::Range(1, 256));
    app.add_option("--requests", options.requests, "of each process")->check(CLI::Range(1, 1000000));
    CLI11_PARSE(app, argc, argv);
    const auto status = run(options);
    if (status) return 0;
    std::cerr << "cowslip-bench requests: " << status.error().message << '\n';
    return 1;
}

}  // namespace cowslip::bench::requests
