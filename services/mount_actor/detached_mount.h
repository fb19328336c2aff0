// A file system mounted nowhere: reachable only through its descriptor, gone when that is closed
// unless it has been attached. So what is not as it should be is never seen by anybody.
#pragma once

#include <string>

#include "common/files.h"
#include "common/result.h"
#include "schemas/mount_actor.h"
#include "services/mount_actor/filesystems.h"

namespace cowslip {

struct DetachedMount {
    Fd root;
    dev_t device = 0;
};

// The file system on the device, which has been verified to be the one with that dm uuid. Errors:
// see schemas::Mount; the kernel's own words are in the message. `chosen`: checked ones of common/filesystem_options.h.
Result<DetachedMount> mount_detached(const schemas::DeviceRef& device, const std::string& fs,
                                     const MountOptions& options, const std::string& chosen);

// `target`: an O_PATH descriptor of a directory.
Result<void> attach(const DetachedMount& mount, const Fd& target, const std::string& path);

}  // namespace cowslip
