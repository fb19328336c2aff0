// The pool made larger while it is used. The intent is a row: whatever dies, the next process goes on with it, and a
// pool that had grown already is loaded as large as its files are.
#include <algorithm>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "common/size.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kMostDataSectors = std::uint64_t{1} << 46U;

bool same_devices(const schemas::PoolSpec& a, const schemas::PoolSpec& b) {
    return std::equal(a.devices.begin(), a.devices.end(), b.devices.begin(), b.devices.end(),
                      [](const auto& one, const auto& other) { return one.path == other.path && one.id == other.id; });
}

std::string in_bytes(std::uint64_t sectors) {
    return std::to_string(sectors * kSectorBytes);
}

// Those that it has already are no more.
void add_devices(schemas::PoolSpec& spec, const std::vector<std::string>& paths) {
    for (const std::string& path : paths) {
        const bool known = std::any_of(spec.devices.begin(), spec.devices.end(),
                                       [&](const auto& device) { return device.path == path; });
        if (!known) spec.devices.push_back({path, new_uuid()});
    }
}

}  // namespace

// Whether the pool is in a state that growing may find it in: in service, or out of it since it is full.
Result<void> PoolManager::check_growable() const {
    if (!pool_row_) return no_pool_yet(Errc::not_found);
    if (pool_row_->spec.backing == "adopted") {
        return Error{
            Errc::invalid_argument,
            "grow: an adopted pool is its owner's to grow (`lvextend`, say); what it grows by is seen by itself"};
    }
    if (!pool_.frozen.empty()) return Error{Errc::needs_repair, pool_.frozen};
    // A failed allocation of metadata may leave needs_check: larger ones are taken up when that is repaired.
    if (pool_.fault != PoolFault::commit_failed || repairing_) TRY(check_sound());
    if (pool_.loaded) return {};
    return Error{Errc::unavailable, "grow: the pool is not in service: `cowslip pool start`"};
}

// The pool's spec with the sizes that the request asks for.
Result<schemas::PoolSpec> PoolManager::plan_growth(const schemas::PoolGrow& request) const {
    TRY(check_growable());
    schemas::PoolSpec spec = pool_row_->spec;
    const bool sized = request.data_bytes != 0 || request.metadata_bytes != 0;
    if (spec.backing == "devices") {
        add_devices(spec, request.devices);
        if (!sized) {  // All that they have.
            spec.data_sectors = 0;
            spec.metadata_sectors = 0;
            spec.queue_if_no_space = pool_row_->limits.queue_when_full;
            return spec;
        }
    } else if (!request.devices.empty()) {
        return Error{Errc::invalid_argument, "grow: only a pool with devices of its own takes more of them"};
    }
    if (spec.backing == "pair") {
        if (!sized) return spec;
        return Error{Errc::invalid_argument,
                     "grow: this pool takes what its two devices have: make them larger, then `cowslip pool grow`"};
    }
    if (!sized) {
        return Error{Errc::invalid_argument, "grow: to which size? --data SIZE, --metadata SIZE, or both"};
    }
    const std::uint64_t data_sectors = request.data_bytes / kSectorBytes / spec.block_sectors * spec.block_sectors;
    const std::uint64_t metadata_sectors = request.metadata_bytes / 4096 * 8;
    const auto take = [](const char* what, std::uint64_t wanted, std::uint64_t& now) -> Result<void> {
        if (wanted < now) {
            return Error{Errc::invalid_argument, fmt::format("grow: the {} {} already, and a pool never gets smaller",
                                                             what, format_size(now * kSectorBytes))};
        }
        now = wanted;
        return {};
    };
    if (request.data_bytes != 0) TRY(take("data have", data_sectors, spec.data_sectors));
    if (request.metadata_bytes != 0) TRY(take("metadata have", metadata_sectors, spec.metadata_sectors));
    if (spec.data_sectors > kMostDataSectors) return Error{Errc::invalid_argument, "grow: a pool has at most 32 PiB"};
    if (spec.metadata_sectors > kMaxMetadataSectors) {
        return Error{Errc::invalid_argument, fmt::format("grow: the kernel uses no more than {} of metadata",
                                                         format_size(kMaxMetadataSectors * kSectorBytes))};
    }
    spec.queue_if_no_space = queues_at(spec.data_sectors);
    return spec;
}

// Holds kStartKey, so that nobody puts the pool away, and not kPoolKey: that may be held by those who wait for room.
Task<std::string> PoolManager::grow_pool(Operation& operation, schemas::PoolGrow request) {
    if (pool_row_) operation.subject = pool_row_->name;
    const NameLock lock = co_await names_.acquire(kStartKey, LockMode::exclusive);
    Result<schemas::PoolSpec> wanted = plan_growth(request);
    if (!wanted) co_return wanted.error();
    store_.insert_operation(
        {operation.number, OperationType::grow, std::nullopt, operation.request_id, encode(request)});
    store_.insert_request(operation.request_id, operation.digest);
    operation.recorded = true;
    co_return co_await carry_out_grow(operation, std::move(*wanted));
}

