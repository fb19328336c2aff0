// Clients of a service whose disk is recorded: they make a pool, volumes and clones, write files, remove, all at once,
// and mark in the log what they ask and when they are answered. One name belongs to one client at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "common/result.h"
#include "schemas/pool_manager.h"

namespace cowslip::cut {

inline constexpr std::chrono::seconds kTimeout{120};  // For each request.
inline constexpr const char* kImage = "image";        // A volume that is frozen, with mounted warm clones.

struct WorkloadOptions {
    std::string state;           // DIR of the service, whose actors are told of the two devices.
    std::string device = "cut";  // dm name of the log-writes device.
    std::string prefix =
        "a";  // Of names and of request numbers: no two runs that are recorded after one another share it.
    std::uint64_t seed = 1;
    unsigned clients = 4;
    unsigned rounds = 6;
    bool make_pool = true;  // And the volume `base`, which are there else; and kImage, which is cloned as well then.
};

// The request that a mark stands for, and its id; the same whenever it is asked again.
std::string request_id_of(const std::string& number);
schemas::PoolCreate pool_request();
schemas::VolumeCreate create_request(const std::string& name, const std::string& parent);
schemas::VolumeRemove remove_request(const std::string& name);

// Until all clients are done; an error of any of them is an error.
Result<void> run_workload(const WorkloadOptions& options);

}  // namespace cowslip::cut
