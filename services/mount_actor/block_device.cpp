#include "services/mount_actor/block_device.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <charconv>
#include <filesystem>

#include <fmt/format.h>

namespace cowslip {

namespace {
std::string sysfs_folder(dev_t device) {
    return fmt::format("/sys/dev/block/{}:{}", major(device), minor(device));
}
}  // namespace

std::string dm_uuid_of(dev_t device) {
    auto uuid = read_file(sysfs_folder(device) + "/dm/uuid");
    if (!uuid) return fmt::format("{}:{}", major(device), minor(device));
    while (uuid->ends_with('\n')) uuid->pop_back();
    return uuid->empty() ? fmt::format("{}:{}", major(device), minor(device)) : std::move(*uuid);
}

Result<std::string> kernel_name_of(dev_t device) {
    std::error_code error;
    const auto target = std::filesystem::read_symlink(sysfs_folder(device), error);
    if (error) return errno_error(error.value(), fmt::format("look at '{}'", sysfs_folder(device)));
    return target.filename().string();
}

Result<std::uint64_t> size_bytes_of(dev_t device) {
    const auto found = read_file(sysfs_folder(device) + "/size");
    if (!found) return Error{Errc::unavailable, "read size of block device: " + found.error().message};
    const std::string& text = *found;
    std::uint64_t sectors = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), sectors).ec != std::errc{}) {
        return Error{Errc::internal, fmt::format("size of block device '{}'", text)};
    }
    return sectors * 512;
}

Result<dev_t> find_device(const schemas::DeviceRef& device) {
    struct stat status {};
    const std::string what = fmt::format("device '{}'", device.path);
    if (!device.path.starts_with('/')) return Error{Errc::invalid_argument, what + ": it must be an absolute path"};
    if (stat(device.path.c_str(), &status) != 0) {
        // Not not_found, which a client takes for a volume.
        if (errno == ENOENT || errno == ENOTDIR) {
            return Error{Errc::unavailable, what +
                                                ": there is no such node; if 'dmsetup ls' has it, 'dmsetup mknodes' "
                                                "makes one"};
        }
        return errno_error(errno, what);
    }
    if (!S_ISBLK(status.st_mode)) return Error{Errc::invalid_argument, what + ": it is no block device"};
    const std::string uuid = dm_uuid_of(status.st_rdev);
    if (uuid != device.dm_uuid) {
        return Error{Errc::invalid_argument, fmt::format("{}: it is '{}', not '{}'", what, uuid, device.dm_uuid)};
    }
    return status.st_rdev;
}

Result<Fd> open_pinned(const schemas::DeviceRef& device, int flags) {
    const dev_t expected = TRY(find_device(device));
    Fd pin(open(device.path.c_str(), flags | O_CLOEXEC));
    if (!pin && errno == EBUSY) return Error{Errc::in_use, fmt::format("device '{}': it is in use", device.path)};
    if (!pin) return errno_error(errno, fmt::format("open '{}'", device.path));
    struct stat status {};
    if (fstat(pin.get(), &status) != 0 || status.st_rdev != expected || dm_uuid_of(expected) != device.dm_uuid) {
        return Error{Errc::invalid_argument, fmt::format("device '{}': it changed", device.path)};
    }
    return pin;
}

}  // namespace cowslip
