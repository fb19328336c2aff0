// The repair of the pool's metadata: everything put away, the metadata checked, mended into a copy if need be, and the
// pool loaded again. By itself where nothing is leased; else when an operator asks for it.
//
// Crash: of metadata that are only to be checked nothing is recorded, since the next load finds the fault again. That
// they are damaged is recorded (state needs_repair) before anything is made of it, and such a pool is not loaded: the
// next process begins anew, and finds either the damaged ones or the copy in their place.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::int64_t kFirstRepairBackOffMs = 500;
constexpr std::int64_t kLongestRepairBackOffMs = 10000;
constexpr std::int64_t kCalmMs = 60000;  // Without a repair: the next one need not wait.
constexpr int kStopAttempts = 25;
constexpr std::int64_t kStopPauseMs = 200;
constexpr std::size_t kMostNamed = 16;
constexpr std::size_t kMostTold = 4096;  // Of the names of lost volumes, in bytes.

// For as long as a repair goes on; who waits for the pool looks again at its end.
struct Repairing {
    Repairing(bool& what, Signal& signal) : flag(what), changed(signal) { flag = true; }
    Repairing(const Repairing&) = delete;
    ~Repairing() {
        flag = false;
        changed.notify_all();
    }
    bool& flag;
    Signal& changed;
};

}  // namespace

// Faults that a repair may help against.
bool PoolManager::is_repairable() const {
    if (!pool_row_ || !pool_.frozen.empty() || pool_row_->spec.backing == "adopted") return false;
    if (pool_row_->state == "needs_repair") return true;
    return pool_row_->state == "ready" && (pool_.fault == PoolFault::commit_failed ||
                                           pool_.fault == PoolFault::failed || pool_.fault == PoolFault::suspect);
}

// Whether it is some time ago that there was a repair.
bool PoolManager::is_calm() const {
    return repair_ended_ms_ == 0 || now_.monotonic_ms - repair_ended_ms_ > kCalmMs;
}

// Nobody has a lease, and no operator is needed.
bool PoolManager::repairs_itself() const {
    return is_repairable() && !repair_needs_operator_ && (repairing_ || store_.count_leases() == 0);
}

void PoolManager::consider_repair() {
    if (repairing_ || !repairs_itself() || now_.monotonic_ms < next_repair_ms_) return;
    const bool going_on = std::any_of(operations_.begin(), operations_.end(),
                                      [](const auto& entry) { return entry.second->type == "repair"; });
    if (going_on) return;
    Operation& operation = new_operation("repair", pool_row_->name);
    operation.role = Role::housekeeping;
    begin(operation, repair_by_itself(operation));
}

Task<std::string> PoolManager::repair_by_itself(Operation& operation) {
    schemas::PoolRepair request;
    Result<schemas::PoolRepair::Reply> repaired = co_await repair_pool(operation, request);
    if (!repaired) {
        spdlog::warn("repair of the pool: {}", repaired.error().message);
        co_return repaired.error();
    }
    co_return "";
}

Task<std::string> PoolManager::repair_request(Operation& operation, schemas::PoolRepair request) {
    if (!pool_row_) co_return no_pool_yet(Errc::not_found);
    operation.subject = pool_row_->name;
    Result<schemas::PoolRepair::Reply> repaired = co_await repair_pool(operation, request);
    if (!repaired) co_return repaired.error();
    co_return encode(*repaired);
}

