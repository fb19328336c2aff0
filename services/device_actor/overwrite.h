// Whether a new pool may be put over what lies on a device or in a file, and the refusals.
#pragma once

#include <string>

#include "common/result.h"
#include "common/thin_pool.h"
#include "services/device_actor/host.h"

namespace cowslip {

// Metadata under which nothing is lost: of a pool that was made and never used, or of our own, which
// was being made when somebody died. (Not damaged then: all that matters is in the superblock's first
// sector, and that was zeroed before.)
bool may_format(const ThinPoolSuperblock& superblock, const Overwrite& overwrite);

Error refuse(const std::string& path, const std::string& what);
Error pool_metadata(const std::string& path, const ThinPoolSuperblock& superblock);
Error not_destroyed(const std::string& path);

// in_use: it holds metadata of a pool, or anything that libblkid knows.
Result<void> check_blank_device(const std::string& path);

}  // namespace cowslip
