// Not a test: how long a device takes to come and go. Run with
//   deploy/sandbox [--udev] -- build/release/bin/device_tests '[measure]'
#include <algorithm>
#include <iostream>

#include <catch2/catch.hpp>

#include "tests/device/machine.h"

namespace cowslip {

namespace {

class Samples {
public:
    template <class Function>
    void time(Function&& function) {
        const auto start = std::chrono::steady_clock::now();
        function();
        const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
        values_.push_back(taken.count());
    }
    void print(const char* name) {
        std::sort(values_.begin(), values_.end());
        std::printf("%-28s p50 %7.1f ms   p99 %7.1f ms   n %zu\n", name, values_[values_.size() / 2],
                    values_[values_.size() * 99 / 100], values_.size());
    }

private:
    std::vector<double> values_;
};

}  // namespace

TEST_CASE("how long devices take", "[.][measure]") {
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    Samples snap;
    Samples activate;
    Samples deactivate;
    Samples remove;
    for (std::uint32_t id = 3; id < 63; ++id) {
        snap.time([&] { REQUIRE(machine.actor.create_snap({machine.pool, id, 2, false})->verdict.error_number == 0); });
        activate.time([&] { machine.activate(id); });
        deactivate.time([&] { REQUIRE(machine.actor.deactivate({machine.pool, id})->error_number == 0); });
        remove.time([&] { REQUIRE(machine.actor.delete_thin({machine.pool, id})->verdict.error_number == 0); });
    }
    snap.print("snapshot");
    activate.print("activate");
    deactivate.print("deactivate");
    remove.print("delete");
    if (access("/run/udev/control", F_OK) != 0) return;
    Samples settle;
    settle.time([] { Machine::run({"udevadm", "settle"}); });
    settle.print("udev's backlog after that");
}

}  // namespace cowslip
