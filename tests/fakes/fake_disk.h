// A disk below SQLite, in memory, with the page cache that lies between: a SQLite VFS of its own name.
//
// What it models: a process that dies leaves the cache as it is; a power cut leaves what was synced. A sync that fails
// leaves its pages in the cache, marked clean: they are read as if they were on the disk, no later sync writes them,
// and only dropping the clean pages shows what the disk has (ATC'20, "Can applications recover from fsync failures?").
// A file that is made, renamed or removed is so after a power cut only if its folder was synced since; SQLite does that
// for its log, and for nothing else.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "common/sqlite.h"

namespace cowslip {

enum class DiskCall : std::uint8_t { open, read, write, sync };

struct DiskFault {
    DiskCall call = DiskCall::sync;
    std::uint64_t nth = 0;  // Of the calls from now on, which fails; 0 is the next.
    bool for_ever = false;  // Until heal(); else once.
    bool full = false;      // A write finds no room, and not an I/O error.
};

class FakeDisk {
public:
    FakeDisk();
    ~FakeDisk();
    FakeDisk(const FakeDisk&) = delete;
    FakeDisk& operator=(const FakeDisk&) = delete;

    // For Database::open and Store::open; not longer than this lives.
    StoreDisk disk();

    void fail(const DiskFault& fault);
    void heal();
    bool has_failed() const;
    std::map<DiskCall, std::uint64_t> calls() const;  // All there were.

    // The process that has the store open is killed: what it still does has no effect.
    void kill();
    void cut_power();

    void drop_clean_pages(const std::string& file);
    bool folders_not_synced = false;         // Whoever puts a file in its place forgets to.
    std::uint64_t free_bytes = 1ULL << 40U;  // As the files beside the store are told.

    // All files as they are read, by name; to be put back when nobody has them open.
    using Image = std::map<std::string, std::string>;
    Image image() const;
    void put(Image image);

    // As the disk has it: for those who damage it.
    std::string& on_disk(const std::string& file);
    bool has(const std::string& file) const;

    struct State;

private:
    class Files;
    std::unique_ptr<State> state_;
    std::unique_ptr<Files> files_;
};

}  // namespace cowslip
