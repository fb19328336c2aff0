// What the pool says of itself, in its internal thin devices: the label, made with it and compared at each start, and
// backups of the store, from which `pool rebuild` makes another one.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/keys.h"
#include "services/pool_manager/label.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::uint32_t kRowsAtOnce = 256;
constexpr std::size_t kChunkBytes = 256 << 10U;  // Of rows, not compressed: what one turn works on.

const char* name_of_internal(std::uint32_t thin_id) {
    return thin_id == schemas::kLabelThinId ? "label" : "ring of backups";
}

}  // namespace

// ---- label -----------------------------------------------------------------------------------

Task<void> PoolManager::make_label(Operation& operation, std::vector<std::uint32_t>* made) {
    Result<void> there = co_await make_internal_thin(operation, schemas::kLabelThinId, made);
    if (there) there = co_await make_internal_thin(operation, schemas::kBackupsThinId, made);
    if (!there) co_return there.error();
    const PoolLabel label{.pool_uuid = pool_row_->spec.pool.uuid,
                          .tag = pool_row_->tag,
                          .block_sectors = pool_row_->spec.block_sectors,
                          .created_at = store_.now(),
                          .name = pool_row_->name};
    co_return co_await write_internal(operation, schemas::kLabelThinId, 0, encode_label(label));
}

Task<void> PoolManager::make_internal_thin(Operation& operation, std::uint32_t thin_id,
                                           std::vector<std::uint32_t>* made) {
    schemas::CreateThin command{pool_row_->spec.pool, thin_id};
    Result<schemas::Verdict> verdict = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!verdict) co_return verdict.error();
    const Outcome outcome = take_verdict(operation, *verdict);
    if (outcome == Outcome::unknown) {
        made->push_back(thin_id);
        co_return Error{Errc::unavailable, fmt::format("make the pool's {}: the pool is {}; try again",
                                                       name_of_internal(thin_id), pool_.mode)};
    }
    // After a first attempt it can only be somebody else's device.
    const bool was_there = verdict->error_number == EEXIST && operation.attempts > 1;
    if (outcome == Outcome::refused && !was_there) {
        co_return Error{Errc::in_use, fmt::format("make the pool's {}: thin id {}: {}", name_of_internal(thin_id),
                                                  thin_id, std::strerror(verdict->error_number))};
    }
    made->push_back(thin_id);
    co_return {};
}

// Behind the load, before anything is believed: metadata that are ours may lie over another pool's data.
Task<void> PoolManager::compare_label(Operation& operation) {
    Result<std::string> slots = co_await read_internal(operation, schemas::kLabelThinId, 0, kLabelBytes);
    const bool absent = !slots && slots.error().code == Errc::not_found;
    if (!slots && !absent && !pool_.writable) {
        find(FindingKind::unchecked, pool_row_->name,
             fmt::format("the pool's label was not read: {}", slots.error().message));
        co_return {};
    }
    if (!slots && !absent) co_return slots.error();
    const auto label = absent ? std::nullopt : newest_label(*slots);
    Seen seen = seen_by_store();
    seen.transaction_id = pool_.status->transaction_id;
    if (label) seen.label_pool = fmt::format("{} ('{}')", label->pool_uuid, label->name);
    const bool ours = label && label->pool_uuid == pool_row_->spec.pool.uuid && label->tag == pool_row_->tag;
    seen.label = absent ? SeenLabel::absent
                 : ours ? SeenLabel::ours
                        : (label ? SeenLabel::another : SeenLabel::damaged);
    const Judgement judgement = judge_pool(seen);
    if (freezes(judgement.verdict)) freeze(judgement);
    if (pool_.frozen.empty()) {
        unfind(FindingKind::unchecked, pool_row_->name);
        co_return {};
    }
    // As if it had never been loaded. Not where something of it is in use: then it was live before.
    const schemas::StopPool command{pool_row_->spec};
    Result<schemas::PoolState> stopped = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!stopped) spdlog::warn("put away the pool with a wrong label: {}", stopped.error().message);
    co_return Error{Errc::needs_repair, pool_.frozen};
}

// ---- the internal thin devices ---------------------------------------------------------------

Task<void> PoolManager::write_internal(Operation& operation, std::uint32_t thin_id, std::uint64_t offset,
                                       std::string data) {
    const Urgency urgency = operation.role == Role::request ? Urgency::awaited : Urgency::behind;
    schemas::WriteInternal command{pool_row_->spec.pool, thin_id, offset, std::move(data)};
    Result<schemas::Verdict> verdict = co_await tell(operation, ActorKind::device, urgency, command);
    if (!verdict) co_return verdict.error();
    const Outcome outcome = take_verdict(operation, *verdict);
    if (outcome == Outcome::done) co_return {};
    co_return Error{Errc::unavailable,
                    fmt::format("write the pool's {}: {}; the pool is {}; try again", name_of_internal(thin_id),
                                std::strerror(verdict->error_number), pool_.mode)};
}

