// Loop devices over files, by the kernel's own calls. A file has at most one: an attached one is
// found by the file's identity, whatever its path was then, and used again.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "common/result.h"

namespace cowslip {

// Idempotent. With direct I/O where the file system can, else the data would lie in memory twice.
// Stays until it is detached, also without us.
Result<std::string> attach_loop_device(int file);

Result<std::optional<std::string>> find_loop_device(int file);

// While something else has it open for a moment (udev looks at every one), the kernel detaches it
// when that ends.
Result<void> detach_loop_device(const std::string& path);

}  // namespace cowslip
