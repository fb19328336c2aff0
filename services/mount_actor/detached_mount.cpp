#include "services/mount_actor/detached_mount.h"

#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <array>
#include <fstream>
#include <map>
#include <string_view>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/filesystem_options.h"
#include "services/mount_actor/block_device.h"
#include "services/mount_actor/kernel_log.h"
#include "services/mount_actor/torn_superblock.h"

namespace cowslip {

namespace {

// glibc 2.36 has wrappers, but its <sys/mount.h> and <linux/mount.h> cannot be included together.
int fsopen(const char* fs) {
    return static_cast<int>(syscall(SYS_fsopen, fs, FSOPEN_CLOEXEC));
}
int set_flag(const Fd& context, const char* name) {
    return static_cast<int>(syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_FLAG, name, nullptr, 0));
}
int set_string(const Fd& context, const char* name, const std::string& value) {
    return static_cast<int>(syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, name, value.c_str(), 0));
}
int create(const Fd& context) {
    return static_cast<int>(syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0));
}

// One message a read, "e text": e is an error, w a warning, i information.
std::string context_messages(const Fd& context) {
    std::string messages;
    std::array<char, 1024> buffer{};
    for (int count = 0; count < 8; ++count) {
        const ssize_t size = read(context.get(), buffer.data(), buffer.size());
        if (size <= 2) break;
        messages += fmt::format(": {}", std::string_view(buffer.data() + 2, static_cast<std::size_t>(size) - 2));
        while (messages.ends_with('\n')) messages.pop_back();
    }
    return messages;
}

struct Options {
    MountOptions fixed;
    std::map<std::string, std::string> chosen;  // Those of the superblock.
};

// As attributes of the mount; they are taken out of the others.
unsigned int take_attributes(std::map<std::string, std::string>& chosen) {
    unsigned int attributes = 0;
    if (chosen.erase("nodev") != 0) attributes |= MOUNT_ATTR_NODEV;
    if (chosen.erase("noexec") != 0) attributes |= MOUNT_ATTR_NOEXEC;
    if (chosen.erase("nosuid") != 0) attributes |= MOUNT_ATTR_NOSUID;
    return attributes;
}

// What a caller can do about it. What nobody has chosen is fixed, so a file system that refuses it as
// invalid has no superblock that it knows.
Error explain(int number, const std::string& what, const std::string& words, const Options& options) {
    Error error = errno_error(number, what);
    error.message += words;
    switch (number) {
        case EINVAL:
            error.code = options.fixed.mount_label.empty() && options.chosen.empty() ? Errc::needs_repair
                                                                                     : Errc::invalid_argument;
            break;
        case EIO:
        case EUCLEAN:  // EFSCORRUPTED
        case EBADMSG:  // EFSBADCRC
            error.code = Errc::needs_repair;
            break;
        case EROFS:
            error.code = Errc::needs_repair;
            error.message += ": its journal must be replayed, and the device is read-only: get it writable once";
            break;
        case EACCES:
            error.code = Errc::invalid_argument;
            error.message += ": the device is read-only";
            break;
        case EBUSY:
            error.code = Errc::in_use;
            break;
        default:
            break;
    }
    return error;
}

// A full pool fails XFS's metadata writes. By default it tries again for ever, and whoever waits for
// them hangs. It has half a minute for the pool to grow; then it shuts down and says so at sync.
void bound_xfs_retries(const std::string& kernel_name) {
    for (const std::string_view error : {"ENOSPC", "EIO"}) {
        std::ofstream file(fmt::format("/sys/fs/xfs/{}/error/metadata/{}/retry_timeout_seconds", kernel_name, error));
        file << "30" << std::flush;
        if (!file) spdlog::warn("xfs retries stay unbounded device={} error={}", kernel_name, error);
    }
}

