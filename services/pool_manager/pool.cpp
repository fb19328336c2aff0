// The pool itself: made, adopted, started, watched, put away; its generations; and the judgement of
// everything that it says.
#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>
#include <sodium.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::size_t kMostLeftBytes = 256 << 10U;  // What cleanup tells of that it left.
constexpr std::uint64_t kSmallestPoolBytes = 16ULL << 20U;

// Of a pool that is told how much it has at first.
std::uint64_t first_bytes(const schemas::PoolCreate& request) {
    return request.loop_bytes != 0 ? request.loop_bytes : request.data_bytes;
}

Result<schemas::PoolLimits> limits_of(const schemas::PoolCreate& request) {
    if (request.limits.queue_when_full && !request.adopt.empty()) {
        return Error{Errc::invalid_argument, "an adopted pool keeps the features that its owner has given it"};
    }
    return complete_limits(request.limits, first_bytes(request), request.block_size_bytes);
}

Result<schemas::PoolSpec> spec_of(const schemas::PoolCreate& request) {
    const int modes =
        (request.loop_bytes != 0) + !request.data_device.empty() + !request.devices.empty() + !request.adopt.empty();
    if (modes != 1 || request.data_device.empty() != request.metadata_device.empty()) {
        return Error{Errc::invalid_argument,
                     "a pool lies on exactly one of: --loop SIZE, --data DEV with --metadata DEV, --device DEV..., "
                     "--adopt NAME"};
    }
    if (request.block_size_bytes < 65536 || request.block_size_bytes > (1ULL << 30U) ||
        request.block_size_bytes % 65536 != 0) {
        return Error{Errc::invalid_argument, "block size: a multiple of 64 KiB up to 1 GiB"};
    }
    const std::uint64_t first = first_bytes(request);
    if (first != 0 && (first < kSmallestPoolBytes || first > (1ULL << 60U))) {
        return Error{Errc::invalid_argument, "a pool has at least 16 MiB"};
    }
    if (request.data_bytes != 0 && request.devices.empty()) {
        return Error{Errc::invalid_argument,
                     "only a pool with devices of its own (--device DEV...) takes a part of them"};
    }
    if (request.preallocate && request.loop_bytes == 0) {
        return Error{Errc::invalid_argument, "only a pool in files (--loop SIZE) can have its blocks allocated ahead"};
    }
    if (!request.adopt.empty() && (request.keep_discarded || request.no_zeroing)) {
        return Error{Errc::invalid_argument, "an adopted pool keeps the features that its owner has given it"};
    }
    schemas::PoolSpec spec;
    spec.pool.uuid = new_uuid();
    spec.pool.device = request.adopt.empty() ? pool_dm_name(spec.pool.uuid) : request.adopt;
    spec.backing = !request.adopt.empty()     ? "adopted"
                   : request.loop_bytes != 0  ? "loop"
                   : !request.devices.empty() ? "devices"
                                              : "pair";
    for (const std::string& path : request.devices) spec.devices.push_back({path, new_uuid()});
    spec.data_path = request.data_device;
    spec.metadata_path = request.metadata_device;
    spec.block_sectors = static_cast<std::uint32_t>(request.block_size_bytes / kSectorBytes);
    // Whole blocks: the kernel would leave the rest of the last one unused.
    spec.data_sectors = first / request.block_size_bytes * spec.block_sectors;
    spec.metadata_sectors = request.metadata_bytes / 4096 * 8;
    if (first != 0 && spec.metadata_sectors == 0) {
        spec.metadata_sectors = default_metadata_sectors(spec.data_sectors, spec.block_sectors);
    }
    spec.preallocate = request.preallocate;
    // Handed on, a discard would punch holes into what was allocated ahead.
    spec.discard_passdown = !request.keep_discarded && !request.preallocate;
    spec.skip_zeroing = request.no_zeroing;
    if (const schemas::PoolLimits& limits = request.limits; limits.max_bytes != 0) {
        const std::uint64_t block_bytes = request.block_size_bytes;
        spec.low_water_blocks = low_water_blocks(limits, first, block_bytes);
        spec.queue_if_no_space = limits.max_bytes / block_bytes * spec.block_sectors > spec.data_sectors;
    }
    spec.queue_if_no_space = spec.queue_if_no_space || request.limits.queue_when_full;
    const bool sized = spec.backing == "loop" || (spec.backing == "devices" && spec.metadata_sectors != 0);
    if (sized && (spec.metadata_sectors < kMinMetadataSectors || spec.metadata_sectors > kMaxMetadataSectors)) {
        return Error{Errc::invalid_argument, "metadata size: 4 MiB to 15.9 GiB"};
    }
    return spec;
}

}  // namespace

