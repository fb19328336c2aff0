// Create and remove. The intent is durable before the first command, a create that cannot be
// finished is undone, a removal is always finished.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kMiB = 1ULL << 20U;
constexpr std::uint64_t kDefaultBytes = 10ULL << 30U;
constexpr std::uint64_t kLargestVolumeBytes = 256ULL << 40U;
constexpr std::uint64_t kSmallestXfsBytes = 300 * kMiB;
constexpr std::uint64_t kSizeStep = 4096;
constexpr std::int64_t kFirstRemovalBackOffMs = 200;
constexpr std::int64_t kLongestRemovalBackOffMs = 30000;
constexpr std::uint64_t kDeletedAtOnceBlocks = 65536;  // The kernel takes some milliseconds for them.
constexpr std::uint64_t kGivenBackBlocks = 4096;       // At once.
constexpr std::int64_t kLeastRestMs = 10;
constexpr std::int64_t kDeletedUnwrittenMs = 10;
constexpr std::uint32_t kMostTries = 5;
constexpr std::int64_t kTryAgainMs = 100;
constexpr std::int64_t kResumeAgainMs = 1000;
constexpr std::size_t kMostFollowers = 63;  // Clones that the first one waits for.

}  // namespace

// ---- create ----------------------------------------------------------------------------------

Result<std::uint64_t> volume_sectors(std::uint64_t bytes) {
    if (bytes > kLargestVolumeBytes) return Error{Errc::invalid_argument, "size: at most 256 TiB"};
    if (bytes < kMiB) return Error{Errc::invalid_argument, "size: at least 1 MiB"};
    return (bytes + kSizeStep - 1) / kSizeStep * kSizeStep / kSectorBytes;
}

// What can be said against a request by itself.
Result<void> PoolManager::check_create(const schemas::VolumeCreate& request) const {
    TRY(check_volume_id(request.id));
    if (!request.parent.empty()) TRY(check_volume_id(request.parent));
    if (!request.holder.empty()) TRY(check_holder(request.holder));
    if (request.labels.size() > 32) {
        return Error{Errc::invalid_argument, fmt::format("{} labels: at most 32 are allowed", request.labels.size())};
    }
    for (const auto& [key, value] : request.labels) TRY(check_label(key, value));
    if (!request.fs.empty() && request.fs != "ext4" && request.fs != "xfs" && request.fs != "none") {
        return Error{Errc::invalid_argument,
                     fmt::format("file system '{}' is not known: ext4, xfs or none", request.fs)};
    }
    if (request.size_bytes != 0) TRY(volume_sectors(request.size_bytes));
    if (!request.get && (request.filling || !request.mount_label.empty() || !request.holder.empty())) {
        return Error{Errc::invalid_argument, "holder, mount label and filling go with get"};
    }
    return {};
}

// The row that the request asks for, judged against what is there; without a thin id yet.
Result<VolumeRow> PoolManager::plan_volume(const schemas::VolumeCreate& request) {
    if (store_.find_volume(request.id)) {
        return Error{Errc::already_exists, fmt::format("a volume '{}' exists already", request.id)};
    }
    TRY(check_room());
    VolumeRow row;
    row.name = request.id;
    row.parent = request.parent;
    row.labels = request.labels;
    row.fs = request.fs.empty() ? "ext4" : request.fs;
    row.size_sectors = TRY(volume_sectors(request.size_bytes == 0 ? kDefaultBytes : request.size_bytes));
    const std::uint64_t size = row.size_sectors * kSectorBytes;
    row.fs_sectors = row.size_sectors;
    if (!request.parent.empty()) {
        const auto parent = store_.find_volume(request.parent);
        if (!parent || parent->state != "ready") {
            return Error{Errc::not_found, fmt::format("there is no parent volume '{}'", request.parent)};
        }
        if (lost_.contains(parent->thin_id)) {
            return Error{Errc::needs_repair, fmt::format("the pool has lost the parent volume '{}'", request.parent)};
        }
        if (!request.fs.empty() && request.fs != parent->fs) {
            return Error{Errc::invalid_argument, fmt::format("a clone has its parent's file system, and '{}' has {}",
                                                             request.parent, parent->fs)};
        }
        if (request.size_bytes == 0) row.size_sectors = parent->size_sectors;
        if (row.size_sectors < parent->size_sectors) {
            return Error{Errc::invalid_argument,
                         fmt::format("size {} is below the {} of the parent '{}': a clone may only be larger", size,
                                     parent->size_sectors * kSectorBytes, request.parent)};
        }
        row.origin_id = parent->thin_id;
        row.fs = parent->fs;
        row.fs_sectors = parent->fs_sectors;
        if (request.mkfs_options) {
            return Error{Errc::invalid_argument, "mkfs options: a clone has its parent's file system"};
        }
        row.options = parent->options;
    } else if (row.fs == "xfs" && size < kSmallestXfsBytes) {
        return Error{Errc::invalid_argument, "size: xfs takes at least 300 MiB"};
    }
    if (request.parent.empty()) {
        const auto configured = options_.filesystems.find(row.fs);
        if (configured != options_.filesystems.end()) row.options = configured->second;
        if (request.mkfs_options) row.options.mkfs = TRY(check_mkfs_options(row.fs, *request.mkfs_options));
    }
    if (request.mount_options) row.options.mount = TRY(check_mount_options(row.fs, *request.mount_options));
    TRY(check_quota(row.labels, row.size_sectors * kSectorBytes));
    TRY(check_promise(row.size_sectors * kSectorBytes));
    if (request.get && row.fs == "none")
        return Error{Errc::invalid_argument, "a volume without a file system has no mount: use attach"};
    if (row.fs == "none") row.fs_sectors = row.size_sectors;
    return row;
}