// A read-only *mount* of a writable device still replays the journal. On a read-only device that is
// impossible, and `noload`/`norecovery` would show a file system that never existed: refused. (A
// snapshot of an active XFS always has something to replay: it leaves its log dirty when frozen.)
int configure(const Fd& context, const schemas::DeviceRef& device, const std::string& fs, const Options& options) {
    const std::string& label = options.fixed.mount_label;
    if (set_string(context, "source", device.path) != 0) return errno;
    if (options.fixed.read_only && set_flag(context, "ro") != 0) return errno;
    if (fs == "xfs" && set_flag(context, "nouuid") != 0) return errno;  // Clones share their origin's uuid.
    // Else each mount starts a thread that reads the bitmaps of all block groups, in case somebody should allocate
    // there (ext4_register_li_request; not in kernels before 5.14, which know no such word). They are read when they
    // are needed.
    if (fs == "ext4" && set_flag(context, "no_prefetch_block_bitmaps") != 0 && errno != EINVAL) return errno;
    if (!label.empty() && set_string(context, "context", label) != 0) return errno;
    for (const auto& [name, value] : options.chosen) {
        const int set = value.empty() ? set_flag(context, name.c_str()) : set_string(context, name.c_str(), value);
        if (set != 0) return errno;
    }
    return create(context) == 0 ? 0 : errno;
}

// A context whose file system the kernel has read, and found good.
Result<Fd> read_filesystem(const schemas::DeviceRef& device, const std::string& fs, const Options& options,
                           const std::string& kernel_name, const std::string& what) {
    const KernelLog log;
    Fd context(fsopen(fs.c_str()));
    if (!context && errno == ENODEV) {
        return Error{Errc::unimplemented, fmt::format("{}: this kernel has no {}: modprobe {}", what, fs, fs)};
    }
    if (!context) return errno_error(errno, what);
    if (const int number = configure(context, device, fs, options); number != 0) {
        const std::string logged = log.about(kernel_name);
        return explain(number, what, context_messages(context) + (logged.empty() ? "" : ": " + logged), options);
    }
    return context;
}

}  // namespace

Result<DetachedMount> mount_detached(const schemas::DeviceRef& device, const std::string& fs, const MountOptions& fixed,
                                     const std::string& chosen) {
    Options options{fixed, split_options(chosen)};
    const unsigned int chosen_attributes = take_attributes(options.chosen);
    const dev_t expected = TRY(find_device(device));
    const std::string kernel_name = TRY(kernel_name_of(expected));
    const std::string what = fmt::format("mount {} on '{}'", fs, device.path);

    auto found = read_filesystem(device, fs, options, kernel_name, what);
    if (!found && found.error().code == Errc::needs_repair && fs == "ext4") {
        const auto mended = mend_torn_superblock(device);
        if (!mended) {
            Error error = std::move(found).error();
            error.message += "; " + mended.error().message;
            return error;
        }
        if (*mended) {
            spdlog::warn("event=superblock_mended device={} error=\"{}\"", device.path, found.error().message);
            found = read_filesystem(device, fs, options, kernel_name, what);
        }
    }
    const Fd context = TRY(std::move(found));
    // Reading must not cost a volume blocks of the pool: with the kernel's default (relatime), the
    // first read of each file in a clone would write its inode, and so copy a shared block.
    const unsigned int attributes = MOUNT_ATTR_NOATIME | (fixed.read_only ? MOUNT_ATTR_RDONLY : 0U) | chosen_attributes;
    DetachedMount mount;
    mount.root = Fd(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, attributes)));
    if (!mount.root) return errno_error(errno, what);

    // The path was looked up again by the kernel. From here on the number cannot change hands.
    struct stat status {};
    if (fstat(mount.root.get(), &status) != 0) return errno_error(errno, what);
    mount.device = status.st_dev;
    if (const std::string uuid = dm_uuid_of(mount.device); uuid != device.dm_uuid) {
        return Error{Errc::invalid_argument, fmt::format("{}: it is '{}', not '{}'", what, uuid, device.dm_uuid)};
    }
    if (fs == "xfs") bound_xfs_retries(kernel_name);
    return mount;
}

Result<void> attach(const DetachedMount& mount, const Fd& target, const std::string& path) {
    const unsigned int flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    if (syscall(SYS_move_mount, mount.root.get(), "", target.get(), "", flags) == 0) return {};
    return errno_error(errno, fmt::format("mount at '{}'", path));
}

}  // namespace cowslip
