// Warm clones: clones of an image that are kept ready, each a row without a name, so that a create which wants one of
// them is one commit. They are made behind replies, share the bound of devices that nobody has a lease on, and are
// given up where the pool runs short of room. A death leaves a clone that is whole, or one that is thrown away.
#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

namespace {

constexpr std::ptrdiff_t kWarmAtOnce = 4;         // Images whose clones are being made or readied.
constexpr std::uint64_t kMorePercentToFill = 50;  // Than the room that a create must find, and with less they go.
constexpr std::int64_t kFillAfterMs = 20;         // The reply leaves first.
constexpr std::int64_t kFirstWarmPauseMs = 1000;
constexpr std::int64_t kLongestWarmPauseMs = 60 * 1000;

}  // namespace

// A thin id that somebody works on: nobody else takes it, makes it ready or gives it up. An image's: its clones are
// made one after the other.
class PoolManager::WarmClaim {
public:
    WarmClaim(std::set<std::uint32_t>& claimed, std::uint32_t thin_id) : claimed_(&claimed), thin_id_(thin_id) {
        claimed.insert(thin_id);
    }
    WarmClaim(WarmClaim&& other) noexcept
        : claimed_(std::exchange(other.claimed_, nullptr)), thin_id_(other.thin_id_) {}
    WarmClaim& operator=(WarmClaim&&) = delete;
    ~WarmClaim() {
        if (claimed_ != nullptr) claimed_->erase(thin_id_);
    }

private:
    std::set<std::uint32_t>* claimed_;
    std::uint32_t thin_id_;
};

// ---- asked for -------------------------------------------------------------------------------

// Of an image; whose name the caller holds.
Result<void> PoolManager::set_warm(const VolumeRow& image, std::uint32_t count, bool mounted) {
    if (count > schemas::kMostWarmOfOne) {
        return Error{Errc::invalid_argument,
                     fmt::format("warm: at most {} clones of one image are kept ready", schemas::kMostWarmOfOne)};
    }
    std::uint32_t others = 0;
    for (const VolumeRow& other : store_.warm_images()) {
        if (other.thin_id != image.thin_id) others += other.warm;
    }
    if (others + count > schemas::kMostWarm) {
        return Error{Errc::no_space,
                     fmt::format("warm: all images together keep at most {} clones ready, and others want {}: "
                                 "`cowslip freeze OTHER --warm 0` makes room",
                                 schemas::kMostWarm, others)};
    }
    store_.set_warm(image.thin_id, count, mounted && count != 0 && image.fs != "none");
    warm_pauses_.erase(image.thin_id);
    give_up_warm(image, count);
    warm_changed_.notify_all();
    return {};
}

std::optional<schemas::WarmClones> PoolManager::describe_warm(const VolumeRow& image) {
    if (image.warm == 0) return std::nullopt;
    schemas::WarmClones warm{.wanted = image.warm, .ready = 0, .mounted = image.warm_mounted};
    for (const VolumeRow& clone : store_.warm_clones(image.thin_id)) {
        const auto device = devices_.find(clone.thin_id);
        const bool active = device != devices_.end() && device->second.warm_since_ms != 0;
        if (active && (!image.warm_mounted || !device->second.mount_path.empty())) ++warm.ready;
    }
    return warm;
}

// ---- taken -----------------------------------------------------------------------------------

// The lower, the less is to be done. Nothing: it does not serve.
std::optional<int> PoolManager::rank_warm(const VolumeRow& clone, const VolumeRow& wanted,
                                          const schemas::VolumeCreate& request) const {
    const bool good = !warm_claimed_.contains(clone.thin_id) && !lost_.contains(clone.thin_id);
    if (!good || clone.size_sectors != wanted.size_sectors || clone.options != wanted.options) return std::nullopt;
    const auto device = devices_.find(clone.thin_id);
    if (device == devices_.end()) return 2;
    if (device->second.warm_since_ms == 0) return std::nullopt;  // It is being put away.
    if (device->second.mount_path.empty()) return request.get ? 1 : 0;
    if (!request.mount_label.empty()) return std::nullopt;
    return request.get ? 0 : 1;
}