// Holds kStartKey, and not kPoolKey: that may be held by those who wait for the pool to be writable.
Task<schemas::PoolRepair::Reply> PoolManager::repair_pool(Operation& operation, schemas::PoolRepair request) {
    const NameLock lock = co_await names_.acquire(kStartKey, LockMode::exclusive);
    if (pool_row_ && pool_row_->spec.backing == "adopted") {
        co_return Error{Errc::invalid_argument, "an adopted pool is for its owner to repair"};
    }
    const bool mends_superblock =
        pool_row_ && pool_.verdict == PoolVerdict::superblock_damaged;  // At an operator's word alone.
    if (!pool_.frozen.empty() && !mends_superblock) co_return Error{Errc::needs_repair, pool_.frozen};
    schemas::PoolRepair::Reply reply;
    reply.how = "nothing";
    if (!is_repairable() && !mends_superblock) co_return reply;
    if (!request.evict && store_.count_leases() > 0) {
        co_return Error{Errc::needs_repair,
                        "repair the pool: volumes are leased: put or detach them, or `cowslip pool repair --evict`",
                        {{"holders", lease_holders()}}};
    }
    const Repairing repairing(repairing_, pool_changed_);
    const std::int64_t began_ms = now_.monotonic_ms;
    if (is_calm()) repair_back_off_ms_ = kFirstRepairBackOffMs;
    // A get that was under way may take a lease meanwhile: nobody asked for its end.
    const Leased leased = request.evict ? Leased::evicted : Leased::left;
    Result<void> mended = co_await put_everything_away(operation, leased);
    if (mended) mended = co_await mend_metadata(operation, request, &reply);
    if (mended) mended = co_await bring_up_pool(operation);
    if (mended && !pool_.writable) mended = Error{Errc::unavailable, "the pool fails again as soon as it is loaded"};
    repair_ended_ms_ = now_.monotonic_ms;
    if (!mended) {
        note_failed_repair(mended.error());
        co_return mended.error();
    }
    next_repair_ms_ = now_.monotonic_ms + repair_back_off_ms_;
    repair_back_off_ms_ = std::min(repair_back_off_ms_ * 2, kLongestRepairBackOffMs);
    repair_needs_operator_ = false;
    EventBody body = {{"how", reply.how}, {"took_ms", std::to_string(now_.monotonic_ms - began_ms)}};
    if (!reply.damaged_copy.empty()) body["damaged_copy"] = reply.damaged_copy;
    if (!reply.lost.empty()) body["lost"] = fmt::format("{}", fmt::join(reply.lost, ", ")).substr(0, kMostTold);
    fact("pool.repaired", pool_row_->name, body);
    spdlog::info("pool repaired how={} took_ms={}", reply.how, now_.monotonic_ms - began_ms);
    co_return reply;
}

// What cannot help itself is not tried again before an operator says how.
void PoolManager::note_failed_repair(const Error& error) {
    repair_needs_operator_ = error.code == Errc::needs_repair || error.code == Errc::invalid_argument;
    next_repair_ms_ = now_.monotonic_ms + repair_back_off_ms_;
    repair_back_off_ms_ = std::min(repair_back_off_ms_ * 2, kLongestRepairBackOffMs);
    std::string detail = error.message;
    for (const auto& [what, names] : error.details) detail += fmt::format("; {}: {}", what, fmt::join(names, ", "));
    set_fault(pool_.fault, detail);
}

std::vector<std::string> PoolManager::lease_holders() const {
    std::vector<std::string> holders;
    for (const auto& [name, lease] : store_.list_leases("", "", kMostNamed)) {
        holders.push_back(fmt::format("{} ({} by {})", name, lease.mode, lease.holder));
    }
    return holders;
}

// Every mount unmounted and device deactivated, and the pool's own device removed.
Task<void> PoolManager::put_everything_away(Operation& operation, Leased leased) {
    const bool was_loaded = pool_.loaded;
    for (int attempt = 1;; ++attempt) {
        Result<std::vector<std::string>> left = co_await put_devices_away(operation, leased);
        if (!left) co_return left.error();
        if (!left->empty()) {
            co_return Error{
                Errc::in_use, "repair the pool: volumes are in use still: end what uses them", {{"holders", *left}}};
        }
        pool_.loaded = false;
        pool_.writable = false;
        schemas::StopPool command{pool_row_->spec};
        Result<schemas::PoolState> stopped = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
        if (stopped) co_return {};
        pool_.loaded = was_loaded;
        if (stopped.error().code != Errc::in_use || attempt >= kStopAttempts) co_return stopped.error();
        co_await sleep_ms(kStopPauseMs);
        Result<void> looked = co_await find_more_devices(operation);
        if (!looked) co_return looked.error();
    }
}

// Those that were being activated meanwhile.
Task<void> PoolManager::find_more_devices(Operation& operation) {
    schemas::ListActive command;
    command.pool = pool_row_->spec.pool;
    for (;;) {
        Result<schemas::ListActive::Reply> page =
            co_await tell(operation, ActorKind::device, Urgency::awaited, command);
        if (!page) co_return page.error();
        for (const auto& found : page->devices) {
            devices_.try_emplace(
                found.thin_id, Device{.path = found.path, .read_only = found.read_only, .complete = found.live_table});
        }
        if (!page->more || page->devices.empty()) co_return {};
        command.after_thin_id = page->devices.back().thin_id;
    }
}

// They are whole afterwards, and the store says so.
Task<void> PoolManager::mend_metadata(Operation& operation, schemas::PoolRepair request,
                                      schemas::PoolRepair::Reply* reply) {
    schemas::CheckMetadata check{pool_row_->spec};
    Result<schemas::CheckMetadata::Reply> checked =
        co_await tell(operation, ActorKind::device, Urgency::awaited, check);
    if (!checked) co_return checked.error();
    reply->how = "checked";
    if (!checked->sound) {
        note_damage(checked->report);
        Result<void> copied = co_await mend_into_copy(operation, request, reply);
        if (!copied) co_return copied.error();
        reply->how = "repaired";
    }
    if (pool_row_->state != "ready") {
        store_.set_pool_state("ready");
        keep();  // Whatever becomes of the load.
        pool_row_ = store_.pool();
        set_fault(PoolFault::failed, "its metadata are mended, and it is not loaded yet");
    }
    co_return {};
}

