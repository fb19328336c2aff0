// What changes nothing: answered at once, from the rows and from what the kernel was last seen to be.
#include <algorithm>

#include <fmt/format.h>

#include "common/names.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::uint32_t kPage = 500;
constexpr std::int64_t kLookAgainMs = 50;
// Labels may be long: a page must fit into a frame.
constexpr std::size_t kPageBytes = kMaxFrameBytes / 2;

std::uint32_t page_size(std::uint32_t wanted) {
    return std::clamp(wanted, 1U, kPage);
}

}  // namespace

// What its warm clones have for themselves goes with it; the rest of what they have is the image's.
void PoolManager::add_warm_space(const VolumeRow& image, schemas::Volume* volume) {
    for (const VolumeRow& clone : store_.warm_clones(image.thin_id)) {
        const auto found = measured_.find(clone.thin_id);
        const std::uint64_t own = found == measured_.end() ? 0 : found->second.exclusive_bytes.value_or(0);
        *volume->mapped_bytes += own;
        *volume->exclusive_bytes += own;
    }
}

schemas::Volume PoolManager::describe(const VolumeRow& row) {
    schemas::Volume volume;
    volume.id = row.name.value_or("");
    volume.parent = row.parent;
    volume.kind = row.kind;
    volume.state = lost_.contains(row.thin_id) ? "lost" : row.state;
    volume.thin_id = row.thin_id;
    volume.transaction_id = row.born_max;
    volume.size_bytes = row.size_sectors * kSectorBytes;
    volume.fs = row.fs;
    volume.mkfs_options = row.options.mkfs;
    volume.mount_options = row.options.mount;
    volume.created_at = format_time(row.created_at);
    volume.labels = row.labels;
    volume.warm = describe_warm(row);
    for (const LeaseRow& lease : store_.leases(row.thin_id)) volume.leases.push_back({lease.holder, lease.mode});
    if (const auto device = devices_.find(row.thin_id); device != devices_.end()) {
        volume.device = device->second.path;
        if (!device->second.mount_path.empty()) volume.mount = device->second.mount_path;
    }
    if (const auto found = measured_.find(row.thin_id); found != measured_.end()) {
        volume.mapped_bytes = found->second.mapped_bytes;
        volume.exclusive_bytes = found->second.exclusive_bytes;
        if (volume.exclusive_bytes && *volume.mapped_bytes >= *volume.exclusive_bytes)
            volume.shared_bytes = *volume.mapped_bytes - *volume.exclusive_bytes;
        if (volume.warm && volume.exclusive_bytes) add_warm_space(row, &volume);
        volume.as_of = format_time(found->second.as_of);
    }
    return volume;
}

Result<schemas::VolumeExists::Reply> PoolManager::exists(const schemas::VolumeExists& request) {
    TRY(check_volume_id(request.id));
    const auto row = store_.find_volume(request.id);
    return schemas::VolumeExists::Reply{row.has_value() && row->state == "ready"};
}

Result<schemas::Volume> PoolManager::show(const schemas::VolumeShow& request) {
    TRY(check_volume_id(request.id));
    const auto row = store_.find_volume(request.id);
    if (!row) return Error{Errc::not_found, fmt::format("there is no volume '{}': see `cowslip ls`", request.id)};
    return describe(*row);
}

// A page may be short because few of its rows match: `more` says whether to go on, after the last id
// looked at.
Result<schemas::VolumeList::Reply> PoolManager::list(const schemas::VolumeList& request) {
    schemas::VolumeList::Reply reply;
    const std::uint32_t limit = page_size(request.limit);
    std::string after = request.after;
    std::size_t bytes = 0;
    for (;;) {
        const auto rows = store_.list_volumes(after, limit);
        for (const VolumeRow& row : rows) {
            const bool matches = std::all_of(request.labels.begin(), request.labels.end(), [&](const auto& label) {
                const auto found = row.labels.find(label.first);
                return found != row.labels.end() && found->second == label.second;
            });
            after = *row.name;
            if (!matches) continue;
            reply.volumes.push_back(describe(row));
            bytes += encode(reply.volumes.back()).size();
            reply.more = reply.volumes.size() >= limit || bytes >= kPageBytes;
            if (reply.more) return reply;
        }
        if (rows.size() < limit) return reply;
    }
}

