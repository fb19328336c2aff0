// The pool manager: a function of (store, what has arrived, time) to (store, what is to be sent).
//
// One turn: everything that has arrived is handled in one transaction, and nothing leaves before it
// is durable. Crash before the commit and the turn never happened; crash after it, and recovery,
// which is the ordinary code started from the rows, sends what was owed. Memory holds only what
// waits (clients, queues) and what the kernel was last seen to be; none of it is truth.
//
// Files: pool_manager.cpp the turn and requests; volumes.cpp create and remove; resize.cpp;
// naming.cpp freeze, rename, labels; warm.cpp clones of images that are kept ready; leases.cpp get, put,
// attach, detach; devices.cpp commands to actors, activation, idle devices; pool.cpp the pool itself;
// faults.cpp what goes wrong with it; identity.cpp what the pool says of itself (label, store backups);
// store_backup.cpp backups of the store beside it; rebuild.cpp the store made anew; lifetime.cpp its clock and thin
// ids; grow.cpp its size; space.cpp its room; reconcile.cpp store, pool and kernel compared; measure.cpp what volumes
// take of the pool; trim.cpp what they give back; recovery.cpp the start; queries.cpp what changes nothing.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/codec.h"
#include "common/result.h"
#include "common/thin_pool.h"
#include "schemas/device_actor.h"
#include "schemas/mount_actor.h"
#include "schemas/pool_manager.h"
#include "services/pool_manager/actors.h"
#include "services/pool_manager/findings.h"
#include "services/pool_manager/keys.h"
#include "services/pool_manager/name_queue.h"
#include "services/pool_manager/pool_fault.h"
#include "services/pool_manager/store.h"
#include "services/pool_manager/task.h"
#include "services/pool_manager/verdict.h"
#include "services/pool_manager/views.h"

namespace cowslip {

struct FromClient {
    std::string peer;
    std::string payload;
};
struct FromActor {
    std::string incarnation;  // Routing id of the connection; a HELLO must agree with it.
    std::string payload;
};
struct ActorGone {
    std::string incarnation;  // Its lock is free: it and its children are dead.
};
struct NotTaken {  // A command of the outbox that the bus did not take: nobody has seen it.
    Actors::Outgoing command;
};
using Input = std::variant<FromClient, FromActor, ActorGone, NotTaken>;

struct Outbox {
    struct ToClient {
        std::string peer;
        std::string payload;
    };
    struct Published {
        std::string topic;
        std::string payload;
    };
    std::vector<Actors::Outgoing> commands;
    std::vector<ToClient> replies;
    std::vector<Published> events;
};

struct BackupName;
struct RebuildSources;
struct RebuildPlan;

struct Time {
    std::int64_t monotonic_ms = 0;  // Goes on while the machine sleeps; for deadlines and waits.
    std::int64_t wall_ms = 0;       // For what is written down.
};

struct ManagerOptions {
    std::string boot_id;
    std::string account;
    std::string mounts_folder;  // DIR/mnt, absolute.
    std::string store_folder;   // DIR/store, absolute: for what is told; the process works in it.
    std::uint32_t pid = 0;
    std::size_t max_operations = 4096;  // Accepted and waiting, together; past it: busy.
    std::size_t max_behind = 1024;      // Removals behind their reply; past it rm waits.
    // Kept active without a lease: idle ones, in case they are asked for again, and warm clones.
    std::size_t max_idle_devices = 32;
    std::int64_t idle_ms = 2000;             // For how long, but for warm ones.
    std::int64_t reconcile_ms = 600000;      // Between two comparisons of store, pool and kernel.
    std::int64_t store_backup_ms = 3600000;  // Between two backups of the store beside it, if it changes; 0: none.
    std::int64_t trim_ms = 0;                // Between two trims of all that is mounted writable; 0: none.
    std::map<std::string, FilesystemOptions> filesystems =
        {};                  // What new volumes get, by type, if nothing is asked for.
    int backup_pages = 256;  // Of the store that a turn copies: 1 MiB.
    // Whether the state file system has room (the ballast lies there): without it no new volumes. Asked now and then.
    std::function<bool()> has_room = [] { return true; };
    // In the file system below the pool's files; nothing where that is not known.
    std::function<std::optional<std::uint64_t>()> free_below_pool = [] { return std::optional<std::uint64_t>(); };
    std::function<std::map<std::string, std::uint64_t>()> process_counters;  // Added to status' counters.
    std::function<void()> start_ended = [] {};                               // Called once.
    bool store_lost = false;                                                 // There was a store, and this one is new.
};

// not_found, or unavailable: with the command that makes one.
Error no_pool_yet(Errc code);
Error activation_failed(int error_number, const std::string& subject);
bool is_read_only(std::string_view lease_mode);
Result<void> check_quota_label(const std::string& label);
// With what was left open. `bytes`: what the pool has of its own, 0 where that is not for us to say.
Result<schemas::PoolLimits> complete_limits(schemas::PoolLimits limits, std::uint64_t bytes, std::uint64_t block_bytes);
// With less free it is extended.
std::uint64_t low_water_blocks(const schemas::PoolLimits& limits, std::uint64_t bytes, std::uint64_t block_bytes);

class PoolManager {
public:
    PoolManager(Store& store, ManagerOptions options);
    ~PoolManager();
    PoolManager(const PoolManager&) = delete;
    PoolManager& operator=(const PoolManager&) = delete;

