// Making a template's file system: the same one on every host, whatever its mke2fs.conf says, and
// with as few blocks written as can be.
#pragma once

#include <string>
#include <vector>

#include "common/result.h"
#include "schemas/mount_actor.h"

namespace cowslip {

// `inherited_fds` are kept open by the child: the actor's lock. Errors as schemas::MakeFilesystem;
// in_use if somebody has the device open exclusively.
Result<void> format_device(const schemas::MakeFilesystem& request, const std::vector<int>& inherited_fds);

// Root directory 0755, without lost+found; all of it flushed to the device.
Result<void> prepare_template_root(const schemas::DeviceRef& device, const std::string& fs);

}  // namespace cowslip
