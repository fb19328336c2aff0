#include <catch2/catch.hpp>

#include "common/block_frame.h"
#include "common/thin_pool.h"
#include "services/device_actor/device_header.h"

namespace cowslip {
namespace {

constexpr std::uint64_t kMib = 2048;  // Sectors.

DeviceHeader example(std::uint64_t sequence) {
    return {.pool_uuid = std::string(32, 'a'),
            .device_id = std::string(32, 'b'),
            .number = 3,
            .block_sectors = 128,
            .areas = share_out({0, 1024 * kMib}, 32 * kMib, 128).value(),
            .swapped = sequence > 1,
            .sequence = sequence};
}

}  // namespace

TEST_CASE("a device is shared out between its header, metadata, room to mend them, and data", "[device_header]") {
    const auto areas = share_out({0, 1024 * kMib + 5}, 32 * kMib, 128);
    REQUIRE(areas);
    CHECK(areas->metadata_start == kMib);
    CHECK(areas->spare_start == 33 * kMib);
    CHECK(areas->data_start == 65 * kMib);
    CHECK(areas->data_sectors == 959 * kMib);  // Whole blocks.
    // The kernel's most is no whole MiB: the next area begins on one all the same.
    const auto largest = share_out({0, 1024 * 1024 * kMib}, kMaxMetadataSectors, 2048);
    REQUIRE(largest);
    CHECK(largest->spare_start % kMib == 0);
    CHECK(largest->spare_start >= largest->metadata_start + kMaxMetadataSectors);
    CHECK(largest->data_sectors % 2048 == 0);
    // A later one, when the others have all the metadata that there may be.
    CHECK(share_out({0, 1024 * kMib}, 0, 128)->data_start == kMib);
    CHECK(share_out({0, 1024 * kMib}, 0, 128)->data_sectors == 1023 * kMib);
    // What one has become larger by.
    const auto later = share_out({1024 * kMib + 128, 2048 * kMib}, kMib, 128);
    CHECK(later->metadata_start == 1025 * kMib);
    CHECK(later->data_sectors == 1021 * kMib);
}

TEST_CASE("a device without room for one block is too small", "[device_header]") {
    CHECK(share_out({0, 65 * kMib + 128}, 32 * kMib, 128));
    CHECK(share_out({0, 65 * kMib + 127}, 32 * kMib, 128).error().code == Errc::invalid_argument);
    CHECK_FALSE(share_out({0, 0}, 0, 128));
    CHECK_FALSE(share_out({0, ~std::uint64_t{0}}, 8192, 128));
}

TEST_CASE("of two copies of a header the newer whole one counts", "[device_header]") {
    const std::string older = encode_header(example(1));
    const std::string newer = encode_header(example(2));
    CHECK(older.size() == kFrameBlockBytes);
    CHECK(newest_header(older, newer)->swapped);
    CHECK(newest_header(newer, older)->sequence == 2);
    std::string torn = newer;
    torn[100] = static_cast<char>(torn[100] ^ 1);
    CHECK(newest_header(torn, older)->sequence == 1);
    CHECK(newest_header(older, torn)->sequence == 1);
    CHECK_FALSE(newest_header(torn, torn));
    CHECK_FALSE(newest_header(std::string(kFrameBlockBytes, '\0'), ""));
    const auto read = newest_header(older, older);
    CHECK(read->pool_uuid == std::string(32, 'a'));
    CHECK(read->device_id == std::string(32, 'b'));
    CHECK(read->number == 3);
    CHECK(read->areas.data_sectors == example(1).areas.data_sectors);
}

TEST_CASE("a header has room for all the areas that a device may come to have", "[device_header]") {
    DeviceHeader header = example(1);
    header.number = ~std::uint32_t{0};
    header.areas = share_out({0, std::uint64_t{1} << 44U}, kMaxMetadataSectors, 128).value();
    for (std::size_t i = 0; i < kMostLaterAreas; ++i) {
        const std::uint64_t end = header.end_sector();
        header.later.push_back(share_out({end, end + (std::uint64_t{1} << 38U)}, 8, 128).value());
        header.later.back().place = ~std::uint32_t{0} - static_cast<std::uint32_t>(i);
    }
    const std::string block = encode_header(header);
    REQUIRE(block.size() == kFrameBlockBytes);
    const auto read = newest_header(block, block);
    REQUIRE(read);
    CHECK(read->later.size() == kMostLaterAreas);
    CHECK(read->later.back().place == header.later.back().place);
    CHECK(read->end_sector() == header.end_sector());
}

TEST_CASE("a header whose areas cannot be is none", "[device_header]") {
    const auto read = [](const DeviceHeader& header) {
        const std::string block = encode_header(header);
        return newest_header(block, block);
    };
    REQUIRE(read(example(1)));
    DeviceHeader header = example(1);
    SECTION("over the header") {
        header.areas.metadata_start = 8;
    }
    SECTION("over each other") {
        header.areas.data_start = header.areas.spare_start;
    }
    SECTION("no whole blocks") {
        header.areas.data_sectors += 1;
    }
    SECTION("no block size") {
        header.block_sectors = 0;
    }
    SECTION("later ones over the first") {
        header.later.push_back(share_out({0, 2048 * kMib}, 0, 128).value());
    }
    SECTION("beyond all devices") {
        header.areas.data_start = ~std::uint64_t{0} - 8;
    }
    CHECK_FALSE(read(header));
}

}  // namespace cowslip