    // Before the first turn: `actor_locks` are those found in DIR/run/actors.
    void start(const std::vector<std::string>& actor_locks, Time now);
    // Throws StoreFailure: the process must end, and nothing of this turn was sent.
    Outbox turn(const std::vector<Input>& inbox, Time now);
    // When the next turn is due even if nothing arrives (monotonic).
    std::optional<std::int64_t> next_timer() const;

    std::size_t operations() const { return operations_.size(); }

    // Store, pool and kernel are compared, and what was unfinished goes on: what arrived before is begun now.
    bool ready() const { return start_done_; }
    // SIGTERM: admits nothing more. When `drained` (or out of patience), answer_all_waiting in a last turn.
    void stop_admitting();
    // Without actors nothing goes on: they have ended with who started them.
    bool drained() const { return count_operations(Role::request) == 0 || actors_.known().empty(); }
    // What has changed since the last backup into the pool is still being written there: worth some patience.
    bool is_backing_up() const;
    Outbox answer_all_waiting();

    // Whose locks are worth a look: a dead one frees a command.
    std::vector<std::string> known_actors() const { return actors_.known(); }
    std::uint64_t last_event_seq() const { return store_.last_event_seq(); }

private:
    struct Waiter {
        std::string peer;
        std::uint64_t id;
        std::int64_t deadline_ms;
        std::optional<Timers::Handle> deadline;  // None once it has passed.
    };

    enum class Role : std::uint8_t {
        request,       // Somebody waits for it.
        behind,        // Behind a reply: removals, deactivations.
        housekeeping,  // Our own: the watch, a new generation, the start.
    };

    // One thing going on. Lives until its task has ended.
    struct Operation {
        Operation(std::uint64_t operation_number, ReadyQueue& ready) : number(operation_number), ended(ready) {}
        // Of its commands, unless they say otherwise.
        Urgency urgency() const { return role == Role::behind ? Urgency::behind : Urgency::awaited; }
        std::uint64_t number;
        std::string type;
        std::string subject;
        std::string request_id;  // Empty: nobody's.
        std::string digest;
        std::vector<Waiter> waiters;
        std::int64_t started_ms = 0;
        Role role = Role::request;
        bool recorded = false;  // It has a row: what it began is finished or undone, also by another process.
        bool gives_up = false;  // Set when its time is over while it waits for a place behind the reply.
        bool waits_for_place = false;
        std::uint64_t confirmed_when_told = 0;  // The least transaction id that the answer to its command may show.
        std::string mount_directory = {};       // Undone create: where its volume may have been mounted.
        std::uint32_t step = 0;
        std::uint32_t attempts = 1;  // Copies of its command that may have been carried out.
        std::uint32_t deaths = 0;
        std::optional<std::uint32_t> thin_id;
        struct GivingBack {            // A removal's, of its volume.
            bool done = false;         // What is left is deleted in one step.
            std::uint64_t up_to = 0;   // Sectors.
            std::uint64_t mapped = 0;  // Sectors, as it was last seen.
            std::uint64_t part = 0;    // Sectors: the next one.
        } giving_back = {};
        std::string waiting_for = "its turn";
        Signal ended;
        Async<void> task;
    };

    // Clones of one active origin that are taken together: see make_thin.
    struct Gathering {
        explicit Gathering(ReadyQueue& ready) : changed(ready) {}
        enum class State : std::uint8_t { waiting, taken, failed } state = State::waiting;
        std::uint32_t source = 0;   // The first one's thin id, once it is taken.
        std::size_t followers = 0;  // The others, until they are there or have failed.
        Signal changed;
    };
    // One of the others, as long as it is one.
    class Following {
    public:
        explicit Following(std::shared_ptr<Gathering> group) : group_(std::move(group)) { ++group_->followers; }
        Following(const Following&) = delete;
        Following& operator=(const Following&) = delete;
        ~Following() {
            --group_->followers;
            group_->changed.notify_all();
        }
        Gathering* operator->() const { return group_.get(); }

    private:
        std::shared_ptr<Gathering> group_;
    };

    // What the kernel was last seen to have for a thin id.
    struct Device {
        std::string path = {};
        bool read_only = false;
        bool complete = true;  // False: its maker died before it had a table.
        std::uint64_t size_sectors = 0;
        std::string mount_path = {};  // Empty: not mounted.
        std::string directory = {};   // Below DIR/mnt, if mounted.
        bool mount_read_only = false;
        std::string mount_label = {};
        std::int64_t idle_since_ms = 0;
        std::int64_t warm_since_ms = 0;  // Of a warm clone that is kept active.
    };

