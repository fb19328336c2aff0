#include "services/device_actor/overwrite.h"

#include <fmt/format.h>

#include "services/device_actor/block_device.h"

namespace cowslip {

bool may_format(const ThinPoolSuperblock& superblock, const Overwrite& overwrite) {
    const bool unused = superblock.transaction_id == 0 && superblock.time == 0 && superblock.used_data_blocks == 0;
    const bool own = overwrite.owns(superblock.transaction_id);
    return !superblock.damaged && (!superblock.valid || unused || own);
}

Error refuse(const std::string& path, const std::string& what) {
    return Error{Errc::in_use, fmt::format("'{}' holds {}; with --force it is overwritten", path, what)};
}

Error pool_metadata(const std::string& path, const ThinPoolSuperblock& superblock) {
    if (superblock.damaged) return refuse(path, "the damaged metadata of a thin pool (thin_repair may mend them)");
    return refuse(path, fmt::format("the metadata of a thin pool (transaction id {})", superblock.transaction_id));
}

Error not_destroyed(const std::string& path) {
    return Error{Errc::needs_repair, "destroy: the metadata on '" + path +
                                         "' are not this pool's, or their superblock is damaged: nothing was "
                                         "touched; wipe what it lies on by hand"};
}

Result<void> check_blank_device(const std::string& path) {
    const auto superblock = parse_superblock(TRY(read_first_block(path)));
    if (!may_format(superblock, {})) return pool_metadata(path, superblock);
    const std::string signature = TRY(find_signature(path));
    if (!signature.empty()) return refuse(path, signature);
    return {};
}

}  // namespace cowslip