Task<std::string> PoolManager::create_volume(Operation& operation, schemas::VolumeCreate request) {
    Result<void> checked = check_create(request);
    if (!checked) co_return checked.error();
    std::vector<LockRequest> names = {{volume_key(request.id), LockMode::exclusive}};
    if (!request.parent.empty()) names.push_back({volume_key(request.parent), LockMode::shared});
    Result<NameLock> lock = co_await enter(operation, names, Access::change);
    if (!lock) co_return lock.error();
    Result<VolumeRow> row = plan_volume(request);
    if (!row) co_return row.error();
    Result<std::optional<std::string>> taken = co_await take_warm(operation, request, *row);
    if (!taken) co_return taken.error();
    if (*taken) co_return **taken;
    if (row->origin_id || row->fs != "none") {  // It is a clone, if only of a template.
        Result<void> lasting = check_clock();
        if (!lasting) co_return lasting.error();
    }
    if (!row->origin_id && row->fs != "none") {
        Result<std::uint32_t> formatted = co_await ensure_template(*row);
        if (!formatted) co_return formatted.error();
        row->origin_id = *formatted;
    }
    const std::string body = encode(request);
    Result<void> recorded = record_intent(operation, *row, OperationType::create, body);
    if (!recorded) co_return recorded.error();
    if (++creates_in_generation_ >= kCreatesInGeneration) begin_generation();
    co_return co_await carry_out_create(operation, std::move(request));
}

// Durable before the first command: from here on the create is finished, or undone.
Result<void> PoolManager::record_intent(Operation& operation, const VolumeRow& planned, OperationType type,
                                        const std::string& body) {
    VolumeRow row = planned;
    row.thin_id = TRY(store_.spend_thin_id());
    row.born_min = pool_row_->confirmed;
    store_.insert_volume(row);
    store_.insert_operation({operation.number, type, row.thin_id, operation.request_id, body});
    if (!operation.request_id.empty()) store_.insert_request(operation.request_id, operation.digest);
    operation.thin_id = row.thin_id;
    operation.recorded = true;
    return {};
}

// From the intent on; also where recovery begins. The caller holds the names.
Task<std::string> PoolManager::carry_out_create(Operation& operation, schemas::VolumeCreate request) {
    Result<std::uint64_t> born = co_await make_thin(operation);
    if (!born) co_return born.error();
    schemas::VolumeCreate::Reply reply;
    NameLock thin;
    const LeaseWanted wanted{default_holder(request.holder), "mounted_rw", request.mount_label};
    if (request.get) {
        // That it is in the pool is recorded before its file system may change it.
        store_.set_born(*operation.thin_id, *born);
        thin = co_await names_.acquire(thin_key(*operation.thin_id), LockMode::exclusive);
        const auto row = store_.volume(*operation.thin_id);
        Result<std::string> path = co_await bring_up(operation, *row, wanted);
        // The pool has left service meanwhile: what was accepted waits for its repair, which waits for the thin key.
        for (std::uint32_t tries = 1; !path && tries < kMostTries; ++tries) {
            if (path.error().code != Errc::unavailable && pool_.writable) break;
            thin.release();
            co_await sleep_ms(kTryAgainMs);
            co_await pool_in_service(operation);
            thin = co_await names_.acquire(thin_key(*operation.thin_id), LockMode::exclusive);
            path = co_await bring_up(operation, *row, wanted);
        }
        if (!path) co_return path.error();
        reply.path = *path;
    }
    store_.set_volume_ready(*operation.thin_id, *born, request.filling);
    store_.delete_operation(operation.number);
    const auto row = store_.volume(*operation.thin_id);
    event("volume.created", request.id, {{"parent", request.parent}, {"thin_id", std::to_string(row->thin_id)}});
    if (request.get) record_lease(*row, wanted);
    reply.volume = describe(*row);
    co_return encode(reply);
}

