// The metadata of a pool that is not loaded: checked, mended into a copy, and the copy put in their place. What was
// damaged is kept, whatever becomes of the rest.
#include <algorithm>

#include <fmt/format.h>

#include "common/thin_pool.h"
#include "services/device_actor/checks.h"
#include "services/device_actor/device_actor.h"

namespace cowslip {

// One that is ours, and not live: nobody reads or writes its metadata but we.
Result<void> DeviceActor::check_may_repair(const schemas::PoolSpec& spec) {
    TRY(check_spec(spec));
    if (spec.backing == kAdoptedBacking) {
        return Error{Errc::invalid_argument, "repair: an adopted pool is for its owner to repair"};
    }
    const DmDevice pool = TRY(pool_device(spec.pool));
    if (!TRY(dm_.find(pool))) return {};
    return Error{Errc::in_use, fmt::format("repair: the device of pool '{}' is still there", pool.name)};
}

Result<schemas::CheckMetadata::Reply> DeviceActor::check_metadata(const schemas::CheckMetadata& command) {
    TRY(check_may_repair(command.spec));
    const Backing backing = TRY(host_.find_backing(command.spec));
    schemas::CheckMetadata::Reply reply;
    const auto before = TRY(host_.read_superblock(backing.metadata_path));
    // The kernel would format a zeroed one, and thin_check speaks of it as of any other damage.
    if (before.valid) reply.report = TRY(host_.check_metadata(backing.metadata_path, ClearNeedsCheck::no));
    if (!before.valid) reply.report = before.zeroed ? "the superblock is all zero" : "the superblock is damaged";
    if (reply.report.empty() && before.needs_check) {
        // Whole as they are, so that this fails says that they cannot be written.
        const auto cleared = host_.check_metadata(backing.metadata_path, ClearNeedsCheck::yes);
        const auto after = TRY(host_.read_superblock(backing.metadata_path));
        if (!cleared || !cleared->empty() || !after.valid || after.needs_check) {
            return Error{Errc::unavailable,
                         fmt::format("clear needs_check on '{}': it cannot be written", backing.metadata_path)};
        }
    }
    if (!reply.report.empty()) TRY(host_.read_through(backing.metadata_path));  // Unreadable is not damaged.
    reply.sound = reply.report.empty();
    return reply;
}

Result<schemas::RepairMetadata::Reply> DeviceActor::repair_metadata(const schemas::RepairMetadata& command) {
    TRY(check_may_repair(command.spec));
    const Backing backing = TRY(host_.find_backing(command.spec));
    schemas::RepairMetadata::Reply reply;
    const bool first = command.after_thin_id < 0;
    const std::string copy =
        TRY(host_.copy_place(command.spec, command.spare, command.transaction_id, first ? Place::make : Place::find));
    if (first) {
        const auto before = TRY(host_.read_superblock(backing.metadata_path));
        MetadataFacts facts;
        if (!before.valid) {
            facts = {.transaction_id = command.transaction_id,
                     .block_sectors = command.spec.block_sectors,
                     .data_blocks = backing.data_sectors / command.spec.block_sectors};
        }
        reply.report = TRY(host_.mend_metadata(backing.metadata_path, copy, facts));
        // thin_repair takes needs_check over with the rest.
        if (reply.report.empty()) reply.report = TRY(host_.check_metadata(copy, ClearNeedsCheck::yes));
    }
    const auto superblock = TRY(host_.read_superblock(copy));
    reply.transaction_id = superblock.valid ? superblock.transaction_id : 0;
    reply.sound = reply.report.empty() && superblock.valid;
    if (!reply.sound) return reply;
    // thin_repair says nothing of what it leaves out: so the two lists are compared.
    const auto damaged = host_.list_unloaded_thins(backing.metadata_path);
    for (const auto& thin : TRY(host_.list_unloaded_thins(copy))) {
        if (thin.thin_id <= command.after_thin_id) continue;
        reply.more = reply.thins.size() == kMaxListed;
        if (reply.more) break;
        schemas::RepairedThin entry{thin.thin_id, thin.mapped_blocks, thin.mapped_blocks};
        if (damaged) {
            const auto was = std::find_if(damaged->begin(), damaged->end(),
                                          [&](const auto& other) { return other.thin_id == thin.thin_id; });
            if (was != damaged->end()) entry.blocks_before = was->mapped_blocks;
        }
        reply.thins.push_back(entry);
    }
    return reply;
}

Result<schemas::ReplaceMetadata::Reply> DeviceActor::replace_metadata(const schemas::ReplaceMetadata& command) {
    TRY(check_may_repair(command.spec));
    schemas::ReplaceMetadata::Reply reply;
    reply.damaged_copy = TRY(host_.replace_metadata(command.spec));
    return reply;
}

}  // namespace cowslip