// not_found: the pool has no such thin id.
Task<std::string> PoolManager::read_internal(Operation& operation, std::uint32_t thin_id, std::uint64_t offset,
                                             std::uint32_t length) {
    schemas::ReadInternal command{pool_row_->spec.pool, thin_id, offset, length};
    Result<schemas::ReadInternal::Reply> reply = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!reply) co_return reply.error();
    take_verdict(operation, reply->verdict);
    if (reply->verdict.error_number == 0) co_return std::move(reply->data);
    Error error =
        errno_error(reply->verdict.error_number, fmt::format("read the pool's {}", name_of_internal(thin_id)));
    if (reply->verdict.error_number == ENODATA) error.code = Errc::not_found;
    co_return error;
}

// ---- backups of the store --------------------------------------------------------------------

bool PoolManager::is_backing_up() const {
    return std::any_of(operations_.begin(), operations_.end(),
                       [](const auto& entry) { return entry.second->type == "backup"; });
}

void PoolManager::begin_backup() {
    if (is_backing_up()) return;
    backup_begun_ms_ = now_.monotonic_ms;
    Operation& operation = new_operation("backup", "");
    operation.role = Role::housekeeping;
    begin(operation, write_backup(operation));
}

Task<std::string> PoolManager::write_backup(Operation& operation) {
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::shared);
    Result<void> written = co_await write_ring(operation);
    // Once is no news: it is tried again in a minute.
    if (!written && ++backups_failed_ > 1 && pool_.mode == "rw") {
        find(FindingKind::store_backup, pool_row_->name, fmt::format("{}; it is tried again", written.error().message));
    }
    if (!written) co_return written.error();
    co_return "";
}

// A piece each turn. Rows may change meanwhile: each is whole, and who reads it compares it with the pool. The caller
// holds the pool.
Task<void> PoolManager::write_ring(Operation& operation) {
    if (!pool_.loaded || pool_.mode != "rw" || !pool_.frozen.empty()) co_return {};
    backup_due_ = false;
    Result<std::uint64_t> sequence = co_await next_backup_sequence(operation);
    if (!sequence) backup_due_ = true;
    if (!sequence) co_return sequence.error();
    BackupHead head;
    head.pool_uuid = pool_row_->spec.pool.uuid;
    head.tag = pool_row_->tag;
    head.taken_at = store_.now();
    head.transaction_id = pool_row_->confirmed;
    for (const auto& [thin_id, reason] : store_.quarantined()) head.quarantined.push_back(thin_id);
    std::uint64_t bytes = 0;
    std::int64_t after = -1;
    for (bool more = true; more;) {
        std::vector<BackupRow> rows;
        std::size_t size = 0;
        while (more && size < kChunkBytes) {
            const auto page = store_.volumes_after(after, kRowsAtOnce);
            more = page.size() == kRowsAtOnce;
            for (const VolumeRow& row : page) {
                rows.push_back(to_backup(row));
                size += encode(rows.back()).size();
                after = row.thin_id;
                if (size < kChunkBytes) continue;
                more = true;
                break;
            }
        }
        std::string chunk = make_backup_chunk(*sequence, rows);
        const std::uint64_t offset = backup_area_offset(*sequence) + bytes;
        bytes += chunk.size();
        head.chunk_bytes.push_back(static_cast<std::uint32_t>(chunk.size()));
        if (bytes > kBackupAreaBytes || !make_backup_head(*sequence, head)) {
            co_return Error{Errc::internal, "write a backup of the store: it is larger than the pool keeps room for"};
        }
        Result<void> written = co_await write_internal(operation, schemas::kBackupsThinId, offset, std::move(chunk));
        if (!written) backup_due_ = true;
        if (!written) co_return written.error();
    }
    head.next_thin_id = store_.pool()->next_thin_id;
    std::string frame = *make_backup_head(*sequence, head);
    Result<void> written =
        co_await write_internal(operation, schemas::kBackupsThinId, backup_head_offset(*sequence), std::move(frame));
    if (!written) backup_due_ = true;
    if (!written) co_return written.error();
    backup_sequence_ = *sequence;
    count("store_backups");
    backups_failed_ = 0;
    unfind(FindingKind::store_backup, pool_row_->name);
    co_return {};
}

// The store does not keep it: that of an older store would be an older one.
Task<std::uint64_t> PoolManager::next_backup_sequence(Operation& operation) {
    if (backup_sequence_ != 0) co_return backup_sequence_ + 1;
    Result<std::string> heads = co_await read_internal(operation, schemas::kBackupsThinId, 0, kBackupHeadsBytes);
    if (!heads && heads.error().code == Errc::not_found) {
        std::vector<std::uint32_t> made;
        Result<void> anew = co_await make_internal_thin(operation, schemas::kBackupsThinId, &made);
        if (!anew) co_return anew.error();
        co_return 1;
    }
    if (!heads) co_return heads.error();
    const auto found = find_backups(*heads, pool_row_->spec.pool.uuid);
    co_return found.empty() ? 1 : found.front().sequence + 1;
}

}  // namespace cowslip