// Brings the operation's thin id into the pool, for certain. Gives the transaction id it was born under, at the latest.
// Clones of one active origin that are asked for at the same time suspend it once: one is taken from the origin, and
// the others from that one, before anybody is given it (protocol.md). Each of them was asked for before the origin was
// suspended, so none lacks what was written before it was asked for.
Task<std::uint64_t> PoolManager::make_thin(Operation& operation) {
    const auto row = store_.volume(*operation.thin_id);
    if (!row->origin_id || !devices_.contains(*row->origin_id)) {
        co_return co_await make_thin_of(operation, row->origin_id, nullptr);
    }
    const std::uint32_t origin = *row->origin_id;
    for (;;) {
        const auto found = gatherings_.find(origin);
        if (found == gatherings_.end() || found->second->followers >= kMostFollowers) break;
        const Following group(found->second);
        operation.waiting_for = "the snapshot of its origin that another clone waits for";
        while (group->state == Gathering::State::waiting) co_await group->changed.wait();
        if (group->state == Gathering::State::taken) co_return co_await make_thin_of(operation, group->source, nullptr);
    }
    const auto group = std::make_shared<Gathering>(ready_);
    gatherings_[origin] = group;
    Result<std::uint64_t> born = co_await make_thin_of(operation, origin, group.get());
    close(origin, *group);
    group->source = *operation.thin_id;
    group->state = born ? Gathering::State::taken : Gathering::State::failed;
    group->changed.notify_all();
    operation.waiting_for = "clones that are taken from it";
    while (born && group->followers > 0) co_await group->changed.wait();
    co_return born;
}

// Whoever asks from now on is late: what it has seen written may not be in this snapshot.
void PoolManager::close(std::uint32_t origin, const Gathering& gathering) {
    const auto found = gatherings_.find(origin);
    if (found != gatherings_.end() && found->second.get() == &gathering) gatherings_.erase(found);
}

Task<std::uint64_t> PoolManager::make_thin_of(Operation& operation, std::optional<std::uint32_t> origin,
                                              Gathering* gathering) {
    for (;;) {
        // A warm clone was promised to nobody: it does not wait, and keeps nobody from putting the pool away.
        if (operation.type == "warm" && !is_in_service()) {
            co_return Error{Errc::unavailable, "the pool is out of service"};
        }
        co_await pool_in_service(operation);
        auto row = store_.volume(*operation.thin_id);
        if (row->born_max != 0) co_return row->born_max;
        row->origin_id = origin;
        Result<schemas::Verdict> verdict = co_await snapshot(operation, *row, gathering);
        if (!verdict) co_return verdict.error();
        const Outcome outcome = take_verdict(operation, *verdict);
        if (outcome == Outcome::done) co_return pool_.status->transaction_id;
        if (outcome == Outcome::refused && verdict->error_number == EEXIST) {
            // After a first attempt it can only be somebody else's device.
            Ownership owner = Ownership::foreign;
            if (operation.attempts > 1) {
                auto now = store_.volume(*operation.thin_id);
                now->origin_id = origin;
                Result<Ownership> found = co_await whose(operation, *now);
                if (!found && found.error().code == Errc::unavailable) {
                    co_await sleep_ms(100);  // The pool has left service meanwhile: asked again.
                    continue;
                }
                if (!found) co_return found.error();
                owner = *found;
            }
            if (owner == Ownership::ours) co_return pool_row_->planned;
            Result<void> moved = give_up_foreign(operation);
            if (!moved) co_return moved.error();
            continue;
        }
        if (outcome == Outcome::refused && verdict->error_number == ENODATA) {
            co_return Error{Errc::needs_repair,
                            fmt::format("create '{}': the pool does not have the parent's thin id", operation.subject)};
        }
        if (outcome == Outcome::refused && verdict->error_number != EOPNOTSUPP) {
            co_return errno_error(verdict->error_number, fmt::format("create '{}' in the pool", operation.subject));
        }
        // Unknown, or refused by a pool that could not be written and now can: asked again.
        ++operation.attempts;
        store_.set_attempts(operation.number, operation.attempts, operation.deaths);
        co_await sleep_ms(100);
    }
}

