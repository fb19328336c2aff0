// Paths in DIR/mnt, resolved so that no name in them can lead out of it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "common/files.h"
#include "common/result.h"

namespace cowslip {

enum class Mounts : std::uint8_t { cross, refuse };

// An O_CLOEXEC descriptor, or none and errno. No symbolic or magic link is followed, and ".." never
// leaves `folder`.
Fd open_beneath(const Fd& folder, const std::string& path, int flags, Mounts mounts);

struct MountRoot {
    std::uint64_t mount_id = 0;
    dev_t device = 0;
};

// What is mounted on `path`; nothing if it is a plain directory or not there.
Result<std::optional<MountRoot>> find_mount_root(const Fd& folder, const std::string& path);

}  // namespace cowslip
