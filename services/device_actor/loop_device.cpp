#include "services/device_actor/loop_device.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <charconv>
#include <filesystem>

#include "common/files.h"
#include "common/thin_pool.h"

namespace cowslip {

namespace {

constexpr int kAttachAttempts = 16;  // Others attach, too, and take the free number that we were told.

Result<Fd> open_loop(const std::string& path, int access = O_RDWR) {
    Fd device(open(path.c_str(), access | O_CLOEXEC));
    if (!device) return errno_error(errno, "open loop device '" + path + "'");
    return device;
}

bool is_loop_of(const Fd& device, const struct stat& file, loop_info64& info) {
    return ioctl(device.get(), LOOP_GET_STATUS64, &info) == 0 && info.lo_device == file.st_dev &&
           info.lo_inode == file.st_ino;
}

// Of the disk below the file. With smaller blocks the kernel would leave direct I/O out.
std::uint32_t block_size_below(dev_t file_system) {
    const std::string device = fmt::format("/sys/dev/block/{}:{}/", major(file_system), minor(file_system));
    auto text = read_file(device + "queue/logical_block_size");
    if (!text) text = read_file(device + "../queue/logical_block_size");  // A partition's disk.
    std::uint32_t size = 0;
    if (text) std::from_chars(text->data(), text->data() + text->size(), size);
    return size;
}

Result<std::string> next_free_loop() {
    const Fd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    if (!control) return errno_error(errno, "open '/dev/loop-control' (try 'modprobe loop')");
    const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return errno_error(errno, "find a free loop device");
    return fmt::format("/dev/loop{}", number);
}

// One that is being detached would vanish at its last close. And the file may have grown.
Result<void> keep_attached(const Fd& device, loop_info64 info) {
    if (ioctl(device.get(), LOOP_SET_CAPACITY, 0) != 0) return errno_error(errno, "read size of loop device anew");
    if ((info.lo_flags & LO_FLAGS_AUTOCLEAR) == 0) return {};
    info.lo_flags &= ~static_cast<std::uint32_t>(LO_FLAGS_AUTOCLEAR);
    if (ioctl(device.get(), LOOP_SET_STATUS64, &info) != 0) return errno_error(errno, "keep loop device attached");
    return {};
}

}  // namespace

Result<std::optional<std::string>> find_loop_device(int file) {
    struct stat identity {};
    if (fstat(file, &identity) != 0) return errno_error(errno, "look at file of loop device");
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator("/sys/block", error)) {
        const std::string name = entry.path().filename();
        if (!name.starts_with("loop") || !std::filesystem::exists(entry.path() / "loop", error)) continue;
        const std::string path = "/dev/" + name;
        const auto device = open_loop(path, O_RDONLY);  // It may be anybody's.
        loop_info64 info{};
        if (device && is_loop_of(*device, identity, info)) return std::optional{path};
    }
    return std::optional<std::string>{};
}

Result<std::string> attach_loop_device(int file) {
    struct stat identity {};
    if (fstat(file, &identity) != 0) return errno_error(errno, "look at file of loop device");
    loop_config config{};
    config.fd = static_cast<std::uint32_t>(file);
    config.info.lo_flags = LO_FLAGS_DIRECT_IO;  // The kernel leaves it out where the file system cannot.
    if (const auto size = block_size_below(identity.st_dev); size > kSectorBytes) config.block_size = size;
    for (int attempt = 0; attempt < kAttachAttempts; ++attempt) {
        if (const auto found = TRY(find_loop_device(file))) {
            const Fd device = TRY(open_loop(*found));
            loop_info64 info{};
            if (!is_loop_of(device, identity, info)) continue;  // Detached meanwhile.
            TRY(keep_attached(device, info));
            return *found;
        }
        const std::string path = TRY(next_free_loop());
        const Fd device = TRY(open_loop(path));
        if (ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) return path;
        if (errno != EBUSY) return errno_error(errno, "attach loop device '" + path + "'");
    }
    return Error{Errc::unavailable, "attach loop device: others took every free one; try again"};
}

Result<void> detach_loop_device(const std::string& path) {
    const Fd device = TRY(open_loop(path));
    if (ioctl(device.get(), LOOP_CLR_FD) != 0 && errno != ENXIO) {
        return errno_error(errno, "detach loop device '" + path + "'");
    }
    return {};
}

}  // namespace cowslip
