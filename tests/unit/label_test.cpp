#include "services/pool_manager/label.h"

#include <catch2/catch.hpp>

#include "common/block_frame.h"
#include "common/compress.h"

namespace cowslip {
namespace {

PoolLabel example_label(const std::string& name) {
    return {
        .pool_uuid = std::string(32, 'a'), .tag = 7, .block_sectors = 128, .created_at = 1234567890123, .name = name};
}

// Thin id 1 as it lies in the pool, its areas one after the other.
struct Ring {
    std::string bytes = std::string(kBackupHeadsBytes, '\0');
    void put(std::uint64_t sequence, const std::string& uuid) {
        BackupHead head;
        head.pool_uuid = uuid;
        head.chunk_bytes = {kFrameBlockBytes};
        bytes.replace(backup_head_offset(sequence), kFrameBlockBytes, *make_backup_head(sequence, head));
    }
};

}  // namespace

TEST_CASE("a label is read again, and a slot that is torn at any byte leaves the other one", "[label]") {
    const std::string whole = encode_label(example_label("fast"));
    REQUIRE(whole.size() == kLabelBytes);
    const auto label = newest_label(whole);
    REQUIRE(label);
    CHECK(label->pool_uuid == std::string(32, 'a'));
    CHECK(label->tag == 7);
    CHECK(label->block_sectors == 128);
    CHECK(label->created_at == 1234567890123);
    CHECK(label->name == "fast");
    for (std::size_t at = 0; at < 128; ++at) {
        std::string torn = whole;
        torn[at] = static_cast<char>(torn[at] ^ 1);
        const auto other = newest_label(torn);
        REQUIRE(other);
        CHECK(other->name == "fast");
        torn[kFrameBlockBytes + at] = static_cast<char>(torn[kFrameBlockBytes + at] ^ 1);
        // Behind the payload is padding.
        if (at < 100) CHECK_FALSE(newest_label(torn));
    }
    CHECK_FALSE(newest_label(std::string(kLabelBytes, '\0')));
    CHECK_FALSE(newest_label(""));
    CHECK_FALSE(newest_label(whole.substr(0, 40)));
}

TEST_CASE("of two valid slots the one with the higher sequence counts, whichever it is", "[label]") {
    const std::string older = make_frame(FrameKind::label, {4, encode(example_label("older"))});
    const std::string newer = make_frame(FrameKind::label, {5, encode(example_label("newer"))});
    CHECK(newest_label(older + newer)->name == "newer");
    CHECK(newest_label(newer + older)->name == "newer");
}

TEST_CASE("a frame of another kind is none, nor is one whose length goes past its bytes", "[label]") {
    const std::string frame = make_frame(FrameKind::backup_head, {9, std::string(5000, 'x')});
    CHECK(frame.size() == 2 * kFrameBlockBytes);
    CHECK(parse_frame(FrameKind::backup_head, frame)->sequence == 9);
    CHECK_FALSE(parse_frame(FrameKind::backup_chunk, frame));
    CHECK_FALSE(parse_frame(FrameKind::backup_head, frame.substr(0, kFrameBlockBytes)));
}

TEST_CASE("backups are found newest first, and those of other pools or in another's place are none", "[label]") {
    const std::string ours(32, 'a');
    Ring ring;
    CHECK(find_backups(ring.bytes, ours).empty());
    for (std::uint64_t sequence = 1; sequence <= 6; ++sequence) ring.put(sequence, ours);
    auto found = find_backups(ring.bytes, ours);
    REQUIRE(found.size() == kBackupSlots);
    CHECK(found[0].sequence == 6);
    CHECK(found[3].sequence == 3);
    ring.put(5, std::string(32, 'b'));
    ring.bytes[backup_head_offset(6) + 40] = 'X';
    found = find_backups(ring.bytes, ours);
    REQUIRE(found.size() == 2);
    CHECK(found[0].sequence == 4);
    const std::string head = ring.bytes.substr(backup_head_offset(4), kFrameBlockBytes);
    ring.bytes.replace(backup_head_offset(5), kFrameBlockBytes, head);
    CHECK(find_backups(ring.bytes, ours).size() == 2);
}

TEST_CASE("the rows of a backup come back as they were, and only as that backup's", "[label]") {
    VolumeRow row;
    row.thin_id = 42;
    row.name = "registry.example/app ☃";
    row.parent = "base";
    row.origin_id = 17;
    row.state = "ready";
    row.size_sectors = 2048;
    row.fs_sectors = 1024;
    row.fs = "xfs";
    row.created_at = 99;
    row.labels = {{"team", "blue"}};
    std::vector<BackupRow> rows(1000, to_backup(row));
    const std::string chunk = make_backup_chunk(3, rows);
    CHECK(chunk.size() == kFrameBlockBytes);  // Compressed.
    const auto found = parse_backup_chunk(3, chunk);
    REQUIRE(found);
    REQUIRE(found->size() == 1000);
    const VolumeRow back = from_backup(found->back());
    CHECK(encode(to_backup(back)) == encode(to_backup(row)));
    CHECK(back.name == row.name);
    CHECK_FALSE(back.template_key);
    CHECK_FALSE(parse_backup_chunk(4, chunk));
    CHECK_FALSE(parse_backup_chunk(3, chunk.substr(0, 60)));
}

TEST_CASE("a head keeps as much of the quarantine as there is room for, and says when its chunks are too many",
          "[label]") {
    BackupHead head;
    head.pool_uuid = std::string(32, 'a');
    for (std::uint32_t id = 0; id < 5000; ++id) head.quarantined.push_back(100000 + id);
    const auto frame = make_backup_head(1, head);
    REQUIRE(frame);
    std::string ring(kBackupHeadsBytes, '\0');
    ring.replace(backup_head_offset(1), kFrameBlockBytes, *frame);
    CHECK(find_backups(ring, head.pool_uuid).front().head.quarantined.size() > 500);
    head.chunk_bytes.assign(5000, kFrameBlockBytes);
    CHECK_FALSE(make_backup_head(1, head));
}

TEST_CASE("frames that are whole and say nothing that is known are none", "[label]") {
    const std::string ours(32, 'a');
    const std::string nonsense = encode(7);
    const std::string slots = encode_label(example_label("fast"));
    CHECK(newest_label(make_frame(FrameKind::label, {9, nonsense}) + slots.substr(kFrameBlockBytes))->name == "fast");
    Ring ring;
    ring.bytes.replace(backup_head_offset(1), kFrameBlockBytes, make_frame(FrameKind::backup_head, {1, nonsense}));
    CHECK(find_backups(ring.bytes, ours).empty());
    for (const std::uint32_t bytes : std::vector<std::uint32_t>{0, kFrameBlockBytes + 1, 1U << 20U}) {
        BackupHead head;
        head.pool_uuid = ours;
        head.chunk_bytes = {bytes};
        ring.bytes.replace(backup_head_offset(2), kFrameBlockBytes, *make_backup_head(2, head));
        CHECK(find_backups(ring.bytes, ours).empty());
    }
    CHECK_FALSE(parse_backup_chunk(3, make_frame(FrameKind::backup_chunk, {3, "not compressed"})));
    CHECK_FALSE(parse_backup_chunk(3, make_frame(FrameKind::backup_chunk, {3, compress(nonsense)})));
}

}  // namespace cowslip