    struct PoolView {
        bool loaded = false;     // And compared with the rows: requests may use it.
        bool writable = false;   // The last status was good.
        bool intact = true;      // By the last status no commit has failed since it was loaded.
        bool read_only = false;  // Loaded so that nothing of it can change; `loaded` is false then.
        PoolVerdict verdict = PoolVerdict::normal;
        std::string frozen;  // Why store and pool cannot be brought together; empty: they can.
        PoolFault fault = PoolFault::none;
        std::string fault_detail;
        std::optional<ThinPoolStatus> status;
        std::string mode;  // As last announced.
        std::string data_device;
        std::string metadata_device;
        std::uint64_t most_data_sectors = 0;  // On its own devices, with the reserve; 0: of another pool.
        std::uint64_t most_metadata_sectors = 0;
        std::uint32_t snapshots_taken = 0;
    };

    using Handler = std::function<void(Operation&, const msgpack::object&)>;

    // pool_manager.cpp
    void on_client(const FromClient& input);
    void on_actor(const FromActor& input);
    void on_request(const std::string& peer, const schemas::Request& request);
    void keep_for_later(const FromClient& input, const std::string& request_id);
    void end_start();
    void join_or_begin(const std::string& peer, const schemas::Request& request, const Handler& handler);
    Operation& new_operation(std::string type, std::string subject);
    void begin(Operation& operation, Task<std::string> body);
    Async<void> run(Operation& operation, Task<std::string> body);
    void fail(Operation& operation, const Error& error);
    void answer(Operation& operation, const std::string& frame);
    void add_waiter(Operation& operation, const std::string& peer, std::uint32_t timeout_ms);
    void on_deadline(std::uint64_t operation, std::uint64_t waiter);
    void reply(const std::string& peer, const std::string& request_id, std::string frame);
    std::uint64_t take_operation_number();
    void reserve_operations();
    void reply_error(const std::string& peer, const std::string& request_id, const Error& error);
    void run_ready();
    void resume(std::coroutine_handle<> handle);
    void keep();  // What was written up to here, whatever fails after it.
    void commit();
    std::size_t count_operations(Role role) const;
    std::ptrdiff_t count_operations(std::string_view type) const;
    std::size_t behind_operations() const { return count_operations(Role::behind); }
    template <class Message>
    void change(Task<std::string> (PoolManager::*handler)(Operation&, Message), std::string Message::*subject);
    template <class Message>
    void change(Task<std::string> (PoolManager::*handler)(Operation&, Message));
    template <class Message>
    void query(Result<typename Message::Reply> (PoolManager::*handler)(const Message&));
    void register_handlers();
    void event(std::string_view type, std::string_view subject, const EventBody& body = {});
    // An event that stays true when the operation that came upon it fails.
    void fact(const std::string& type, const std::string& subject, const EventBody& body = {});
    void find(FindingKind kind, const std::string& subject, const std::string& detail);
    void unfind(FindingKind kind, const std::string& subject);
    auto sleep_ms(std::int64_t milliseconds);
    void count(const std::string& counter) { ++counters_[counter]; }

    // volumes.cpp
    Task<std::string> create_volume(Operation& operation, schemas::VolumeCreate request);
    Task<std::string> carry_out_create(Operation& operation, schemas::VolumeCreate request);
    Result<void> check_create(const schemas::VolumeCreate& request) const;
    Result<VolumeRow> plan_volume(const schemas::VolumeCreate& request);
    Result<void> record_intent(Operation& operation, const VolumeRow& row, OperationType type, const std::string& body);
    Task<std::uint32_t> ensure_template(VolumeRow wanted);
    Task<std::string> make_template_operation(Operation& operation, VolumeRow row);
    Task<std::uint64_t> make_thin(Operation& operation);
    void close(std::uint32_t origin, const Gathering& gathering);
    Task<std::uint64_t> make_thin_of(Operation& operation, std::optional<std::uint32_t> origin, Gathering* gathering);
    Task<schemas::Verdict> snapshot(Operation& operation, VolumeRow row, Gathering* gathering);
    Result<void> give_up_torn(Operation& operation);
    Result<void> give_up_foreign(Operation& operation);
    Async<void> resume_origin(Operation& operation, std::uint32_t origin);
    Task<std::string> resume_until_done(Operation& operation, std::uint32_t origin);
    enum class Ownership : std::uint8_t { absent, ours, foreign };
    Task<Ownership> whose(Operation& operation, VolumeRow row);
    Result<void> take_new_thin_id(Operation& operation);
    Task<std::string> remove_volume(Operation& operation, schemas::VolumeRemove request);
    Task<void> wait_for_place(Operation& operation);
    void remove_behind_reply(const VolumeRow& row);
    void plan_removal(const VolumeRow& row, std::uint64_t number, const std::string& request_id);
    void begin_removal(std::uint64_t number, std::uint32_t thin_id, std::string subject, std::uint32_t attempts);
    Task<std::string> finish_removal(Operation& operation, std::string subject);
    Task<bool> give_back_part(Operation& operation);
    bool is_deleted_at_once(const Operation& operation, const VolumeRow& row);
    Task<bool> try_removal(Operation& operation, const std::string& subject);
    Task<bool> delete_thin(Operation& operation, const std::string& subject);
    void undo(Operation& operation, const Error& error);