Result<schemas::LeaseList::Reply> PoolManager::list_leases(const schemas::LeaseList& request) {
    schemas::LeaseList::Reply reply;
    const std::uint32_t limit = page_size(request.limit);
    const auto rows = store_.list_leases(request.after_id, request.after_holder, limit);
    for (const auto& [name, lease] : rows) {
        schemas::LeaseList::Entry entry{name, lease.holder, lease.mode, "", format_time(lease.taken_at)};
        if (const auto device = devices_.find(lease.thin_id); device != devices_.end()) {
            entry.path = lease.mode.starts_with("mounted") ? device->second.mount_path : device->second.path;
        }
        reply.leases.push_back(std::move(entry));
    }
    reply.more = rows.size() == limit;
    return reply;
}

Result<schemas::OperationList::Reply> PoolManager::list_operations(const schemas::OperationList& /*request*/) {
    schemas::OperationList::Reply reply;
    for (const auto& [number, operation] : operations_) {
        if (operation->role == Role::housekeeping) continue;
        ++reply.total;
        if (reply.operations.size() >= kPage) continue;
        schemas::Operation entry;
        entry.number = number;
        entry.type = operation->type;
        entry.subject = operation->subject;
        const std::string actor = actors_.who_does(number);
        entry.waiting_for = actor.empty() ? operation->waiting_for : actor;
        entry.age_ms = static_cast<std::uint64_t>(now_.monotonic_ms - operation->started_ms);
        entry.attempt = operation->attempts;
        entry.behind_reply = operation->role == Role::behind;
        reply.operations.push_back(std::move(entry));
    }
    return reply;
}

Task<std::string> PoolManager::wait_for_operation(Operation& operation, schemas::OperationWait request) {
    const auto found = operations_.find(request.operation);
    if (found != operations_.end() &&
        (found->second->role == Role::housekeeping || found->second->type == schemas::OperationWait::kType)) {
        co_return Error{Errc::invalid_argument, fmt::format("operation {} is none to wait for", request.operation)};
    }
    operation.waiting_for = fmt::format("operation {}", request.operation);
    // As long as somebody waits for the wait.
    while (operations_.contains(request.operation) && !operation.waiters.empty()) co_await sleep_ms(kLookAgainMs);
    const auto ended = ended_.find(request.operation);
    if (ended == ended_.end()) {
        co_return Error{Errc::not_found, fmt::format("operation {} is not going on: it ended long ago, or never was",
                                                     request.operation)};
    }
    if (ended->second) co_return *ended->second;
    co_return encode(schemas::Empty{});
}

Result<schemas::PoolStatus::Reply> PoolManager::pool_status(const schemas::PoolStatus& /*request*/) {
    return describe_pool();
}

