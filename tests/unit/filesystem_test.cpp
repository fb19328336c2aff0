#include "services/device_actor/filesystem.h"

#include <catch2/catch.hpp>

namespace cowslip {
namespace {

void put_number_at(std::string& bytes, std::size_t at, std::uint64_t value, std::size_t length,
                   bool big_endian = false) {
    for (std::size_t i = 0; i < length; ++i) {
        bytes[big_endian ? at + length - 1 - i : at + i] = static_cast<char>(value >> (8 * i));
    }
}

std::string ext4_block(std::uint64_t blocks, std::uint64_t log_block_size, bool with_64_bits) {
    std::string bytes(kFilesystemProbeBytes, '\0');
    put_number_at(bytes, 1024 + 0x38, 0xEF53, 2);
    put_number_at(bytes, 1024 + 0x4, blocks & 0xffffffffU, 4);
    put_number_at(bytes, 1024 + 0x150, blocks >> 32U, 4);
    put_number_at(bytes, 1024 + 0x18, log_block_size, 4);
    put_number_at(bytes, 1024 + 0x60, with_64_bits ? 0x80 : 0, 4);
    return bytes;
}

std::string xfs_block(std::uint64_t blocks, std::uint64_t block_bytes) {
    std::string bytes(kFilesystemProbeBytes, '\0');
    bytes.replace(0, 4, "XFSB");
    put_number_at(bytes, 4, block_bytes, 4, true);
    put_number_at(bytes, 8, blocks, 8, true);
    return bytes;
}

}  // namespace

TEST_CASE("the size of an ext4 or xfs is read from its superblock", "[filesystem]") {
    CHECK(parse_filesystem(ext4_block(16384, 2, true)).fs == "ext4");
    CHECK(parse_filesystem(ext4_block(16384, 2, true)).size_sectors == 131072);
    CHECK(parse_filesystem(ext4_block((std::uint64_t{1} << 32U) + 5, 2, true)).size_sectors ==
          ((std::uint64_t{1} << 32U) + 5) * 8);
    CHECK(parse_filesystem(ext4_block((std::uint64_t{1} << 32U) + 5, 2, false)).size_sectors ==
          40);  // Other bytes there.
    CHECK(parse_filesystem(ext4_block(65536, 0, false)).size_sectors == 131072);
    CHECK(parse_filesystem(xfs_block(131072, 4096)).fs == "xfs");
    CHECK(parse_filesystem(xfs_block(131072, 4096)).size_sectors == 1048576);
}

TEST_CASE("anything else is no file system, whatever it says of its size", "[filesystem]") {
    CHECK(parse_filesystem("").fs == "none");
    CHECK(parse_filesystem(std::string(kFilesystemProbeBytes, '\0')).fs == "none");
    CHECK(parse_filesystem(std::string(kFilesystemProbeBytes, '\xff')).fs == "none");
    CHECK(parse_filesystem(ext4_block(0, 2, true)).fs == "none");
    CHECK(parse_filesystem(ext4_block(5, 60, true)).fs == "none");
    CHECK(parse_filesystem(xfs_block(~std::uint64_t{0}, 4096)).fs == "none");
    CHECK(parse_filesystem(xfs_block(5, 7)).size_sectors == 0);
}

}  // namespace cowslip
