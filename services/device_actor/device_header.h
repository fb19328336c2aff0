// What lies at the beginning of each block device that a pool has for its own, and how the rest of it is shared out:
//
//   1 MiB   the header, twice: in the first block and in the last one
//   .       an area for metadata
//   .       as much again, where a mended copy of the metadata is made
//   .       data, in whole blocks of the pool
//
// Every area begins on a whole MiB. The pool's metadata are the areas of all its devices one after the other, and so
// are its data: a device that comes later is added at the end of each, and nothing is ever moved.
//
// Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/codec.h"
#include "common/result.h"

namespace cowslip {

inline constexpr std::uint64_t kDeviceHeaderSectors = 2048;  // With both copies.
inline constexpr std::uint64_t kSecondHeaderOffset = (std::uint64_t{1} << 20U) - 4096;

struct DeviceAreas {  // In sectors.
    std::uint64_t metadata_start = 0;
    std::uint64_t spare_start = 0;
    std::uint64_t metadata_sectors = 0;  // Of each of these two; 0 where the pool's others have all that it may have.
    std::uint64_t data_start = 0;
    std::uint64_t data_sectors = 0;
    MSGPACK_DEFINE_MAP(metadata_start, spare_start, metadata_sectors, data_start, data_sectors)
};

// invalid_argument: the device is too small.
Result<DeviceAreas> share_out(std::uint64_t device_sectors, std::uint64_t metadata_sectors,
                              std::uint32_t block_sectors);

struct DeviceHeader {
    std::string pool_uuid;
    std::string device_id;     // 32 random hex digits, which the store knows, too: nobody else's device says the same.
    std::uint32_t number = 0;  // Among the pool's devices, from 0.
    std::uint32_t block_sectors = 0;
    DeviceAreas areas;
    // Of the whole pool, and only device 0's count: which of the two areas has the metadata, and whether there is a
    // mended copy in the other one.
    bool swapped = false;
    bool mended = false;
    std::uint64_t sequence = 0;  // Goes up with each change; kept by the frame.
    MSGPACK_DEFINE_MAP(pool_uuid, device_id, number, block_sectors, areas, swapped, mended)
};

std::string encode_header(const DeviceHeader& header);  // One block.
// The newer of the two copies; nothing if neither is whole.
std::optional<DeviceHeader> newest_header(std::string_view first, std::string_view second);

}  // namespace cowslip