    // resize.cpp
    Task<std::string> resize_volume(Operation& operation, schemas::VolumeResize request);
    Task<std::string> carry_out_resize(Operation& operation);
    Task<std::string> resume_resize(Operation& operation);
    Task<void> follow_size(Operation& operation);
    Task<void> grow_device(Operation& operation, VolumeRow row);
    Result<void> plan_resize(Operation& operation, const VolumeRow& row, std::uint64_t sectors);
    void end_resize(Operation& operation, const Error& error);

    // naming.cpp
    Task<std::string> freeze_volume(Operation& operation, schemas::VolumeFreeze request);
    Task<void> make_still(Operation& operation, VolumeRow row);
    Result<void> check_still(const VolumeRow& row);
    Task<std::string> rename_volume(Operation& operation, schemas::VolumeRename request);
    Result<void> check_rename(const VolumeRow& row, const std::string& name);
    Task<std::string> label_volume(Operation& operation, schemas::VolumeLabel request);

    // warm.cpp
    class WarmClaim;
    Result<void> set_warm(const VolumeRow& image, std::uint32_t count, bool mounted);
    std::optional<schemas::WarmClones> describe_warm(const VolumeRow& image);
    std::optional<int> rank_warm(const VolumeRow& clone, const VolumeRow& wanted,
                                 const schemas::VolumeCreate& request) const;
    Task<std::optional<std::string>> take_warm(Operation& operation, schemas::VolumeCreate request, VolumeRow wanted);
    Task<std::string> name_mount(Operation& operation, VolumeRow clone, std::string id);
    Task<std::string> keep_warm(Operation& operation);
    void tend_warm();
    void doubt_warm();
    std::size_t give_up_warm(const VolumeRow& image, std::size_t most);
    void begin_giving_up(std::uint32_t thin_id);
    bool may_fill_warm() const;
    bool lacks_warm(const VolumeRow& image, std::ptrdiff_t own);
    std::optional<VolumeRow> find_unready_warm(const VolumeRow& image, const std::vector<VolumeRow>& clones,
                                               std::ptrdiff_t own) const;
    Task<std::string> fill_warm(Operation& operation, VolumeRow image, WarmClaim claim);
    Task<std::string> take_warm_step(Operation& operation, VolumeRow image);
    Task<std::string> make_warm_clone(Operation& operation, VolumeRow image);
    Task<std::string> make_warm_ready(Operation& operation, VolumeRow image, VolumeRow clone);
    void take_over_warm();

    // limits.cpp
    Task<std::string> set_limits(Operation& operation, schemas::PoolSetLimits request);
    Task<std::string> set_quota(Operation& operation, schemas::PoolQuota request);
    schemas::QuotaUse quota_use(const std::string& label, std::uint64_t max_bytes);
    Result<void> check_quota(const schemas::Labels& labels, std::uint64_t more_bytes);
    Result<void> check_promise(std::uint64_t more_bytes);

    // leases.cpp
    Task<std::string> get_volume(Operation& operation, schemas::VolumeGet request);
    Task<std::string> attach_volume(Operation& operation, schemas::VolumeAttach request);
    Task<std::string> put_volume(Operation& operation, schemas::VolumePut request);
    Task<std::string> detach_volume(Operation& operation, schemas::VolumeDetach request);
    struct LeaseWanted {
        std::string holder;
        std::string mode;
        std::string mount_label;
    };
    Result<bool> check_lease(const VolumeRow& row, const LeaseWanted& wanted);  // True: it is held already.
    Task<std::string> bring_up(Operation& operation, VolumeRow row, LeaseWanted wanted);
    Task<void> let_go(Operation& operation, VolumeRow row, bool written, bool force);
    enum class Which : std::uint8_t { all, attached };
    Task<std::string> end_leases(Operation& operation, schemas::VolumePut request, Which which);
    void record_lease(const VolumeRow& row, const LeaseWanted& wanted);

