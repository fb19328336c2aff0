#include "services/device_actor/filesystem.h"

#include "common/thin_pool.h"

namespace cowslip {

namespace {

// struct ext4_super_block, little endian, at byte 1024.
constexpr std::size_t kExt4At = 1024;
constexpr std::uint64_t kExt4Magic = 0xEF53;
constexpr std::uint64_t kExt4With64Bits = 0x80;

// struct xfs_dsb, big endian.
constexpr std::string_view kXfsMagic = "XFSB";

constexpr std::uint64_t kMostFilesystemSectors = std::uint64_t{1} << 45U;

std::uint64_t number_at(std::string_view bytes, std::size_t at, std::size_t length, bool big_endian) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < length; ++i) {
        const std::size_t place = big_endian ? at + i : at + length - 1 - i;
        value = value << 8U | static_cast<unsigned char>(bytes[place]);
    }
    return value;
}

FoundFilesystem sized(const char* fs, std::uint64_t blocks, std::uint64_t block_bytes) {
    if (block_bytes < 512 || block_bytes > 65536 || blocks == 0) return {};
    const std::uint64_t sectors_a_block = block_bytes / kSectorBytes;
    if (blocks > kMostFilesystemSectors / sectors_a_block) return {};
    return {.fs = fs, .size_sectors = blocks * sectors_a_block};
}

}  // namespace

FoundFilesystem parse_filesystem(std::string_view first_bytes) {
    if (first_bytes.size() < kFilesystemProbeBytes) return {};
    if (first_bytes.starts_with(kXfsMagic)) {
        return sized("xfs", number_at(first_bytes, 8, 8, true), number_at(first_bytes, 4, 4, true));
    }
    const auto ext4 = [&](std::size_t at, std::size_t length) {
        return number_at(first_bytes, kExt4At + at, length, false);
    };
    if (ext4(0x38, 2) != kExt4Magic || ext4(0x18, 4) > 6) return {};
    std::uint64_t blocks = ext4(0x4, 4);
    if ((ext4(0x60, 4) & kExt4With64Bits) != 0) blocks |= ext4(0x150, 4) << 32U;
    return sized("ext4", blocks, std::uint64_t{1024} << ext4(0x18, 4));
}

}  // namespace cowslip
