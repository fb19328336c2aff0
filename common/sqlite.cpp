#include "common/sqlite.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include <fmt/format.h>

namespace cowslip {

namespace {

// The unix VFS, except that a name stays as it was given.
int keep_name(sqlite3_vfs* /*vfs*/, const char* name, int size, char* out) {
    const int length = std::snprintf(out, static_cast<std::size_t>(size), "%s", name);
    return length < size ? SQLITE_OK : SQLITE_CANTOPEN;
}

const char* relative_vfs() {
    static const int registered = [] {
        // Nobody asks how much memory is in use, and each allocation would count it under a lock. (Refused once the
        // library is in use: no harm.)
        sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
        static sqlite3_vfs vfs = *sqlite3_vfs_find("unix");
        vfs.zName = "cowslip";
        vfs.xFullPathname = keep_name;
        return sqlite3_vfs_register(&vfs, 0);
    }();
    return registered == SQLITE_OK ? "cowslip" : nullptr;
}

void drop_page_cache(const std::string& file) {
    const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return;
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    // From the disk, and in larger pieces than pages. Of what it is asked for at once the kernel reads no more than one
    // request to the disk or its read-ahead (force_page_cache_readahead() in mm/readahead.c), 128 KiB mostly.
    constexpr off_t kPiece = 128 << 10;
    struct stat about {};
    const off_t size = ::fstat(fd, &about) == 0 ? about.st_size : 0;
    for (off_t at = 0; at < size; at += kPiece) ::posix_fadvise(fd, at, kPiece, POSIX_FADV_WILLNEED);
    ::close(fd);
}

}  // namespace

Query::~Query() {
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
}

Query& Query::bind(std::int64_t value) {
    sqlite3_bind_int64(statement_, ++bound_, value);
    return *this;
}

Query& Query::bind(std::string_view text) {
    sqlite3_bind_text64(statement_, ++bound_, text.data(), text.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
    return *this;
}

Query& Query::bind_blob(std::string_view bytes) {
    // An empty view may have no data, which SQLite would store as NULL.
    sqlite3_bind_blob64(statement_, ++bound_, bytes.empty() ? "" : bytes.data(), bytes.size(), SQLITE_TRANSIENT);
    return *this;
}

Query& Query::bind_null() {
    sqlite3_bind_null(statement_, ++bound_);
    return *this;
}

bool Query::next() {
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW || code == SQLITE_DONE) return code == SQLITE_ROW;
    const int primary = code & 0xFF;
    if (primary == SQLITE_CONSTRAINT || primary == SQLITE_MISMATCH || primary == SQLITE_TOOBIG) {
        throw StoreRefusal(
            fmt::format("store: {}: {}", sqlite3_sql(statement_), sqlite3_errmsg(database_.handle_.get())));
    }
    database_.fail(code, sqlite3_sql(statement_));
}

void Query::run() {
    database_.open_savepoint();
    next();
}

std::int64_t Query::integer(int column) const {
    return sqlite3_column_int64(statement_, column);
}

std::string Query::text(int column) const {
    const void* bytes = sqlite3_column_blob(statement_, column);
    const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_, column));
    return bytes == nullptr ? std::string() : std::string(static_cast<const char*>(bytes), size);
}