// ---- what the pool says ----------------------------------------------------------------------

// Every status line ever read comes through here: an id outside the window means that store and
// pool disagree, and nothing more is done to either.
// The window is that of the moment when the command was sent: its answer may be overtaken by that of a
// compare-and-swap.
Outcome PoolManager::take_status(const Operation& operation, std::int32_t error_number, const std::string& text) {
    const std::uint64_t least = operation.confirmed_when_told;
    const Outcome outcome = judge(error_number, text, least, pool_row_->planned);
    const auto status = parse_thin_pool_status(text);
    if (!status) {
        spdlog::warn("pool status unreadable: {}", status.error().message);
        return outcome;
    }
    const bool failed = status->mode == PoolMode::fail || status->mode == PoolMode::error;
    const bool was_intact = std::exchange(pool_.intact, !status->needs_check && !failed);
    if (was_intact && !pool_.intact) doubt_warm();
    if (!failed && (status->transaction_id < least || status->transaction_id > pool_row_->planned)) {
        Seen seen = seen_by_store();
        seen.confirmed = least;
        seen.live = true;
        seen.transaction_id = status->transaction_id;
        freeze(judge_pool(seen));
        return Outcome::unknown;
    }
    // Not soon after a repair that has found nothing: then it is the caller's error.
    const bool says_sound = fault_of(*status) == PoolFault::none && pool_.fault == PoolFault::none;
    if (is_metadata_damage(error_number) && says_sound && is_calm()) {
        set_fault(PoolFault::suspect, "");
        return Outcome::unknown;
    }
    const bool writable = is_good(*status, least, pool_row_->planned);
    // Overtaken by a later one; only a good one proves that it is later.
    if (!failed && pool_.writable && status->transaction_id < pool_.status->transaction_id) return outcome;
    pool_.status = *status;
    std::string mode(to_string(status->mode));
    if (status->needs_check) mode += " needs_check";
    if (mode != pool_.mode) {
        if (!pool_.mode.empty()) fact("pool.mode", pool_row_->name, {{"from", pool_.mode}, {"to", mode}});
        pool_.mode = mode;
        if (status->mode == PoolMode::out_of_data_space) tell_writers();
    }
    if (writable != pool_.writable) {
        pool_.writable = writable;
        pool_changed_.notify_all();
    }
    if (!outlives_status(pool_.fault) && fault_of(*status) != pool_.fault) set_fault(fault_of(*status), "");
    return outcome;
}

void PoolManager::freeze(const Judgement& judgement) {
    if (!pool_.frozen.empty()) return;
    pool_.frozen = judgement.detail;
    pool_.writable = false;
    set_verdict(judgement);
    find(FindingKind::frozen, pool_row_->name, judgement.detail);
    spdlog::error("pool frozen verdict={}: {}", to_string(judgement.verdict), judgement.detail);
}

void PoolManager::set_verdict(const Judgement& judgement) {
    if (pool_.verdict == judgement.verdict) return;
    pool_.verdict = judgement.verdict;
    fact("pool.verdict", pool_row_->name,
         {{"verdict", std::string(to_string(judgement.verdict))}, {"detail", judgement.detail}});
}