// Durable before anything is made of it: from now on the pool is not loaded unless it is repaired.
void PoolManager::note_damage(const std::string& report) {
    if (pool_row_->state != "needs_repair") {
        store_.set_pool_state("needs_repair");
        event("pool.damaged", pool_row_->name, {{"report", report}});
        pool_row_ = store_.pool();
    }
    pool_.frozen.clear();
    pool_.verdict = PoolVerdict::normal;
    unfind(FindingKind::frozen, pool_row_->name);
    set_fault(PoolFault::damaged, report);
    doubt_warm();
    keep();
}

Task<void> PoolManager::mend_into_copy(Operation& operation, schemas::PoolRepair request,
                                       schemas::PoolRepair::Reply* reply) {
    const bool pair = pool_row_->spec.backing == "pair";
    if (pair && request.spare.empty()) {
        co_return Error{Errc::needs_repair,
                        "repair the pool: its metadata are damaged, and are mended onto another device, as large as "
                        "theirs: `cowslip pool repair --spare DEV`"};
    }
    schemas::RepairMetadata command{pool_row_->spec, request.spare, pool_row_->confirmed};
    std::map<std::uint32_t, schemas::RepairedThin> mended;
    for (;;) {
        Result<schemas::RepairMetadata::Reply> page =
            co_await tell(operation, ActorKind::device, Urgency::awaited, command);
        if (!page) co_return page.error();
        if (!page->sound) {
            co_return Error{Errc::needs_repair,
                            fmt::format("repair the pool: no whole copy can be made: {}", page->report)};
        }
        if (page->transaction_id < pool_row_->confirmed || page->transaction_id > pool_row_->planned) {
            co_return Error{
                Errc::needs_repair,
                fmt::format("repair the pool: the mended copy has transaction id {}, and the store knows {} "
                            "to {}: it is not this pool as the store has it",
                            page->transaction_id, pool_row_->confirmed, pool_row_->planned)};
        }
        for (const auto& thin : page->thins) mended[thin.thin_id] = thin;
        if (!page->more || page->thins.empty()) break;
        command.after_thin_id = page->thins.back().thin_id;
    }
    reply->lost = find_losses(mended);
    if (!reply->lost.empty() && !request.accept_loss) {
        co_return Error{
            Errc::needs_repair,
            fmt::format("repair the pool: {} volumes would lose data; `cowslip pool repair --accept-loss` goes "
                        "on all the same, and the damaged metadata are kept",
                        reply->lost.size()),
            {{"lost", std::vector<std::string>(reply->lost.begin(),
                                               reply->lost.begin() + static_cast<std::ptrdiff_t>(
                                                                         std::min(kMostNamed, reply->lost.size())))}}};
    }
    if (pair) {
        reply->damaged_copy = pool_row_->spec.metadata_path;
        schemas::PoolSpec spec = pool_row_->spec;
        spec.metadata_path = request.spare;
        store_.set_pool_spec(spec);
        pool_row_->spec = spec;
        co_return {};
    }
    schemas::ReplaceMetadata replace{pool_row_->spec};
    Result<schemas::ReplaceMetadata::Reply> replaced =
        co_await tell(operation, ActorKind::device, Urgency::awaited, replace);
    if (!replaced) co_return replaced.error();
    reply->damaged_copy = replaced->damaged_copy;
    co_return {};
}

// thin_repair ends with success whatever it leaves out: what the store knows to be in the pool must be in the copy,
// with as many blocks as before.
std::vector<std::string> PoolManager::find_losses(const std::map<std::uint32_t, schemas::RepairedThin>& mended) {
    std::vector<std::string> lost;
    for (const ThinRow& row : store_.thin_ids()) {
        if (row.state != "ready" || lost_.contains(row.thin_id)) continue;
        const std::string name = row.name.value_or(fmt::format("thin {}", row.thin_id));
        const auto found = mended.find(row.thin_id);
        if (found == mended.end()) {
            lost.push_back(name);
        } else if (found->second.mapped_blocks < found->second.blocks_before) {
            lost.push_back(fmt::format("{} ({} of {} blocks are left)", name, found->second.mapped_blocks,
                                       found->second.blocks_before));
        }
    }
    return lost;
}

}  // namespace cowslip
