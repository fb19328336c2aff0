#include "common/thin_pool.h"

#include <catch2/catch.hpp>

#include <string>
#include <utility>

namespace cowslip {
namespace {

constexpr const char* kHealthy = "4294967301 1650/16384 7/1024 - rw discard_passdown queue_if_no_space - 1024";

std::string with_mode(const std::string& mode, const std::string& check = "-") {
    return "41 1/4 5/5 - " + mode + " discard_passdown error_if_no_space " + check + " 1";
}

// What thin_restore 0.9.0 wrote for transaction 4294967301, time 5, 128-sector blocks, 1024 of them.
std::string restored_superblock() {
    std::string bytes(kSuperblockBytes, '\0');
    const auto put = [&](std::size_t at, std::initializer_list<int> values) {
        for (const int value : values) bytes[at++] = static_cast<char>(value);
    };
    put(0, {0x4e, 0x65, 0x6b, 0xc9});
    put(32, {0xba, 0x52, 0x9c, 0x01, 0, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0});
    put(48, {5, 0, 0, 0, 1, 0, 0, 0});
    put(64, {0, 4, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0});
    put(192, {0, 4, 0, 0, 0, 0, 0, 0, 0x0b, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0});
    put(320, {7, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 8, 0, 0, 0, 0, 4, 0, 0});
    return bytes;
}

}  // namespace

TEST_CASE("every field of a thin-pool status line is read", "[thin_pool]") {
    const auto status = parse_thin_pool_status(
        "4294967301 1650/16384 7/1024 99 out_of_data_space no_discard_passdown error_if_no_space needs_check 1024 new");
    REQUIRE(status);
    CHECK(status->mode == PoolMode::out_of_data_space);
    CHECK(status->transaction_id == 4294967301);
    CHECK(status->used_metadata_blocks == 1650);
    CHECK(status->total_metadata_blocks == 16384);
    CHECK(status->used_data_blocks == 7);
    CHECK(status->total_data_blocks == 1024);
    CHECK(status->held_root == 99);
    CHECK_FALSE(status->ignore_discard);
    CHECK_FALSE(status->discard_passdown);
    CHECK(status->error_if_no_space);
    CHECK(status->needs_check);
    CHECK(status->metadata_low_water_blocks == 1024);
}

TEST_CASE("a healthy thin-pool status line has nothing held and needs no check", "[thin_pool]") {
    const auto status = parse_thin_pool_status(kHealthy);
    REQUIRE(status);
    CHECK(status->mode == PoolMode::rw);
    CHECK(status->held_root == 0);
    CHECK(status->discard_passdown);
    CHECK_FALSE(status->error_if_no_space);
    CHECK_FALSE(status->needs_check);
}

TEST_CASE("the status words Fail and Error are modes", "[thin_pool]") {
    CHECK(parse_thin_pool_status("Fail")->mode == PoolMode::fail);
    CHECK(parse_thin_pool_status("Error")->mode == PoolMode::error);
}

TEST_CASE("a truncated or unknown thin-pool status is an error that says what it saw", "[thin_pool]") {
    const std::string text = GENERATE(
        "", "5", "5 119/4096", "5 119/4096 1024", "x 1/4 5/5 - rw discard_passdown queue_if_no_space - 1",
        "1 1/4 5/5 - rw discard_passdown queue_if_no_space -", "1 1/4 5/5 - Rw discard_passdown queue_if_no_space - 1",
        "1 1/4 5/5 - Fail discard_passdown queue_if_no_space - 1",
        "1 1-4 5/5 - rw discard_passdown queue_if_no_space - 1", "1 1/4 5/5 - rw discard queue_if_no_space - 1",
        "1 1/4 5/5 - rw discard_passdown queue_if_no_space maybe 1",
        "-1 1/4 5/5 - rw discard_passdown queue_if_no_space - 1",
        "99999999999999999999 1/4 5/5 - rw discard_passdown queue_if_no_space - 1", "Fail Fail");
    CAPTURE(text);
    const auto status = parse_thin_pool_status(text);
    REQUIRE_FALSE(status);
    CHECK_THAT(status.error().message, Catch::Contains("'" + text + "'"));
}

TEST_CASE("a message is done only if the pool is writable and its id is in the window", "[thin_pool]") {
    CHECK(judge(0, with_mode("rw"), 40, 42) == Outcome::done);
    CHECK(judge(0, with_mode("rw"), 41, 41) == Outcome::done);
    CHECK(judge(0, with_mode("out_of_data_space"), 41, 41) == Outcome::done);
    CHECK(judge(0, with_mode("ro"), 41, 41) == Outcome::unknown);
    CHECK(judge(0, with_mode("ro", "needs_check"), 41, 41) == Outcome::unknown);
    CHECK(judge(0, with_mode("rw", "needs_check"), 41, 41) == Outcome::unknown);
    CHECK(judge(0, with_mode("rw"), 42, 43) == Outcome::unknown);
    CHECK(judge(0, with_mode("rw"), 39, 40) == Outcome::unknown);
    CHECK(judge(0, "Fail", 0, 0) == Outcome::unknown);
    CHECK(judge(0, "Error", 0, 0) == Outcome::unknown);
    CHECK(judge(0, "", 0, 0) == Outcome::unknown);
}

TEST_CASE("an errno is a refusal only when the pool could have said yes", "[thin_pool]") {
    CHECK(judge(EEXIST, with_mode("rw"), 41, 41) == Outcome::refused);
    CHECK(judge(ENODATA, with_mode("out_of_data_space"), 41, 41) == Outcome::refused);
    CHECK(judge(EOPNOTSUPP, with_mode("ro"), 41, 41) == Outcome::unknown);
    CHECK(judge(ENODATA, with_mode("ro", "needs_check"), 41, 41) == Outcome::unknown);
    CHECK(judge(ENXIO, "", 41, 41) == Outcome::unknown);
}

TEST_CASE("a thin-pool table names its features with their count", "[thin_pool]") {
    CHECK(make_thin_pool_table({.metadata_device = "/dev/loop1", .data_device = "/dev/loop0"}) ==
          "/dev/loop1 /dev/loop0 128 0 0");
    CHECK(make_thin_pool_table({.metadata_device = "7:1",
                                .data_device = "7:0",
                                .block_sectors = 256,
                                .low_water_blocks = 9,
                                .skip_zeroing = true,
                                .discard_passdown = false,
                                .error_if_no_space = true}) ==
          "7:1 7:0 256 9 3 skip_block_zeroing no_discard_passdown error_if_no_space");
}

TEST_CASE("the kernel's thin-pool table, with its space at the end, is read back", "[thin_pool]") {
    const auto table = parse_thin_pool_table("7:1 7:0 256 9 3 ignore_discard no_discard_passdown read_only ");
    REQUIRE(table);
    CHECK(table->metadata_device == "7:1");
    CHECK(table->data_device == "7:0");
    CHECK(table->block_sectors == 256);
    CHECK(table->low_water_blocks == 9);
    CHECK_FALSE(table->skip_zeroing);
    CHECK(table->ignore_discard);
    CHECK_FALSE(table->discard_passdown);
    CHECK(table->read_only);
    CHECK_FALSE(table->error_if_no_space);
    CHECK(parse_thin_pool_table("7:1 7:0 128 0"));
    for (const auto* text :
         {"", "7:1 7:0 128", "7:1 7:0 128 0 2 read_only", "7:1 7:0 128 0 1 unheard_of", "7:1 7:0 x 0 0"}) {
        CAPTURE(text);
        CHECK_FALSE(parse_thin_pool_table(text));
    }
}

TEST_CASE("a thin table is pool and id, with an external origin only where there is one", "[thin_pool]") {
    CHECK(make_thin_table({.pool_device = "253:0", .thin_id = 7}) == "253:0 7");
    CHECK(make_thin_table({.pool_device = "253:0", .thin_id = 7, .external_origin = "7:3"}) == "253:0 7 7:3");
    const auto table = parse_thin_table("253:0 16777215");
    REQUIRE(table);
    CHECK(table->pool_device == "253:0");
    CHECK(table->thin_id == 16777215);
    CHECK_FALSE(table->external_origin);
    CHECK(parse_thin_table("253:0 1 7:3")->external_origin == "7:3");
    CHECK_FALSE(parse_thin_table("253:0"));
    CHECK_FALSE(parse_thin_table("253:0 x"));
}

TEST_CASE("pool messages are spelled as the kernel reads them", "[thin_pool]") {
    CHECK(create_thin_message(2) == "create_thin 2");
    CHECK(create_snap_message(16777215, 2) == "create_snap 16777215 2");
    CHECK(delete_message(3) == "delete 3");
    CHECK(set_transaction_id_message(0, 4503599627370497) == "set_transaction_id 0 4503599627370497");
}

TEST_CASE("a superblock that thin_restore wrote is valid and says what was restored", "[thin_pool]") {
    const auto superblock = parse_superblock(restored_superblock());
    CHECK(superblock.valid);
    CHECK_FALSE(superblock.zeroed);
    CHECK_FALSE(superblock.needs_check);
    CHECK(superblock.transaction_id == 4294967301);
    CHECK(superblock.time == 5);
    CHECK(superblock.data_block_sectors == 128);
    CHECK(superblock.held_root == 0);
    CHECK(superblock.total_data_blocks == 1024);
    CHECK(superblock.used_data_blocks == 1);
}

TEST_CASE("any changed bit makes a superblock invalid, and an invalid one says nothing more", "[thin_pool]") {
    const auto at = GENERATE(as<std::size_t>{}, 0, 4, 32, 48, 360, 4095);
    CAPTURE(at);
    auto bytes = restored_superblock();
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    const auto superblock = parse_superblock(bytes);
    CHECK_FALSE(superblock.valid);
    CHECK_FALSE(superblock.zeroed);
    CHECK(superblock.transaction_id == 0);
}

TEST_CASE("a zeroed superblock is told apart from a damaged one", "[thin_pool]") {
    std::string bytes(kSuperblockBytes, '\0');
    CHECK(parse_superblock(bytes).zeroed);
    CHECK_FALSE(parse_superblock(bytes).valid);
    bytes.back() = 1;
    CHECK_FALSE(parse_superblock(bytes).zeroed);
    CHECK_FALSE(parse_superblock(restored_superblock().substr(1)).valid);
}

TEST_CASE("the list of thin devices is read from thin_ls and sorted", "[thin_pool]") {
    const auto list = parse_thin_list(" 12             0  4294967300 \n  0             1           1 \n");
    REQUIRE(list);
    REQUIRE(list->size() == 2);
    CHECK((*list)[0].thin_id == 0);
    CHECK((*list)[0].mapped_blocks == 1);
    CHECK((*list)[1].thin_id == 12);
    CHECK((*list)[1].transaction_id == 4294967300);
    CHECK(parse_thin_list("")->empty());
}

TEST_CASE("what each thin device has for itself is read where it was asked for", "[thin_pool]") {
    const auto list = parse_thin_list("2 16 1 7\n", Sharing::counted);
    REQUIRE(list);
    CHECK(list->front().mapped_blocks == 16);
    CHECK(list->front().exclusive_blocks == 7);
    CHECK_FALSE(parse_thin_list("2 16 1\n", Sharing::counted));
    CHECK_FALSE(parse_thin_list("2 16 1 -\n", Sharing::counted));
}

TEST_CASE("the mapped sectors of a thin device are read from its status", "[thin_pool]") {
    CHECK(parse_thin_status("25600 204799") == 25600);
    CHECK(parse_thin_status("0 -") == 0);
    for (const auto* text : {"", "Fail", "Error", "- -", "1"}) CHECK_FALSE(parse_thin_status(text));
}

TEST_CASE("half a list of thin devices is an error", "[thin_pool]") {
    const auto* text =
        GENERATE("0 1 1", "0 1 1\n12 0 42", "0 1\n", "a 1 1\n", "0 1 1 1\n", "\n", "DEV MAPPED_BLOCKS TRANSACTION\n");
    CAPTURE(text);
    CHECK_FALSE(parse_thin_list(text));
}

TEST_CASE("metadata has room for every data block and a thousand clones, within the kernel's bounds", "[thin_pool]") {
    constexpr std::uint64_t kGib = (std::uint64_t{1} << 30U) / kSectorBytes;
    CHECK(default_metadata_sectors(0, 128) == 16 * 2048);
    CHECK(default_metadata_sectors(kGib, 128) == 17 * 2048);
    CHECK(default_metadata_sectors(100 * kGib, 128) == 116 * 2048);
    CHECK(default_metadata_sectors(100 * 1024 * kGib, 128) == kMaxMetadataSectors);
    CHECK(default_metadata_sectors(~std::uint64_t{0}, 128) == kMaxMetadataSectors);
    CHECK(kMaxMetadataSectors * kSectorBytes == 17045913600);
}

}  // namespace cowslip
