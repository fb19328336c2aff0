// ext4's superblock after a power cut that tore the write of it. ext4 writes it in place, outside its journal, at each
// mount and unmount (ext4_commit_super), and it covers two sectors of a disk with sectors of 512 bytes: the checksum is
// in the second, and all that such a write changes is in the first. So one half old and one half new is a superblock
// before or after the write, but for the checksum; yet mount compares that before it looks at anything, the journal
// too. e2fsck takes the copy in block group 1, which a volume of less than 128 MiB has not.
#pragma once

#include "common/result.h"
#include "schemas/mount_actor.h"

namespace cowslip {

// Durably gives the superblock the checksum of what it says; everything else in it is mount's to judge. False: it is no
// ext4 superblock with checksums, or its checksum was right. After a crash it is as before, or mended.
Result<bool> mend_torn_superblock(const schemas::DeviceRef& device);

}  // namespace cowslip