// The reply to a create; nothing: no clone serves, and one is to be made. Until the commit that names it the clone is
// as it was, but for where it is mounted: a mount below a name that has no row is a stray, and nobody was told of it.
// The caller holds both names.
Task<std::optional<std::string>> PoolManager::take_warm(Operation& operation, schemas::VolumeCreate request,
                                                        VolumeRow wanted) {
    const std::optional<std::string> none;
    if (request.parent.empty() || request.filling || !pool_.writable || !pool_.intact) co_return none;
    std::optional<std::pair<int, VolumeRow>> best;
    for (VolumeRow& clone : store_.warm_clones(*wanted.origin_id)) {
        const auto rank = rank_warm(clone, wanted, request);
        if (rank && (!best || *rank < best->first)) best.emplace(*rank, std::move(clone));
    }
    if (!best) co_return none;
    const VolumeRow clone = best->second;
    const std::uint64_t doubts = warm_doubts_;
    const WarmClaim claim(warm_claimed_, clone.thin_id);
    const NameLock thin = co_await names_.acquire(thin_key(clone.thin_id), LockMode::exclusive);
    const LeaseWanted lease{default_holder(request.holder), "mounted_rw", request.mount_label};
    schemas::VolumeCreate::Reply reply;
    Result<std::string> path = co_await name_mount(operation, clone, request.id);
    if (path && request.get) {
        VolumeRow named = clone;
        named.name = request.id;
        path = co_await bring_up(operation, named, lease);
    }
    if (!path || doubts != warm_doubts_) {
        if (!path) spdlog::warn("warm clone thin_id={} not taken: {}", clone.thin_id, path.error().message);
        const bool in_the_way = !path && (retryable(path.error().code) || path.error().code == Errc::in_use);
        if (const auto device = devices_.find(clone.thin_id);
            device != devices_.end() && !device->second.mount_path.empty()) {
            Result<void> away = co_await unmount(operation, clone.thin_id, true);
            if (!away) co_return away.error();
        }
        now_idle(clone.thin_id);
        if (!in_the_way || doubts != warm_doubts_) begin_giving_up(clone.thin_id);
        co_return none;
    }
    store_.name_warm_clone(clone.thin_id, wanted);
    event("volume.created", request.id, {{"parent", request.parent}, {"thin_id", std::to_string(clone.thin_id)}});
    const auto row = store_.volume(clone.thin_id);
    if (request.get) {
        record_lease(*row, lease);
        reply.path = *path;
    } else {
        now_idle(clone.thin_id);
    }
    reply.volume = describe(*row);
    count("warm_taken");
    timers_.at(now_.monotonic_ms + kFillAfterMs, [this] { warm_changed_.notify_all(); });
    co_return std::optional<std::string>(encode(reply));
}

// Of a clone that is mounted: below this name from now on. Gives the path, or "" where nothing is mounted.
Task<std::string> PoolManager::name_mount(Operation& operation, VolumeRow clone, std::string id) {
    const auto device = devices_.find(clone.thin_id);
    if (device == devices_.end() || device->second.mount_path.empty()) co_return "";
    schemas::RenameMount command{device->second.directory, volume_directory(id), id,
                                 thin_dm_uuid(pool_row_->spec.pool.uuid, clone.thin_id)};
    const std::string directory = command.directory;
    Result<schemas::RenameMount::Reply> reply = co_await tell(operation, ActorKind::mount, Urgency::awaited, command);
    if (!reply) co_return reply.error();
    Device& renamed = devices_.at(clone.thin_id);
    renamed.mount_path = reply->path;
    renamed.directory = directory;
    co_return reply->path;
}

// ---- made and given up -----------------------------------------------------------------------

Task<std::string> PoolManager::keep_warm(Operation& /*operation*/) {
    for (;;) {
        co_await warm_changed_.wait();
        tend_warm();
    }
}