Seen PoolManager::seen_by_store() {
    Seen seen;
    seen.tag = pool_row_->tag;
    seen.confirmed = pool_row_->confirmed;
    seen.planned = pool_row_->planned;
    seen.restored = store_.is_restored();
    for (const ThinRow& row : store_.thin_ids()) {
        seen.rows.push_back({row.thin_id, row.state == "ready", row.born_min, row.born_max});
    }
    for (const auto& [thin_id, reason] : store_.quarantined()) seen.quarantined.insert(thin_id);
    return seen;
}

// ---- generations -----------------------------------------------------------------------------

void PoolManager::begin_generation() {
    const bool going_on = std::any_of(operations_.begin(), operations_.end(),
                                      [](const auto& entry) { return entry.second->type == "generation"; });
    if (going_on) return;
    creates_in_generation_ = 0;
    generation_opened_ms_ = now_.monotonic_ms;
    Operation& operation = new_operation("generation", "");
    operation.role = Role::housekeeping;
    begin(operation, advance_generation(operation));
}

// Off every request's path. `planned` is durable before its compare-and-swap is sent; one is
// outstanding at a time, since this holds the key.
Task<std::string> PoolManager::advance_generation(Operation& operation) {
    const NameLock lock = co_await names_.acquire("g", LockMode::exclusive);
    co_await pool_in_service(operation);
    // A swap whose record was lost leaves the pool at `planned` already.
    const std::uint64_t from = pool_.status->transaction_id;
    const std::uint64_t to = pool_row_->planned + 1;
    store_.set_planned(to);
    pool_row_->planned = to;
    for (;;) {
        schemas::SetTransactionId command{pool_row_->spec.pool, from, to};
        Result<schemas::Verdict> verdict = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
        if (!verdict) co_return verdict.error();
        const Outcome outcome = take_verdict(operation, *verdict);
        if (!pool_.frozen.empty()) co_return "";
        // EINVAL: an earlier copy of the command did it.
        if (outcome != Outcome::unknown && pool_.status->transaction_id == to) break;
        if (outcome == Outcome::refused) co_return errno_error(verdict->error_number, "open a generation");
        co_await pool_in_service(operation);
    }
    store_.set_confirmed(to);
    pool_row_->confirmed = to;
    begin_backup();
    co_return "";
}

// ---- create ----------------------------------------------------------------------------------

Error no_pool_yet(Errc code) {
    return {code, "there is no pool yet: `cowslip pool create --loop 10G`"};
}

Task<std::string> PoolManager::create_pool(Operation& operation, schemas::PoolCreate request) {
    if (request.name.empty()) request.name = "default";
    operation.subject = request.name;
    Result<void> checked = check_pool_name(request.name);
    if (!checked) co_return checked.error();
    Result<schemas::PoolLimits> limits = limits_of(request);
    if (!limits) co_return limits.error();
    request.limits = *limits;
    Result<schemas::PoolSpec> spec = spec_of(request);
    if (!spec) co_return spec.error();
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::exclusive);
    if (pool_row_)
        co_return Error{Errc::already_exists, fmt::format("this service has the pool '{}' already", pool_row_->name)};
    PoolRow row;
    row.name = request.name;
    row.state = "formatting";
    row.spec = *spec;
    row.limits = *limits;
    row.tag = 1 + randombytes_uniform((1U << 20U) - 1);
    row.planned = (std::uint64_t{row.tag} << 32U) | 1U;
    row.next_thin_id = kFirstThinId;
    const OperationRow intent{operation.number, OperationType::create_pool, std::nullopt, operation.request_id,
                              encode(request)};
    store_.insert_pool(row);
    store_.insert_operation(intent);
    store_.insert_request(operation.request_id, operation.digest);
    pool_row_ = store_.pool();
    operation.recorded = true;
    co_return co_await carry_out_create_pool(operation, std::move(request));
}