// create_thin, or create_snap with the origin kept as it is meanwhile: an active origin is suspended,
// so only one may work on it; from an inactive one many can be taken at once.
Task<schemas::Verdict> PoolManager::snapshot(Operation& operation, VolumeRow row, Gathering* gathering) {
    if (!row.origin_id) {
        schemas::CreateThin command{pool_row_->spec.pool, row.thin_id};
        co_return co_await tell(operation, ActorKind::device, Urgency::awaited, command);
    }
    const std::uint32_t origin = *row.origin_id;
    NameLock lock = co_await names_.acquire(thin_key(origin), LockMode::shared);
    if (devices_.contains(origin)) {
        lock.release();
        lock = co_await names_.acquire(thin_key(origin), LockMode::exclusive);
    }
    if (gathering != nullptr) {
        co_await sleep_ms(0);  // Those that have arrived in this turn belong to it.
        close(origin, *gathering);
    }
    for (;;) {
        const bool active = devices_.contains(origin);
        row.thin_id = *operation.thin_id;
        NameLock thin = co_await names_.acquire(thin_key(row.thin_id), LockMode::exclusive);
        // One that others are cloned from stays inactive until they are.
        const bool followed = gathering != nullptr && gathering->followers > 0;
        const std::uint64_t ahead = !followed && may_activate_ahead(row) ? row.size_sectors : 0;
        schemas::CreateSnap command{pool_row_->spec.pool, row.thin_id, origin, active, ahead};
        if (active) count("origins_suspended");
        const CommandKey key{operation.number, operation.step, operation.attempts};
        CommandOutcome outcome = co_await tell_once(operation, ActorKind::device, Urgency::awaited, command);
        if (outcome.kind != CommandOutcome::Kind::answered && ahead != 0) maybe_active(row.thin_id);
        if (outcome.more) {
            begin_activation_ahead(key, row, std::move(thin));
        } else {
            thin.release();
        }
        if (outcome.kind == CommandOutcome::Kind::answered) {
            ++operation.step;
            forget_deaths(operation);
            if (!outcome.body) co_return outcome.body.error();
            auto reply = decode_as<schemas::CreateSnap::Reply>(std::string_view(*outcome.body));
            if (!reply) co_return reply.error();
            if (reply->resume_error_number != 0) {
                co_await resume_origin(operation, origin);
            }
            if (!reply->torn) co_return reply->verdict;
            // Somebody resumed the origin in between: another snapshot is taken.
            Result<void> moved = give_up_torn(operation);
            if (!moved) co_return moved.error();
            continue;
        }
        const Result<void> again = count_attempt(operation, outcome, schemas::CreateSnap::kType);
        // It died with the origin suspended, perhaps, whatever we believed of it: its writers wait for nothing else.
        const std::uint32_t deaths = operation.deaths;
        co_await resume_origin(operation, origin);
        operation.deaths = deaths;  // The resume's answer says nothing of the snapshot.
        if (!again) co_return again.error();
    }
}

// The actor has deleted the snapshot, or tried to: that it is gone in the end is an operation of its own.
Result<void> PoolManager::give_up_torn(Operation& operation) {
    const std::uint32_t torn = *operation.thin_id;
    TRY(take_new_thin_id(operation));
    VolumeRow left = *store_.volume(*operation.thin_id);
    left.thin_id = torn;
    left.name.reset();
    left.template_key.reset();
    left.kind = "internal";
    left.born_max = pool_row_->planned;  // It was ours for certain.
    store_.insert_volume(left);
    begin_giving_up(torn);
    return {};
}

// Its suspender has answered, or is dead. Its writers hang meanwhile: so where that fails it is tried again, whatever
// becomes of the operation.
Async<void> PoolManager::resume_origin(Operation& operation, std::uint32_t origin) {
    schemas::Resume resume{pool_row_->spec.pool, origin};
    Result<schemas::Resume::Reply> resumed = co_await tell(operation, ActorKind::device, Urgency::watching, resume);
    if (resumed && resumed->error_number == 0) {
        unfind(FindingKind::suspended, std::to_string(origin));
        co_return;
    }
    const std::string cause = resumed ? std::strerror(resumed->error_number) : resumed.error().message;
    find(FindingKind::suspended, std::to_string(origin), "its device stays suspended: " + cause);
    if (!resuming_.insert(origin).second) co_return;
    Operation& again = new_operation("resume", std::to_string(origin));
    again.role = Role::housekeeping;
    begin(again, resume_until_done(again, origin));
}

