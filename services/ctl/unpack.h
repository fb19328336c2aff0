// A tar, perhaps compressed, unpacked below a folder with everything it says: owners, modes, times,
// hard links, devices, extended attributes, ACLs. Must run as root.
//
// The archive is not trusted: an entry that would land outside (absolute, with '..', or through a
// symlink that an earlier entry made) ends it with an error. What was unpacked until then stays.
#pragma once

#include <cstdint>
#include <functional>

#include "common/result.h"

namespace cowslip::ctl {

struct UnpackCounts {
    std::uint64_t archive_bytes = 0;  // Read so far, as they lie in the file.
    std::uint64_t files = 0;          // Entries of any kind.
    std::uint64_t bytes = 0;          // Written into files.
};

struct UnpackJob {
    int archive_fd = -1;
    int target_fd = -1;  // The folder. It becomes the working folder, until the end.
    int stop_fd = -1;    // Readable: stop.
    std::function<void(const UnpackCounts&)> progress;
};

Result<UnpackCounts> unpack_tar(const UnpackJob& job);

}  // namespace cowslip::ctl