// From the intent on; also where recovery begins. The caller holds the pool.
Task<std::string> PoolManager::carry_out_create_pool(Operation& operation, schemas::PoolCreate request) {
    std::vector<std::uint32_t> thin_ids;
    Result<schemas::PoolState> made = co_await make_pool(operation, request, &thin_ids);
    if (!made) {
        co_await undo_create_pool(operation, made.error(), std::move(thin_ids));
        co_return made.error();
    }
    store_.set_pool_state("ready");
    store_.delete_operation(operation.number);
    pool_row_ = store_.pool();
    pool_.loaded = true;
    generation_opened_ms_ = now_.monotonic_ms;
    event("pool.created", pool_row_->name, {{"uuid", pool_row_->spec.pool.uuid}, {"backing", pool_row_->spec.backing}});
    spdlog::info("pool created name={} uuid={} backing={}", pool_row_->name, pool_row_->spec.pool.uuid,
                 pool_row_->spec.backing);
    co_return encode(describe_pool());
}

// At once: nobody else can have anything in it yet. It leaves nothing, so a failure that may pass can be tried again,
// under the same request id as well.
Async<void> PoolManager::undo_create_pool(Operation& operation, Error error, std::vector<std::uint32_t> made) {
    const schemas::DiscardPool command{pool_row_->spec, pool_row_->planned, std::move(made)};
    Result<schemas::PoolState> discarded = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!discarded) spdlog::warn("undo pool create: {}", discarded.error().message);
    store_.delete_pool();
    store_.delete_operation(operation.number);
    if (retryable(error.code)) {
        store_.forget_request(operation.request_id);
    } else {
        store_.set_reply(operation.request_id, operation.digest, error_frame(operation.request_id, error));
    }
    unfind(FindingKind::pool, pool_row_->name);
    unfind(FindingKind::frozen, pool_row_->name);
    keep();
    pool_row_.reset();
    pool_ = {};
    operation.recorded = false;
}

// Loaded, its transaction id ours (tag<<32 | 1), and labelled. `made`: the thin ids that are in it by now.
Task<schemas::PoolState> PoolManager::make_pool(Operation& operation, schemas::PoolCreate request,
                                                std::vector<std::uint32_t>* made) {
    Result<schemas::PoolState> state = Error{};
    if (pool_row_->spec.backing == "adopted") {
        schemas::InspectPool command{pool_row_->spec.pool.device};
        state = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    } else {
        schemas::CreatePool command{pool_row_->spec, request.force, pool_row_->planned};
        state = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    }
    if (!state) co_return state.error();
    const auto status = parse_thin_pool_status(state->status);
    if (!status) co_return status.error();
    if (pool_row_->spec.backing == "adopted") {
        if (status->transaction_id != 0 && status->transaction_id != pool_row_->planned) {
            co_return Error{Errc::in_use,
                            fmt::format("adopt '{}': its transaction id is {}, so another program (LVM, say) keeps its "
                                        "record",
                                        request.adopt, status->transaction_id)};
        }
        if (state->open_count != 0) co_return Error{Errc::in_use, fmt::format("adopt '{}': it is open", request.adopt)};
        if (state->suspended) {
            co_return Error{Errc::in_use, fmt::format("adopt '{}': it is suspended: `dmsetup resume {}` first",
                                                      request.adopt, request.adopt)};
        }
        if (state->spec.skip_zeroing && !request.accept_no_zeroing) {
            co_return Error{Errc::invalid_argument,
                            fmt::format("adopt '{}': it does not zero new blocks, so a volume can read what a "
                                        "removed one wrote: --accept-no-zeroing takes it all the same",
                                        request.adopt)};
        }
        // Before the transaction id marks it as ours: a refusal has changed nothing.
        Result<void> adopted = co_await adopt_thins(operation, request.force);
        if (!adopted) co_return adopted.error();
    }
    schemas::PoolSpec spec = state->spec;
    spec.pool = pool_row_->spec.pool;
    spec.backing = pool_row_->spec.backing;
    store_.set_pool_spec(spec);
    pool_row_->spec = spec;
    take_backing(*state);
    for (std::uint32_t tries = 0; tries < kMaxDeaths; ++tries) {
        schemas::SetTransactionId command{spec.pool, 0, pool_row_->planned};
        Result<schemas::Verdict> verdict = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
        if (!verdict) co_return verdict.error();
        const Outcome outcome = take_verdict(operation, *verdict);
        if (outcome == Outcome::unknown || pool_.status->transaction_id != pool_row_->planned) continue;
        store_.set_confirmed(pool_row_->planned);
        pool_row_->confirmed = pool_row_->planned;
        Result<void> labelled = co_await make_label(operation, made);
        if (!labelled) co_return labelled.error();
        co_return state;
    }
    co_return Error{Errc::unavailable,
                    "mark the new pool as ours: it does not keep its transaction id; nothing is left of it, try again"};
}