schemas::PoolStatus::Reply PoolManager::describe_pool() {
    schemas::PoolStatus::Reply reply;
    reply.state = "none";
    if (!pool_row_) return reply;
    reply.name = pool_row_->name;
    reply.uuid = pool_row_->spec.pool.uuid;
    reply.state = pool_.read_only                                                ? "read_only"
                  : !pool_.frozen.empty()                                        ? "frozen"
                  : repairing_                                                   ? "repairing"
                  : !check_sound()                                               ? "needs_repair"
                  : !start_done_ && !pool_.loaded && pool_row_->state == "ready" ? "starting"
                                                                                 : pool_row_->state;
    reply.verdict = to_string(pool_.verdict);
    reply.backing = pool_row_->spec.backing;
    const schemas::PoolSpec& spec = pool_row_->spec;
    if (spec.skip_zeroing) reply.features.emplace_back("skip_block_zeroing");
    if (!spec.discard_passdown) reply.features.emplace_back("no_discard_passdown");
    if (spec.queue_if_no_space) reply.features.emplace_back("queue_if_no_space");
    if (spec.preallocate) reply.features.emplace_back("preallocated");
    reply.block_size_bytes = pool_row_->spec.block_sectors * kSectorBytes;
    reply.low_water = pool_row_->spec.low_water_blocks;
    reply.volumes = store_.count_ready_volumes();
    reply.transaction_id = pool_row_->confirmed;
    reply.data_device = pool_.data_device;
    reply.metadata_device = pool_.metadata_device;
    for (const auto& device : spec.devices) reply.devices.push_back(device.path);
    reply.reserve_bytes =
        (pool_.most_data_sectors - std::min(pool_.most_data_sectors, spec.data_sectors)) * kSectorBytes;
    reply.snapshots_taken = pool_.snapshots_taken;
    reply.limits = limits_in_force();
    reply.promised_bytes = store_.promised_bytes();
    for (const auto& [label, bytes] : reply.limits.quotas) reply.quotas.push_back(quota_use(label, bytes));
    if ((pool_.loaded || pool_.read_only) && pool_.status) {
        const ThinPoolStatus& status = *pool_.status;
        reply.mode = to_string(status.mode);
        reply.needs_check = status.needs_check;
        reply.transaction_id = status.transaction_id;
        reply.data = {status.used_data_blocks * reply.block_size_bytes,
                      status.total_data_blocks * reply.block_size_bytes};
        reply.metadata = {status.used_metadata_blocks * 4096, status.total_metadata_blocks * 4096};
        warn_of_space(&reply.warnings);
    }
    if (spec.skip_zeroing) {
        reply.warnings.emplace_back("new blocks are not zeroed: a volume can show what a removed one wrote");
    }
    if (spec.backing == "adopted" && spec.queue_if_no_space) {
        reply.warnings.emplace_back(
            "while it is full, whoever writes waits instead of being told; its owner can load it with "
            "error_if_no_space");
    }
    if (!pool_.frozen.empty()) reply.warnings.push_back(pool_.frozen);
    if (pool_.fault != PoolFault::none) reply.warnings.push_back(explain(pool_.fault, pool_.fault_detail));
    const auto warn_of_lifetime = [&](const char* what, std::uint64_t used) {
        if (used * 2 >= kLastThinId)
            reply.warnings.push_back(fmt::format("{} % of the pool's {} are used up", used * 100 / kLastThinId, what));
    };
    warn_of_lifetime("snapshots", reply.snapshots_taken);
    warn_of_lifetime("thin ids", store_.pool()->next_thin_id);
    return reply;
}

Result<schemas::SystemStatus::Reply> PoolManager::status(const schemas::SystemStatus& /*request*/) {
    schemas::SystemStatus::Reply reply;
    reply.version = COWSLIP_VERSION;
    reply.pid = options_.pid;
    reply.account = options_.account;
    reply.uptime_ms = static_cast<std::uint64_t>(now_.monotonic_ms - started_.monotonic_ms);
    reply.event_seq = store_.last_event_seq();
    reply.actors = actors_.report(now_.monotonic_ms);
    reply.pool = describe_pool();
    reply.leases = store_.count_leases();
    reply.operations = count_operations(Role::request);
    reply.behind_reply = count_operations(Role::behind);
    std::size_t bytes = 0;
    for (const auto& [key, detail] : findings_) {
        bytes += key.second.size() + detail.size();
        if (bytes > kPageBytes) break;
        reply.findings.push_back({std::string(to_string(key.first)), key.second, detail});
    }
    reply.counters = counters_;
    if (options_.process_counters) reply.counters.merge(options_.process_counters());
    return reply;
}

Result<schemas::EventSince::Reply> PoolManager::events_since(const schemas::EventSince& request) {
    schemas::EventSince::Reply reply;
    const std::uint32_t limit = page_size(request.limit);
    reply.events = store_.events_since(request.seq, limit);
    reply.more = reply.events.size() == limit;
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < reply.events.size(); ++i) {
        bytes += encode(reply.events[i]).size();
        if (bytes < kPageBytes || i == 0) continue;
        reply.events.resize(i);
        reply.more = true;
    }
    reply.oldest = store_.oldest_event_seq();
    return reply;
}

}  // namespace cowslip
