// Counts the syncs of the store, by standing in front of libc's: libsqlite3 finds these first.
#include "services/pool_manager/sync_counter.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace {
std::atomic<std::uint64_t> syncs{0};
}

extern "C" int fsync(int fd) {
    ++syncs;
    return static_cast<int>(::syscall(SYS_fsync, fd));
}

extern "C" int fdatasync(int fd) {
    ++syncs;
    return static_cast<int>(::syscall(SYS_fdatasync, fd));
}

namespace cowslip {
std::uint64_t count_syncs() {
    return syncs;
}
}  // namespace cowslip
