#include "services/pool_manager/store_image.h"

#include <fcntl.h>

#include <algorithm>
#include <cctype>
#include <cstddef>

#include <fmt/format.h>

#include "common/files.h"
#include "common/memory_disk.h"
#include "services/pool_manager/store.h"

namespace cowslip {

namespace {

constexpr std::size_t kLargestBytes = std::size_t{8} << 30U;
constexpr const char* kName = "store";  // In memory.
constexpr std::string_view kSuffix = ".db";
constexpr std::string_view kSuffixWithDump = ".with-dump.db";
constexpr std::size_t kTimeDigits = 16;  // 20261128T164117Z

Error no_store(const std::string& why) {
    return {Errc::needs_repair, "it is no whole store: " + why};
}

Result<schemas::StoreCopy> examine(Database& database) {
    if (auto ours = Store::check_kind(database); !ours) return no_store(ours.error().message);
    for (const std::string& table : database.tables()) {
        if (const std::string damage = database.find_damage_of(table); !damage.empty()) return no_store(damage);
    }
    if (const std::string damage = database.find_damage(); !damage.empty()) return no_store(damage);
    if (const std::string dangling = database.find_dangling(); !dangling.empty()) return no_store(dangling);
    return Store::describe(database);
}

MemoryDisk::Files files_of(StoreImage image) {
    MemoryDisk::Files files = {{kName, std::move(image.database)}};
    if (!image.log.empty()) files[kName + std::string("-wal")] = std::move(image.log);
    return files;
}

bool is_number(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

}  // namespace

Result<StoreImage> read_store_image(const std::string& file) {
    StoreImage image;
    image.database = TRY(read_file(file, kLargestBytes));
    auto log = read_file(file + "-wal", kLargestBytes);
    if (!log && log.error().code != Errc::not_found) return log.error();
    if (log) image.log = std::move(*log);
    return image;
}

Result<schemas::StoreCopy> verify_store(StoreImage image) {
    const std::size_t bytes = image.database.size();
    MemoryDisk disk(files_of(std::move(image)));
    try {
        auto database = Database::open(kName, disk.disk());
        if (!database) return no_store(database.error().message);
        auto copy = TRY(examine(*database));
        copy.bytes = bytes;
        return copy;
    } catch (const StoreFailure& failure) {
        return no_store(failure.what());
    }
}

Result<std::string> make_restored(StoreImage image, std::int64_t wall_ms) {
    TRY(verify_store(image));
    MemoryDisk disk(files_of(std::move(image)));
    {
        Store store = TRY(Store::open(kName, disk.disk()));
        store.set_time(wall_ms);
        store.mark_restored();
        store.commit();
    }
    return std::move(disk.files().at(kName));
}

std::string backup_stem(const BackupName& name) {
    std::string time = name.taken_at.substr(0, 19) + "Z";
    std::erase_if(time, [](char c) { return c == '-' || c == ':'; });
    return fmt::format("{:06}-{}", name.sequence, time);
}

std::string backup_file(const BackupName& name) {
    return backup_stem(name) + std::string(name.dump ? kSuffixWithDump : kSuffix);
}

std::optional<BackupName> parse_backup_file(const std::string& file) {
    const std::size_t dash = file.find('-');
    if (dash == std::string::npos || dash < 6 || dash > 18 || file.size() < dash + 1 + kTimeDigits) return std::nullopt;
    const std::string time = file.substr(dash + 1, kTimeDigits);
    const std::string suffix = file.substr(dash + 1 + kTimeDigits);
    if (!is_number(file.substr(0, dash)) || !is_number(time.substr(0, 8)) || !is_number(time.substr(9, 6)) ||
        time[8] != 'T' || time[15] != 'Z' || (suffix != kSuffix && suffix != kSuffixWithDump)) {
        return std::nullopt;
    }
    BackupName name;
    name.sequence = std::stoull(file.substr(0, dash));
    name.taken_at = fmt::format("{}-{}-{}T{}:{}:{}Z", time.substr(0, 4), time.substr(4, 2), time.substr(6, 2),
                                time.substr(9, 2), time.substr(11, 2), time.substr(13, 2));
    name.dump = suffix == kSuffixWithDump;
    return name;
}

bool is_unfinished_backup(const std::string& file) {
    return file.find(".tmp") != std::string::npos;
}

}  // namespace cowslip
