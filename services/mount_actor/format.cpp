#include "services/mount_actor/format.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "common/files.h"
#include "common/filesystem_options.h"
#include "common/process.h"
#include "services/mount_actor/block_device.h"
#include "services/mount_actor/detached_mount.h"

namespace cowslip {

namespace {

constexpr std::chrono::minutes kFormatTimeout{10};
constexpr std::uint64_t kMiB = 1U << 20U;
constexpr std::uint64_t kLeastExt4 = 16 * kMiB;  // mkfs.ext4 leaves the journal away, in silence, below 8 MiB.
constexpr std::uint64_t kLeastXfs = 300 * kMiB;
constexpr std::size_t kMostOfErrors = 500;

Result<void> check_size(const std::string& fs, std::uint64_t size) {
    const std::uint64_t least = fs == "xfs" ? kLeastXfs : kLeastExt4;
    if (size >= least) return {};
    return Error{Errc::invalid_argument,
                 fmt::format("file system {} on {} bytes: it needs at least {} MiB", fs, size, least / kMiB)};
}

// Feature lists are spelt out: a newer tool's defaults may be unknown to the kernel that a volume is
// mounted by one day. Unmapped blocks of a thin device read as zeros, so nothing needs zeroing:
// 4 MB are written for 10 GiB instead of 234, and no kernel thread goes on writing in every clone.
// Where the pool gives out blocks as they are, a table written in part would hold old bytes.
std::vector<std::string> tool(const schemas::MakeFilesystem& request) {
    const std::string& path = request.device.path;
    const std::map<std::string, std::string> options = split_options(request.options);
    const auto option = [&](const char* name, const char* otherwise) {
        const auto found = options.find(name);
        return found == options.end() ? std::string(otherwise) : found->second;
    };
    if (request.fs == "ext4") {
        const std::string zeroed =
            request.stale_blocks ? "lazy_itable_init=0,lazy_journal_init=0" : "assume_storage_prezeroed=1";
        std::vector<std::string> words = {
            "mkfs.ext4",
            "-q",
            "-F",
            "-m",
            option("reserved-percent", "0"),
            "-b",
            "4096",
            "-I",
            option("inode-size", "256"),
            "-O",
            "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"
            "large_file,huge_file,dir_nlink,extra_isize,metadata_csum",
            "-E",
            "nodiscard," + zeroed};
        if (options.contains("bytes-per-inode")) words.insert(words.end(), {"-i", option("bytes-per-inode", "")});
        if (options.contains("journal-mib")) words.insert(words.end(), {"-J", "size=" + option("journal-mib", "")});
        words.push_back(path);
        return words;
    }
    // The smallest log: it is the bulk of what is written here, and a clone's journal copies it. No
    // alignment to the pool's blocks: it would make four times the allocation groups.
    // Sectors that suit any disk: with smaller ones it could not be mounted once the pool has moved to a
    // disk with blocks of 4096 bytes.
    std::string inodes = "sparse=1,nrext64=0";
    if (options.contains("inode-percent")) inodes += ",maxpct=" + option("inode-percent", "");
    if (options.contains("inode-size")) inodes += ",size=" + option("inode-size", "");
    return {"mkfs.xfs", "-q",        "-K", "-f",
            "-s",       "size=4096", "-l", "size=" + option("log-mib", "64") + "m",
            "-d",       "noalign",   "-m", "crc=1,finobt=1,reflink=1,rmapbt=0,bigtime=1,inobtcount=1",
            "-i",       inodes,      path};
}

Error tool_error(const std::string& what, const ProcessResult& result) {
    std::string words = result.errors.substr(0, kMostOfErrors);
    for (char& c : words) {
        if (c == '\n') c = ' ';
    }
    while (words.ends_with(' ')) words.pop_back();
    const bool full = words.find("No space left") != std::string::npos;
    return Error{full ? Errc::no_space : Errc::internal,
                 fmt::format("{}: exit status {}: {}", what, result.exit_status, words)};
}

// A device that an interrupted mkfs has written to is no longer all zeros, and does not show it: the
// superblock comes last. On a fresh thin device this costs next to nothing.
Result<void> discard_all(const Fd& writable, std::uint64_t size) {
    std::uint64_t range[2] = {0, size};
    // A pool that ignores discards: what is left is that the manager never formats a device twice.
    if (ioctl(writable.get(), BLKDISCARD, range) == 0 || errno == EOPNOTSUPP) return {};
    return errno_error(errno, "discard the device");
}

}  // namespace

Result<void> format_device(const schemas::MakeFilesystem& request, const std::vector<int>& inherited_fds) {
    const schemas::DeviceRef& device = request.device;
    const dev_t number = TRY(find_device(device));
    const std::uint64_t size = TRY(size_bytes_of(number));
    TRY(check_size(request.fs, size));
    // Exclusively: refuses one that is mounted or claimed by somebody; the tools are not as careful.
    {
        const Fd exclusive = TRY(open_pinned(device, O_RDWR | O_EXCL));
        TRY(discard_all(exclusive, size));
    }
    const Fd pin = TRY(open_pinned(device, O_RDONLY));
    const auto result =
        TRY(run_process({.arguments = tool(request), .timeout = kFormatTimeout, .inherited_fds = inherited_fds}));
    if (result.exit_status != 0) return tool_error(fmt::format("make {} on '{}'", request.fs, device.path), result);
    return {};
}

Result<void> prepare_template_root(const schemas::DeviceRef& device, const std::string& fs) {
    const std::string what = fmt::format("prepare the root of '{}'", device.path);
    {
        const DetachedMount mount = TRY(mount_detached(device, fs, {}, ""));
        const int root = mount.root.get();  // An O_PATH descriptor: what is done goes through "." below it.
        if (unlinkat(root, "lost+found", AT_REMOVEDIR) != 0 && errno != ENOENT) return errno_error(errno, what);
        if (fchmodat(root, ".", 0755, 0) != 0) return errno_error(errno, what);
        const Fd directory(openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!directory || syncfs(directory.get()) != 0) return errno_error(errno, what);
    }
    // Unmounted by now. What the device was told last it may still hold in a volatile cache, and a
    // thin device's mappings in memory.
    const Fd pin = TRY(open_pinned(device, O_RDONLY));
    if (fsync(pin.get()) != 0) return errno_error(errno, what);
    return {};
}

}  // namespace cowslip
