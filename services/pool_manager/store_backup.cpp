// Backups of the store beside it: made while work goes on, some pages a turn; checked; the newest three are kept.
#include <algorithm>
#include <iterator>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "services/pool_manager/keys.h"
#include "services/pool_manager/pool_manager.h"
#include "services/pool_manager/store_image.h"

namespace cowslip {

namespace {

constexpr std::int64_t kSoonMs = 1;  // In a turn of its own.
constexpr std::size_t kKept = 3;
constexpr std::size_t kMostListed = 16;  // Should somebody have put others beside them.
constexpr const char* kBeingMade = "new.tmp";
constexpr std::uint64_t kSpareBytes = 16ULL << 20U;  // That a backup leaves to the store.

std::string path_of(const std::string& file) {
    return fmt::format("{}/{}", kBackupsFolder, file);
}

}  // namespace

// What a process has left unfinished. Before the first turn.
void PoolManager::remove_unfinished_backups() {
    for (const StoreFile& file : store_.files().list(kBackupsFolder)) {
        if (is_unfinished_backup(file.name)) store_.files().remove(path_of(file.name));
    }
}

// At the beginning of a turn: SQLite copies nothing while its connection is changing something.
void PoolManager::copy_some() {
    if (!copy_) return;
    copied_ = copy_->copy_pages(options_.backup_pages);
    store_.files().begin_writing(path_of(kBeingMade));
    if (copied_ && !*copied_) {
        timers_.at(now_.monotonic_ms + kSoonMs, [] {});
        return;
    }
    copy_.reset();
    copy_ended_.notify_all();
}

Task<std::string> PoolManager::backup_store(Operation& operation, schemas::StoreBackup /*request*/) {
    const NameLock lock = co_await names_.acquire(kBackupKey, LockMode::exclusive);
    operation.waiting_for = "the copy of the store";
    Result<schemas::StoreCopy> made = co_await make_backup();
    if (!made) {
        store_.files().remove(path_of(kBeingMade));
        co_return made.error();
    }
    drop_old_backups();
    event("store.backed_up", pool_row_ ? pool_row_->name : "",
          {{"sequence", std::to_string(made->sequence)}, {"path", made->path}});
    count("store_copies");
    // So that no generation spans two histories, should it be restored.
    if (pool_.loaded && pool_.frozen.empty()) begin_generation();
    co_return encode(*made);
}

Task<schemas::StoreCopy> PoolManager::make_backup() {
    StoreFiles& files = store_.files();
    Result<void> there = files.ensure_folder(kBackupsFolder);
    if (!there) co_return there.error();
    const std::uint64_t needed = store_.size_bytes() + kSpareBytes;
    if (!has_room_ || files.free_bytes() < needed) {
        co_return Error{Errc::no_space, fmt::format("back up the store: the file system of the state folder has no "
                                                    "room for {} MiB more; make room there, and try again",
                                                    (needed >> 20U) + 1)};
    }
    const std::vector<StoreFile> before = backup_files();
    const std::uint64_t sequence = before.empty() ? 1 : parse_backup_file(before.back().name)->sequence + 1;
    const BackupName name{sequence, format_time(store_.now())};
    const std::string being_made = path_of(kBeingMade);
    Result<DatabaseCopy> copy = store_.begin_copy(being_made);
    if (!copy) co_return copy.error();
    copy_.emplace(std::move(*copy));
    timers_.at(now_.monotonic_ms + kSoonMs, [] {});
    while (copy_) co_await copy_ended_.wait();
    if (!copied_) co_return copied_.error();
    Result<void> whole = co_await check_copy(being_made);
    if (!whole) co_return whole.error();
    const std::string file = path_of(backup_file(name));
    Result<void> placed = files.put_in_place(being_made, file);
    if (!placed) co_return placed.error();
    co_return describe_backup({backup_file(name), 0});
}

// A table a turn: the largest takes a tenth of a second.
Task<void> PoolManager::check_copy(std::string file) {
    const auto damaged = [](const std::string& why) {
        return Error{Errc::internal, "back up the store: its copy is not whole: " + why};
    };
    Result<Database> database = Database::open_still(file, store_.disk());
    if (!database) co_return damaged(database.error().message);
    std::vector<std::string> tables;
    std::string damage;
    try {
        if (Result<void> ours = Store::check_kind(*database); !ours) damage = ours.error().message;
        tables = database->tables();
    } catch (const StoreFailure& failure) {
        damage = failure.what();
    }
    for (const std::string& table : tables) {
        if (!damage.empty()) break;
        co_await sleep_ms(kSoonMs);
        damage = database->find_damage_of(table);
    }
    if (damage.empty()) damage = database->find_dangling();
    if (!damage.empty()) co_return damaged(damage);
    co_return {};
}

// By sequence.
std::vector<StoreFile> PoolManager::backup_files() {
    std::vector<StoreFile> found = store_.files().list(kBackupsFolder);
    std::erase_if(found, [](const StoreFile& file) { return !parse_backup_file(file.name); });
    std::sort(found.begin(), found.end(), [](const StoreFile& a, const StoreFile& b) {
        return parse_backup_file(a.name)->sequence < parse_backup_file(b.name)->sequence;
    });
    return found;
}

schemas::StoreCopy PoolManager::describe_backup(const StoreFile& file) {
    schemas::StoreCopy copy;
    try {
        auto database = Database::open_still(path_of(file.name), store_.disk());
        Result<schemas::StoreCopy> said = database ? Store::describe(*database) : database.error();
        if (said) copy = *said;
        if (!said) copy.damage = said.error().message;
    } catch (const StoreFailure& failure) {
        copy.damage = failure.what();
    }
    const auto name = parse_backup_file(file.name);
    copy.path = fmt::format("{}/{}", options_.store_folder, path_of(file.name));
    copy.sequence = name->sequence;
    copy.taken_at = name->taken_at;
    if (copy.bytes == 0) copy.bytes = file.bytes;
    return copy;
}

void PoolManager::drop_old_backups() {
    const std::vector<StoreFile> found = backup_files();
    for (std::size_t i = 0; i + kKept < found.size(); ++i) store_.files().remove(path_of(found[i].name));
}

Result<schemas::StoreList::Reply> PoolManager::list_backups(const schemas::StoreList& /*request*/) {
    schemas::StoreList::Reply reply;
    const std::vector<StoreFile> found = backup_files();
    for (auto file = found.rbegin(); file != found.rend() && reply.backups.size() < kMostListed; ++file) {
        reply.backups.push_back(describe_backup(*file));
    }
    return reply;
}

}  // namespace cowslip