Task<std::string> PoolManager::resume_until_done(Operation& operation, std::uint32_t origin) {
    while (findings_.contains({FindingKind::suspended, std::to_string(origin)})) {
        co_await sleep_ms(kResumeAgainMs);
        const NameLock lock = co_await names_.acquire(thin_key(origin), LockMode::exclusive);
        operation.deaths = 0;
        co_await resume_origin(operation, origin);
    }
    resuming_.erase(origin);
    co_return "";
}

// Did an earlier attempt of this operation make the thin id that the pool has? Then its birth mark
// fits, and nothing has been written to it yet.
Task<PoolManager::Ownership> PoolManager::whose(Operation& operation, VolumeRow row) {
    Result<std::vector<schemas::ThinDevice>> thins = co_await list_thins(operation, Held::release);
    if (!thins) co_return thins.error();
    const auto find_thin = [&](std::uint32_t id) {
        return std::find_if(thins->begin(), thins->end(), [&](const auto& thin) { return thin.thin_id == id; });
    };
    const auto found = find_thin(row.thin_id);
    if (found == thins->end()) co_return Ownership::absent;
    const auto origin = row.origin_id ? find_thin(*row.origin_id) : thins->end();
    const std::uint64_t expected = origin == thins->end() ? 0 : origin->mapped_blocks;
    const bool mark_fits = found->transaction_id >= row.born_min && found->transaction_id <= pool_row_->planned;
    co_return mark_fits && found->mapped_blocks == expected ? Ownership::ours : Ownership::foreign;
}

Result<void> PoolManager::give_up_foreign(Operation& operation) {
    const std::uint32_t foreign = *operation.thin_id;
    store_.quarantine(foreign, "was in the pool before we made it");
    find(FindingKind::foreign_thin, std::to_string(foreign),
         "a thin id in the pool that is not ours; it is left alone");
    keep();  // Also where no other id is left, and the create fails.
    return take_new_thin_id(operation);
}

// Its volume is moved to an id that was never used.
Result<void> PoolManager::take_new_thin_id(Operation& operation) {
    const std::uint32_t next = TRY(store_.spend_thin_id());
    store_.move_volume(*operation.thin_id, next);
    operation.thin_id = next;
    operation.attempts = 1;
    return {};
}

// ---- templates -------------------------------------------------------------------------------

// The thin id of the formatted volume of that type, size and options: an empty volume is a clone of it and not
// a mkfs. Made when it is first wanted.
Task<std::uint32_t> PoolManager::ensure_template(VolumeRow wanted) {
    const std::string& options = wanted.options.mkfs;
    const std::string key =
        fmt::format("{}/{}{}{}", wanted.fs, wanted.size_sectors, options.empty() ? "" : "/", options);
    const NameLock lock = co_await names_.acquire("x:" + key, LockMode::exclusive);
    for (std::uint32_t tries = 1;; ++tries) {
        const auto found = store_.find_template(key);
        if (found && found->state == "ready") co_return found->thin_id;
        VolumeRow row;
        row.template_key = key;
        row.kind = "internal";
        row.fs = wanted.fs;
        row.size_sectors = wanted.size_sectors;
        row.fs_sectors = wanted.size_sectors;
        row.options.mkfs = options;
        Operation& operation = new_operation("template", key);
        const std::uint64_t number = operation.number;
        begin(operation, make_template_operation(operation, row));
        co_await operation.ended.wait();
        const auto ended = ended_.find(number);
        const std::optional<Error> error =
            ended == ended_.end() ? Error{Errc::unavailable, "mkfs ended unseen: ask again"} : ended->second;
        if (!error) continue;
        // Interrupted is no failure: what an actor's death left half formatted is thrown away.
        if (error->code != Errc::unavailable || tries == kMaxDeaths) co_return *error;
    }
}

