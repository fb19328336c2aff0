#include "services/mount_actor/kernel_filesystems.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <map>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/holders.h"
#include "common/mountinfo.h"
#include "common/names.h"
#include "common/state_folder.h"
#include "services/mount_actor/beneath.h"
#include "services/mount_actor/block_device.h"
#include "services/mount_actor/detached_mount.h"
#include "services/mount_actor/format.h"
#include "services/mount_actor/grow.h"

namespace cowslip {

namespace {

constexpr mode_t kDirectoryMode = 0711;
constexpr std::size_t kMostListed = 2048;
// 2048 times the longest names would not fit in a frame (common/codec.h).
constexpr std::size_t kMostListedBytes = kMaxFrameBytes / 2;
constexpr std::size_t kLongestId = 255;
constexpr std::size_t kLongestErrno = 16;

std::string mount_point(const std::string& directory) {
    return directory + "/rootfs";
}
std::string id_file(const std::string& directory) {
    return directory + "/id";
}
std::string unsynced_file(const std::string& directory) {
    return directory + "/unsynced";
}

// The id, if the file is whole and that of this directory.
std::string read_id(const Fd& mounts, const std::string& directory) {
    const Fd file = open_beneath(mounts, id_file(directory), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, Mounts::refuse);
    if (!file) return "";
    const auto id = read_all(file.get(), kLongestId);
    return id && check_volume_id(*id) && volume_directory(*id) == directory ? *id : "";
}

Result<std::vector<std::string>> list_directories(const Fd& mounts) {
    const int fd = openat(mounts.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* folder = fd < 0 ? nullptr : fdopendir(fd);
    if (folder == nullptr) return errno_error(errno, "list the mounts");
    std::vector<std::string> names;
    while (const dirent* entry = readdir(folder)) {
        struct stat status {};
        const bool unknown = entry->d_type == DT_UNKNOWN &&
                             fstatat(mounts.get(), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
                             S_ISDIR(status.st_mode);
        const bool ours = entry->d_name[0] != '.' || is_warm_directory(entry->d_name);
        if (ours && (entry->d_type == DT_DIR || unknown)) names.emplace_back(entry->d_name);
    }
    closedir(folder);
    std::sort(names.begin(), names.end());
    return names;
}

MountOptions options_of(const MountEntry& entry) {
    return {.read_only = find_mount_option(entry.options, "ro") || find_mount_option(entry.super_options, "ro"),
            .mount_label = find_mount_option(entry.super_options, "context").value_or("")};
}

// An errno that means it is gone already, for what is to be removed.
bool is_gone(int number) {
    return number == ENOENT;
}

}  // namespace

KernelFilesystems::KernelFilesystems(std::string mounts_path, Fd mounts, std::string uuid_file,
                                     std::vector<int> inherited_fds)
    : mounts_path_(std::move(mounts_path)),
      mounts_(std::move(mounts)),
      uuid_file_(std::move(uuid_file)),
      inherited_fds_(std::move(inherited_fds)) {}

Result<KernelFilesystems> KernelFilesystems::open(const std::string& mounts_folder, const std::string& uuid_file,
                                                  std::vector<int> inherited_fds) {
    Fd mounts(::open(mounts_folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!mounts) return errno_error(errno, fmt::format("open '{}'", mounts_folder));
    return KernelFilesystems(mounts_folder, std::move(mounts), uuid_file, std::move(inherited_fds));
}

// Read each time: the pool may have been made since we started.
Result<void> KernelFilesystems::check_ours(const std::string& dm_uuid) {
    const auto own = TRY(read_pool_uuid(uuid_file_));
    if (own && parse_thin_dm_uuid(*own, dm_uuid)) return {};
    return Error{Errc::permission_denied,
                 fmt::format("device uuid '{}': it is not of this service's pool, by '{}' ({})", dm_uuid, uuid_file_,
                             own.value_or("absent"))};
}

std::string KernelFilesystems::describe(const char* verb, const std::string& directory) const {
    return fmt::format("{} '{}/{}'", verb, mounts_path_, directory);
}

Result<void> KernelFilesystems::format(const schemas::MakeFilesystem& request) {
    return format_device(request, inherited_fds_);
}

Result<void> KernelFilesystems::prepare_root(const schemas::MakeFilesystem& request) {
    return prepare_template_root(request.device, request.fs);
}

std::string KernelFilesystems::mount_path(const std::string& directory) const {
    return mounts_path_ + "/" + mount_point(directory);
}

Result<DirectoryState> KernelFilesystems::look(const std::string& directory) {
    DirectoryState state;
    const Fd folder = open_beneath(mounts_, directory, O_PATH | O_DIRECTORY, Mounts::refuse);
    if (!folder && errno == ENOENT) return state;
    if (!folder) return errno_error(errno, describe("open", directory));
    state.exists = true;
    if (const auto root = TRY(find_mount_root(mounts_, mount_point(directory)))) {
        state.mounted_uuid = dm_uuid_of(root->device);
    }
    return state;
}

Result<void> KernelFilesystems::ensure_directory(const std::string& directory) {
    if (mkdirat(mounts_.get(), directory.c_str(), kDirectoryMode) != 0 && errno != EEXIST) {
        return errno_error(errno, describe("make", directory));
    }
    const Fd folder = open_beneath(mounts_, directory, O_RDONLY | O_DIRECTORY, Mounts::refuse);
    if (!folder) return errno_error(errno, describe("open", directory));
    // Whatever our umask is, and whatever a death between these two calls left.
    if (fchmod(folder.get(), kDirectoryMode) != 0) return errno_error(errno, describe("set the mode of", directory));
    return {};
}

// No fsync: the id tells whose *mount* this is, and no mount survives a power cut either. What
// matters is that nobody ever sees half of it.
Result<void> KernelFilesystems::ensure_id(const std::string& directory, const std::string& id) {
    if (read_id(mounts_, directory) == id) return {};
    const std::string what = describe("write the id in", directory);
    const Fd folder = open_beneath(mounts_, directory, O_PATH | O_DIRECTORY, Mounts::refuse);
    if (!folder) return errno_error(errno, what);
    const Fd file(openat(folder.get(), "id.new", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file) return errno_error(errno, what);
    const ssize_t written = write(file.get(), id.data(), id.size());
    if (written != static_cast<ssize_t>(id.size())) return errno_error(written < 0 ? errno : ENOSPC, what);
    if (renameat(folder.get(), "id.new", folder.get(), "id") != 0) return errno_error(errno, what);
    return {};
}

Result<void> KernelFilesystems::ensure_mount_point(const std::string& directory) {
    const Fd folder = open_beneath(mounts_, directory, O_PATH | O_DIRECTORY, Mounts::refuse);
    if (!folder) return errno_error(errno, describe("open", directory));
    if (mkdirat(folder.get(), "rootfs", 0) == 0 || errno == EEXIST) return {};
    return errno_error(errno, describe("make the mount point in", directory));
}

Result<void> KernelFilesystems::remove_mount_point(const std::string& directory) {
    const Fd folder = open_beneath(mounts_, directory, O_PATH | O_DIRECTORY, Mounts::refuse);
    if (!folder && is_gone(errno)) return {};
    if (!folder) return errno_error(errno, describe("open", directory));
    if (unlinkat(folder.get(), "rootfs", AT_REMOVEDIR) == 0 || is_gone(errno)) return {};
    return errno_error(errno, describe("remove the mount point in", directory));
}

Result<void> KernelFilesystems::remove_id(const std::string& directory) {
    const Fd folder = open_beneath(mounts_, directory, O_PATH | O_DIRECTORY, Mounts::refuse);
    if (!folder && is_gone(errno)) return {};
    if (!folder) return errno_error(errno, describe("open", directory));
    for (const char* name : {"id.new", "id", "unsynced"}) {
        if (unlinkat(folder.get(), name, 0) != 0 && !is_gone(errno)) {
            return errno_error(errno, describe("remove the id in", directory));
        }
    }
    return {};
}

Result<void> KernelFilesystems::remove_directory(const std::string& directory) {
    if (unlinkat(mounts_.get(), directory.c_str(), AT_REMOVEDIR) == 0 || is_gone(errno)) return {};
    return errno_error(errno, describe("remove", directory));
}

// A mount point cannot be renamed, and what it lies in can.
Result<void> KernelFilesystems::rename_directory(const std::string& from, const std::string& to) {
    if (renameat2(mounts_.get(), from.c_str(), mounts_.get(), to.c_str(), RENAME_NOREPLACE) == 0) return {};
    return errno_error(errno, describe("rename", from) + fmt::format(" to '{}'", to));
}

Result<schemas::ListMounts::Reply> KernelFilesystems::list(const std::string& after) {
    const std::vector<std::string> directories = TRY(list_directories(mounts_));
    std::map<std::uint64_t, MountEntry> entries;
    for (auto& entry : TRY(read_mountinfo())) entries.emplace(entry.id, std::move(entry));

    schemas::ListMounts::Reply reply;
    std::size_t bytes = 0;
    for (auto name = std::upper_bound(directories.begin(), directories.end(), after); name != directories.end();
         ++name) {
        if (reply.mounts.size() >= kMostListed || bytes >= kMostListedBytes) {
            reply.more = true;
            break;
        }
        schemas::MountedVolume volume;
        volume.directory = *name;
        volume.id = read_id(mounts_, *name);
        // One that cannot be looked at, or went away just now, is listed without a mount.
        const auto root = find_mount_root(mounts_, mount_point(*name)).value_or(std::nullopt);
        if (root) {
            volume.dm_uuid = dm_uuid_of(root->device);
            if (const auto entry = entries.find(root->mount_id); entry != entries.end()) {
                const MountOptions options = options_of(entry->second);
                volume.read_only = options.read_only;
                volume.mount_label = options.mount_label;
            }
        }
        bytes += volume.directory.size() + volume.id.size() + volume.dm_uuid.size() + volume.mount_label.size() + 64;
        reply.mounts.push_back(std::move(volume));
    }
    return reply;
}

bool KernelFilesystems::has_selinux() const {
    return ::access("/sys/fs/selinux/enforce", F_OK) == 0;
}

Result<void> KernelFilesystems::mount(const schemas::Mount& request) {
    const Fd target = open_beneath(mounts_, mount_point(request.directory), O_PATH | O_DIRECTORY, Mounts::refuse);
    if (!target) return errno_error(errno, describe("open the mount point in", request.directory));
    const MountOptions options{.read_only = request.read_only, .mount_label = request.mount_label};
    const DetachedMount mount = TRY(mount_detached(request.device, request.fs, options, request.options));
    if (request.grow && !request.read_only) {
        const Fd root(openat(mount.root.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!root) return errno_error(errno, describe("open the file system for", request.directory));
        const std::uint64_t size = TRY(size_bytes_of(mount.device));
        TRY(grow_filesystem(root, size));
    }
    return attach(mount, target, mount_path(request.directory));
}

Result<MountOptions> KernelFilesystems::read_options(const std::string& directory) {
    if (const auto root = TRY(find_mount_root(mounts_, mount_point(directory)))) {
        for (const auto& entry : TRY(read_mountinfo())) {
            if (entry.id == root->mount_id) return options_of(entry);
        }
    }
    return Error{Errc::internal, describe("find the mount in", directory) + ": it is not listed"};
}

Result<void> KernelFilesystems::grow(const std::string& directory) {
    const Fd root = open_beneath(mounts_, mount_point(directory), O_RDONLY | O_DIRECTORY, Mounts::cross);
    struct stat status {};
    if (!root || fstat(root.get(), &status) != 0) return errno_error(errno, describe("grow", directory));
    const std::uint64_t size = TRY(size_bytes_of(status.st_dev));
    return grow_filesystem(root, size);
}

Result<std::uint64_t> KernelFilesystems::trim(const std::string& directory, std::uint64_t offset_bytes,
                                              std::uint64_t length_bytes) {
    const Fd root = open_beneath(mounts_, mount_point(directory), O_RDONLY | O_DIRECTORY, Mounts::cross);
    if (!root) return errno_error(errno, describe("trim", directory));
    fstrim_range range{.start = offset_bytes, .len = length_bytes, .minlen = 0};
    if (ioctl(root.get(), FITRIM, &range) == 0) return range.len;
    if (errno == EINVAL && offset_bytes != 0) return 0;  // Behind its end.
    if (errno == EOPNOTSUPP) {
        return Error{Errc::unimplemented, describe("trim", directory) + ": its device takes no discards"};
    }
    return errno_error(errno, describe("trim", directory));
}

// What is lost stays lost, however often it is asked again.
Result<std::int32_t> KernelFilesystems::sync(const std::string& directory, bool pool_sound) {
    const auto known = TRY(find_unsynced(directory));
    if (known && *known != 0) return *known;
    if (known && !pool_sound) return EIO;
    if (const auto noted = note_unsynced(directory, ""); !noted) {
        // A full state file system must not keep what is to be put away.
        if (noted.error().code != Errc::no_space) return noted.error();
        spdlog::warn("sync without a note directory={} error=\"{}\"", directory, noted.error().message);
    }
    const Fd root = open_beneath(mounts_, mount_point(directory), O_RDONLY | O_DIRECTORY, Mounts::cross);
    // XFS that has shut down refuses even this; there is nothing left that could be written.
    const std::int32_t number = root && syncfs(root.get()) == 0 ? 0 : errno;
    if (number == 0) {
        TRY(forget_unsynced(directory));
    } else if (const auto noted = note_unsynced(directory, std::to_string(number) + "\n"); !noted) {
        spdlog::warn("sync error directory={} errno={} not noted: {}", directory, number, noted.error().message);
    }
    return number;
}

Result<std::optional<std::int32_t>> KernelFilesystems::find_unsynced(const std::string& directory) {
    const Fd file = open_beneath(mounts_, unsynced_file(directory), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, Mounts::refuse);
    if (!file && is_gone(errno)) return std::optional<std::int32_t>();
    const auto text = file ? read_all(file.get(), kLongestErrno) : std::string();
    std::int32_t number = 0;
    if (text) std::from_chars(text->data(), text->data() + text->size(), number);
    return std::optional(number);
}

// No fsync: like the id, it speaks of a mount, and that does not survive a power cut either.
Result<void> KernelFilesystems::note_unsynced(const std::string& directory, const std::string& text) {
    const std::string what = describe("note the sync of", directory);
    const Fd folder = open_beneath(mounts_, directory, O_PATH | O_DIRECTORY, Mounts::refuse);
    if (!folder) return errno_error(errno, what);
    const Fd file(openat(folder.get(), "unsynced", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file || ::write(file.get(), text.data(), text.size()) < 0) return errno_error(errno, what);
    return {};
}

Result<void> KernelFilesystems::forget_unsynced(const std::string& directory) {
    const Fd folder = open_beneath(mounts_, directory, O_PATH | O_DIRECTORY, Mounts::refuse);
    if (!folder && is_gone(errno)) return {};
    if (!folder) return errno_error(errno, describe("open", directory));
    if (unlinkat(folder.get(), "unsynced", 0) == 0 || is_gone(errno)) return {};
    return errno_error(errno, describe("forget the sync of", directory));
}

// The same call for ext4 and XFS. Its root cannot be opened any more once XFS has shut down.
Result<void> KernelFilesystems::shut_down(const std::string& directory) {
    constexpr std::uint32_t kWithoutTheLog = 2;
    const unsigned long request = _IOR('X', 125, std::uint32_t);
    const Fd root = open_beneath(mounts_, mount_point(directory), O_RDONLY | O_DIRECTORY, Mounts::cross);
    if (!root && errno == EIO) return {};
    if (!root) return errno_error(errno, describe("shut down", directory));
    std::uint32_t how = kWithoutTheLog;
    if (ioctl(root.get(), request, &how) == 0 || errno == EIO) return {};
    return errno_error(errno, describe("shut down", directory));
}

Result<bool> KernelFilesystems::unmount(const std::string& directory) {
    const Fd folder = open_beneath(mounts_, directory, O_PATH | O_DIRECTORY, Mounts::refuse);
    if (!folder) return errno_error(errno, describe("open", directory));
    // umount takes paths only, and a descriptor of the mount itself would keep it busy.
    const std::string path = folder.path() + "/rootfs";
    // A process that has just been killed may let go a moment later.
    for (int attempt = 0; attempt < 5; ++attempt) {
        if (umount2(path.c_str(), UMOUNT_NOFOLLOW) == 0) return true;
        if (errno != EBUSY) return errno_error(errno, describe("unmount", directory));
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
}

std::vector<schemas::Holder> KernelFilesystems::find_holders(const std::string& directory) {
    const auto root = find_mount_root(mounts_, mount_point(directory)).value_or(std::nullopt);
    if (!root) return {};
    return cowslip::find_holders(root->device, Hold::file_system);
}

}  // namespace cowslip
