// SQLite as the store needs it: one exclusive connection, a statement cache, and three kinds of
// failure kept apart; and its online backup. Nobody else includes sqlite3.h but the disks that are put below it.
//
// A full disk and an I/O error throw StoreFailure: nothing but the process's end can answer them
// (protocol.md, store errors), so no caller handles them and no transaction survives them. A
// constraint or type error throws StoreRefusal: a defect of the caller's, whose savepoint can be rolled back.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/result.h"
#include "common/store_files.h"

struct sqlite3;
struct sqlite3_backup;
struct sqlite3_stmt;

namespace cowslip {

class StoreFailure : public std::runtime_error {
public:
    enum class Kind : std::uint8_t { full, broken };
    StoreFailure(Kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
    Kind kind() const { return kind_; }

private:
    Kind kind_;
};

class StoreRefusal : public std::logic_error {
public:
    using std::logic_error::logic_error;
};

class Database;

// One use of a cached statement: bind in order, then run or step; reset when it goes out of scope.
class Query {
public:
    Query(const Query&) = delete;
    Query& operator=(const Query&) = delete;
    ~Query();

    Query& bind(std::int64_t value);
    Query& bind(std::uint64_t value) { return bind(static_cast<std::int64_t>(value)); }
    Query& bind(std::uint32_t value) { return bind(static_cast<std::int64_t>(value)); }
    Query& bind(std::string_view text);
    Query& bind(const std::string& text) { return bind(std::string_view(text)); }
    Query& bind(const char* text) { return bind(std::string_view(text)); }
    Query& bind_blob(std::string_view bytes);
    Query& bind_null();

    void run();  // A statement that changes rows.
    // The next row of a statement that reads; false when there is none.
    bool next();

    std::int64_t integer(int column) const;
    std::uint64_t uinteger(int column) const { return static_cast<std::uint64_t>(integer(column)); }
    std::string text(int column) const;  // Text or blob; empty for NULL.
    bool is_null(int column) const;

private:
    friend class Database;
    Query(Database& database, sqlite3_stmt* statement) : database_(database), statement_(statement) {}
    Database& database_;
    sqlite3_stmt* statement_;
    int bound_ = 0;
};

// Where the file lies. Tests put a disk of their own here (tests/fakes/fake_disk.h).
struct StoreDisk {
    const char* vfs = nullptr;  // Name of a SQLite VFS; null: the unix one, with names as they are given.
    std::function<void(const std::string& file)> drop_page_cache = nullptr;  // Of what is clean; null: the kernel's.
    StoreFiles* files = nullptr;                                             // Beside it; null: the kernel's.
};

class Database {
public:
    // `file` is opened as it is written, relative to the working folder: SQLite would make it
    // absolute, and an unprivileged process may not be able to traverse the parents. Sets WAL,
    // synchronous=FULL, locking_mode=EXCLUSIVE, foreign_keys, and checks that they hold. The page
    // cache of the file and its WAL is dropped first, so that what a failed sync left in it is not
    // taken for what the disk has. needs_repair: the file is damaged, or its disk fails.
    static Result<Database> open(const std::string& file, const StoreDisk& disk = {});
    // One that nobody writes to and that has no log: to be read, with no file made beside it.
    static Result<Database> open_still(const std::string& file, const StoreDisk& disk = {});
    Database(Database&&) noexcept;
    Database& operator=(Database&&) = delete;
    ~Database();

    // `sql` must be a literal: it is the cache's key, by address.
    Query query(const char* sql);
    // Several statements, no rows, uncached; for schemas and pragmas.
    Result<void> execute(const std::string& sql);
    // Reads every page. What is wrong, in SQLite's words; empty: nothing.
    std::string find_damage();
    // Likewise of one table and its indexes; slower, and it knows of more.
    std::string find_damage_of(const std::string& table);
    std::string find_dangling();  // A row that refers to one that is not there; empty: there is none.
    std::vector<std::string> tables();
    std::uint64_t size_bytes();

    // A transaction opens by itself before the first statement that changes something, and a
    // savepoint inside it, so a turn that changes nothing costs nothing.
    void rollback_savepoint();  // Undoes what was changed since the last release; harmless if nothing.
    void release_savepoint();
    // Makes everything since the last commit durable. Does nothing, and returns false, if nothing changed.
    bool commit();

    std::int64_t changes() const;

private:
    friend class Query;
    friend class DatabaseCopy;
    explicit Database(sqlite3* handle);
    std::string first_row(const std::string& sql);
    Result<void> prepare_file(const std::string& file);
    void give_up();
    void open_savepoint();
    [[noreturn]] void fail(int code, std::string_view what);

    std::unique_ptr<sqlite3, int (*)(sqlite3*)> handle_;
    std::unordered_map<const char*, std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt*)>> statements_;
    bool in_transaction_ = false;
    bool in_savepoint_ = false;
};

// SQLite's online backup, some pages at a time. What `from` changes meanwhile, through its one connection, SQLite
// carries over. An error is that of the copy, which is then worth nothing; `from` is as before. It must end before
// `from`. Crash: a file that is of no use.
class DatabaseCopy {
public:
    static Result<DatabaseCopy> begin(Database& from, const std::string& file, const StoreDisk& disk);

    // Not within a transaction of `from`. True: it is all there, and its file is closed; not synced. no_space: the
    // disk of the copy is full.
    Result<bool> copy_pages(int pages);

private:
    DatabaseCopy(sqlite3* handle, sqlite3_backup* backup, const std::string& file);
    std::unique_ptr<sqlite3, int (*)(sqlite3*)> handle_;
    std::unique_ptr<sqlite3_backup, int (*)(sqlite3_backup*)> backup_;  // Ends before the handle.
    std::string file_;
};

}  // namespace cowslip