    // devices.cpp
    template <class Message>
    Async<CommandOutcome> tell_once(Operation& operation, ActorKind kind, Urgency urgency, Message message);
    template <class Message>
    Task<typename Message::Reply> tell(Operation& operation, ActorKind kind, Urgency urgency, Message message);
    template <class Message>
    Task<typename Message::Reply> tell(Operation& operation, ActorKind kind, Urgency urgency, Message message,
                                       Message again);
    Result<void> count_attempt(Operation& operation, const CommandOutcome& outcome, std::string_view what);
    void forget_deaths(Operation& operation);
    enum class Access : std::uint8_t { read, change };
    Task<NameLock> enter(Operation& operation, std::vector<LockRequest> names, Access access);
    bool is_in_service() const;
    Async<void> pool_in_service(Operation& operation);
    Task<std::string> activate(Operation& operation, VolumeRow row, bool read_only);
    Task<void> deactivate(Operation& operation, std::uint32_t thin_id);
    Task<std::string> mount(Operation& operation, VolumeRow row, bool read_only, std::string label);
    Task<void> unmount(Operation& operation, std::uint32_t thin_id, std::string directory, bool force);
    Task<void> unmount(Operation& operation, std::uint32_t thin_id, bool force);
    Task<void> unmount_shut_down(Operation& operation, std::uint32_t thin_id);
    Task<void> end_mount(Operation& operation, std::uint32_t thin_id, bool written, bool force);
    Task<void> look_whether_intact(Operation& operation);
    Task<void> unmount_as_told(Operation& operation, std::uint32_t thin_id, schemas::Unmount command);
    void now_idle(std::uint32_t thin_id);
    void put_away_idle();
    void begin_put_away(std::uint32_t thin_id);
    Task<std::string> put_away(Operation& operation, std::uint32_t thin_id);
    bool may_activate_ahead(const VolumeRow& row) const;
    void begin_activation_ahead(const CommandKey& key, const VolumeRow& row, NameLock thin);
    Task<std::string> activation_ahead(CommandKey key, VolumeRow row, NameLock thin, NameLock pool);
    void maybe_active(std::uint32_t thin_id);

    // pool.cpp
    Task<std::string> create_pool(Operation& operation, schemas::PoolCreate request);
    Task<std::string> carry_out_create_pool(Operation& operation, schemas::PoolCreate request);
    Task<schemas::PoolState> make_pool(Operation& operation, schemas::PoolCreate request,
                                       std::vector<std::uint32_t>* made);
    Async<void> undo_create_pool(Operation& operation, Error error, std::vector<std::uint32_t> made);
    Task<void> adopt_thins(Operation& operation, bool force);
    Task<std::string> start_pool_request(Operation& operation, schemas::PoolStart request);
    Task<void> start_pool(Operation& operation);  // With the pool taken, shared; nothing to do if it is up.
    Result<void> check_restored();
    Task<void> bring_up_pool(Operation& operation);  // With kStartKey taken.
    std::size_t removals_behind() const;
    Task<void> compare_thins(Operation& operation);
    // Of a metadata snapshot that is held already: release it, or leave it (in_use).
    enum class Held : std::uint8_t { release, keep };
    Task<std::vector<schemas::ThinDevice>> list_thins(Operation& operation, Held held,
                                                      Sharing sharing = Sharing::ignored);
    Task<std::string> cleanup(Operation& operation, schemas::SystemCleanup request);
    enum class Leased : std::uint8_t {
        ended,    // Synced and unmounted.
        evicted,  // Shut down and unmounted.
        left,
    };
    Task<std::vector<std::string>> put_pool_away(Operation& operation, Leased leased);  // With both its keys.
    Task<std::vector<std::string>> put_devices_away(Operation& operation, Leased leased);
    Task<std::string> put_away_for_good(Operation& operation, std::uint32_t thin_id, Leased leased,
                                        std::vector<std::string>* left);
    void begin_generation();
    Task<std::string> advance_generation(Operation& operation);
    Outcome take_status(const Operation& operation, std::int32_t error_number, const std::string& status);
    Outcome take_verdict(const Operation& operation, const schemas::Verdict& verdict) {
        return take_status(operation, verdict.error_number, verdict.status);
    }
    void freeze(const Judgement& judgement);
    void set_verdict(const Judgement& judgement);
    Seen seen_by_store();
    Async<void> judge_unloaded(Operation& operation, Error why);
    Task<Judgement> look_at_unloaded(Operation& operation);

    // identity.cpp
    Task<void> make_label(Operation& operation, std::vector<std::uint32_t>* made);
    Task<void> make_internal_thin(Operation& operation, std::uint32_t thin_id, std::vector<std::uint32_t>* made);
    Task<void> compare_label(Operation& operation);
    Task<void> write_internal(Operation& operation, std::uint32_t thin_id, std::uint64_t offset, std::string data);
    Task<std::string> read_internal(Operation& operation, std::uint32_t thin_id, std::uint64_t offset,
                                    std::uint32_t length);
    void begin_backup();
    Task<std::string> write_backup(Operation& operation);
    Task<void> write_ring(Operation& operation);
    Task<std::uint64_t> next_backup_sequence(Operation& operation);

