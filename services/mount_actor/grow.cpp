#include "services/mount_actor/grow.h"

#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include <fmt/format.h>

namespace cowslip {

namespace {

// The kernel's ABI; Debian 12 has these in no header that comes without a file system's own package.
constexpr unsigned long kExt4Resize = _IOW('f', 16, std::uint64_t);

struct XfsGeometry {  // struct xfs_fsop_geom_v1
    std::uint32_t block_size, realtime_extent_size, group_blocks, group_count, log_blocks, sector_size, inode_size;
    std::uint32_t inode_max_percent;
    std::uint64_t data_blocks, realtime_blocks, realtime_extents, log_start;
    unsigned char uuid[16];
    std::uint32_t stripe_unit, stripe_width;
    std::int32_t version;
    std::uint32_t flags, log_sector_size, realtime_sector_size, directory_block_size;
};
static_assert(sizeof(XfsGeometry) == 112);
constexpr unsigned long kXfsGeometry = _IOR('X', 100, XfsGeometry);

struct XfsGrowData {  // struct xfs_growfs_data
    std::uint64_t new_blocks;
    std::uint32_t inode_max_percent;
};
static_assert(sizeof(XfsGrowData) == 16);
constexpr unsigned long kXfsGrowData = _IOW('X', 110, XfsGrowData);
// The kernel refuses (EINVAL) a growth too small for an allocation group of its own.
constexpr std::uint64_t kXfsLeastGrowth = 64;

Result<void> grow_ext4(const Fd& root, std::uint64_t block_size, std::uint64_t device_bytes) {
    std::uint64_t blocks = device_bytes / block_size;
    if (ioctl(root.get(), kExt4Resize, &blocks) != 0) return errno_error(errno, "grow ext4");
    return {};
}

Result<void> grow_xfs(const Fd& root, std::uint64_t device_bytes) {
    XfsGeometry geometry{};
    if (ioctl(root.get(), kXfsGeometry, &geometry) != 0) return errno_error(errno, "read the geometry of xfs");
    XfsGrowData grow{.new_blocks = device_bytes / geometry.block_size, .inode_max_percent = geometry.inode_max_percent};
    if (grow.new_blocks < geometry.data_blocks + kXfsLeastGrowth) return {};
    if (ioctl(root.get(), kXfsGrowData, &grow) != 0) return errno_error(errno, "grow xfs");
    return {};
}

}  // namespace

Result<void> grow_filesystem(const Fd& root, std::uint64_t device_bytes) {
    struct statfs status {};
    if (fstatfs(root.get(), &status) != 0) return errno_error(errno, "grow the file system");
    if (status.f_type == EXT4_SUPER_MAGIC) {
        TRY(grow_ext4(root, static_cast<std::uint64_t>(status.f_bsize), device_bytes));
    } else if (status.f_type == XFS_SUPER_MAGIC) {
        TRY(grow_xfs(root, device_bytes));
    } else {
        return Error{Errc::internal, fmt::format("grow the file system: unknown type {:#x}", status.f_type)};
    }
    // Reported as done, it is never asked for again: it must survive a power cut.
    if (syncfs(root.get()) != 0) return errno_error(errno, "sync the grown file system");
    return {};
}

}  // namespace cowslip