bool Query::is_null(int column) const {
    return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

Database::Database(sqlite3* handle) : handle_(handle, &sqlite3_close) {}
Database::Database(Database&&) noexcept = default;
Database::~Database() = default;

Result<Database> Database::open(const std::string& file, const StoreDisk& disk) {
    const auto drop = disk.drop_page_cache ? disk.drop_page_cache : drop_page_cache;
    drop(file);
    drop(file + "-wal");
    sqlite3* handle = nullptr;
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    const int code = sqlite3_open_v2(file.c_str(), &handle, flags, disk.vfs != nullptr ? disk.vfs : relative_vfs());
    Database database(handle);
    if (code != SQLITE_OK)
        return Error{Errc::needs_repair, fmt::format("open store '{}': {}", file, sqlite3_errstr(code))};
    try {
        TRY(database.prepare_file(file));
    } catch (const StoreFailure& failure) {
        return Error{Errc::needs_repair, failure.what()};
    }
    return database;
}

Result<Database> Database::open_still(const std::string& file, const StoreDisk& disk) {
    sqlite3* handle = nullptr;
    const int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    const std::string uri = fmt::format("file:{}?immutable=1", file);
    const int code = sqlite3_open_v2(uri.c_str(), &handle, flags, disk.vfs != nullptr ? disk.vfs : relative_vfs());
    Database database(handle);
    if (code == SQLITE_OK) return database;
    return Error{Errc::needs_repair, fmt::format("open '{}': {}", file, sqlite3_errstr(code))};
}

Result<void> Database::prepare_file(const std::string& file) {
    // Exclusive before WAL: then the WAL index lives in our memory, and no second process can join.
    for (const char* pragma :
         {"PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL",
          "PRAGMA foreign_keys=ON", "PRAGMA trusted_schema=OFF", "PRAGMA journal_size_limit=67108864",
          // What a savepoint may have to undo: else a file in /var/tmp, where room is somebody else's.
          "PRAGMA temp_store=MEMORY"}) {
        TRY(execute(pragma));
    }
    const auto value_of = [&](const char* pragma) {
        Query pragma_query = query(pragma);
        pragma_query.next();
        return pragma_query.text(0);
    };
    if (value_of("PRAGMA journal_mode") != "wal" || value_of("PRAGMA synchronous") != "2" ||
        value_of("PRAGMA foreign_keys") != "1") {
        return Error{Errc::needs_repair,
                     fmt::format("open store '{}': it does not take WAL with synchronous=FULL", file)};
    }
    // What an earlier process failed to sync may be in the log all the same: nothing is built on it before it is
    // on the disk, in the database. No room for that is no broken disk.
    try {
        query("PRAGMA wal_checkpoint(TRUNCATE)").next();
    } catch (const StoreFailure& failure) {
        if (failure.kind() != StoreFailure::Kind::full) throw;
    }
    return {};
}

std::string Database::find_damage() {
    try {
        Query check = query("PRAGMA quick_check(1)");
        check.next();
        const std::string found = check.text(0);
        return found == "ok" ? "" : found;
    } catch (const StoreFailure& failure) {
        return failure.what();
    }
}

std::string Database::find_damage_of(const std::string& table) {
    const std::string found = first_row(fmt::format("PRAGMA integrity_check(\"{}\")", table));
    return found == "ok" ? "" : found;
}

std::string Database::find_dangling() {
    const std::string table = first_row("PRAGMA foreign_key_check");
    return table.empty() ? "" : fmt::format("a row of table '{}' refers to one that is not there", table);
}

// Or what is wrong with that question.
std::string Database::first_row(const std::string& sql) {
    sqlite3_stmt* statement = nullptr;
    int code = sqlite3_prepare_v2(handle_.get(), sql.c_str(), -1, &statement, nullptr);
    const std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt*)> owned(statement, &sqlite3_finalize);
    if (code == SQLITE_OK) code = sqlite3_step(statement);
    if (code == SQLITE_DONE) return "";
    if (code != SQLITE_ROW) return sqlite3_errmsg(handle_.get());
    const unsigned char* text = sqlite3_column_text(statement, 0);
    return text == nullptr ? "" : reinterpret_cast<const char*>(text);
}