// An adopted pool should be empty; with force, what is in it is left alone for good. But the label's ids must be free.
// Those that bear our first transaction id, a random one, are the label: made before this process began.
Task<void> PoolManager::adopt_thins(Operation& operation, bool force) {
    Result<std::vector<schemas::ThinDevice>> thins = co_await list_thins(operation, Held::keep);
    if (!thins) co_return thins.error();
    std::erase_if(*thins, [&](const auto& thin) {
        return thin.thin_id < kFirstThinId && thin.transaction_id == pool_row_->planned;
    });
    if (thins->empty()) co_return {};
    if (thins->front().thin_id < kFirstThinId) {
        co_return Error{Errc::in_use,
                        fmt::format("adopt: thin id {} is taken, and a pool needs 0 and 1 for its label: delete it, or "
                                    "make a new pool",
                                    thins->front().thin_id)};
    }
    if (!force) {
        co_return Error{
            Errc::in_use,
            fmt::format("adopt: the pool holds {} thin devices of others: --force leaves them alone and uses "
                        "ids above theirs",
                        thins->size())};
    }
    for (const auto& thin : *thins) {
        store_.quarantine(thin.thin_id, "was in the pool when it was adopted");
    }
    store_.raise_next_thin_id(thins->back().thin_id + 1);
    co_return {};
}

// ---- start -----------------------------------------------------------------------------------

Task<std::string> PoolManager::start_pool_request(Operation& operation, schemas::PoolStart request) {
    const LockMode mode = request.read_only ? LockMode::exclusive : LockMode::shared;
    const NameLock lock = co_await names_.acquire(kPoolKey, mode);
    if (!pool_row_) co_return no_pool_yet(Errc::not_found);
    Result<void> started;
    if (request.read_only) {
        started = co_await start_read_only(operation);
    } else {
        started = co_await start_pool(operation);
    }
    if (!started) co_return started.error();
    co_return encode(describe_pool());
}

Task<void> PoolManager::start_pool(Operation& operation) {
    if (pool_.loaded) co_return {};
    const NameLock lock = co_await names_.acquire(kStartKey, LockMode::exclusive);
    Result<void> sound = check_sound();
    if (!sound) co_return sound.error();
    if (pool_.read_only) {
        co_return Error{Errc::unavailable,
                        "the pool was started read-only: `cowslip cleanup` puts it away, and it can be started again"};
    }
    if (pool_.loaded) co_return {};
    co_return co_await bring_up_pool(operation);
}

// X33: whoever wants to load the pool asks first, but the rebuild that ends it.
Result<void> PoolManager::check_restored() {
    if (!store_.is_restored()) return {};
    freeze(judge_pool(seen_by_store()));
    return Error{Errc::needs_repair, pool_.frozen};
}

