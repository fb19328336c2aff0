// What the kernel says of a block device's number, read in /sys. A number belongs to one device as
// long as somebody has it open or mounted; a path says nothing.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "common/files.h"
#include "common/result.h"
#include "schemas/mount_actor.h"

namespace cowslip {

// Of a dm device; for any other device its number ("8:1"), which no dm uuid of ours equals.
std::string dm_uuid_of(dev_t device);

// "dm-3": the name that the kernel's messages and /sys/fs use.
Result<std::string> kernel_name_of(dev_t device);

Result<std::uint64_t> size_bytes_of(dev_t device);

// The number behind the path, if the kernel says that it has the dm uuid; else invalid_argument, or
// unavailable: there is no such path.
Result<dev_t> find_device(const schemas::DeviceRef& device);

// Opens it, and it is that one: while it is open, the number cannot change hands. in_use with O_EXCL: somebody has it.
Result<Fd> open_pinned(const schemas::DeviceRef& device, int flags);

}  // namespace cowslip
