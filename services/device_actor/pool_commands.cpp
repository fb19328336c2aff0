#include <algorithm>
#include <cerrno>
#include <limits>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "common/thin_pool.h"
#include "services/device_actor/checks.h"
#include "services/device_actor/device_actor.h"

namespace cowslip {

namespace {

constexpr std::chrono::milliseconds kPoolResumePause{100};
constexpr int kPoolResumeAttempts = 5;

DmTarget pool_target(const schemas::PoolSpec& spec, const Backing& backing, bool read_only) {
    const ThinPoolTable table{.metadata_device = backing.metadata_path,
                              .data_device = backing.data_path,
                              .block_sectors = spec.block_sectors,
                              .low_water_blocks = spec.low_water_blocks,
                              .skip_zeroing = spec.skip_zeroing,
                              .discard_passdown = spec.discard_passdown,
                              .read_only = read_only,
                              .error_if_no_space = !spec.queue_if_no_space};
    const std::uint64_t blocks = backing.data_sectors / spec.block_sectors;
    return {.type = "thin-pool", .sectors = blocks * spec.block_sectors, .parameters = make_thin_pool_table(table)};
}

// The kernel formats a zeroed superblock without a word, and loads another pool's without looking.
Result<void> check_superblock(const ThinPoolSuperblock& found, const schemas::StartPool& command) {
    std::string what;
    if (found.zeroed) {
        what = "is all zero";
    } else if (!found.valid) {
        what = "is damaged (wrong magic or checksum)";
    } else if (command.read_only) {
        return {};
    } else if (found.transaction_id < command.confirmed || found.transaction_id > command.planned) {
        const bool foreign = found.transaction_id >> 32U != command.planned >> 32U;
        what = fmt::format("has transaction id {}, which is not in [{}, {}]: {}", found.transaction_id,
                           command.confirmed, command.planned,
                           foreign ? "it belongs to another pool"
                                   : (found.transaction_id < command.confirmed ? "it is older than the store"
                                                                               : "it is newer than the store"));
    } else {
        return {};
    }
    return Error{Errc::needs_repair, "the metadata's superblock " + what + "; nothing was loaded"};
}

Error step_failed(const char* what, const DmDevice& pool, int error_number) {
    Error error = errno_error(error_number, fmt::format("{} of pool '{}'", what, pool.name));
    if (error_number == EBUSY) error.code = Errc::in_use;
    if (is_metadata_damage(error_number)) {
        error.code = Errc::needs_repair;
        error.details["damaged"] = {};
    }
    return error;
}

// What the live table does not tell; and the names that it was asked for by: root has listed them, and the kernel's own
// may be another device's after a boot.
void keep_untold(schemas::PoolSpec& found, const schemas::PoolSpec& asked) {
    found.pool = asked.pool;
    found.backing = asked.backing;
    found.preallocate = asked.preallocate;
    if (found.devices.empty()) found.devices = asked.devices;
    if (asked.backing == kDevicesBacking) {
        found.data_path.clear();
        found.metadata_path.clear();
    }
    if (asked.backing != kPairBacking) return;
    found.data_path = asked.data_path;
    found.metadata_path = asked.metadata_path;
}

void tell_of_devices(const Backing& backing, schemas::PoolState& state) {
    state.spec.devices = backing.devices;
    state.most_data_sectors = backing.most_data_sectors;
    state.most_metadata_sectors = backing.most_metadata_sectors;
}

schemas::Superblock message_of(const ThinPoolSuperblock& found) {
    return {.zeroed = found.zeroed,
            .valid = found.valid,
            .transaction_id = found.transaction_id,
            .time = found.time,
            .data_block_sectors = found.data_block_sectors,
            .held_root = found.held_root};
}

}  // namespace

Result<schemas::Superblock> DeviceActor::superblock(const std::string& metadata_device) {
    return message_of(TRY(host_.read_superblock(metadata_device)));
}

// A dead actor may have left one without a live table, which claims what the pool lies on.
Result<void> DeviceActor::remove_half_made(const DmDevice& pool) {
    const int error_number = dm_.remove(pool);
    if (error_number == 0 || error_number == ENXIO) return {};
    return step_failed("remove half made device", pool, error_number);
}

// What is live, whoever loaded it; `spec` as its table has it.
Result<schemas::PoolState> DeviceActor::pool_state(const DmDevice& pool) {
    schemas::PoolState state;
    const auto info = TRY(dm_.find(pool));
    const auto live = TRY(dm_.table(pool));
    if (!info || !live || live->type != "thin-pool") return state;
    const auto table = TRY(parse_thin_pool_table(live->parameters));
    state.loaded = true;
    state.status = status_text(pool);
    state.open_count = info->open_count;
    state.suspended = info->suspended;
    state.data_device = TRY(host_.device_path(table.data_device));
    state.metadata_device = TRY(host_.device_path(table.metadata_device));
    state.spec.pool.device = info->device.name;
    state.spec.data_path = state.data_device;
    state.spec.metadata_path = state.metadata_device;
    state.spec.data_sectors = live->sectors;
    state.spec.metadata_sectors = TRY(host_.device_sectors(state.metadata_device));
    state.spec.block_sectors = table.block_sectors;
    state.spec.low_water_blocks = table.low_water_blocks;
    state.spec.skip_zeroing = table.skip_zeroing;
    state.spec.discard_passdown = table.discard_passdown && !table.ignore_discard;
    state.spec.queue_if_no_space = !table.error_if_no_space;
    return state;
}

Result<bool> DeviceActor::is_loaded_read_only(const DmDevice& pool) {
    const auto live = TRY(dm_.table(pool));
    return live && TRY(parse_thin_pool_table(live->parameters)).read_only;
}

Result<schemas::PoolState> DeviceActor::create_pool(const schemas::CreatePool& command) {
    TRY(check_spec(command.spec));
    if (command.spec.backing == kAdoptedBacking) {
        return Error{Errc::invalid_argument, "create pool: an adopted pool is there already"};
    }
    TRY(check_may_become_ours(command.spec.pool));
    const DmDevice pool = TRY(any_pool_device(command.spec.pool));
    auto state = TRY(pool_state(pool));
    Backing backing;
    if (!state.loaded) {
        TRY(remove_half_made(pool));
        const Overwrite overwrite{.anything = command.force, .own_transaction_id = command.own_transaction_id};
        backing = TRY(host_.make_backing(command.spec, overwrite));
        TRY(host_.record_own_pool(command.spec.pool.uuid));
        TRY(host_.zero_superblock(backing.metadata_path));
        TRY(load_pool(command.spec, backing, Load::writable));
        state = TRY(pool_state(pool));
    } else if (command.spec.backing == kDevicesBacking) {
        backing = TRY(host_.find_backing(command.spec));
    }
    state.superblock = TRY(superblock(state.metadata_device));
    tell_of_devices(backing, state);
    keep_untold(state.spec, command.spec);
    return state;
}

Result<void> DeviceActor::load_pool(const schemas::PoolSpec& spec, const Backing& backing, Load load) {
    const DmDevice pool = TRY(pool_device(spec.pool));
    int error_number = dm_.create(pool);
    if (error_number != 0) return step_failed("create device", pool, error_number);
    error_number = dm_.load(pool, pool_target(spec, backing, load == Load::read_only), false);
    if (error_number == 0) error_number = dm_.resume(pool);
    if (error_number != 0) {
        if (dm_.remove(pool) != 0) spdlog::warn("remove pool={} after its load failed", pool.name);
        return step_failed("load table", pool, error_number);
    }
    if (const auto info = TRY(dm_.find(pool))) TRY(dm_.ensure_node(*info));
    return {};
}

Result<schemas::PoolState> DeviceActor::inspect_pool(const schemas::InspectPool& command) {
    // The uuid plays no part in looking at somebody else's pool.
    TRY(check_pool({.uuid = std::string(32, '0'), .device = command.device}));
    auto state = TRY(pool_state({.name = command.device, .uuid = {}}));
    if (!state.loaded) {
        return Error{Errc::not_found, fmt::format("inspect pool: no live dm thin-pool '{}'", command.device)};
    }
    state.superblock = TRY(superblock(state.metadata_device));
    state.spec.backing = kAdoptedBacking;
    return state;
}

Result<schemas::ExaminePool::Reply> DeviceActor::examine_pool(const schemas::ExaminePool& command) {
    schemas::PoolSpec spec = command.spec;
    if (spec.pool.uuid.empty()) {
        const auto own = TRY(host_.own_pool());
        if (!own) {
            return Error{
                Errc::not_found,
                "examine pool: DIR/pool/uuid is absent, so it is not known which pool this is; its label says, "
                "and root writes it there"};
        }
        spec.pool.uuid = *own;
        if (spec.backing != kAdoptedBacking) spec.pool.device = pool_dm_name(*own);
    }
    TRY(check_pool(spec.pool));
    const DmDevice pool = TRY(any_pool_device(spec.pool));
    schemas::ExaminePool::Reply reply;
    reply.state = TRY(pool_state(pool));
    if (reply.state.loaded) {
        reply.state.superblock = TRY(superblock(reply.state.metadata_device));
    } else if (spec.backing == kAdoptedBacking) {
        return Error{Errc::unavailable, fmt::format("examine pool: the adopted pool '{}' is not there", pool.name)};
    } else {
        TRY(look_at_unloaded(spec, reply));
    }
    keep_untold(reply.state.spec, spec);
    return reply;
}

Result<void> DeviceActor::look_at_unloaded(const schemas::PoolSpec& spec, schemas::ExaminePool::Reply& reply) {
    const Backing backing = TRY(host_.find_backing(spec));
    const auto found = TRY(host_.read_superblock(backing.metadata_path));
    reply.state.data_device = backing.data_path;
    reply.state.metadata_device = backing.metadata_path;
    reply.state.superblock = message_of(found);
    reply.state.spec = spec;
    reply.state.spec.devices = backing.devices;
    if (!found.valid) return {};
    reply.state.spec.block_sectors = found.data_block_sectors;
    reply.state.spec.data_sectors = found.total_data_blocks * found.data_block_sectors;
    reply.state.spec.metadata_sectors = TRY(host_.device_sectors(backing.metadata_path));
    const auto list = host_.list_unloaded_thins(backing.metadata_path);
    if (!list) spdlog::warn("look at the pool's metadata: {}", list.error().message);
    reply.listed = list.has_value();
    for (std::size_t i = 0; list && i < std::min(list->size(), kMaxListed); ++i) {
        reply.thins.push_back({(*list)[i].thin_id, (*list)[i].mapped_blocks, (*list)[i].transaction_id});
    }
    return {};
}

Result<schemas::PoolState> DeviceActor::start_pool(const schemas::StartPool& command) {
    TRY(check_spec(command.spec));
    // One that was made before there was such a record becomes ours with the look at its superblock.
    const bool recorded = TRY(host_.own_pool()).has_value();
    TRY(recorded ? check_ours(command.spec.pool) : check_may_become_ours(command.spec.pool));
    const DmDevice pool = TRY(any_pool_device(command.spec.pool));
    const bool adopted = command.spec.backing == kAdoptedBacking;
    auto state = TRY(pool_state(pool));
    // Its read-only start was not ended by who began it.
    if (state.loaded && !adopted && !command.read_only && TRY(is_loaded_read_only(pool))) {
        TRY(remove_internal(command.spec.pool));
        if (const int number = dm_.remove(pool); number != 0)
            return step_failed("put away the read-only", pool, number);
        state = {};
    }
    Backing backing;
    if (!state.loaded && adopted) {
        return Error{Errc::unavailable, fmt::format("start pool: the adopted pool '{}' is not there yet", pool.name)};
    }
    if (!state.loaded) {
        TRY(remove_half_made(pool));
        backing = TRY(host_.find_backing(command.spec));
        const auto before = TRY(host_.read_superblock(backing.metadata_path));
        TRY(check_superblock(before, command));
        // The kernel could not take up more: that is a change.
        if (command.read_only) backing.data_sectors = before.total_data_blocks * before.data_block_sectors;
        if (!recorded) TRY(host_.record_own_pool(command.spec.pool.uuid));
        TRY(load_pool(command.spec, backing, command.read_only ? Load::read_only : Load::writable));
        state = TRY(pool_state(pool));
        state.superblock = message_of(before);
    } else {
        if (state.suspended && !adopted) {
            if (const int number = dm_.resume(pool); number != 0) return step_failed("resume", pool, number);
            state = TRY(pool_state(pool));
        }
        state.superblock = TRY(superblock(state.metadata_device));
        if (!recorded) TRY(host_.record_own_pool(command.spec.pool.uuid));
        if (command.spec.backing == kDevicesBacking) backing = TRY(host_.find_backing(command.spec));
    }
    tell_of_devices(backing, state);
    keep_untold(state.spec, command.spec);
    return state;
}

Result<schemas::PoolState> DeviceActor::grow_pool(const schemas::GrowPool& command) {
    TRY(check_spec(command.spec));
    if (command.spec.backing == kAdoptedBacking) {
        return Error{Errc::invalid_argument, "grow pool: an adopted pool is its owner's to grow"};
    }
    const DmDevice pool = TRY(pool_device(command.spec.pool));
    auto state = TRY(pool_state(pool));
    if (!state.loaded) return Error{Errc::unavailable, fmt::format("grow pool: no live pool '{}'", pool.name)};
    TRY(host_.grow_backing(command.spec));
    if (state.suspended) {  // By an earlier copy that died; resumed with the table that it may have loaded.
        if (const int number = dm_.resume(pool); number != 0) return step_failed("resume", pool, number);
    }
    state = TRY(pool_state(pool));
    const auto status = TRY(parse_thin_pool_status(state.status));
    const bool failed = status.mode == PoolMode::fail || status.mode == PoolMode::error;
    if (!failed && !status.needs_check) {
        // First the metadata, since more data takes some of them. The kernel looks at their device at each resume.
        const std::uint64_t metadata_sectors = std::min(state.spec.metadata_sectors, kMaxMetadataSectors);
        if (metadata_sectors / 8 > status.total_metadata_blocks) {
            const int number = suspend_and_resume(pool);
            if (number != 0) return step_failed("take up more metadata", pool, number);
        }
        TRY(load_longer(pool, state, command.spec));
    }
    state = TRY(pool_state(pool));
    if (command.spec.backing == kDevicesBacking) tell_of_devices(TRY(host_.find_backing(command.spec)), state);
    keep_untold(state.spec, command.spec);
    return state;
}

// If there is more data than in the live table, of whole devices: as is wanted of them; or who finds no room is to wait
// now, or no more.
Result<void> DeviceActor::load_longer(const DmDevice& pool, const schemas::PoolState& state,
                                      const schemas::PoolSpec& wanted) {
    Backing backing{.data_path = state.data_device, .metadata_path = state.metadata_device};
    backing.data_sectors = TRY(host_.device_sectors(state.data_device)) / state.spec.block_sectors;
    backing.data_sectors *= state.spec.block_sectors;
    if (wanted.backing == kDevicesBacking && wanted.data_sectors != 0) {
        backing.data_sectors = std::max(std::min(backing.data_sectors, wanted.data_sectors), state.spec.data_sectors);
    }
    const bool same = state.spec.queue_if_no_space == wanted.queue_if_no_space;
    if (backing.data_sectors <= state.spec.data_sectors && same) return {};
    schemas::PoolSpec spec = state.spec;
    spec.low_water_blocks = wanted.low_water_blocks;
    spec.queue_if_no_space = wanted.queue_if_no_space;
    int number = dm_.load(pool, pool_target(spec, backing, false), false);
    if (number != 0) return step_failed("load a longer table", pool, number);
    number = suspend_and_resume(pool);
    if (number == 0) return {};
    // As it was: suspended it would stop everybody.
    backing.data_sectors = state.spec.data_sectors;
    if (const int again = dm_.load(pool, pool_target(state.spec, backing, false), false); again == 0) {
        if (dm_.resume(pool) != 0) spdlog::error("pool={} stays suspended after its growth failed", pool.name);
    }
    return step_failed("take up more data", pool, number);
}

// Without a flush: a full pool could not end it.
int DeviceActor::suspend_and_resume(const DmDevice& pool) {
    const int suspended = dm_.suspend(pool, SuspendMode::no_flush);
    int resumed = dm_.resume(pool);
    for (int attempt = 1; resumed != 0 && attempt < kPoolResumeAttempts; ++attempt) {
        host_.pause(kPoolResumePause);
        resumed = dm_.resume(pool);
    }
    return suspended != 0 ? suspended : resumed;
}

Result<schemas::PoolState> DeviceActor::stop_pool(const schemas::StopPool& command) {
    TRY(check_spec(command.spec));
    TRY(check_may_become_ours(command.spec.pool));  // Of a create that was refused there is no record.
    const DmDevice pool = TRY(any_pool_device(command.spec.pool));
    if (command.spec.backing == kAdoptedBacking) return pool_state(pool);
    TRY(remove_internal(command.spec.pool));
    const auto info = TRY(dm_.find(pool));
    const int error_number = info ? dm_.remove(pool) : ENXIO;
    if (error_number == EBUSY) {
        Error error = step_failed("remove device", pool, error_number);
        for (const auto& thin : TRY(dm_.list("COWSLIP-" + command.spec.pool.uuid))) {
            const bool is_thin = parse_thin_dm_uuid(command.spec.pool.uuid, thin.device.uuid).has_value();
            auto& holders = error.details["holders"];
            if (is_thin && holders.size() < kMaxHolders) holders.push_back("active device " + thin.device.name);
        }
        return error;
    }
    if (error_number != 0 && error_number != ENXIO) return step_failed("remove device", pool, error_number);
    if (error_number == ENXIO) dm_.remove_node(pool.name);
    TRY(host_.release_backing(command.spec));
    schemas::PoolState state;
    state.spec = command.spec;
    return state;
}

Result<schemas::PoolState> DeviceActor::discard_pool(const schemas::DiscardPool& command) {
    const Overwrite own{.own_transaction_id = command.own_transaction_id,
                        .least_transaction_id = command.least_transaction_id};
    auto state = TRY(stop_pool({command.spec}));
    if (command.spec.backing != kAdoptedBacking) {
        TRY(host_.discard_backing(command.spec, own));
        return state;
    }
    TRY(remove_internal(command.spec.pool));
    const DmDevice pool = TRY(any_pool_device(command.spec.pool));
    const auto status = parse_thin_pool_status(state.status);
    if (status && own.owns(status->transaction_id)) {
        for (const std::uint32_t thin_id : command.thin_ids) {
            if (const int number = dm_.message(pool, delete_message(thin_id)); number != 0 && number != ENODATA) {
                return step_failed("delete what was made", pool, number);
            }
        }
        const int number = dm_.message(pool, set_transaction_id_message(status->transaction_id, 0));
        if (number != 0) return step_failed("give back", pool, number);
    }
    TRY(host_.forget_own_pool(command.spec.pool.uuid));
    return state;
}

Result<schemas::PoolState> DeviceActor::read_pool_status(const schemas::ReadPoolStatus& command) {
    const DmDevice pool = TRY(any_pool_device(command.pool));
    if (events_ != nullptr && !command.status_only) events_->watch(pool);
    if (command.status_only) {
        schemas::PoolState state;
        state.status = status_text(pool);
        state.loaded = !state.status.empty();
        return state;
    }
    auto state = TRY(pool_state(pool));
    if (state.loaded && command.superblock) state.superblock = TRY(superblock(state.metadata_device));
    state.spec = {};
    return state;
}

Result<schemas::RewindClock::Reply> DeviceActor::rewind_clock(const schemas::RewindClock& command) {
    TRY(check_spec(command.spec));
    const DmDevice pool = TRY(pool_device(command.spec.pool));
    if (command.spec.backing == kAdoptedBacking) {
        return Error{Errc::invalid_argument, "rewind: an adopted pool is its owner's to rewind"};
    }
    if (TRY(dm_.find(pool))) {
        return Error{Errc::in_use, fmt::format("rewind: the device of pool '{}' is still there", pool.name)};
    }
    const Backing backing = TRY(host_.find_backing(command.spec));
    auto found = TRY(host_.read_superblock(backing.metadata_path));
    if (!found.valid || found.transaction_id != command.to) {
        TRY(check_superblock(found, {.spec = command.spec, .confirmed = command.confirmed, .planned = command.to}));
        if (found.needs_check) return Error{Errc::needs_repair, "rewind: the metadata need a check first"};
        TRY(host_.recount_metadata(command.spec, {command.to, command.volumes, command.spare}));
        const bool pair = command.spec.backing == kPairBacking;
        const std::string recounted = pair ? command.spare : TRY(host_.find_backing(command.spec)).metadata_path;
        found = TRY(host_.read_superblock(recounted));
    }
    TRY(host_.release_backing(command.spec));
    return schemas::RewindClock::Reply{.superblock = message_of(found)};
}

Result<schemas::Verdict> DeviceActor::set_transaction_id(const schemas::SetTransactionId& command) {
    // The first one adopts it.
    if (command.from == 0 && !is_own_pool(command.pool)) {
        TRY(any_pool_device(command.pool));
        TRY(check_may_become_ours(command.pool));
        TRY(host_.record_own_pool(command.pool.uuid));
    }
    const DmDevice pool = TRY(pool_device(command.pool));
    if (command.to <= command.from) {
        return Error{Errc::invalid_argument,
                     fmt::format("set transaction id: {} is not above {}: they only go up", command.to, command.from)};
    }
    return send(pool, set_transaction_id_message(command.from, command.to));
}

// A metadata snapshot is reserved, read and released. An error of `read` is the whole's, unless the pool has left
// service, and its snapshot with it: then the verdict says so.
Result<schemas::Verdict> DeviceActor::with_metadata_snapshot(const DmDevice& pool, bool release_held,
                                                             const ReadSnapshot& read) {
    const auto state = TRY(pool_state(pool));
    if (!state.loaded) {
        return Error{Errc::unavailable, fmt::format("read a metadata snapshot: no live pool '{}'", pool.name)};
    }
    if (release_held) static_cast<void>(dm_.message(pool, kReleaseMetadataSnapMessage));  // EINVAL: none held.
    schemas::Verdict verdict;
    verdict.error_number = dm_.message(pool, kReserveMetadataSnapMessage);
    Result<void> done;
    if (verdict.error_number == 0) {
        done = read(state.metadata_device);
        const int released = dm_.message(pool, kReleaseMetadataSnapMessage);
        if (released != 0) spdlog::warn("release metadata snapshot pool={} errno={}", pool.name, released);
    }
    verdict.status = status_text(pool);
    if (done) return verdict;
    const auto status = parse_thin_pool_status(verdict.status);
    if (status && is_good(*status, 0, std::numeric_limits<std::uint64_t>::max())) return done.error();
    verdict.error_number = EIO;
    return verdict;
}

// Half a list would make volumes look lost: there is a whole one, or an error.
Result<schemas::ListThins::Reply> DeviceActor::list_thins(const schemas::ListThins& command) {
    // One that is to be adopted is looked at before it is ours.
    const DmDevice pool = TRY(is_own_pool(command.pool) ? pool_device(command.pool) : any_pool_device(command.pool));
    if (command.release_held && !is_own_pool(command.pool)) {
        return Error{Errc::invalid_argument, "list thins: a metadata snapshot of an adopted pool may be its owner's"};
    }
    std::vector<ThinListEntry> list;
    const auto read = [&](const std::string& device) -> Result<void> {
        list = TRY(host_.list_thins(device, command.sharing ? Sharing::counted : Sharing::ignored));
        return {};
    };
    schemas::ListThins::Reply reply;
    reply.verdict = TRY(with_metadata_snapshot(pool, command.release_held, read));
    for (const auto& thin : list) {
        if (thin.thin_id <= command.after_thin_id) continue;
        reply.more = reply.thins.size() == kMaxListed;
        if (reply.more) break;
        reply.thins.push_back({thin.thin_id, thin.mapped_blocks, thin.transaction_id, thin.exclusive_blocks});
    }
    return reply;
}

Result<schemas::DumpMetadata::Reply> DeviceActor::dump_metadata(const schemas::DumpMetadata& command) {
    const DmDevice pool = TRY(pool_device(command.pool));
    schemas::DumpMetadata::Reply reply;
    const auto dump = [&](const std::string& device) -> Result<void> {
        const auto status = TRY(parse_thin_pool_status(status_text(pool)));
        reply.bytes = TRY(host_.dump_metadata(device, {command.name, command.keep, status.total_data_blocks}));
        return {};
    };
    reply.verdict = TRY(with_metadata_snapshot(pool, command.release_held, dump));
    return reply;
}

}  // namespace cowslip
