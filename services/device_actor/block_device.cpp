#include "services/device_actor/block_device.h"

#include <blkid.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "common/files.h"
#include "common/holders.h"
#include "common/thin_pool.h"

namespace cowslip {

namespace {

// O_DIRECT wants memory that is aligned to the device's blocks.
struct alignas(kSuperblockBytes) FirstBlock {
    std::array<char, kSuperblockBytes> bytes{};
};

Result<Fd> open_block_device(const std::string& path, int flags) {
    Fd device(open(path.c_str(), flags | O_CLOEXEC));
    if (!device) return errno_error(errno, "open block device '" + path + "'");
    struct stat status {};
    if (fstat(device.get(), &status) != 0) return errno_error(errno, "look at block device '" + path + "'");
    if (!S_ISBLK(status.st_mode)) return Error{Errc::invalid_argument, "'" + path + "' is not a block device"};
    return device;
}

std::string describe(const schemas::Holder& holder) {
    return holder.pid == 0 ? holder.detail : fmt::format("{} ({}) {}", holder.command, holder.pid, holder.detail);
}

std::string value(blkid_probe probe, const char* name) {
    const char* data = nullptr;
    return blkid_probe_lookup_value(probe, name, &data, nullptr) == 0 ? data : "";
}

std::string describe_signature(blkid_probe probe) {
    const std::string table = value(probe, "PTTYPE");
    if (!table.empty()) return fmt::format("a partition table ('{}')", table);
    const std::string usage = value(probe, "USAGE");
    const std::string type = value(probe, "TYPE");
    const std::string label = value(probe, "LABEL");
    const std::string named = label.empty() ? fmt::format("('{}')", type) : fmt::format("('{}' '{}')", type, label);
    return fmt::format("{} {}", usage == "filesystem" ? "a file system" : "data in use", named);
}

std::string_view trim(std::string_view line) {
    const auto begin = line.find_first_not_of(" \t\r");
    if (begin == std::string_view::npos) return {};
    return line.substr(begin, line.find_last_not_of(" \t\r") - begin + 1);
}

}  // namespace

Result<std::uint64_t> block_device_sectors(const std::string& path) {
    const Fd device = TRY(open_block_device(path, O_RDONLY));
    std::uint64_t bytes = 0;
    if (ioctl(device.get(), BLKGETSIZE64, &bytes) != 0) return errno_error(errno, "read size of '" + path + "'");
    return bytes / kSectorBytes;
}

Result<dev_t> block_device_number(const std::string& path) {
    struct stat status {};
    if (stat(path.c_str(), &status) != 0) return errno_error(errno, "look at block device '" + path + "'");
    if (!S_ISBLK(status.st_mode)) return Error{Errc::invalid_argument, "'" + path + "' is not a block device"};
    return status.st_rdev;
}

Result<std::string> block_device_path(const std::string& number) {
    const auto found = read_file("/sys/dev/block/" + number + "/uevent");
    if (!found) return Error{Errc::unavailable, "find node of block device " + number + ": " + found.error().message};
    const std::string& uevent = *found;
    constexpr std::string_view kKey = "DEVNAME=";
    const auto at = uevent.find(kKey);
    if (at == std::string::npos) return Error{Errc::internal, "find node of block device " + number + ": no DEVNAME"};
    const auto begin = at + kKey.size();
    return "/dev/" + uevent.substr(begin, uevent.find('\n', begin) - begin);
}

// O_EXCL without O_CREAT: the kernel's claim on a block device, which mounts, swap, md and dm take too.
Result<void> check_unused(const std::string& path) {
    const Fd device(open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
    if (device) return {};
    struct stat status {};
    if (errno != EBUSY) return errno_error(errno, "open block device '" + path + "'");
    if (stat(path.c_str(), &status) != 0) return errno_error(errno, "look at block device '" + path + "'");
    Error error{Errc::in_use, fmt::format("block device '{}' is in use", path)};
    for (const auto& holder : find_holders(status.st_rdev, Hold::device)) {
        error.details["holders"].push_back(describe(holder));
    }
    if (!error.details.empty()) error.message += ": " + error.details["holders"].front();
    return error;
}

Result<std::string> find_signature(const std::string& path) {
    const Fd device = TRY(open_block_device(path, O_RDONLY));
    const std::unique_ptr<blkid_struct_probe, decltype(&blkid_free_probe)> probe(blkid_new_probe(), &blkid_free_probe);
    const bool ready = probe && blkid_probe_set_device(probe.get(), device.get(), 0, 0) == 0 &&
                       blkid_probe_enable_superblocks(probe.get(), 1) == 0 &&
                       blkid_probe_set_superblocks_flags(
                           probe.get(), BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_LABEL) == 0 &&
                       blkid_probe_enable_partitions(probe.get(), 1) == 0;
    if (!ready) return Error{Errc::internal, "look at what is on '" + path + "': libblkid cannot open it"};
    constexpr int kFound = 0;
    constexpr int kNothing = 1;
    constexpr int kAmbivalent = -2;
    const int answer = blkid_do_safeprobe(probe.get());
    if (answer == kNothing) return std::string();
    if (answer == kAmbivalent) return std::string("signatures of several kinds of content");
    if (answer != kFound) return errno_error(errno, "look at what is on '" + path + "'");
    return describe_signature(probe.get());
}

Result<std::string> read_first_block(const std::string& path) {
    const Fd device = TRY(open_block_device(path, O_RDONLY | O_DIRECT));
    FirstBlock block;
    const ssize_t size = pread(device.get(), block.bytes.data(), block.bytes.size(), 0);
    if (size < 0) return errno_error(errno, "read first block of '" + path + "'");
    return std::string(block.bytes.data(), static_cast<std::size_t>(size));
}

Result<void> read_all_blocks(const std::string& path) {
    constexpr std::size_t kPiece = std::size_t{1} << 20U;
    const Fd device = TRY(open_block_device(path, O_RDONLY | O_DIRECT));
    const std::unique_ptr<void, decltype(&std::free)> buffer(std::aligned_alloc(kSuperblockBytes, kPiece), &std::free);
    if (!buffer) return errno_error(ENOMEM, "read '" + path + "'");
    for (;;) {
        const ssize_t size = read(device.get(), buffer.get(), kPiece);
        if (size == 0) return {};
        if (size > 0) continue;
        Error error = errno_error(errno, "read '" + path + "'");
        error.code = Errc::unavailable;
        return error;
    }
}

Result<void> zero_first_block(const std::string& path) {
    const Fd device = TRY(open_block_device(path, O_WRONLY | O_EXCL | O_DIRECT));
    const FirstBlock zeros;
    const ssize_t size = pwrite(device.get(), zeros.bytes.data(), zeros.bytes.size(), 0);
    if (size != static_cast<ssize_t>(zeros.bytes.size()))
        return errno_error(errno, "zero first block of '" + path + "'");
    if (fsync(device.get()) != 0) return errno_error(errno, "sync first block of '" + path + "'");
    return {};
}

Result<void> wipe_device(const std::string& path) {
    constexpr std::uint64_t kEnds = 1U << 20U;
    const Fd device = TRY(open_block_device(path, O_WRONLY | O_EXCL));
    const std::uint64_t bytes = TRY(block_device_sectors(path)) * kSectorBytes;
    std::uint64_t range[2] = {0, bytes};
    if (ioctl(device.get(), BLKDISCARD, range) != 0 && errno != EOPNOTSUPP) {
        return errno_error(errno, "discard '" + path + "'");
    }
    const std::string zeros(std::min(kEnds, bytes), '\0');
    for (const std::uint64_t offset : {std::uint64_t{0}, bytes - zeros.size()}) {
        if (pwrite(device.get(), zeros.data(), zeros.size(), static_cast<off_t>(offset)) !=
            static_cast<ssize_t>(zeros.size())) {
            return errno_error(errno, "wipe '" + path + "'");
        }
    }
    if (fsync(device.get()) != 0) return errno_error(errno, "wipe '" + path + "'");
    return {};
}

namespace {

// For O_DIRECT.
struct AlignedBytes {
    explicit AlignedBytes(std::size_t size) : bytes(std::aligned_alloc(kSuperblockBytes, size), &std::free) {}
    char* data() const { return static_cast<char*>(bytes.get()); }
    std::unique_ptr<void, decltype(&std::free)> bytes;
};

int open_direct(const std::string& path, int flags, Fd& device) {
    device = Fd(open(path.c_str(), flags | O_DIRECT | O_CLOEXEC));
    return device ? 0 : errno;
}

}  // namespace

int read_blocks(const std::string& path, std::uint64_t offset, std::string& data) {
    Fd device;
    if (const int error_number = open_direct(path, O_RDONLY, device); error_number != 0) return error_number;
    const AlignedBytes buffer(data.size());
    if (buffer.data() == nullptr) return ENOMEM;
    const ssize_t size = pread(device.get(), buffer.data(), data.size(), static_cast<off_t>(offset));
    if (size != static_cast<ssize_t>(data.size())) return size < 0 ? errno : EIO;
    data.assign(buffer.data(), data.size());
    return 0;
}

int write_blocks(const std::string& path, std::uint64_t offset, const std::string& data) {
    Fd device;
    if (const int error_number = open_direct(path, O_WRONLY, device); error_number != 0) return error_number;
    const AlignedBytes buffer(data.size());
    if (buffer.data() == nullptr) return ENOMEM;
    data.copy(buffer.data(), data.size());
    const ssize_t size = pwrite(device.get(), buffer.data(), data.size(), static_cast<off_t>(offset));
    if (size != static_cast<ssize_t>(data.size())) return size < 0 ? errno : EIO;
    return fsync(device.get()) == 0 ? 0 : errno;
}

int discard_blocks(const std::string& path, std::uint64_t offset, std::uint64_t length) {
    const Fd device(open(path.c_str(), O_WRONLY | O_EXCL | O_CLOEXEC));
    if (!device) return errno;
    std::uint64_t range[2] = {offset, length};
    return ioctl(device.get(), BLKDISCARD, range) == 0 ? 0 : errno;
}

Result<void> check_listed(const std::string& list, const std::string& path) {
    const Error refusal{Errc::permission_denied,
                        fmt::format("'{}' is not listed in '{}': root must name the devices that may be used; "
                                    "run 'cowslip pool create' as root",
                                    path, list)};
    const Fd file(open(list.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!file && errno == ENOENT) return refusal;
    if (!file) return errno_error(errno, "open '" + list + "'");
    struct stat status {};
    if (fstat(file.get(), &status) != 0) return errno_error(errno, "look at '" + list + "'");
    constexpr mode_t kOthersWrite = S_IWGRP | S_IWOTH;
    if (!S_ISREG(status.st_mode) || status.st_uid != geteuid() || (status.st_mode & kOthersWrite) != 0) {
        return Error{Errc::permission_denied,
                     fmt::format("'{}' must belong to root and be writable for nobody else", list)};
    }
    const std::string text = TRY(read_all(file.get(), 1U << 20U));
    for (std::string_view rest = text; !rest.empty();) {
        const auto end = std::min(rest.find('\n'), rest.size());
        const auto line = trim(rest.substr(0, end));
        if (line == path && line.starts_with('/')) return {};
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return refusal;
}

}  // namespace cowslip