Task<std::string> PoolManager::make_template_operation(Operation& operation, VolumeRow row) {
    Result<void> recorded = record_intent(operation, row, OperationType::template_, "");
    if (!recorded) co_return recorded.error();
    Result<std::uint64_t> born = co_await make_thin(operation);
    if (!born) co_return born.error();
    row.thin_id = *operation.thin_id;
    store_.set_born(row.thin_id, *born);
    const NameLock lock = co_await names_.acquire(thin_key(row.thin_id), LockMode::exclusive);
    Result<std::string> path = co_await activate(operation, row, false);
    if (!path) co_return path.error();
    schemas::MakeFilesystem command{{*path, thin_dm_uuid(pool_row_->spec.pool.uuid, row.thin_id)},
                                    row.fs,
                                    pool_row_->spec.skip_zeroing,
                                    row.options.mkfs};
    CommandOutcome made = co_await tell_once(operation, ActorKind::mount, Urgency::awaited, command);
    if (made.kind != CommandOutcome::Kind::answered)
        co_return Error{Errc::unavailable, "mkfs was interrupted: ask again"};
    if (!made.body) co_return made.body.error();
    ++operation.step;
    // Sealed when its device can be removed: nobody, no late mkfs either, has it open.
    Result<void> away = co_await deactivate(operation, row.thin_id);
    if (!away) co_return away.error();
    store_.set_volume_ready(row.thin_id, *born, false);
    store_.delete_operation(operation.number);
    co_return "";
}

// ---- remove ----------------------------------------------------------------------------------

Task<std::string> PoolManager::remove_volume(Operation& operation, schemas::VolumeRemove request) {
    Result<void> checked = check_volume_id(request.id);
    if (!checked) co_return checked.error();
    const NameLock lock = co_await names_.acquire(volume_key(request.id), LockMode::exclusive);
    const auto row = store_.find_volume(request.id);
    if (!row || (request.thin_id != 0 && request.thin_id != row->thin_id)) {
        if (request.must_exist) co_return Error{Errc::not_found, fmt::format("there is no volume '{}'", request.id)};
        co_return encode(schemas::VolumeRemove::Reply{.existed = false});
    }
    const auto leases = store_.leases(row->thin_id);
    if (!leases.empty()) {
        co_return Error{Errc::in_use,
                        fmt::format("volume '{}' is in use: `cowslip put --all-holders` ends its leases", request.id),
                        {{"holders", holder_names(leases)}}};
    }
    Result<void> place = co_await wait_for_place(operation);
    if (!place) co_return place.error();
    if (const auto device = devices_.find(row->thin_id);
        device != devices_.end() && !device->second.mount_path.empty()) {
        const NameLock thin = co_await names_.acquire(thin_key(row->thin_id), LockMode::exclusive);
        Result<void> away = co_await unmount(operation, row->thin_id, true);
        if (!away) co_return away.error();
    }
    if (!request.wait) {
        remove_behind_reply(*row);
        co_return encode(schemas::VolumeRemove::Reply{.existed = true});
    }
    plan_removal(*row, operation.number, operation.request_id);
    store_.insert_request(operation.request_id, operation.digest);
    operation.recorded = true;
    operation.thin_id = row->thin_id;
    co_return co_await finish_removal(operation, request.id);
}

// The work behind the reply is bounded: at the bound a removal waits for a place, up to its deadline.
Task<void> PoolManager::wait_for_place(Operation& operation) {
    operation.waits_for_place = true;
    while (behind_operations() >= options_.max_behind && !operation.gives_up) {
        operation.waiting_for = "a place behind the reply";
        co_await behind_changed_.wait();
    }
    operation.waits_for_place = false;
    if (operation.gives_up) {
        co_return Error{Errc::busy, fmt::format("{} removals are going on already: ask again", behind_operations())};
    }
    co_return {};
}

void PoolManager::remove_behind_reply(const VolumeRow& row) {
    Operation& removal = new_operation("volume.remove", *row.name);
    plan_removal(row, removal.number, "");
    begin_removal(removal.number, row.thin_id, *row.name, 1);
}

// From this commit on the name is free, and no code path uses the name or its path for this volume.
void PoolManager::plan_removal(const VolumeRow& row, std::uint64_t number, const std::string& request_id) {
    store_.set_volume_removing(row.thin_id);
    store_.insert_operation({number, OperationType::remove, row.thin_id, request_id, ""});
    event("volume.removed", *row.name, {{"thin_id", std::to_string(row.thin_id)}});
    if (row.warm != 0) give_up_warm(row, 0);
    warm_pauses_.erase(row.thin_id);
}

// Of an operation that has its row.
void PoolManager::begin_removal(std::uint64_t number, std::uint32_t thin_id, std::string subject,
                                std::uint32_t attempts) {
    Operation& operation = *operations_.at(number);
    operation.role = operation.request_id.empty() ? Role::behind : Role::request;
    operation.recorded = true;
    operation.thin_id = thin_id;
    operation.attempts = attempts;
    begin(operation, finish_removal(operation, std::move(subject)));
}

