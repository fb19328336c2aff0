// What goes wrong with a live pool: seen within a second, said in a finding and an event; no request that needs the
// pool is begun meanwhile.
#include <algorithm>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/size.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::int64_t kWatchMs = 500;    // A fault is known within a second, whatever else the watcher has to do.
constexpr std::int64_t kFillingMs = 100;  // While it fills up: it is extended before those who write have to wait.
constexpr std::int64_t kChoresMs = 1000;
constexpr std::uint32_t kMostPurged = 4096;  // Of answers and of events, each time: more than is written meanwhile.
constexpr std::int64_t kGenerationMs = 600 * 1000;
constexpr std::int64_t kBackupMs = 60 * 1000;  // Between two of them.
constexpr std::uint64_t kLeastFreeBelow = std::uint64_t{32} << 20U;

}  // namespace

Task<std::string> PoolManager::watch(Operation& operation) {
    std::int64_t chores_at_ms = now_.monotonic_ms + kChoresMs;
    for (;;) {
        const std::int64_t look_at_ms = now_.monotonic_ms + (is_filling() ? kFillingMs : kWatchMs);
        timers_.at(look_at_ms, [this] { look_.notify_all(); });
        while (now_.monotonic_ms < look_at_ms && !pool_event_) co_await look_.wait();
        pool_event_ = false;
        if (now_.monotonic_ms >= chores_at_ms) {
            chores_at_ms = now_.monotonic_ms + kChoresMs;
            look_for_room();
            store_.purge(kMostPurged);
        }
        if (pool_.fault == PoolFault::gone) begin_load_again();
        consider_repair();
        if (!pool_.loaded || !pool_.frozen.empty()) continue;
        schemas::ReadPoolStatus command{pool_row_->spec.pool, true};
        operation.deaths = 0;
        Result<schemas::PoolState> state = co_await tell(operation, ActorKind::device, Urgency::watching, command);
        if (!pool_.loaded) continue;
        take_look(operation, state);
        look_at_space();
        consider_extension();
        look_at_lifetimes();
        warm_changed_.notify_all();
        if (backup_due_ && now_.monotonic_ms - backup_begun_ms_ > kBackupMs) begin_backup();
        if (creates_in_generation_ > 0 && now_.monotonic_ms - generation_opened_ms_ > kGenerationMs) begin_generation();
    }
}

void PoolManager::look_for_room() {
    has_room_ = options_.has_room();
    if (has_room_) {
        unfind(FindingKind::state_full, "");
    } else {
        find(FindingKind::state_full, "",
             "the file system of the state folder is full: make room there; no volume is made until then");
    }
    look_below_pool();
}

// Files that are sparse are promised more than there may be; what is written when it runs out is lost to its writer.
void PoolManager::look_below_pool() {
    const bool sparse = pool_row_ && pool_row_->spec.backing == "loop" && !pool_row_->spec.preallocate;
    const auto free = sparse ? options_.free_below_pool() : std::nullopt;
    has_room_below_ = !free || *free >= kLeastFreeBelow;
    const std::string subject = pool_row_ ? pool_row_->name : "";
    if (has_room_below_) return unfind(FindingKind::below_full, subject);
    find(FindingKind::below_full, subject,
         fmt::format("the file system below the pool's files has less than {} left: make room there, or volumes get "
                     "errors when they write; no volume is made until then",
                     format_size(kLeastFreeBelow)));
}

void PoolManager::take_look(const Operation& operation, const Result<schemas::PoolState>& seen) {
    if (!seen) return set_fault(PoolFault::unreadable, seen.error().message);
    if (!seen->loaded) {
        set_fault(PoolFault::gone, "");
        // Nothing of it can be active, so nobody has it open: it is loaded as at a start.
        pool_.loaded = false;
        pool_.writable = false;
        return begin_load_again();
    }
    if (seen->data_device != pool_.data_device || seen->metadata_device != pool_.metadata_device) {
        return set_fault(PoolFault::changed,
                         fmt::format("it lies on {} and {}, and was loaded on {} and {}", seen->data_device,
                                     seen->metadata_device, pool_.data_device, pool_.metadata_device));
    }
    if (pool_.fault == PoolFault::changed || pool_.fault == PoolFault::unreadable) set_fault(PoolFault::none, "");
    if (seen->superblock.valid) pool_.snapshots_taken = seen->superblock.time;
    take_status(operation, 0, seen->status);
}

void PoolManager::begin_load_again() {
    const bool going_on = std::any_of(operations_.begin(), operations_.end(),
                                      [](const auto& entry) { return entry.second->type == "load_again"; });
    if (going_on) return;
    Operation& operation = new_operation("load_again", pool_row_->name);
    operation.role = Role::housekeeping;
    begin(operation, load_again(operation));
}

// Whoever brings up the pool holds kStartKey; kPoolKey may be held by those who wait for this one.
Task<std::string> PoolManager::load_again(Operation& operation) {
    const NameLock lock = co_await names_.acquire(kStartKey, LockMode::exclusive);
    if (!pool_row_ || pool_.loaded || !pool_.frozen.empty() || pool_row_->state != "ready") co_return "";
    Result<void> started = co_await bring_up_pool(operation);
    if (!started) co_return started.error();
    co_return "";
}

void PoolManager::set_fault(PoolFault fault, const std::string& detail) {
    if (fault == pool_.fault && detail == pool_.fault_detail) return;
    pool_.fault = fault;
    pool_.fault_detail = detail;
    unfind(FindingKind::pool, pool_row_->name);
    if (fault != PoolFault::none) {
        find(FindingKind::pool, pool_row_->name, fmt::format("{}: {}", to_string(fault), explain(fault, detail)));
    }
    pool_changed_.notify_all();
    consider_repair();
}

// Whether a request that needs the pool may begin. One that is only full is for the request to judge.
Result<void> PoolManager::check_sound() const {
    if (!pool_.frozen.empty()) return Error{Errc::needs_repair, pool_.frozen};
    if (repairing_ || repairs_itself())
        return Error{Errc::unavailable,
                     fmt::format("the pool is being repaired ({}): ask again", to_string(pool_.fault))};
    switch (pool_.fault) {
        case PoolFault::none:
        case PoolFault::metadata_full:
            return {};
        case PoolFault::gone:
            return Error{Errc::unavailable, explain(pool_.fault, pool_.fault_detail)};
        case PoolFault::commit_failed:
        case PoolFault::failed:
        case PoolFault::suspect:
        case PoolFault::damaged:
        case PoolFault::changed:
        case PoolFault::unreadable: {
            Error error{Errc::needs_repair, explain(pool_.fault, pool_.fault_detail)};
            if (auto holders = lease_holders(); !holders.empty()) error.details["holders"] = std::move(holders);
            return error;
        }
    }
    return {};
}

}  // namespace cowslip
