#include "services/device_actor/device_header.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/block_frame.h"
#include "common/codec.h"
#include "common/size.h"
#include "common/thin_pool.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kMostSectors = std::uint64_t{1} << 46U;  // 32 PiB: no sum below overflows.

std::uint64_t next_mib(std::uint64_t sector) {
    constexpr std::uint64_t kMib = 2048;
    return (sector + kMib - 1) / kMib * kMib;
}

bool is_sound(const DeviceAreas& areas, std::uint64_t begin, std::uint32_t block_sectors) {
    const bool small = areas.metadata_start < kMostSectors && areas.spare_start < kMostSectors &&
                       areas.metadata_sectors < kMostSectors && areas.data_start < kMostSectors &&
                       areas.data_sectors < kMostSectors;
    return small && areas.data_sectors % block_sectors == 0 && areas.metadata_start >= begin &&
           areas.spare_start >= areas.metadata_start + areas.metadata_sectors &&
           areas.data_start >= areas.spare_start + areas.metadata_sectors;
}

bool is_sound(const DeviceHeader& header) {
    if (header.block_sectors == 0 || !is_sound(header.areas, kDeviceHeaderSectors, header.block_sectors)) return false;
    std::uint64_t begin = header.areas.data_start + header.areas.data_sectors;
    for (const DeviceAreas& areas : header.later) {
        if (!is_sound(areas, begin, header.block_sectors)) return false;
        begin = areas.data_start + areas.data_sectors;
    }
    return true;
}

std::optional<DeviceHeader> parse_header(std::string_view block) {
    const auto frame = parse_frame(FrameKind::device, block);
    if (!frame) return std::nullopt;
    auto header = decode_as<DeviceHeader>(std::string_view(frame->payload));
    if (!header || !is_sound(*header)) return std::nullopt;
    header->sequence = frame->sequence;
    return std::move(*header);
}

}  // namespace

Result<DeviceAreas> share_out(SectorRange range, std::uint64_t metadata_sectors, std::uint32_t block_sectors) {
    DeviceAreas areas;
    areas.metadata_sectors = metadata_sectors;
    areas.metadata_start = next_mib(std::max(range.begin, kDeviceHeaderSectors));
    areas.spare_start = next_mib(areas.metadata_start + metadata_sectors);
    areas.data_start = next_mib(areas.spare_start + metadata_sectors);
    if (range.end > kMostSectors) return Error{Errc::invalid_argument, "it is larger than 32 PiB"};
    if (range.end > areas.data_start) {
        areas.data_sectors = (range.end - areas.data_start) / block_sectors * block_sectors;
    }
    if (areas.data_sectors != 0) return areas;
    return Error{Errc::invalid_argument,
                 fmt::format("it has {}, and {} go to metadata before the first block of {}",
                             format_size(range.end * kSectorBytes), format_size(areas.data_start * kSectorBytes),
                             format_size(std::uint64_t{block_sectors} * kSectorBytes))};
}

std::string encode_header(const DeviceHeader& header) {
    return make_frame(FrameKind::device, {header.sequence, encode(header)});
}

std::optional<DeviceHeader> newest_header(std::string_view first, std::string_view second) {
    auto newest = parse_header(first);
    auto other = parse_header(second);
    if (!newest || (other && other->sequence > newest->sequence)) return other;
    return newest;
}

}  // namespace cowslip