Task<std::string> PoolManager::finish_removal(Operation& operation, std::string subject) {
    std::int64_t back_off_ms = kFirstRemovalBackOffMs;
    for (;;) {
        co_await pool_in_service(operation);
        Result<bool> emptied = co_await give_back_part(operation);
        if (emptied && !*emptied) continue;
        Result<bool> deleted = co_await try_removal(operation, subject);
        if (deleted && *deleted) co_return encode(schemas::VolumeRemove::Reply{.existed = true});
        if (!deleted) {
            if (operation.deaths >= kMaxDeaths) co_return deleted.error();
            find(FindingKind::removal, subject, deleted.error().message);
        }
        operation.waiting_for = "its device to be closed";
        co_await sleep_ms(back_off_ms);
        back_off_ms = std::min(back_off_ms * 2, kLongestRemovalBackOffMs);
    }
}

// A clone shares its mappings with its parent, and a parent with its clones, but for what was written since: the kernel
// deletes one of them the sooner the more it shares, and what is given back part by part would be copied first.
bool PoolManager::is_deleted_at_once(const Operation& operation, const VolumeRow& row) {
    if (row.size_sectors / pool_row_->spec.block_sectors <= kDeletedAtOnceBlocks) return true;
    const auto origin = row.origin_id ? store_.volume(*row.origin_id) : std::nullopt;
    const bool has_parent = origin && origin->kind != "internal";
    const auto device = devices_.find(row.thin_id);
    if (device != devices_.end() && !device->second.mount_path.empty()) return true;  // A warm clone, mounted still.
    return has_parent || row.born_max == 0 || !operation.mount_directory.empty() || lost_.contains(row.thin_id) ||
           replaced_.contains(row.thin_id) || store_.has_clones(row.thin_id);
}

// The kernel deletes in one step, in which nothing else goes on in the pool: so a large volume is given back in parts
// first, each followed by a rest as long as itself. True: there is nothing more to give back. Whatever fails here the
// deletion meets as well, and says.
Task<bool> PoolManager::give_back_part(Operation& operation) {
    Operation::GivingBack& giving = operation.giving_back;
    if (giving.done) co_return true;
    const std::int64_t began_ms = now_.monotonic_ms;
    NameLock lock = co_await names_.acquire(thin_key(*operation.thin_id), LockMode::exclusive);
    const auto row = store_.volume(*operation.thin_id);
    giving.done = is_deleted_at_once(operation, *row);
    if (giving.done) co_return true;
    const std::uint64_t block_sectors = pool_row_->spec.block_sectors;
    const std::uint64_t least_part = kGivenBackBlocks * block_sectors;
    const std::uint64_t at_once = kDeletedAtOnceBlocks * block_sectors;
    giving.part = std::min(std::max(giving.part, least_part), row->size_sectors - giving.up_to);
    schemas::DiscardThin command{pool_row_->spec.pool, row->thin_id, row->size_sectors,
                                 giving.up_to,         giving.part,  at_once};
    Result<schemas::DiscardThin::Reply> reply =
        co_await tell(operation, ActorKind::device, operation.urgency(), command);
    if (!reply) co_return reply.error();
    if (reply->verdict.error_number == 0) devices_.erase(row->thin_id);
    giving.up_to += giving.part;
    giving.done = take_verdict(operation, reply->verdict) != Outcome::done || reply->mapped_sectors <= at_once ||
                  giving.up_to >= row->size_sectors;
    lock.release();
    if (giving.done) co_return true;
    // Where there was nothing to give back, the next part may be larger.
    giving.part = reply->mapped_sectors == giving.mapped ? std::min(giving.part * 2, at_once) : least_part;
    giving.mapped = reply->mapped_sectors;
    operation.waiting_for =
        fmt::format("its blocks to be given back: {} % are", giving.up_to * 100 / row->size_sectors);
    co_await sleep_ms(std::max(now_.monotonic_ms - began_ms, kLeastRestMs));
    co_return false;
}