    // store_backup.cpp
    void remove_unfinished_backups();
    void copy_some();
    Task<std::string> backup_store(Operation& operation, schemas::StoreBackup request);
    Task<std::string> back_up_now_and_then(Operation& operation);
    Task<schemas::StoreCopy> back_up(Operation& operation);
    Task<void> make_backup(BackupName* name);
    Task<void> dump_pool(Operation& operation, std::string name, std::vector<std::string> kept);
    Task<void> check_copy(std::string file);
    std::vector<StoreFile> backup_files();
    schemas::StoreCopy describe_backup(const StoreFile& file);
    std::vector<std::string> drop_old_backups();
    Result<schemas::StoreList::Reply> list_backups(const schemas::StoreList& request);

    // rebuild.cpp
    Result<void> may_rebuild(const Operation& operation);
    Task<std::string> rebuild_pool(Operation& operation, schemas::PoolRebuild request);
    Task<void> carry_out_rebuild(Operation& operation, schemas::PoolRebuild request,
                                 schemas::PoolRebuild::Reply* reply);
    Task<void> load_for_rebuild(Operation& operation, schemas::PoolRebuild request);
    Task<void> judge_for_rebuild(Operation& operation);
    Task<std::uint32_t> read_newest_backup(Operation& operation, RebuildSources* sources, std::string* taken_at);
    Task<VolumeRow> describe_unknown(Operation& operation, SeenThin thin, std::string name);
    void write_rebuilt(const RebuildPlan& plan);
    Task<void> start_read_only(Operation& operation);
    Task<void> compare_label_read_only(Operation& operation);

    // grow.cpp
    Result<void> check_growable() const;
    Result<schemas::PoolSpec> plan_growth(const schemas::PoolGrow& request) const;
    Task<std::string> grow_pool(Operation& operation, schemas::PoolGrow request);
    Task<std::string> resume_grow(Operation& operation, std::string body);
    void give_up_grow(Operation& operation, const Error& error);
    Task<std::string> carry_out_grow(Operation& operation, schemas::PoolSpec wanted);
    void take_backing(const schemas::PoolState& state);
    void take_sizes(const schemas::PoolState& state);

    // space.cpp
    struct Space {
        std::uint64_t used = 0;  // Bytes.
        std::uint64_t total = 0;
    };
    Space space_of(std::size_t kind) const;  // 0: data, 1: metadata; there is a status.
    std::uint64_t grows_to_sectors() const;
    bool may_grow_beyond(std::uint64_t data_sectors) const;
    bool queues_at(std::uint64_t data_sectors) const;
    schemas::PoolLimits limits_in_force() const;
    Result<void> check_room() const;
    Result<void> check_pool_room(std::uint64_t more_percent) const;  // Than what a create must find.
    bool lacks_room() const;
    void look_at_space();
    void tell_writers();
    std::optional<std::uint64_t> full_in_seconds(std::size_t kind) const;
    void warn_of_space(std::vector<std::string>* warnings) const;
    std::optional<schemas::PoolSpec> wanted_extension() const;
    bool is_filling() const;
    void consider_extension();
    Task<std::string> extend_by_itself(Operation& operation);

    // lifetime.cpp
    void look_at_lifetimes();
    void tell_lifetime(FindingKind kind, const char* what, std::uint64_t used);
    Result<void> check_clock() const;
    Task<std::string> stop_pool(Operation& operation, schemas::PoolStop request);
    Task<std::string> check_pool(Operation& operation, schemas::PoolCheck request);
    Task<std::string> destroy_pool(Operation& operation, schemas::PoolDestroy request);
    Task<std::string> resume_destroy(Operation& operation);
    Task<std::string> carry_out_destroy(Operation& operation);
    Task<void> put_away_unleased(Operation& operation);
    Task<std::string> rewind_pool(Operation& operation, schemas::PoolRewind request);
    Task<std::string> resume_rewind(Operation& operation, std::string body);
    Task<std::string> carry_out_rewind(Operation& operation, schemas::PoolRewind request);

    // measure.cpp
    struct Measured {
        std::uint64_t mapped_bytes = 0;
        std::optional<std::uint64_t> exclusive_bytes;
        std::int64_t as_of = 0;  // When the exclusive ones were counted; without them, the mapped ones.
    };
    Task<std::string> measure_pool(Operation& operation, schemas::PoolMeasure request);
    Task<std::uint64_t> measure_active(Operation& operation);
    Task<std::uint64_t> measure_all(Operation& operation);

    // trim.cpp
    Task<std::string> trim_volume(Operation& operation, schemas::VolumeTrim request);
    Task<void> trim_part(Operation& operation, std::string id, schemas::VolumeTrim::Reply* reply);
    Result<VolumeRow> find_trimmable(const std::string& id);
    Task<std::string> trim_now_and_then(Operation& operation);
    Task<std::uint64_t> trim_mounted(Operation& operation);