std::vector<std::string> Database::tables() {
    Query query = this->query("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
    std::vector<std::string> names;
    while (query.next()) names.push_back(query.text(0));
    return names;
}

std::uint64_t Database::size_bytes() {
    const auto number = [&](const char* pragma) {
        Query query = this->query(pragma);
        query.next();
        return query.uinteger(0);
    };
    return number("PRAGMA page_count") * number("PRAGMA page_size");
}

Query Database::query(const char* sql) {
    auto found = statements_.find(sql);
    if (found == statements_.end()) {
        sqlite3_stmt* statement = nullptr;
        const int code = sqlite3_prepare_v3(handle_.get(), sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
        if (code != SQLITE_OK) fail(code, sql);
        found = statements_.try_emplace(sql, statement, &sqlite3_finalize).first;
    }
    return {*this, found->second.get()};
}

Result<void> Database::execute(const std::string& sql) {
    const int code = sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr);
    if (code == SQLITE_OK) return {};
    give_up();
    const Errc errc = (code & 0xFF) == SQLITE_FULL ? Errc::no_space : Errc::needs_repair;
    return Error{errc, fmt::format("store: {}", sqlite3_errmsg(handle_.get()))};
}

void Database::open_savepoint() {
    if (in_savepoint_) return;
    if (!in_transaction_) {
        query("BEGIN IMMEDIATE").next();
        in_transaction_ = true;
    }
    query("SAVEPOINT message").next();
    in_savepoint_ = true;
}

void Database::release_savepoint() {
    if (!in_savepoint_) return;
    query("RELEASE message").next();
    in_savepoint_ = false;
}

void Database::rollback_savepoint() {
    if (!in_savepoint_) return;
    query("ROLLBACK TO message").next();
    release_savepoint();
}

bool Database::commit() {
    release_savepoint();
    if (!in_transaction_) return false;
    query("COMMIT").next();
    in_transaction_ = false;
    return true;
}

std::int64_t Database::changes() const {
    return sqlite3_total_changes64(handle_.get());
}

// The close of the connection does not copy the log into the database then: a sync that failed is not tried again by
// who has its pages in the cache.
void Database::give_up() {
    sqlite3_db_config(handle_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
}

// After SQLITE_FULL inside a savepoint the *whole* transaction is gone, and the next statement
// would commit by itself: so a failure is never survived by the connection that saw it.
void Database::fail(int code, std::string_view what) {
    give_up();
    const auto kind = (code & 0xFF) == SQLITE_FULL ? StoreFailure::Kind::full : StoreFailure::Kind::broken;
    throw StoreFailure(kind, fmt::format("store: {}: {}", what, sqlite3_errmsg(handle_.get())));
}

// ---- online backup ---------------------------------------------------------------------------

DatabaseCopy::DatabaseCopy(sqlite3* handle, sqlite3_backup* backup, const std::string& file)
    : handle_(handle, &sqlite3_close), backup_(backup, &sqlite3_backup_finish), file_(file) {}

Result<DatabaseCopy> DatabaseCopy::begin(Database& from, const std::string& file, const StoreDisk& disk) {
    const auto refused = [&](int code, const char* why) {
        const Errc errc = (code & 0xFF) == SQLITE_FULL ? Errc::no_space : Errc::internal;
        return Error{errc, fmt::format("copy the store to '{}': {}", file, why)};
    };
    sqlite3* handle = nullptr;
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    int code = sqlite3_open_v2(file.c_str(), &handle, flags, disk.vfs != nullptr ? disk.vfs : relative_vfs());
    DatabaseCopy copy(handle, nullptr, file);
    if (code != SQLITE_OK) return refused(code, sqlite3_errstr(code));
    // Until it has its name it is worth nothing, so it needs no journal; it is synced as a whole.
    code = sqlite3_exec(handle, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF",
                        nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) return refused(code, sqlite3_errmsg(handle));
    copy.backup_.reset(sqlite3_backup_init(handle, "main", from.handle_.get(), "main"));
    if (!copy.backup_) return refused(sqlite3_errcode(handle), sqlite3_errmsg(handle));
    return copy;
}

Result<bool> DatabaseCopy::copy_pages(int pages) {
    int code = sqlite3_backup_step(backup_.get(), pages);
    if (code == SQLITE_OK) return false;
    if (code == SQLITE_DONE) {
        code = sqlite3_backup_finish(backup_.release());
        if (code == SQLITE_OK) code = sqlite3_close(handle_.release());
        if (code == SQLITE_OK) return true;
    }
    const bool full = (code & 0xFF) == SQLITE_FULL;
    return Error{full ? Errc::no_space : Errc::internal,
                 fmt::format("copy the store to '{}': {}", file_, sqlite3_errstr(code))};
}

}  // namespace cowslip
