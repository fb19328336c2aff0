#include "services/mount_actor/torn_superblock.h"

#include <endian.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>

#include <fmt/format.h>

#include "common/crc32c.h"
#include "common/files.h"
#include "services/mount_actor/block_device.h"

namespace cowslip {

namespace {

// Documentation/filesystems/ext4/super.rst.
constexpr off_t kSuperblock = 1024;
constexpr std::size_t kBytes = 1024;
constexpr std::size_t kMagicAt = 0x38;
constexpr std::uint16_t kMagic = 0xEF53;
constexpr std::size_t kReadOnlyFeaturesAt = 0x64;
constexpr std::uint32_t kMetadataChecksums = 0x400;
constexpr std::size_t kChecksumTypeAt = 0x175;
constexpr char kCrc32c = 1;
constexpr std::size_t kChecksumAt = 0x3FC;

}  // namespace

Result<bool> mend_torn_superblock(const schemas::DeviceRef& device) {
    const std::string what = fmt::format("mend the superblock of '{}'", device.path);
    const Fd file = TRY(open_pinned(device, O_RDWR | O_EXCL));
    std::array<char, kBytes> bytes{};
    const ssize_t size = pread(file.get(), bytes.data(), kBytes, kSuperblock);
    if (size != static_cast<ssize_t>(kBytes)) return errno_error(size < 0 ? errno : EIO, what);
    std::uint16_t magic = 0;
    std::uint32_t features = 0;
    std::uint32_t found = 0;
    std::memcpy(&magic, &bytes[kMagicAt], sizeof magic);
    std::memcpy(&features, &bytes[kReadOnlyFeaturesAt], sizeof features);
    std::memcpy(&found, &bytes[kChecksumAt], sizeof found);
    const bool checked = (le32toh(features) & kMetadataChecksums) != 0 && bytes[kChecksumTypeAt] == kCrc32c;
    const std::uint32_t right = htole32(crc32c({bytes.data(), kChecksumAt}));
    if (le16toh(magic) != kMagic || !checked || found == right) return false;
    // The sector of these bytes is all that changes: no cut leaves it torn again.
    if (pwrite(file.get(), &right, sizeof right, kSuperblock + kChecksumAt) != sizeof right || fsync(file.get()) != 0) {
        return errno_error(errno, what);
    }
    return true;
}

}  // namespace cowslip
