#include "services/pool_manager/restore.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include <fmt/format.h>

#include "common/store_files.h"

namespace cowslip {

namespace {

struct Files {
    std::string store;
    std::string staged;
    std::string being_staged;

    explicit Files(const std::string& folder)
        : store(folder + "/store.db"), staged(folder + "/store.db.new"), being_staged(folder + "/store.db.new.tmp") {}
    std::string kept(unsigned number) const { return fmt::format("{}.replaced-{}", store, number); }
};

std::string log_of(const std::string& file) {
    return file + "-wal";
}

// 0: there is no such file.
ino_t inode(const std::string& file) {
    struct stat status {};
    return ::lstat(file.c_str(), &status) == 0 ? status.st_ino : 0;
}

Result<void> keep_as(const std::string& file, const std::string& kept) {
    ::unlink(kept.c_str());  // Of an attempt that ended half-way.
    if (::link(file.c_str(), kept.c_str()) != 0)
        return errno_error(errno, fmt::format("keep '{}' as '{}'", file, kept));
    return {};
}

// Under two names until the new one has its place. The log first: where the store is kept, all of it is.
Result<std::string> keep_old(const Files& files, const BeforeStep& before) {
    const ino_t old = inode(files.store);
    if (old == 0) return std::string();
    unsigned number = 1;
    for (; inode(files.kept(number)) != 0; ++number) {
        if (inode(files.kept(number)) == old) return files.kept(number);
    }
    before();
    if (inode(log_of(files.store)) != 0) TRY(keep_as(log_of(files.store), log_of(files.kept(number))));
    before();
    TRY(keep_as(files.store, files.kept(number)));
    before();
    TRY(sync_folder_of(files.store));
    return files.kept(number);
}

}  // namespace

Result<void> stage_store(const std::string& folder, const std::string& bytes, const BeforeStep& before) {
    const Files files(folder);
    const BeforeStep step = before ? before : [] {};
    step();
    if (auto written = write_durably(files.being_staged, bytes); !written) {
        ::unlink(files.being_staged.c_str());
        return written.error();
    }
    step();
    return rename_durably(files.being_staged, files.staged);
}

Result<std::string> finish_restore(const std::string& folder, const BeforeStep& before) {
    const Files files(folder);
    const BeforeStep step = before ? before : [] {};
    ::unlink(files.being_staged.c_str());
    if (inode(files.staged) == 0) return std::string();
    std::string kept = TRY(keep_old(files, step));
    step();
    // The old log over the new store would be neither.
    if (::unlink(log_of(files.store).c_str()) != 0 && errno != ENOENT) {
        return errno_error(errno, fmt::format("put '{}' away", log_of(files.store)));
    }
    TRY(sync_folder_of(files.store));
    step();
    TRY(rename_durably(files.staged, files.store));
    return kept;
}

}  // namespace cowslip