Task<void> PoolManager::bring_up_pool(Operation& operation) {
    Result<void> believed = check_restored();
    if (!believed) co_return believed.error();
    schemas::StartPool command{pool_row_->spec, pool_row_->confirmed, pool_row_->planned};
    Result<schemas::PoolState> state = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!state) {
        if (state.error().details.contains("damaged") && pool_row_->spec.backing != "adopted") {
            note_damage(state.error().message);
            co_return state.error();
        }
        if (state.error().code == Errc::needs_repair) {
            co_await judge_unloaded(operation, state.error());
        }
        find(FindingKind::pool, pool_row_->name, fmt::format("not started: {}", state.error().message));
        if (!pool_.frozen.empty()) co_return Error{Errc::needs_repair, pool_.frozen};
        co_return state.error();
    }
    set_fault(PoolFault::none, "");
    unfind(FindingKind::pool, pool_row_->name);
    take_backing(*state);
    pool_.snapshots_taken = state->superblock.time;
    take_status(operation, 0, state->status);
    if (!pool_.frozen.empty()) co_return Error{Errc::needs_repair, pool_.frozen};
    take_sizes(*state);
    Result<void> labelled = co_await compare_label(operation);
    if (!labelled) co_return labelled.error();
    if (pool_.writable && pool_.status->transaction_id > pool_row_->confirmed) {
        store_.set_confirmed(pool_.status->transaction_id);
        pool_row_->confirmed = pool_.status->transaction_id;
    }
    if (pool_row_->state == "stopped") {
        store_.set_pool_state("ready");
        event("pool.started", pool_row_->name);
        pool_row_ = store_.pool();
    }
    Result<void> compared = co_await compare_thins(operation);
    if (compared) unfind(FindingKind::unchecked, pool_row_->name);
    if (!compared)
        find(FindingKind::unchecked, pool_row_->name,
             fmt::format("the pool's own list was not read: {}", compared.error().message));
    co_await restore_leases(operation);
    pool_.loaded = true;
    begin_generation();
    pool_changed_.notify_all();
    keep();  // It is up, whatever becomes of the request that wanted it.
    co_return {};
}

// The pool was not loaded, since what it lies on is not as it should be: what has happened to it?
Async<void> PoolManager::judge_unloaded(Operation& operation, Error why) {
    Result<Judgement> judgement = co_await look_at_unloaded(operation);
    const bool wrong = judgement && freezes(judgement->verdict);
    freeze(wrong ? *judgement : Judgement{PoolVerdict::unusable, why.message});
}

// What is known of a pool that is not loaded, without a change to it; normal of one that is.
Task<Judgement> PoolManager::look_at_unloaded(Operation& operation) {
    schemas::ExaminePool command{pool_row_->spec};
    Result<schemas::ExaminePool::Reply> found = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!found) co_return found.error();
    if (found->state.loaded) co_return Judgement{};
    Seen seen = seen_by_store();
    seen.zeroed = found->state.superblock.zeroed;
    seen.valid = found->state.superblock.valid;
    seen.transaction_id = found->state.superblock.transaction_id;
    if (found->listed) {
        seen.thins.emplace();
        for (const auto& thin : found->thins) seen.thins->push_back({thin.thin_id, thin.transaction_id});
    }
    co_return judge_pool(seen);
}

// Rows against the thin ids that the pool has, before anybody may use it. The next id lies above both. Commands that
// were under way when the pool was stopped are carried out meanwhile: what they change is not compared.
Task<void> PoolManager::compare_thins(Operation& operation) {
    const NameRecord record(names_);
    Seen seen = seen_by_store();
    Views views = views_at_start({});
    Result<std::vector<schemas::ThinDevice>> thins = co_await list_thins(operation, Held::release);
    if (!thins) co_return thins.error();
    unfind(FindingKind::unchecked, pool_row_->name);
    if (!thins->empty()) {
        store_.raise_next_thin_id(std::max(thins->back().thin_id + 1, kFirstThinId));
    }
    views.after = store_view();
    views.before.next_thin_id = views.after.next_thin_id;
    views.worked_on = record.keys();
    const auto state_in = [](const StoreView& store, std::uint32_t thin_id) {
        const auto row = store.rows.find(thin_id);
        return row == store.rows.end() ? std::string() : row->second.state;
    };
    const auto changed = [&](std::uint32_t thin_id) {
        return state_in(views.before, thin_id) != state_in(views.after, thin_id);
    };
    std::erase_if(seen.rows, [&](const SeenRow& row) { return changed(row.thin_id); });
    seen.transaction_id = pool_.status->transaction_id;
    seen.thins.emplace();
    views.kernel.thins.emplace();
    for (const auto& thin : *thins) {
        if (changed(thin.thin_id)) continue;
        seen.thins->push_back({thin.thin_id, thin.transaction_id});
        views.kernel.thins->emplace(thin.thin_id, thin);
    }
    set_verdict(judge_pool(seen));
    settle(views, compare(views));
    co_return {};
}

