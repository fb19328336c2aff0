// The files beside the store, as far as its backups need them. Names are relative to the working folder, DIR/store.
// Tests put those of a disk of their own here (tests/fakes/fake_disk.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"

namespace cowslip {

struct StoreFile {
    std::string name;  // Without its folder.
    std::uint64_t bytes = 0;
};

class StoreFiles {
public:
    virtual ~StoreFiles() = default;

    virtual Result<void> ensure_folder(const std::string& folder) = 0;
    virtual std::vector<StoreFile> list(const std::string& folder) = 0;  // By name; empty if there is no such folder.
    virtual std::uint64_t free_bytes() = 0;                              // Of the file system, for us.
    // Begins to write what is in the page cache, and does not wait: a sync later on has less to do.
    virtual void begin_writing(const std::string& file) = 0;
    // What `from` holds is then to be found as `to`, also after a power cut; before it returns, `to` is what it was.
    virtual Result<void> put_in_place(const std::string& from, const std::string& to) = 0;
    virtual void remove(const std::string& file) = 0;  // Fine if there is none.
};

StoreFiles& kernel_store_files();

// A whole file, durable when it returns; what was there is written over.
Result<void> write_durably(const std::string& file, const std::string& bytes);
// rename, and the folder synced.
Result<void> rename_durably(const std::string& from, const std::string& to);
Result<void> sync_folder_of(const std::string& file);

}  // namespace cowslip
