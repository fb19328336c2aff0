// A store's file that nobody has open: is it one of ours, whole, and what does it say?
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/result.h"
#include "common/sqlite.h"
#include "schemas/pool_manager.h"

namespace cowslip {

struct StoreImage {
    std::string database;
    std::string log;  // Its "-wal"; empty if there is none.
};

// The file and its log, as the caller may read them.
Result<StoreImage> read_store_image(const std::string& file);

// Reads every page, in memory: no file is made or touched. needs_repair: it is not ours, or not whole.
Result<schemas::StoreCopy> verify_store(StoreImage image);

// The file that takes its place when it is put back: another store by its uuid, and not believed before a rebuild.
// needs_repair: it is not ours, or not whole.
Result<std::string> make_restored(StoreImage image, std::int64_t wall_ms);

// ---- backups, as their files are named -------------------------------------------------------

inline constexpr const char* kBackupsFolder = "backups";

struct BackupName {
    std::uint64_t sequence = 0;
    std::string taken_at;  // RFC 3339, UTC, whole seconds.
    bool dump = false;     // With a dump of the pool's metadata.
};

// "000012-20261128T164117Z": also the dump's name.
std::string backup_stem(const BackupName& name);
// "000012-20261128T164117Z.db", or "….with-dump.db"; and back: nothing if it is none.
std::string backup_file(const BackupName& name);
std::optional<BackupName> parse_backup_file(const std::string& file);
// Of a backup that is being made; the next start removes it.
bool is_unfinished_backup(const std::string& file);

}  // namespace cowslip