// It was accepted: without its pool it waits.
Task<std::string> PoolManager::resume_grow(Operation& operation, std::string body) {
    Result<schemas::PoolGrow> request = decode_as<schemas::PoolGrow>(std::string_view(body));
    if (!request) co_return request.error();
    operation.subject = pool_row_->name;
    for (;;) {
        while (!pool_.loaded) {
            operation.waiting_for = "the pool to be loaded";
            co_await pool_changed_.wait();
        }
        const NameLock lock = co_await names_.acquire(kStartKey, LockMode::exclusive);
        if (!pool_.loaded) continue;
        Result<schemas::PoolSpec> wanted = plan_growth(*request);
        if (wanted) co_return co_await carry_out_grow(operation, std::move(*wanted));
        give_up_grow(operation, wanted.error());
        co_return wanted.error();
    }
}

// The failure is the answer from now on, and nothing is owed.
void PoolManager::give_up_grow(Operation& operation, const Error& error) {
    store_.delete_operation(operation.number);
    if (!operation.request_id.empty()) {
        store_.set_reply(operation.request_id, operation.digest, error_frame(operation.request_id, error));
    }
    keep();
    operation.recorded = false;
}

// From the intent on; also where recovery begins. The caller holds kStartKey.
Task<std::string> PoolManager::carry_out_grow(Operation& operation, schemas::PoolSpec wanted) {
    const std::uint64_t before = pool_row_->spec.data_sectors + pool_row_->spec.metadata_sectors;
    // No table of a thin is loaded while the pool is suspended: the kernel refuses that.
    NameLock tables = co_await names_.acquire(kTablesKey, LockMode::exclusive);
    schemas::GrowPool command{wanted};
    Result<schemas::PoolState> state = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!state) {
        // Whoever died of it may have left the pool suspended.
        operation.deaths = 0;
        const schemas::Resume let_run{pool_row_->spec.pool, 0, true};
        Result<schemas::Resume::Reply> resumed = co_await tell(operation, ActorKind::device, Urgency::awaited, let_run);
        if (!resumed) spdlog::error("resume the pool: {}", resumed.error().message);
        give_up_grow(operation, state.error());
        co_return state.error();
    }
    tables.release();
    take_backing(*state);
    take_status(operation, 0, state->status);
    take_sizes(*state);
    store_.delete_operation(operation.number);
    next_repair_ms_ = now_.monotonic_ms;  // What it failed for, again and again, may be over.
    schemas::PoolGrow::Reply reply;
    reply.changed = pool_row_->spec.data_sectors + pool_row_->spec.metadata_sectors > before;
    reply.pool = describe_pool();
    co_return encode(reply);
}

void PoolManager::take_backing(const schemas::PoolState& state) {
    pool_.data_device = state.data_device;
    pool_.metadata_device = state.metadata_device;
    pool_.most_data_sectors = state.most_data_sectors;
    pool_.most_metadata_sectors = state.most_metadata_sectors;
}

// The row follows what the pool has become: by us, by whoever died before it was written down, or by its owner.
void PoolManager::take_sizes(const schemas::PoolState& state) {
    schemas::PoolSpec spec = pool_row_->spec;
    spec.data_sectors = state.spec.data_sectors;
    spec.metadata_sectors = state.spec.metadata_sectors;
    const schemas::PoolSpec& before = pool_row_->spec;
    const bool larger = spec.data_sectors != before.data_sectors || spec.metadata_sectors != before.metadata_sectors;
    if (before.backing != "adopted") spec.queue_if_no_space = state.spec.queue_if_no_space;
    spec.devices = state.spec.devices;
    if (!larger && spec.queue_if_no_space == before.queue_if_no_space && same_devices(spec, before)) return;
    store_.set_pool_spec(spec);
    if (!larger) {
        pool_row_->spec = spec;
        return;
    }
    event("pool.extended", pool_row_->name,
          {{"data_before", in_bytes(before.data_sectors)},
           {"data", in_bytes(spec.data_sectors)},
           {"metadata_before", in_bytes(before.metadata_sectors)},
           {"metadata", in_bytes(spec.metadata_sectors)}});
    spdlog::info("pool extended data_bytes={} metadata_bytes={}", spec.data_sectors * kSectorBytes,
                 spec.metadata_sectors * kSectorBytes);
    pool_row_->spec = spec;
}

}  // namespace cowslip
