#include "services/mount_actor/beneath.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <charconv>
#include <string_view>

#include <fmt/format.h>

#include "common/mountinfo.h"

namespace cowslip {

Fd open_beneath(const Fd& folder, const std::string& path, int flags, Mounts mounts) {
    open_how how{};
    how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    if (mounts == Mounts::refuse) how.resolve |= RESOLVE_NO_XDEV;
    long fd = -1;
    // EAGAIN: something was renamed while the path was looked up, so ".." could not be trusted.
    for (int attempt = 0; attempt < 16; ++attempt) {
        fd = syscall(SYS_openat2, folder.get(), path.c_str(), &how, sizeof how);
        if (fd >= 0 || errno != EAGAIN) break;
    }
    return Fd(static_cast<int>(fd));
}

namespace {

// Of the mount that an O_PATH descriptor leads to: without asking its file system, as statx does.
Result<std::uint64_t> mount_id_of(const Fd& fd) {
    const std::string text = TRY(read_file("/proc/self/fdinfo/" + std::to_string(fd.get())));
    constexpr std::string_view kKey = "mnt_id:\t";
    std::uint64_t id = 0;
    const std::size_t key = text.find(kKey);
    const char* end = text.data() + text.size();
    if (key != std::string::npos && std::from_chars(text.data() + key + kKey.size(), end, id).ec == std::errc{}) {
        return id;
    }
    return Error{Errc::internal, "find the mount of a descriptor: no mount id"};
}

// XFS that has shut down answers every statx with EIO, and must still be found to be unmounted.
Result<std::optional<MountRoot>> find_silent_mount_root(const Fd& folder, const Fd& root) {
    const std::uint64_t id = TRY(mount_id_of(root));
    if (id == TRY(mount_id_of(folder))) return std::optional<MountRoot>();
    for (const auto& entry : TRY(read_mountinfo())) {
        if (entry.id == id) return std::optional<MountRoot>(MountRoot{.mount_id = id, .device = entry.device});
    }
    return Error{Errc::internal, fmt::format("find mount {}: it is not listed", id)};
}

}  // namespace

Result<std::optional<MountRoot>> find_mount_root(const Fd& folder, const std::string& path) {
    const std::optional<MountRoot> none;
    const Fd root = open_beneath(folder, path, O_PATH | O_DIRECTORY, Mounts::cross);
    if (!root && errno == ENOENT) return none;
    if (!root) return errno_error(errno, fmt::format("open '{}'", path));
    struct statx status {};
    // DONT_SYNC: the answer lies in memory, and a file system in trouble must not be waited for.
    if (statx(root.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_MNT_ID, &status) != 0) {
        return find_silent_mount_root(folder, root);
    }
    if ((status.stx_attributes & STATX_ATTR_MOUNT_ROOT) == 0) return none;
    return std::optional<MountRoot>(
        MountRoot{.mount_id = status.stx_mnt_id, .device = makedev(status.stx_dev_major, status.stx_dev_minor)});
}

}  // namespace cowslip