Task<std::vector<schemas::ThinDevice>> PoolManager::list_thins(Operation& operation, Held held, Sharing sharing) {
    const NameLock lock = co_await names_.acquire(kMetadataSnapKey, LockMode::exclusive);
    std::vector<schemas::ThinDevice> thins;
    const bool own = pool_row_->spec.backing != "adopted";
    schemas::ListThins command;
    command.pool = pool_row_->spec.pool;
    command.sharing = sharing == Sharing::counted;
    // This key is held: so it is a dead actor's, or somebody else's, who may be reading it.
    command.release_held = own && held == Held::release;
    for (;;) {
        schemas::ListThins again = command;
        again.release_held = own;  // What is held then is what the dead actor had reserved.
        Result<schemas::ListThins::Reply> page =
            co_await tell(operation, ActorKind::device, Urgency::awaited, command, again);
        if (!page) co_return page.error();
        const Outcome outcome = take_verdict(operation, page->verdict);
        if (outcome == Outcome::unknown || !pool_.writable)
            co_return Error{Errc::unavailable, "read the pool's own list of thin ids: the pool is not in service"};
        if (page->verdict.error_number == EBUSY) {
            co_return Error{Errc::in_use,
                            fmt::format("read the pool's own list of thin ids: another program holds a metadata "
                                        "snapshot{}",
                                        own ? "; `cowslip fsck --repair` releases it" : "")};
        }
        if (outcome == Outcome::refused)
            co_return errno_error(page->verdict.error_number, "read the pool's own list of thin ids");
        thins.insert(thins.end(), page->thins.begin(), page->thins.end());
        if (!page->more || page->thins.empty()) break;
        command.after_thin_id = page->thins.back().thin_id;
        command.release_held = false;
    }
    co_return thins;
}

// ---- cleanup ---------------------------------------------------------------------------------

// Everything is put away; the store stays, and the next create, get or attach starts the pool again.
Task<std::string> PoolManager::cleanup(Operation& operation, schemas::SystemCleanup /*request*/) {
    const NameLock lock = co_await names_.acquire(kPoolKey, LockMode::exclusive);
    const NameLock start = co_await names_.acquire(kStartKey, LockMode::exclusive);
    schemas::SystemCleanup::Reply reply;
    reply.leases_ended = store_.count_leases();
    Result<std::vector<std::string>> left = co_await put_pool_away(operation, Leased::ended);
    if (!left) co_return left.error();
    reply.left = std::move(*left);
    reply.leases_ended -= store_.count_leases();
    co_return encode(reply);
}

