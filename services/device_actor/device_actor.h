// The only code that tells device-mapper anything. Keeps nothing, decides nothing: each command names
// a state to bring about; the actor looks, does what is missing, and reports what the kernel said.
//
// A command may be an older one repeated, after its actor died at any point: so what is there already
// is compared, not assumed. Its sender may be subverted: so names follow from uuid and thin id, and
// what was not made by us is touched only if root has listed it (protocol.md A13). An error means that
// nothing was done.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/actor_session.h"
#include "common/codec.h"
#include "common/device_mapper.h"
#include "common/result.h"
#include "schemas/device_actor.h"
#include "services/device_actor/host.h"
#include "services/device_actor/pool_events.h"

namespace cowslip {

inline constexpr std::size_t kMaxListed = 4096;  // Devices in one reply; then `more`.
inline constexpr std::size_t kMaxHolders = 16;

// As all of a pool's thins are called.
DmDevice thin_device(const schemas::PoolRef& pool, std::uint32_t thin_id);

class DeviceActor {
public:
    // `events` watch the pool from a look at its status until the next command of another kind.
    DeviceActor(DeviceMapper& dm, Host& host, PoolEvents* events = nullptr) : dm_(dm), host_(host), events_(events) {}

    // Any of the messages below, encoded. An unknown type is unimplemented.
    CommandAnswer handle(std::string_view type, const msgpack::object& body);

    // pool_commands.cpp
    Result<schemas::PoolState> create_pool(const schemas::CreatePool& command);
    Result<schemas::PoolState> inspect_pool(const schemas::InspectPool& command);
    Result<schemas::ExaminePool::Reply> examine_pool(const schemas::ExaminePool& command);
    Result<schemas::PoolState> start_pool(const schemas::StartPool& command);
    Result<schemas::PoolState> grow_pool(const schemas::GrowPool& command);
    Result<schemas::PoolState> stop_pool(const schemas::StopPool& command);
    Result<schemas::PoolState> discard_pool(const schemas::DiscardPool& command);
    Result<schemas::PoolState> read_pool_status(const schemas::ReadPoolStatus& command);
    Result<schemas::RewindClock::Reply> rewind_clock(const schemas::RewindClock& command);
    Result<schemas::Verdict> set_transaction_id(const schemas::SetTransactionId& command);
    Result<schemas::ListThins::Reply> list_thins(const schemas::ListThins& command);
    Result<schemas::DumpMetadata::Reply> dump_metadata(const schemas::DumpMetadata& command);

    // internal_thins.cpp
    Result<schemas::Verdict> write_internal(const schemas::WriteInternal& command);
    Result<schemas::ReadInternal::Reply> read_internal(const schemas::ReadInternal& command);

    Result<schemas::FindFilesystem::Reply> find_filesystem(const schemas::FindFilesystem& command);
    Result<schemas::DiscardThin::Reply> discard_thin(const schemas::DiscardThin& command);
    // repair_commands.cpp
    Result<schemas::CheckMetadata::Reply> check_metadata(const schemas::CheckMetadata& command);
    Result<schemas::RepairMetadata::Reply> repair_metadata(const schemas::RepairMetadata& command);
    Result<schemas::ReplaceMetadata::Reply> replace_metadata(const schemas::ReplaceMetadata& command);

    // device_actor.cpp
    Result<schemas::Verdict> create_thin(const schemas::CreateThin& command);
    Result<schemas::CreateSnap::Reply> create_snap(const schemas::CreateSnap& command);
    Result<schemas::DeleteThin::Reply> delete_thin(const schemas::DeleteThin& command);
    Result<schemas::Activate::Reply> activate(const schemas::Activate& command);
    Result<schemas::Deactivate::Reply> deactivate(const schemas::Deactivate& command);
    Result<schemas::Resume::Reply> resume(const schemas::Resume& command);
    Result<schemas::ListActive::Reply> list_active(const schemas::ListActive& command);

private:
    using ReadSnapshot = std::function<Result<void>(const std::string& metadata_device)>;
    Result<schemas::Verdict> with_metadata_snapshot(const DmDevice& pool, bool release_held, const ReadSnapshot& read);
    struct Removal {
        int error_number = 0;
        std::vector<schemas::Holder> holders = {};
    };

    Result<DmDevice> pool_device(const schemas::PoolRef& pool);
    Result<DmDevice> any_pool_device(const schemas::PoolRef& pool);
    Result<void> check_ours(const schemas::PoolRef& pool);
    Result<void> check_may_become_ours(const schemas::PoolRef& pool);
    Result<void> check_may_repair(const schemas::PoolSpec& spec);
    std::string status_text(const DmDevice& pool);
    schemas::Verdict send(const DmDevice& pool, const std::string& message);
    schemas::Verdict verdict(const DmDevice& pool, int error_number);

    Result<schemas::PoolState> pool_state(const DmDevice& pool);
    Result<bool> is_loaded_read_only(const DmDevice& pool);
    Result<void> look_at_unloaded(const schemas::PoolSpec& spec, schemas::ExaminePool::Reply& reply);
    Result<schemas::Superblock> superblock(const std::string& metadata_device);
    Result<void> remove_half_made(const DmDevice& pool);
    enum class Load : std::uint8_t { writable, read_only };
    Result<void> load_pool(const schemas::PoolSpec& spec, const Backing& backing, Load load);

    Result<void> load_longer(const DmDevice& pool, const schemas::PoolState& state, const schemas::PoolSpec& wanted);
    int suspend_and_resume(const DmDevice& pool);

    Result<schemas::Verdict> with_thin(const schemas::Activate& activation,
                                       const std::function<int(const std::string& path)>& use);
    Result<void> remove_internal(const schemas::PoolRef& pool);

    Result<int> suspend_origin(const DmDevice& pool, const DmDevice& origin);
    int resume_origin(const DmDevice& origin);
    Result<int> load_thin(const DmDevice& thin, const DmTarget& target, bool read_only, dev_t& number);
    Result<int> load_found_thin(const DmInfo& found, const DmTarget& target, bool read_only);
    int load_or_remove(const DmDevice& thin, const DmTarget& target, bool read_only);
    Result<std::optional<std::uint64_t>> mapped_sectors(const DmInfo& info);
    Result<Removal> remove_thin(const schemas::PoolRef& pool, std::uint32_t thin_id);
    template <class Reply>
    Reply not_removed(const DmDevice& pool, Removal removal) {
        Reply reply;
        reply.verdict = verdict(pool, removal.error_number);
        reply.holders = std::move(removal.holders);
        return reply;
    }
    Result<std::vector<schemas::Holder>> other_devices_of(const DmDevice& pool, std::uint32_t thin_id);

    DeviceMapper& dm_;
    Host& host_;
    PoolEvents* events_;
};

}  // namespace cowslip