    // reconcile.cpp
    Task<std::string> fsck(Operation& operation, schemas::SystemFsck request);
    Task<std::string> reconcile_now_and_then(Operation& operation);
    Task<std::vector<Difference>> reconcile(Operation& operation, Held held);
    StoreView store_view();
    Views views_at_start(KernelView seen);
    std::set<std::uint32_t> unfinished_thin_ids() const;
    Task<void> read_devices(Operation& operation, KernelView* view);
    Task<void> read_mounts(Operation& operation, KernelView* view);
    Task<void> find_suspended_pool(Operation& operation, std::vector<Difference>* differences);
    void remember(const Views& views);
    void settle(const Views& views, const std::vector<Difference>& differences);
    Async<void> repair(Operation& operation, std::vector<Difference> differences);
    Task<std::string> repair_one(Operation& operation, Difference difference);
    Task<std::string> resume_pool(Operation& operation);
    Task<std::string> restore_or_end_leases(Operation& operation, std::uint32_t thin_id);
    // faults.cpp
    Task<std::string> watch(Operation& operation);
    void look_for_room();
    void look_below_pool();
    void take_look(const Operation& operation, const Result<schemas::PoolState>& seen);
    void set_fault(PoolFault fault, const std::string& detail);
    Result<void> check_sound() const;
    void begin_load_again();
    Task<std::string> load_again(Operation& operation);

    // repair.cpp
    bool is_repairable() const;
    bool is_calm() const;
    bool repairs_itself() const;
    void consider_repair();
    Task<std::string> repair_by_itself(Operation& operation);
    Task<std::string> repair_request(Operation& operation, schemas::PoolRepair request);
    Task<schemas::PoolRepair::Reply> repair_pool(Operation& operation, schemas::PoolRepair request);
    void note_failed_repair(const Error& error);
    std::vector<std::string> lease_holders() const;
    Task<void> put_everything_away(Operation& operation, Leased leased);
    Task<void> find_more_devices(Operation& operation);
    Task<void> mend_metadata(Operation& operation, schemas::PoolRepair request, schemas::PoolRepair::Reply* reply);
    void note_damage(const std::string& report);
    Task<void> mend_into_copy(Operation& operation, schemas::PoolRepair request, schemas::PoolRepair::Reply* reply);
    std::vector<std::string> find_losses(const std::map<std::uint32_t, schemas::RepairedThin>& mended);

    // recovery.cpp
    Task<std::string> recover(Operation& operation);
    Task<void> look_at_kernel(Operation& operation, KernelView* seen);
    Async<void> restore_leases(Operation& operation);
    Task<std::string> restore_lease(Operation& operation, VolumeRow row, LeaseRow lease);
    void end_leases_of_an_older_kernel();
    void resume_operations();
    Task<std::string> resume_create(Operation& operation, std::string body);
    Task<std::string> resume_create_pool(Operation& operation, std::string body);
    void put_away_strays(const KernelView& seen);
    Task<std::string> put_away_directory(Operation& operation, schemas::MountedVolume found);

    // queries.cpp
    Result<schemas::PoolStatus::Reply> pool_status(const schemas::PoolStatus& request);
    schemas::PoolStatus::Reply describe_pool();
    Result<schemas::VolumeExists::Reply> exists(const schemas::VolumeExists& request);
    Result<schemas::Volume> show(const schemas::VolumeShow& request);
    Result<schemas::VolumeList::Reply> list(const schemas::VolumeList& request);
    Result<schemas::LeaseList::Reply> list_leases(const schemas::LeaseList& request);
    Result<schemas::OperationList::Reply> list_operations(const schemas::OperationList& request);
    Result<schemas::SystemStatus::Reply> status(const schemas::SystemStatus& request);
    Result<schemas::EventSince::Reply> events_since(const schemas::EventSince& request);
    Task<std::string> wait_for_operation(Operation& operation, schemas::OperationWait request);
    schemas::Volume describe(const VolumeRow& row);
    void add_warm_space(const VolumeRow& image, schemas::Volume* volume);

    Store& store_;
    ManagerOptions options_;
    Time now_;
    Time started_;

    // Order matters: tasks hold locks and wait in queues, so they go first.
    ReadyQueue ready_;
    Timers timers_;
    NameQueue names_{ready_};
    Actors actors_{ready_};
    Signal pool_changed_{ready_};
    Signal look_{ready_};      // At the pool's status: it is time, or
    bool pool_event_ = false;  // the kernel tells of something.
    Signal behind_changed_{ready_};
    Signal actors_changed_{ready_};
    Signal copy_ended_{ready_};
    Signal intact_look_ended_{ready_};
    Signal warm_changed_{ready_};

    std::map<std::string, Handler, std::less<>> changes_;  // By request type.
    std::map<std::string, std::function<Result<std::string>(const msgpack::object&)>, std::less<>> queries_;

