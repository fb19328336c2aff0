// Backups of the store beside it: made while work goes on, some pages a turn; checked; the newest three are kept.
#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "services/pool_manager/keys.h"
#include "services/pool_manager/pool_manager.h"
#include "services/pool_manager/store_image.h"

namespace cowslip {

namespace {

constexpr std::int64_t kSoonMs = 1;  // In a turn of its own.
constexpr std::int64_t kLookForChangesMs =
    600 * 1000;  // Whether one is due: after a start, one that failed, or an idle time.
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
    commit();  // It is made between transactions.
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
    Result<schemas::StoreCopy> made = co_await back_up(operation);
    if (!made) co_return made.error();
    co_return encode(*made);
}

// Where something has changed since the last one.
Task<std::string> PoolManager::back_up_now_and_then(Operation& operation) {
    const std::int64_t interval_ms = options_.store_backup_ms;
    if (interval_ms <= 0) co_return "";
    std::int64_t wait_ms = std::min(interval_ms, kLookForChangesMs);
    for (;;) {
        co_await sleep_ms(wait_ms);
        wait_ms = store_changed_ ? interval_ms : std::min(interval_ms, kLookForChangesMs);
        if (!store_changed_) continue;
        operation.deaths = 0;
        Result<schemas::StoreCopy> made = co_await back_up(operation);
        if (made) continue;
        find(FindingKind::store_backup, "", fmt::format("{}; it is tried again", made.error().message));
        wait_ms = std::min(interval_ms, kLookForChangesMs);
    }
}

Task<schemas::StoreCopy> PoolManager::back_up(Operation& operation) {
    const NameLock lock = co_await names_.acquire(kBackupKey, LockMode::exclusive);
    operation.waiting_for = "the copy of the store";
    const bool changed = std::exchange(store_changed_, false);
    BackupName name;
    Result<void> made = co_await make_backup(&name);
    if (!made) {
        store_changed_ = store_changed_ || changed;
        store_.files().remove(path_of(kBeingMade));
        co_return made.error();
    }
    // So that no generation spans two histories, should it be restored.
    if (pool_.loaded && pool_.frozen.empty()) begin_generation();
    const std::vector<std::string> kept = drop_old_backups();
    Result<void> dumped = co_await dump_pool(operation, backup_stem(name), kept);
    const std::string without = path_of(backup_file(name));
    name.dump = dumped.has_value();
    if (name.dump) dumped = store_.files().put_in_place(without, path_of(backup_file(name)));
    if (!dumped) name.dump = false;
    schemas::StoreCopy copy = describe_backup({backup_file(name), 0});
    if (!dumped) copy.no_dump = dumped.error().message;
    event("store.backed_up", pool_row_ ? pool_row_->name : "",
          {{"sequence", std::to_string(copy.sequence)}, {"path", copy.path}, {"dump", name.dump ? "true" : "false"}});
    count("store_copies");
    unfind(FindingKind::store_backup, "");
    co_return copy;
}

// The pool's metadata right after it. Who reads them otherwise waits for the one snapshot that there is, as this does.
Task<void> PoolManager::dump_pool(Operation& operation, std::string name, std::vector<std::string> kept) {
    const NameLock pool = co_await names_.acquire(kPoolKey, LockMode::shared);
    if (!pool_.loaded || !pool_.writable || !pool_.frozen.empty()) {
        co_return Error{Errc::unavailable, "the pool is not in service"};
    }
    const NameLock snapshot = co_await names_.acquire(kMetadataSnapKey, LockMode::exclusive);
    const bool own = pool_row_->spec.backing != "adopted";
    schemas::DumpMetadata command{pool_row_->spec.pool, std::move(name), std::move(kept), false};
    schemas::DumpMetadata again = command;
    again.release_held = own;  // What is held then is what the dead actor had reserved.
    Result<schemas::DumpMetadata::Reply> reply =
        co_await tell(operation, ActorKind::device, Urgency::behind, command, again);
    if (!reply) co_return reply.error();
    const Outcome outcome = take_verdict(operation, reply->verdict);
    if (reply->verdict.error_number == EBUSY) {
        co_return Error{Errc::in_use, "another program holds a metadata snapshot of the pool"};
    }
    if (outcome == Outcome::done) co_return {};
    co_return errno_error(reply->verdict.error_number, "reserve a metadata snapshot");
}

Task<void> PoolManager::make_backup(BackupName* name) {
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
    *name = {sequence, format_time(store_.now()), false};
    const std::string being_made = path_of(kBeingMade);
    Result<DatabaseCopy> copy = store_.begin_copy(being_made);
    if (!copy) co_return copy.error();
    copy_.emplace(std::move(*copy));
    timers_.at(now_.monotonic_ms + kSoonMs, [] {});
    while (copy_) co_await copy_ended_.wait();
    if (!copied_) co_return copied_.error();
    Result<void> whole = co_await check_copy(being_made);
    if (!whole) co_return whole.error();
    co_return files.put_in_place(being_made, path_of(backup_file(*name)));
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
    copy.dump = name->dump;
    if (copy.bytes == 0) copy.bytes = file.bytes;
    return copy;
}

// Gives the stems of those that stay and have a dump.
std::vector<std::string> PoolManager::drop_old_backups() {
    std::vector<std::string> kept;
    const std::vector<StoreFile> found = backup_files();
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (i + kKept < found.size()) {
            store_.files().remove(path_of(found[i].name));
        } else if (const auto name = parse_backup_file(found[i].name); name->dump) {
            kept.push_back(backup_stem(*name));
        }
    }
    return kept;
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
