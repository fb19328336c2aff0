#include "services/pool_manager/label.h"

#include <algorithm>
#include <array>

#include "common/compress.h"

namespace cowslip {

namespace {

constexpr std::size_t kMostFrameBytes = schemas::kMostInternalBytes;
constexpr std::size_t kMostChunkBytes = kMaxFrameBytes;  // Decompressed.

struct Chunk {
    std::vector<BackupRow> rows;
    COWSLIP_FIELDS(rows)
};

}  // namespace

std::string encode_label(const PoolLabel& label) {
    const std::string payload = encode(label);
    return make_frame(FrameKind::label, {1, payload}) + make_frame(FrameKind::label, {2, payload});
}

std::optional<PoolLabel> newest_label(std::string_view slots) {
    std::optional<PoolLabel> newest;
    std::uint64_t sequence = 0;
    for (std::size_t at = 0; at < slots.size(); at += kFrameBlockBytes) {
        const auto frame = parse_frame(FrameKind::label, slots.substr(at, kFrameBlockBytes));
        if (!frame || frame->sequence <= sequence) continue;
        auto label = decode_as<PoolLabel>(std::string_view(frame->payload));
        if (!label) continue;
        newest = std::move(*label);
        sequence = frame->sequence;
    }
    return newest;
}

BackupRow to_backup(const VolumeRow& row) {
    return {.thin_id = row.thin_id,
            .name = row.name.value_or(""),
            .template_key = row.template_key.value_or(""),
            .kind = row.kind,
            .state = row.state,
            .parent = row.parent,
            .origin_id = row.origin_id,
            .size_sectors = row.size_sectors,
            .fs_sectors = row.fs_sectors,
            .fs = row.fs,
            .created_at = row.created_at,
            .labels = row.labels,
            .mkfs_options = row.options.mkfs,
            .mount_options = row.options.mount,
            .warm = row.warm,
            .warm_mounted = row.warm_mounted};
}

VolumeRow from_backup(const BackupRow& row) {
    VolumeRow volume;
    volume.thin_id = row.thin_id;
    if (!row.name.empty()) volume.name = row.name;
    if (!row.template_key.empty()) volume.template_key = row.template_key;
    volume.kind = row.kind;
    volume.state = row.state;
    volume.parent = row.parent;
    volume.origin_id = row.origin_id;
    volume.size_sectors = row.size_sectors;
    volume.fs_sectors = row.fs_sectors;
    volume.fs = row.fs;
    volume.created_at = row.created_at;
    volume.labels = row.labels;
    volume.options = {.mkfs = row.mkfs_options, .mount = row.mount_options};
    volume.warm = row.warm;
    volume.warm_mounted = row.warm_mounted;
    return volume;
}

std::uint64_t backup_head_offset(std::uint64_t sequence) {
    return sequence % kBackupSlots * kFrameBlockBytes;
}

std::uint64_t backup_area_offset(std::uint64_t sequence) {
    return kBackupHeadsBytes + sequence % kBackupSlots * kBackupAreaBytes;
}

std::optional<std::string> make_backup_head(std::uint64_t sequence, const BackupHead& head) {
    BackupHead fitting = head;
    while (encode(fitting).size() > kFrameBlockBytes - kFrameHeaderBytes && !fitting.quarantined.empty()) {
        fitting.quarantined.pop_back();
    }
    std::string frame = make_frame(FrameKind::backup_head, {sequence, encode(fitting)});
    if (frame.size() != kFrameBlockBytes) return std::nullopt;
    return frame;
}

std::string make_backup_chunk(std::uint64_t sequence, const std::vector<BackupRow>& rows) {
    return make_frame(FrameKind::backup_chunk, {sequence, compress(encode(Chunk{rows}))});
}

std::vector<FoundBackup> find_backups(std::string_view heads, const std::string& pool_uuid) {
    std::vector<FoundBackup> found;
    for (std::size_t at = 0; at < heads.size(); at += kFrameBlockBytes) {
        const auto frame = parse_frame(FrameKind::backup_head, heads.substr(at, kFrameBlockBytes));
        if (!frame || backup_head_offset(frame->sequence) != at) continue;
        auto head = decode_as<BackupHead>(std::string_view(frame->payload));
        if (!head || head->pool_uuid != pool_uuid) continue;
        const bool sound = std::all_of(head->chunk_bytes.begin(), head->chunk_bytes.end(), [](std::uint32_t bytes) {
            return bytes != 0 && bytes <= kMostFrameBytes && bytes % kFrameBlockBytes == 0;
        });
        if (sound) found.push_back({frame->sequence, std::move(*head)});
    }
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.sequence > b.sequence; });
    return found;
}

std::optional<std::vector<BackupRow>> parse_backup_chunk(std::uint64_t sequence, std::string_view bytes) {
    const auto frame = parse_frame(FrameKind::backup_chunk, bytes);
    if (!frame || frame->sequence != sequence) return std::nullopt;
    const auto text = decompress(frame->payload, kMostChunkBytes);
    if (!text) return std::nullopt;
    auto chunk = decode_as<Chunk>(std::string_view(*text));
    if (!chunk) return std::nullopt;
    return std::move(chunk->rows);
}

}  // namespace cowslip
