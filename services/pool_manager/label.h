// What a pool says of itself, as bytes: the label (thin id 0) and the store backups (thin id 1). Pure functions. Every
// piece is a frame of whole 4 KiB blocks with a checksum and a sequence, so that a torn one is seen and the newest
// whole one is found.
//
// Label: two slots of one block each, written in turn. Backups: a block for the head of each of kBackupSlots, then
// their areas. A backup's chunks are written first, each with its sequence, and its head last: if that is never
// written, or a later backup has been over the chunks, the backup is none, and the one before it counts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/block_frame.h"
#include "common/result.h"
#include "schemas/device_actor.h"
#include "services/pool_manager/store.h"

namespace cowslip {

struct PoolLabel {
    std::string pool_uuid;
    std::uint32_t tag = 0;
    std::uint32_t block_sectors = 0;
    std::int64_t created_at = 0;
    std::string name;
    COWSLIP_FIELDS(pool_uuid, tag, block_sectors, created_at, name)
};

inline constexpr std::uint32_t kLabelBytes = 2 * kFrameBlockBytes;

std::string encode_label(const PoolLabel& label);  // Both slots, for a new pool.
// That of the valid slot with the highest sequence.
std::optional<PoolLabel> newest_label(std::string_view slots);

// ---- backups ---------------------------------------------------------------------------------

inline constexpr std::size_t kBackupSlots = 4;
inline constexpr std::uint32_t kBackupHeadsBytes = kBackupSlots * kFrameBlockBytes;
inline constexpr std::uint64_t kBackupAreaBytes = 63ULL << 20U;  // Of one slot.
static_assert(kBackupHeadsBytes + kBackupSlots * kBackupAreaBytes <= schemas::kBackupsSectors * 512);

// A volume's row as it is kept in the pool; of those that are not there for good (removing) no more than that they are.
struct BackupRow {
    std::uint32_t thin_id = 0;
    std::string name;          // Empty: none.
    std::string template_key;  // Likewise.
    std::string kind;
    std::string state;
    std::string parent;
    std::optional<std::uint32_t> origin_id;
    std::uint64_t size_sectors = 0;
    std::uint64_t fs_sectors = 0;
    std::string fs;
    std::int64_t created_at = 0;
    schemas::Labels labels;
    std::string mkfs_options;
    std::string mount_options;
    std::uint32_t warm = 0;
    bool warm_mounted = false;
    COWSLIP_FIELDS(thin_id, name, template_key, kind, state, parent, origin_id, size_sectors, fs_sectors, fs,
                   created_at, labels, mkfs_options, mount_options, warm, warm_mounted)
};

BackupRow to_backup(const VolumeRow& row);
VolumeRow from_backup(const BackupRow& row);

struct BackupHead {
    std::string pool_uuid;
    std::uint32_t tag = 0;
    std::int64_t taken_at = 0;
    std::uint64_t transaction_id = 0;  // The pool's then. Thin ids before the ring's birth mark were counted otherwise.
    std::uint32_t next_thin_id = 0;
    std::vector<std::uint32_t> chunk_bytes;  // One after the other from the area's beginning.
    std::vector<std::uint32_t> quarantined;  // As many as there is room for.
    COWSLIP_FIELDS(pool_uuid, tag, taken_at, transaction_id, next_thin_id, chunk_bytes, quarantined)
};

std::uint64_t backup_head_offset(std::uint64_t sequence);
std::uint64_t backup_area_offset(std::uint64_t sequence);

std::optional<std::string> make_backup_head(std::uint64_t sequence, const BackupHead& head);  // Nothing: too large.
std::string make_backup_chunk(std::uint64_t sequence, const std::vector<BackupRow>& rows);

struct FoundBackup {
    std::uint64_t sequence = 0;
    BackupHead head;
};
// Of this pool, the newest first. `heads` are the first kBackupHeadsBytes.
std::vector<FoundBackup> find_backups(std::string_view heads, const std::string& pool_uuid);
// Of that very backup.
std::optional<std::vector<BackupRow>> parse_backup_chunk(std::uint64_t sequence, std::string_view bytes);

}  // namespace cowslip