void PoolManager::tend_warm() {
    if (!start_done_ || stopping_ || !pool_row_ || !pool_.frozen.empty()) return;
    const bool full = pool_.loaded && lacks_room();
    bool in_doubt = false;
    for (const VolumeRow& image : store_.warm_images()) {
        const std::size_t before = store_.warm_clones(image.thin_id).size();
        const std::size_t kept = give_up_warm(image, full || warm_in_doubt_ ? 0 : image.warm);
        in_doubt = in_doubt || (warm_in_doubt_ && kept != 0);
        if (full || warm_in_doubt_) {
            if (kept == before) continue;
            event("volume.warm_given_up", *image.name,
                  {{"clones", std::to_string(before - kept)}, {"reason", full ? "no_space" : "pool_fault"}});
        } else if (count_operations("warm") < kWarmAtOnce && may_fill_warm() && lacks_warm(image, 0)) {
            Operation& operation = new_operation("warm", *image.name);
            operation.role = Role::behind;
            begin(operation, fill_warm(operation, image, WarmClaim(warm_claimed_, image.thin_id)));
        }
    }
    warm_in_doubt_ = in_doubt;
}

// A commit of the pool has failed: what a mounted clone holds since nobody knows.
void PoolManager::doubt_warm() {
    ++warm_doubts_;
    warm_in_doubt_ = true;
    warm_changed_.notify_all();
}

// All but the oldest `most`, and those that the pool has lost; but none that somebody works on. Gives how many are
// left.
std::size_t PoolManager::give_up_warm(const VolumeRow& image, std::size_t most) {
    std::size_t left = 0;
    for (const VolumeRow& clone : store_.warm_clones(image.thin_id)) {
        const bool good = left < most && !lost_.contains(clone.thin_id);
        if (good || warm_claimed_.contains(clone.thin_id)) {
            ++left;
        } else {
            begin_giving_up(clone.thin_id);
        }
    }
    return left;
}

void PoolManager::begin_giving_up(std::uint32_t thin_id) {
    Operation& removal = new_operation("volume.remove", fmt::format("thin {}", thin_id));
    store_.set_volume_removing(thin_id);
    store_.insert_operation({removal.number, OperationType::remove, thin_id, "", ""});
    begin_removal(removal.number, thin_id, removal.subject, 1);
}

bool PoolManager::may_fill_warm() const {
    const bool in_service = pool_.loaded && pool_.writable && pool_.intact && !repairing_ && check_sound();
    return in_service && has_room_ && has_room_below_ && check_pool_room(kMorePercentToFill) && check_clock() &&
           behind_operations() < options_.max_behind;
}

// Is there anything to do for it now? `own`: operations of its own that are counted among those going on.
bool PoolManager::lacks_warm(const VolumeRow& image, std::ptrdiff_t own) {
    if (warm_claimed_.contains(image.thin_id) != (own != 0) || lost_.contains(image.thin_id)) return false;
    if (const auto pause = warm_pauses_.find(image.thin_id);
        pause != warm_pauses_.end() && now_.monotonic_ms < pause->second.until_ms)
        return false;
    const auto clones = store_.warm_clones(image.thin_id);
    return clones.size() < image.warm || find_unready_warm(image, clones, own);
}

// The oldest that is not active though there is room, or not mounted though that is wanted.
std::optional<VolumeRow> PoolManager::find_unready_warm(const VolumeRow& image, const std::vector<VolumeRow>& clones,
                                                        std::ptrdiff_t own) const {
    const auto warm = std::count_if(devices_.begin(), devices_.end(),
                                    [](const auto& entry) { return entry.second.warm_since_ms != 0; });
    const auto others = count_operations("warm") - own;
    const bool room = static_cast<std::size_t>(warm + others) < options_.max_idle_devices;
    for (const VolumeRow& clone : clones) {
        if (warm_claimed_.contains(clone.thin_id)) continue;
        const auto device = devices_.find(clone.thin_id);
        if (device == devices_.end() && room) return clone;
        if (device == devices_.end() || device->second.warm_since_ms == 0) continue;
        if (image.warm_mounted && device->second.mount_path.empty()) return clone;
    }
    return std::nullopt;
}

