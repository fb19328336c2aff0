// What file systems do not use goes back to the pool. In parts, each followed by a rest as long as itself, and between
// them nothing is held: whoever wants the volume waits for one part at most.
#include <algorithm>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/keys.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kTrimPartBytes = 256ULL << 20U;  // One call of the kernel's: two groups of ext4.
constexpr std::int64_t kLeastRestMs = 10;
constexpr std::int64_t kLongestTrimMs = 5000;  // Then it is answered, however much is left.
constexpr std::int64_t kLookForDueMs = 3600 * 1000;

}  // namespace

Task<std::string> PoolManager::trim_volume(Operation& operation, schemas::VolumeTrim request) {
    Result<void> checked = check_volume_id(request.id);
    if (!checked) co_return checked.error();
    schemas::VolumeTrim::Reply reply;
    reply.next_offset_bytes = request.offset_bytes / kTrimPartBytes * kTrimPartBytes;
    const std::int64_t until_ms = now_.monotonic_ms + kLongestTrimMs;
    do {
        checked = co_await trim_part(operation, request.id, &reply);
        if (!checked) co_return checked.error();
    } while (!reply.complete && now_.monotonic_ms < until_ms && !operation.waiters.empty());
    co_return encode(reply);
}

Result<VolumeRow> PoolManager::find_trimmable(const std::string& id) {
    const auto row = store_.find_volume(id);
    if (!row) return Error{Errc::not_found, fmt::format("there is no volume '{}'", id)};
    const auto device = devices_.find(row->thin_id);
    if (device == devices_.end() || device->second.mount_path.empty() || device->second.mount_read_only) {
        return Error{Errc::invalid_argument,
                     fmt::format("volume '{}' is not mounted writable: `cowslip get {}` first, and put it afterwards; "
                                 "who has attached it trims it himself",
                                 id, id)};
    }
    TRY(check_sound());
    return *row;
}

Task<void> PoolManager::trim_part(Operation& operation, std::string id, schemas::VolumeTrim::Reply* reply) {
    std::vector<LockRequest> names = {{volume_key(id), LockMode::shared}, {kPoolKey, LockMode::shared}};
    NameLock lock = co_await names_.acquire(names);
    Result<VolumeRow> row = find_trimmable(id);
    if (!row) co_return row.error();
    NameLock thin = co_await names_.acquire(thin_key(row->thin_id), LockMode::exclusive);
    row = find_trimmable(id);
    if (!row) co_return row.error();
    const std::uint64_t size = row->size_sectors * kSectorBytes;
    const std::int64_t began_ms = now_.monotonic_ms;
    if (reply->next_offset_bytes < size) {
        schemas::Trim command{devices_.at(row->thin_id).directory,
                              thin_dm_uuid(pool_row_->spec.pool.uuid, row->thin_id), reply->next_offset_bytes,
                              std::min(kTrimPartBytes, size - reply->next_offset_bytes)};
        Result<schemas::Trim::Reply> trimmed = co_await tell(operation, ActorKind::mount, Urgency::awaited, command);
        if (!trimmed) co_return trimmed.error();
        reply->trimmed_bytes += trimmed->trimmed_bytes;
        reply->next_offset_bytes = std::min(reply->next_offset_bytes + kTrimPartBytes, size);
    }
    reply->complete = reply->next_offset_bytes >= size;
    thin.release();
    lock.release();
    operation.waiting_for = "the rest after a part";
    if (!reply->complete) co_await sleep_ms(std::max(now_.monotonic_ms - began_ms, kLeastRestMs));
    co_return {};
}

// ---- by itself -------------------------------------------------------------------------------

// Counted from when it was last done, so also a service that is started anew each day comes to it.
Task<std::string> PoolManager::trim_now_and_then(Operation& operation) {
    if (store_.trimmed_at() == 0) {
        store_.set_trimmed_at(store_.now());
    }
    for (;;) {
        const std::int64_t due_in_ms = store_.trimmed_at() + options_.trim_ms - store_.now();
        if (due_in_ms > 0) {
            co_await sleep_ms(std::min(due_in_ms, kLookForDueMs));
            continue;
        }
        operation.deaths = 0;
        Result<std::uint64_t> trimmed = co_await trim_mounted(operation);
        store_.set_trimmed_at(store_.now());
        const std::string pool = pool_row_ ? pool_row_->name : "";
        event("pool.trimmed", pool, {{"bytes", std::to_string(trimmed.value_or(0))}});
    }
}

// Those that are mounted writable now. One that is put meanwhile, or fails, keeps none of the others.
Task<std::uint64_t> PoolManager::trim_mounted(Operation& operation) {
    std::vector<std::string> ids;
    for (const auto& [thin_id, device] : devices_) {
        const auto row = store_.volume(thin_id);
        if (row && row->name && !device.mount_path.empty() && !device.mount_read_only) ids.push_back(*row->name);
    }
    std::uint64_t trimmed = 0;
    for (const std::string& id : ids) {
        schemas::VolumeTrim::Reply reply;
        Result<void> done;
        while (done && !reply.complete) done = co_await trim_part(operation, id, &reply);
        if (!done) spdlog::warn("trim '{}': {}", id, done.error().message);
        trimmed += reply.trimmed_bytes;
    }
    co_return trimmed;
}

}  // namespace cowslip
