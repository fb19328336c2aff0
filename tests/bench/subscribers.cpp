// cowslip-bench subscribers: COUNT subscribers of the events at SOCKET, each with a connection of its own, that read
// all they get. Says "ready" when each has had an event, and how many events there were when it is told to end
// (SIGTERM).
#include <csignal>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "common/bus.h"
#include "common/signals.h"
#include "tests/bench/commands.h"

namespace cowslip::bench::subscribers {

constexpr std::chrono::seconds kWait{1};

Result<void> serve(const std::string& path, std::size_t count) {
    const int stop_fd = TRY(stop_signal_fd());
    BusContext context;
    std::vector<SubscriberSocket> subscribers;
    for (std::size_t i = 0; i < count; ++i) {
        subscribers.push_back(TRY(SubscriberSocket::connect(context, path, {""})));
    }
    std::vector<const BusSocket*> sockets;
    for (const auto& subscriber : subscribers) sockets.push_back(&subscriber);
    std::vector<bool> heard(count);
    std::size_t silent = count;
    std::uint64_t events = 0;
    for (;;) {
        wait_readable(sockets, {&stop_fd, 1}, kWait);
        for (std::size_t i = 0; i < count; ++i) {
            while (subscribers[i].receive()) {
                ++events;
                if (heard[i]) continue;
                heard[i] = true;
                if (--silent == 0) std::cout << "ready" << std::endl;
            }
        }
        if (wait_readable({}, {&stop_fd, 1}, std::chrono::milliseconds(0)) == Woken::event) break;
    }
    std::cout << events << std::endl;
    return {};
}

int command(int argc, char** argv) {
    std::string socket;
    std::size_t count = 100;
    CLI::App app("Subscribers that read all they get.");
    app.add_option("--socket", socket)->required();
    app.add_option("--count", count);
    CLI11_PARSE(app, argc, argv);
    const auto served = serve(socket, count);
    if (!served) std::cerr << "cowslip-bench subscribers: " << served.error().message << '\n';
    return served ? 0 : 1;
}

}  // namespace cowslip::bench::subscribers