// A failure is tried again, ever more slowly.
Task<std::string> PoolManager::fill_warm(Operation& operation, VolumeRow image, WarmClaim /*claim*/) {
    Result<std::string> filled = co_await take_warm_step(operation, image);
    if (filled) {
        warm_pauses_.erase(image.thin_id);
    } else {
        WarmPause& pause = warm_pauses_[image.thin_id];
        pause.length_ms = std::clamp(pause.length_ms * 2, kFirstWarmPauseMs, kLongestWarmPauseMs);
        pause.until_ms = now_.monotonic_ms + pause.length_ms;
        spdlog::warn("warm clone of '{}': {}; tried again in {} ms", *image.name, filled.error().message,
                     pause.length_ms);
    }
    warm_changed_.notify_all();
    co_return filled;
}

// One clone is made ready, or made.
Task<std::string> PoolManager::take_warm_step(Operation& operation, VolumeRow image) {
    const std::vector<LockRequest> names = {{volume_key(*image.name), LockMode::shared}, {kPoolKey, LockMode::shared}};
    const NameLock lock = co_await names_.acquire(names);
    const auto now = store_.volume(image.thin_id);
    if (!now || now->name != image.name || !may_fill_warm() || !lacks_warm(*now, 1)) co_return "";
    const auto clones = store_.warm_clones(image.thin_id);
    const auto unready = find_unready_warm(*now, clones, 1);
    if (unready) co_return co_await make_warm_ready(operation, *now, *unready);
    co_return co_await make_warm_clone(operation, *now);
}

Task<std::string> PoolManager::make_warm_clone(Operation& operation, VolumeRow image) {
    Result<void> promised = check_promise(image.size_sectors * kSectorBytes);  // Else nobody could take it.
    if (!promised) co_return promised.error();
    VolumeRow row;
    row.kind = "internal";
    row.parent = *image.name;
    row.origin_id = image.thin_id;
    row.size_sectors = image.size_sectors;
    row.fs_sectors = image.fs_sectors;
    row.fs = image.fs;
    row.options = image.options;
    Result<void> recorded = record_intent(operation, row, OperationType::warm, "");
    if (!recorded) co_return recorded.error();
    operation.subject = fmt::format("thin {}", *operation.thin_id);
    if (++creates_in_generation_ >= kCreatesInGeneration) begin_generation();
    Result<std::uint64_t> born = co_await make_thin(operation);
    if (!born) co_return born.error();
    store_.set_volume_ready(*operation.thin_id, *born, false);
    store_.delete_operation(operation.number);
    operation.recorded = false;
    co_return "";
}

Task<std::string> PoolManager::make_warm_ready(Operation& operation, VolumeRow image, VolumeRow clone) {
    const WarmClaim claim(warm_claimed_, clone.thin_id);
    const NameLock thin = co_await names_.acquire(thin_key(clone.thin_id), LockMode::exclusive);
    Result<std::string> path = co_await activate(operation, clone, false);
    if (path && image.warm_mounted) path = co_await mount(operation, clone, false, "");
    if (!path) {
        now_idle(clone.thin_id);
        if (path.error().code == Errc::needs_repair) {
            begin_giving_up(clone.thin_id);
            keep();
        }
        co_return path.error();
    }
    Device& device = devices_.at(clone.thin_id);
    device.idle_since_ms = 0;
    device.warm_since_ms = now_.monotonic_ms;
    put_away_idle();
    co_return "";
}

// At the start: what an earlier process has made ready stays so.
void PoolManager::take_over_warm() {
    if (!pool_.loaded || !pool_.writable) return;
    for (const VolumeRow& image : store_.warm_images()) {
        for (const VolumeRow& clone : store_.warm_clones(image.thin_id)) {
            const auto found = devices_.find(clone.thin_id);
            if (found == devices_.end()) continue;
            Device& device = found->second;
            const bool in_place =
                device.mount_path.empty() ||
                device.directory == warm_directory(thin_dm_uuid(pool_row_->spec.pool.uuid, clone.thin_id));
            if (device.complete && !device.read_only && !device.mount_read_only && in_place) {
                device.warm_since_ms = now_.monotonic_ms;
            }
        }
    }
    put_away_idle();
}

}  // namespace cowslip