// What was left, and why: then the pool stays in service.
Task<std::vector<std::string>> PoolManager::put_pool_away(Operation& operation, Leased leased) {
    std::vector<std::string> left;
    if (!pool_row_ || (pool_row_->state != "ready" && !pool_.read_only)) co_return left;
    // Removals are durable and go on when the pool is started again: they may have half of the client's patience.
    std::int64_t until_ms = now_.monotonic_ms;
    for (const Waiter& waiter : operation.waiters) until_ms = std::max(until_ms, waiter.deadline_ms);
    until_ms = now_.monotonic_ms + (until_ms - now_.monotonic_ms) / 2;
    while (removals_behind() > 0 && pool_.writable && now_.monotonic_ms < until_ms) {
        operation.waiting_for = "the work behind earlier replies";
        co_await sleep_ms(50);
    }
    if (backup_due_) {
        operation.waiting_for = "the backup of the store into the pool";
        Result<void> backed_up = co_await write_ring(operation);
        if (!backed_up)
            spdlog::warn("no backup of the store before the pool is put away: {}", backed_up.error().message);
    }
    Result<std::vector<std::string>> kept = co_await put_devices_away(operation, leased);
    if (!kept || !kept->empty()) co_return kept;
    pool_.loaded = false;
    schemas::StopPool command{pool_row_->spec};
    Result<schemas::PoolState> stopped = co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    if (!stopped) {
        // The next request starts it again, and sees then what is wrong with it: until then nobody looks.
        set_fault(PoolFault::none, "");
        co_return stopped.error();
    }
    store_.set_pool_state("stopped");
    event("pool.stopped", pool_row_->name);
    pool_row_ = store_.pool();
    pool_ = {};
    unfind(FindingKind::pool, pool_row_->name);
    co_return left;
}

// Every device unmounted and deactivated, and its leases ended with it; what was left, and why.
Task<std::vector<std::string>> PoolManager::put_devices_away(Operation& operation, Leased leased) {
    std::vector<std::string> left;
    std::vector<std::uint64_t> numbers;
    std::set<std::uint32_t> thin_ids;
    for (const std::uint32_t thin_id : store_.leased_volumes()) thin_ids.insert(thin_id);
    for (const auto& [thin_id, device] : devices_) thin_ids.insert(thin_id);
    for (const std::uint32_t thin_id : thin_ids) {
        const auto row = store_.volume(thin_id);
        Operation& part = new_operation("put_away", row && row->name ? *row->name : fmt::format("thin {}", thin_id));
        part.role = Role::housekeeping;
        numbers.push_back(part.number);
        begin(part, put_away_for_good(part, thin_id, leased, &left));
    }
    for (const std::uint64_t number : numbers) {
        operation.waiting_for = "volumes to be unmounted";
        if (const auto part = operations_.find(number); part != operations_.end()) co_await part->second->ended.wait();
    }
    co_return left;
}

std::size_t PoolManager::removals_behind() const {
    return static_cast<std::size_t>(std::count_if(operations_.begin(), operations_.end(), [](const auto& entry) {
        const std::string& type = entry.second->type;
        return entry.second->role == Role::behind && type != "activate_ahead" && type != "warm";
    }));
}

Task<std::string> PoolManager::put_away_for_good(Operation& operation, std::uint32_t thin_id, Leased leased,
                                                 std::vector<std::string>* left) {
    const NameLock lock = co_await names_.acquire(thin_key(thin_id), LockMode::exclusive);
    if (leased == Leased::left && !store_.leases(thin_id).empty()) {
        left->push_back(fmt::format("{}: leased", operation.subject));
        co_return "";
    }
    Result<void> away;
    const auto device = devices_.find(thin_id);
    const bool mounted = device != devices_.end() && !device->second.mount_path.empty();
    if (leased == Leased::evicted && mounted) {
        away = co_await unmount_shut_down(operation, thin_id);
    } else {
        away =
            co_await end_mount(operation, thin_id, may_have_written(store_.leases(thin_id)), leased == Leased::evicted);
    }
    if (away) away = co_await deactivate(operation, thin_id);
    if (!away) {
        const auto& holders = away.error().details["holders"];
        std::size_t told = 0;
        for (const std::string& text : *left) told += text.size();
        left->push_back(told > kMostLeftBytes ? operation.subject.substr(0, 32)
                                              : fmt::format("{}: {}{}{}", operation.subject, away.error().message,
                                                            holders.empty() ? "" : "; ", fmt::join(holders, "; ")));
        co_return "";
    }
    for (const LeaseRow& lease : store_.leases(thin_id))
        event("lease.ended", operation.subject, {{"holder", lease.holder}});
    store_.delete_leases(thin_id);
    co_return "";
}

}  // namespace cowslip
