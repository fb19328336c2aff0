// A volume grows. Its size is the intent, durable before its device has it, and the file system comes last: so whoever
// dies in between, no file system is ever larger than its device. A size is never taken back.
#include <fmt/format.h>

#include "common/names.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::uint32_t kMostGrowths = 5;
constexpr std::int64_t kGrowAgainMs = 100;

}  // namespace

Task<std::string> PoolManager::resize_volume(Operation& operation, schemas::VolumeResize request) {
    Result<void> checked = check_volume_id(request.id);
    if (!checked) co_return checked.error();
    Result<std::uint64_t> sectors = volume_sectors(request.size_bytes);
    if (!sectors) co_return sectors.error();
    const std::vector<LockRequest> names = {{volume_key(request.id), LockMode::exclusive}};
    Result<NameLock> lock = co_await enter(operation, names, Access::change);
    if (!lock) co_return lock.error();
    const auto row = store_.find_volume(request.id);
    if (!row || row->state != "ready")
        co_return Error{Errc::not_found, fmt::format("there is no volume '{}'", request.id)};
    if (*sectors == row->size_sectors) {
        co_return encode(schemas::VolumeResize::Reply{.volume = describe(*row), .changed = false});
    }
    Result<void> planned = plan_resize(operation, *row, *sectors);
    if (!planned) co_return planned.error();
    co_return co_await carry_out_resize(operation);
}

Result<void> PoolManager::plan_resize(Operation& operation, const VolumeRow& row, std::uint64_t sectors) {
    if (sectors < row.size_sectors) {
        return Error{Errc::invalid_argument,
                     fmt::format("size {} is below the {} that '{}' has: a volume only grows", sectors * kSectorBytes,
                                 row.size_sectors * kSectorBytes, *row.name)};
    }
    TRY(check_kind(row, false));
    TRY(check_room());
    TRY(check_quota(row.labels, (sectors - row.size_sectors) * kSectorBytes));
    TRY(check_promise((sectors - row.size_sectors) * kSectorBytes));
    store_.set_size(row.thin_id, sectors);
    store_.insert_operation({operation.number, OperationType::resize, row.thin_id, operation.request_id, ""});
    store_.insert_request(operation.request_id, operation.digest);
    operation.thin_id = row.thin_id;
    operation.recorded = true;
    event("volume.resized", *row.name, {{"size_bytes", std::to_string(sectors * kSectorBytes)}});
    return {};
}

Task<std::string> PoolManager::resume_resize(Operation& operation) {
    const std::vector<LockRequest> names = {{volume_key(operation.subject), LockMode::exclusive},
                                            {kPoolKey, LockMode::shared}};
    const NameLock lock = co_await names_.acquire(names);
    co_return co_await carry_out_resize(operation);
}

// From the intent on. The caller holds the names.
Task<std::string> PoolManager::carry_out_resize(Operation& operation) {
    Result<void> followed = co_await follow_size(operation);
    const auto row = store_.volume(*operation.thin_id);
    if (!followed) {
        Error error = followed.error();
        error.message = fmt::format(
            "'{}' has {} bytes from now on, but its device or its file system does not yet: {}; what is missing is "
            "done when it is put and got again",
            operation.subject, row->size_sectors * kSectorBytes, error.message);
        co_return error;
    }
    store_.delete_operation(operation.number);
    co_return encode(schemas::VolumeResize::Reply{.volume = describe(*row), .changed = true});
}

// What is not active now gets its size when it is activated, and its file system with the next mount that may write.
Task<void> PoolManager::follow_size(Operation& operation) {
    for (std::uint32_t tries = 1;; ++tries) {
        NameLock thin = co_await names_.acquire(thin_key(*operation.thin_id), LockMode::exclusive);
        const auto device = devices_.find(*operation.thin_id);
        if (device == devices_.end()) co_return {};
        const auto row = store_.volume(*operation.thin_id);
        const bool read_only = device->second.read_only;
        Result<std::string> grown = co_await activate(operation, *row, read_only);
        const Device& now = devices_.at(row->thin_id);
        const bool mounted = !now.mount_path.empty() && !now.mount_read_only;
        if (grown && mounted && row->fs_sectors < row->size_sectors) {
            const std::string label = now.mount_label;
            grown = co_await mount(operation, *row, false, label);
        }
        if (store_.leases(row->thin_id).empty()) now_idle(row->thin_id);
        if (grown) co_return {};
        if ((grown.error().code != Errc::unavailable && pool_.writable) || tries == kMostGrowths)
            co_return grown.error();
        // The pool has left service meanwhile: this waits for its repair, which waits for the thin key.
        thin.release();
        co_await sleep_ms(kGrowAgainMs);
        co_await pool_in_service(operation);
    }
}

// Of an active one: it is suspended for a moment, and its users wait. The caller holds its thin key.
Task<void> PoolManager::grow_device(Operation& operation, VolumeRow row) {
    const schemas::Activate command{pool_row_->spec.pool, row.thin_id, row.size_sectors,
                                    devices_.at(row.thin_id).read_only};
    for (;;) {
        CommandOutcome outcome = co_await tell_once(operation, ActorKind::device, Urgency::awaited, command);
        Result<void> again;
        Result<schemas::Activate::Reply> reply = Error{};
        const bool answered = outcome.kind == CommandOutcome::Kind::answered;
        if (answered) {
            ++operation.step;
            forget_deaths(operation);
            if (outcome.body) reply = decode_as<schemas::Activate::Reply>(std::string_view(*outcome.body));
            if (!outcome.body) reply = outcome.body.error();
        } else {
            again = count_attempt(operation, outcome, schemas::Activate::kType);
        }
        if (answered && reply && reply->error_number == 0) {
            Device& device = devices_.at(row.thin_id);
            device.path = reply->path;
            device.size_sectors = row.size_sectors;
            co_return {};
        }
        // It is left suspended, perhaps, and its writers wait for nothing else.
        const std::uint32_t deaths = operation.deaths;
        co_await resume_origin(operation, row.thin_id);
        operation.deaths = deaths;
        if (!again) co_return again.error();
        if (!answered) continue;
        if (!reply) co_return reply.error();
        if (!reply->pool_status.empty()) take_status(operation, 0, reply->pool_status);
        co_return activation_failed(reply->error_number, operation.subject);
    }
}

// The size stays; that its device or file system does not have it yet is the answer.
void PoolManager::end_resize(Operation& operation, const Error& error) {
    store_.delete_operation(operation.number);
    store_.set_reply(operation.request_id, operation.digest, error_frame(operation.request_id, error));
}

}  // namespace cowslip