    std::optional<PoolRow> pool_row_;  // A copy of the row.
    PoolView pool_;
    std::map<std::uint32_t, Device> devices_;
    std::map<std::uint32_t, std::shared_ptr<Gathering>> gatherings_;  // By origin; those that may be joined.
    std::map<std::uint32_t, Measured> measured_;                      // Of volumes, by thin id.
    std::set<std::uint32_t> lost_;      // Rows whose thin id the pool does not have, or has from somebody else.
    std::set<std::uint32_t> replaced_;  // The latter.
    std::set<std::uint32_t> resuming_;  // Devices that could not be resumed, and are tried again.
    std::map<std::pair<FindingKind, std::string>, std::string> findings_;  // With the subject; details.
    std::map<FindingKind, unsigned> told_levels_;                          // Percent of the pool's lifetimes.
    struct SpaceWatch {
        unsigned told = 0;                                             // The level that was told of, in percent.
        std::deque<std::pair<std::int64_t, std::uint64_t>> samples{};  // When, and bytes used.
    };
    std::array<SpaceWatch, 2> space_;  // Of data, of metadata.
    bool growth_fails_ = false;        // The last extension did.
    std::int64_t next_growth_ms_ = 0;
    std::int64_t growth_back_off_ms_ = 0;
    bool repairing_ = false;
    bool repair_needs_operator_ = false;  // The last one ended with what nobody but an operator can decide.
    std::int64_t next_repair_ms_ = 0;
    std::int64_t repair_ended_ms_ = 0;
    std::int64_t repair_back_off_ms_ = 0;
    struct {
        std::uint64_t begun = 0;
        std::uint64_t answered = 0;  // The latest that was.
        bool under_way = false;      // One at a time.
    } intact_looks_;                 // At whether the pool is intact.

    std::set<std::uint32_t> warm_claimed_;  // Images and clones that somebody works on.
    struct WarmPause {
        std::int64_t until_ms = 0;
        std::int64_t length_ms = 0;
    };
    std::map<std::uint32_t, WarmPause> warm_pauses_;  // Of images whose last clone could not be made ready.
    std::uint64_t warm_doubts_ = 0;                   // How often a commit of the pool has failed.
    bool warm_in_doubt_ = false;                      // And clones of before that are there still.
    std::uint64_t creates_in_generation_ = 0;
    std::int64_t generation_opened_ms_ = 0;
    bool backup_due_ = false;  // Volumes have changed since the last one.
    std::int64_t backup_begun_ms_ = 0;
    int backups_failed_ = 0;             // Into the pool, one after the other.
    std::uint64_t backup_sequence_ = 0;  // Of the newest in the pool; 0: not looked at yet.
    bool store_changed_ = true;          // Since the last backup beside it, as far as a backup is for.
    std::optional<DatabaseCopy> copy_;   // A backup beside the store, in the making.
    Result<bool> copied_ = false;        // How the last look at it ended.

    std::uint64_t next_operation_ = 0;
    std::uint64_t operations_reserved_below_ = 0;
    std::uint64_t next_waiter_ = 1;
    bool start_done_ = false;
    std::vector<FromClient> early_;  // What was asked for before that and must wait for it.
    std::size_t early_bytes_ = 0;
    bool stopping_ = false;
    Outbox outbox_;
    std::map<std::string, std::uint64_t> counters_;
    std::map<std::uint64_t, std::optional<Error>> ended_;  // How the last operations ended, for operation.wait.
    std::deque<std::uint64_t> ended_order_;
    bool has_room_ = true;
    bool has_room_below_ = true;  // In the file system below the pool's files.
    struct Fact {
        std::string type;
        std::string subject;
        EventBody body;
    };
    std::vector<Fact> facts_;    // Since the last keep().
    bool reserved_now_ = false;  // Likewise.

    std::map<std::string, std::uint64_t, std::less<>> by_request_;  // Operations going on, by request id.
    std::map<std::uint64_t, std::unique_ptr<Operation>> operations_;
    std::vector<std::uint64_t> finished_;
};

inline constexpr std::uint32_t kMaxDeaths = 3;
inline constexpr std::uint64_t kCreatesInGeneration = 4096;

// The frame that answers `request_id` with an error.
std::string error_frame(const std::string& request_id, const Error& error);
std::string default_holder(const std::string& holder);

// Rounded up to a whole 4 KiB. invalid_argument: no volume may be so small, or so large.
Result<std::uint64_t> volume_sectors(std::uint64_t bytes);

// The operation's own words for who holds what; at most 16.
std::vector<std::string> holder_names(const std::vector<LeaseRow>& leases);
std::vector<std::string> holder_names(const std::vector<schemas::Holder>& holders);

bool may_have_written(const std::vector<LeaseRow>& leases);
Result<void> check_kind(const VolumeRow& row, bool read_only);  // invalid_argument: writable, and it is an image.

}  // namespace cowslip

#include "services/pool_manager/commands.h"
