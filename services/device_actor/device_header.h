// What lies at the beginning of each block device that a pool has for its own, and how the rest of it is shared out:
//
//   1 MiB   the header, twice: in the first block and in the last one
//   .       an area for metadata
//   .       as much again, where a mended copy of the metadata is made
//   .       data, in whole blocks of the pool
//
//   .       the last three again, for each time that the device had become larger and the pool was grown
//
// Every area begins on a whole MiB. The pool's metadata are such areas of all its devices one after the other, and so
// are its data: what comes later is added at the end of each, and nothing is ever moved. What of them the pool uses it
// knows itself; the rest is its reserve.
//
// Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

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
    std::uint32_t place = 0;  // In the order of the pool's; where it is the same, the devices' numbers count.
    COWSLIP_FIELDS(metadata_start, spare_start, metadata_sectors, data_start, data_sectors, place)
};

struct SectorRange {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
};

// Of a device; it has room for its header before them. invalid_argument: too small.
Result<DeviceAreas> share_out(SectorRange range, std::uint64_t metadata_sectors, std::uint32_t block_sectors);

inline constexpr std::size_t kMostLaterAreas = 16;  // The header is one block.

struct DeviceHeader {
    std::string pool_uuid;
    std::string device_id;     // 32 random hex digits, which the store knows, too: nobody else's device says the same.
    std::uint32_t number = 0;  // Among the pool's devices, from 0.
    std::uint32_t block_sectors = 0;
    DeviceAreas areas;
    std::vector<DeviceAreas> later = {};  // Of what it has become larger by.
    // Of the whole pool, and only device 0's count: which of the two areas has the metadata, and whether there is a
    // mended copy in the other one.
    bool swapped = false;
    bool mended = false;
    std::uint64_t sequence = 0;  // Goes up with each change; kept by the frame.
    COWSLIP_FIELDS(pool_uuid, device_id, number, block_sectors, areas, later, swapped, mended)

    const DeviceAreas& last() const { return later.empty() ? areas : later.back(); }
    std::uint64_t end_sector() const { return last().data_start + last().data_sectors; }
};

std::string encode_header(const DeviceHeader& header);  // One block.
// The newer of the two copies; nothing if neither is whole.
std::optional<DeviceHeader> newest_header(std::string_view first, std::string_view second);

}  // namespace cowslip