// True: it is gone, and that is written down. Its thin key is held no longer than the attempt: a stray
// mount of it must be put away in between.
Task<bool> PoolManager::try_removal(Operation& operation, const std::string& subject) {
    const std::uint32_t thin_id = *operation.thin_id;
    NameLock name;
    if (!operation.mount_directory.empty()) {
        // The name is free, and its directory may be in use by its next life.
        name = co_await names_.acquire(volume_key(subject), LockMode::exclusive);
    }
    const NameLock lock = co_await names_.acquire(thin_key(thin_id), LockMode::exclusive);
    if (!operation.mount_directory.empty()) {
        Result<void> away = co_await unmount(operation, thin_id, operation.mount_directory, true);
        if (!away && away.error().code != Errc::invalid_argument) co_return away.error();  // That life's mount.
        operation.mount_directory.clear();
        name.release();
    }
    if (const auto device = devices_.find(thin_id);
        device != devices_.end() && is_warm_directory(device->second.directory) && !device->second.mount_path.empty()) {
        Result<void> away = co_await unmount(operation, thin_id, true);
        if (!away) co_return away.error();
    }
    Result<bool> deleted = co_await delete_thin(operation, subject);
    if (!deleted || !*deleted) co_return deleted;
    unfind(FindingKind::busy, subject);
    unfind(FindingKind::removal, subject);
    unfind(FindingKind::lost, subject);
    lost_.erase(thin_id);
    devices_.erase(thin_id);
    measured_.erase(thin_id);
    // Nobody waits for it, and until it is durable the next process deletes once more what the pool does not have.
    if (operation.role == Role::behind) store_.defer_commit(now_.monotonic_ms + kDeletedUnwrittenMs);
    store_.delete_volume(thin_id);
    store_.delete_operation(operation.number);
    event("volume.deleted", subject, {{"thin_id", std::to_string(thin_id)}});
    co_return true;
}

// True: the pool does not have it (any more). False: ask again later. The caller holds its thin key.
Task<bool> PoolManager::delete_thin(Operation& operation, const std::string& subject) {
    const auto row = store_.volume(*operation.thin_id);
    if (replaced_.contains(row->thin_id)) {
        store_.quarantine(row->thin_id, "made by somebody else after the volume was lost");
        co_return true;
    }
    if (row->born_max == 0) {
        // Never seen in the pool: what has its id there may be a stranger's, or is known to be.
        const auto strangers = store_.quarantined();
        const bool known = std::any_of(strangers.begin(), strangers.end(),
                                       [&](const auto& stranger) { return stranger.first == row->thin_id; });
        if (known) co_return true;
        Result<Ownership> owner = co_await whose(operation, *row);
        if (!owner) co_return owner.error();
        if (*owner == Ownership::foreign) {
            store_.quarantine(row->thin_id, "a create that failed did not make it for certain");
            find(FindingKind::foreign_thin, std::to_string(row->thin_id),
                 "a thin id in the pool that is not ours; it is left alone");
        }
        if (*owner != Ownership::ours) co_return true;
    }
    schemas::DeleteThin command{pool_row_->spec.pool, row->thin_id};
    Result<schemas::DeleteThin::Reply> reply =
        co_await tell(operation, ActorKind::device, operation.urgency(), command);
    if (!reply) co_return reply.error();
    const Outcome outcome = take_verdict(operation, reply->verdict);
    if (outcome == Outcome::done) co_return true;
    if (outcome == Outcome::refused && reply->verdict.error_number == ENODATA) co_return true;
    if (reply->verdict.error_number == EBUSY) {
        find(FindingKind::busy, subject,
             fmt::format("removed, but its device is open: {}", fmt::join(holder_names(reply->holders), "; ")));
    } else if (outcome == Outcome::refused) {
        find(FindingKind::removal, subject,
             fmt::format("delete thin {}: {}", row->thin_id, std::strerror(reply->verdict.error_number)));
    }
    co_return false;
}

// The failure and its undo are one commit: from now on the create is a removal, also after a crash.
void PoolManager::undo(Operation& operation, const Error& error) {
    if (operation.type == schemas::VolumeResize::kType) return end_resize(operation, error);
    const auto row = operation.thin_id ? store_.volume(*operation.thin_id) : std::nullopt;
    if (operation.type == "volume.remove" || !row) {
        find(FindingKind::parked, operation.subject, error.message);
        store_.set_attempts(operation.number, operation.attempts, operation.deaths);
        if (!operation.request_id.empty()) {
            store_.set_reply(operation.request_id, operation.digest, error_frame(operation.request_id, error));
        }
        return;
    }
    Operation& removal = new_operation("volume.remove", operation.subject);
    store_.set_volume_removing(row->thin_id);
    store_.delete_operation(operation.number);
    store_.insert_operation({removal.number, OperationType::remove, row->thin_id, "", ""});
    if (!operation.request_id.empty()) {
        store_.set_reply(operation.request_id, operation.digest, error_frame(operation.request_id, error));
    }
    if (row->name) {
        event("volume.create_failed", *row->name, {{"error", error.message}});
        if (devices_.contains(row->thin_id)) removal.mount_directory = volume_directory(*row->name);
    }
    begin_removal(removal.number, row->thin_id, operation.subject, 1);
}

}  // namespace cowslip
