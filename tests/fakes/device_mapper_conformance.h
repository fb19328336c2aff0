// What the device actor relies on in device-mapper, as cases that are run against the fake (in
// unit_tests) and against the running kernel (in device_tests): where the two differ, one fails.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/device_mapper.h"

namespace cowslip {

// Two block devices that nobody uses, "7:0"; the first 4 KiB of `metadata` are zero.
struct ConformanceRig {
    DeviceMapper& dm;
    std::string metadata;
    std::string data;
    std::uint64_t data_sectors = 0;
    std::function<void(const DmDevice&)> open;  // Holds it open, as a mount does.
    std::function<void(const DmDevice&)> close;
    // Blocks of a thin, from one to another; what a write writes is its own affair.
    std::function<int(const DmDevice&, std::uint64_t begin, std::uint64_t end)> write;
    std::function<int(const DmDevice&, std::uint64_t begin, std::uint64_t end)> discard;
    std::function<void()> damage_superblock;
    std::function<void()> grow_metadata;  // Twice as large.
    std::function<void()> fail_metadata_writes;
    std::function<void()> lose_metadata;  // They cannot be read, either.
    std::function<void()> heal_metadata;
};

struct ConformanceCase {
    const char* sentence;
    void (*run)(ConformanceRig& rig);
};

const std::vector<ConformanceCase>& conformance_cases();

// Removes what a failed case left behind.
void remove_conformance_devices(DeviceMapper& dm);

}  // namespace cowslip
