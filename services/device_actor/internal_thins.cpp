// What an actor opens itself: the pool's two internal thin devices, a volume of which nothing is known, and one that is
// to be deleted. Each device is there only meanwhile; an internal one that a dead actor left is used by the next
// command, and goes with the pool.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/thin_pool.h"
#include "services/device_actor/checks.h"
#include "services/device_actor/device_actor.h"
#include "services/device_actor/filesystem.h"

namespace cowslip {

Result<schemas::Verdict> DeviceActor::with_thin(const schemas::Activate& activation,
                                                const std::function<int(const std::string& path)>& use) {
    const DmDevice pool = TRY(pool_device(activation.pool));
    const auto active = TRY(activate(activation));
    if (active.error_number != 0) return verdict(pool, active.error_number);
    const int error_number = use(active.path);
    const auto removal = TRY(remove_thin(activation.pool, activation.thin_id));
    if (removal.error_number != 0) {
        spdlog::warn("thin={} of pool {} stays active errno={}", activation.thin_id, activation.pool.uuid,
                     removal.error_number);
    }
    return verdict(pool, error_number);
}

Result<schemas::Verdict> DeviceActor::write_internal(const schemas::WriteInternal& command) {
    const auto sectors = TRY(check_internal_range(command.thin_id, command.offset_bytes, command.data.size()));
    return with_thin({command.pool, command.thin_id, sectors, false}, [&](const std::string& path) {
        return host_.write_range(path, command.offset_bytes, command.data);
    });
}

Result<schemas::ReadInternal::Reply> DeviceActor::read_internal(const schemas::ReadInternal& command) {
    const auto sectors = TRY(check_internal_range(command.thin_id, command.offset_bytes, command.length));
    schemas::ReadInternal::Reply reply;
    reply.data.resize(command.length);
    reply.verdict = TRY(with_thin({command.pool, command.thin_id, sectors, false}, [&](const std::string& path) {
        return host_.read_range(path, command.offset_bytes, reply.data);
    }));
    if (reply.verdict.error_number != 0) reply.data.clear();
    return reply;
}

// One that is in use is looked at through its own device, which stays as it is.
Result<schemas::FindFilesystem::Reply> DeviceActor::find_filesystem(const schemas::FindFilesystem& command) {
    TRY(check_thin_id(command.thin_id));
    TRY(pool_device(command.pool));
    std::string bytes(kFilesystemProbeBytes, '\0');
    const auto look = [&](const std::string& path) { return host_.read_range(path, 0, bytes); };
    const auto live = TRY(dm_.find(thin_device(command.pool, command.thin_id)));
    schemas::FindFilesystem::Reply reply;
    if (live && live->live_table) {
        reply.error_number = look(TRY(dm_.ensure_node(*live)));
    } else {
        reply.error_number =
            TRY(with_thin({command.pool, command.thin_id, schemas::kLabelSectors, true}, look)).error_number;
    }
    if (reply.error_number != 0) return reply;
    const FoundFilesystem found = parse_filesystem(bytes);
    reply.fs = found.fs;
    reply.size_sectors = found.size_sectors;
    return reply;
}

Result<schemas::DiscardThin::Reply> DeviceActor::discard_thin(const schemas::DiscardThin& command) {
    TRY(check_thin_id(command.thin_id));
    TRY(check_thin_sectors(command.size_sectors));
    if (command.offset_sectors > command.size_sectors ||
        command.length_sectors > command.size_sectors - command.offset_sectors) {
        return Error{Errc::invalid_argument, "discard thin: the range is not within its size"};
    }
    const DmDevice pool = TRY(pool_device(command.pool));
    auto removal = TRY(remove_thin(command.pool, command.thin_id));
    if (removal.error_number != 0) return not_removed<schemas::DiscardThin::Reply>(pool, std::move(removal));
    schemas::DiscardThin::Reply reply;
    const auto mapped = [&] {
        const auto sectors = mapped_sectors({.device = thin_device(command.pool, command.thin_id)});
        return sectors && *sectors ? **sectors : 0;
    };
    const auto discard = [&](const std::string& path) {
        reply.mapped_sectors = mapped();
        if (reply.mapped_sectors <= command.at_once_sectors) return 0;
        const int error_number =
            host_.discard_range(path, command.offset_sectors * kSectorBytes, command.length_sectors * kSectorBytes);
        reply.mapped_sectors = mapped();
        return error_number;
    };
    reply.verdict = TRY(with_thin({command.pool, command.thin_id, command.size_sectors, false}, discard));
    return reply;
}

Result<void> DeviceActor::remove_internal(const schemas::PoolRef& pool) {
    for (const std::uint32_t thin_id : {schemas::kLabelThinId, schemas::kBackupsThinId}) {
        TRY(remove_thin(pool, thin_id));
    }
    return {};
}

}  // namespace cowslip
