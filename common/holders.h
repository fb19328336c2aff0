// Who keeps a file system from being unmounted, or a block device from being removed: found by
// looking through /proc, so that a "device or resource busy" comes with names. Only root sees
// everybody. Bounded in time and number; what it does not find may still be there.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "schemas/device_actor.h"

namespace cowslip {

enum class Hold : std::uint8_t {
    file_system,  // On its files, and mounts that lie on it: what umount fails of.
    device,       // Also opens of the device itself, its mounts in every namespace, and devices stacked on it.
};

struct HolderBounds {
    std::size_t count = 16;
    std::chrono::milliseconds time{1000};
};

// Processes first, each once, then mounts. Those without a process have pid 0. We are left out.
std::vector<schemas::Holder> find_holders(dev_t device, Hold hold, HolderBounds bounds = {});

}  // namespace cowslip
