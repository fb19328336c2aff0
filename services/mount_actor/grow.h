// Growing a mounted file system until it fills its device, by the ioctl that resize2fs and xfs_growfs
// end in: one call that is done or not, and no child that could outlive us.
#pragma once

#include <cstdint>

#include "common/files.h"
#include "common/result.h"

namespace cowslip {

// `root`: its root directory, open for reading; writable mount. Durable when it returns.
Result<void> grow_filesystem(const Fd& root, std::uint64_t device_bytes);

}  // namespace cowslip
