// The pool manager's rows (schemas/store.sql), typed. A method never begins or commits: the turn
// does. Reads give plain values. What a constraint refuses, the handler's own fault, throws StoreRefusal;
// a full or broken disk throws StoreFailure.
//
// Crash: what the last commit() made durable is there, nothing else is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/filesystem_options.h"
#include "common/result.h"
#include "common/sqlite.h"
#include "schemas/device_actor.h"
#include "schemas/pool_manager.h"

namespace cowslip {

struct PoolRow {
    std::string name;
    std::string state;  // formatting, ready, stopped, needs_repair.
    schemas::PoolSpec spec;
    schemas::PoolLimits limits;
    std::uint32_t tag = 0;
    std::uint64_t confirmed = 0;
    std::uint64_t planned = 0;
    std::uint32_t next_thin_id = 0;
    std::int64_t created_at = 0;
};

struct VolumeRow {
    std::uint32_t thin_id = 0;
    std::optional<std::string> name;
    std::optional<std::string> template_key;
    std::string kind = "volume";
    std::string state = "creating";
    bool filling = false;
    std::string parent;
    std::optional<std::uint32_t> origin_id;
    std::uint64_t size_sectors = 0;
    std::uint64_t fs_sectors = 0;
    std::string fs;
    std::uint64_t born_min = 0;
    std::uint64_t born_max = 0;
    std::int64_t created_at = 0;  // When it is inserted: 0 is now.
    schemas::Labels labels;
    FilesystemOptions options;
    std::uint32_t warm = 0;  // Clones that are kept ready.
    bool warm_mounted = false;
};

// What a volume's row says of its thin id: of all of them at once, which may be 100,000.
struct ThinRow {
    std::uint32_t thin_id = 0;
    std::optional<std::string> name;
    std::string state;
    std::uint64_t size_sectors = 0;
    std::uint64_t born_min = 0;
    std::uint64_t born_max = 0;
};

struct LeaseRow {
    std::uint32_t thin_id = 0;
    std::string holder;
    std::string mode;
    std::string mount_label;
    std::int64_t taken_at = 0;
};

struct NamedLease {
    std::string name;
    LeaseRow lease;
};

enum class OperationType : std::uint8_t {
    create,
    template_,
    remove,
    create_pool,
    rewind,
    grow,
    resize,
    destroy_pool,
    warm,
};

struct OperationRow {
    std::uint64_t number = 0;
    OperationType type = OperationType::create;
    std::optional<std::uint32_t> thin_id;
    std::string request_id;  // Empty: nobody's.
    std::string body;
    std::uint32_t attempts = 1;
    std::uint32_t deaths = 0;
};

struct RequestRow {
    std::string digest;
    std::optional<std::string> reply;
};

using EventBody = std::map<std::string, std::string>;
using StoredEvent = schemas::EventOf<EventBody>;

// RFC 3339, UTC, milliseconds.
std::string format_time(std::int64_t milliseconds);

class Store {
public:
    // Opens or makes it, migrates it, and refuses (needs_repair, with the way out) a file that is damaged, not ours,
    // or newer than we are.
    static Result<Store> open(const std::string& file, const StoreDisk& disk = {});
    bool made_now() const { return made_now_; }
    // needs_repair unless the file is a store of ours that this program knows. Says so, and no more: not whether it is
    // whole.
    static Result<void> check_kind(Database& database);
    static Result<schemas::StoreCopy> describe(Database& database);  // Without what only its file's name says.

    const StoreDisk& disk() const { return disk_; }
    StoreFiles& files() const { return disk_.files != nullptr ? *disk_.files : kernel_store_files(); }
    std::uint64_t size_bytes() { return database_.size_bytes(); }
    Result<DatabaseCopy> begin_copy(const std::string& file) { return DatabaseCopy::begin(database_, file, disk_); }

    // The clock of everything written from now on; never runs backwards.
    void set_time(std::int64_t wall_ms);
    std::int64_t now() const { return now_; }

    void rollback_savepoint();
    void release_savepoint();
    // What is written until the next release only says again what an operation's row and the pool prove: it may become
    // durable later than the messages of its turn leave, with whatever is written next or at that time (the manager's).
    void defer_commit(std::int64_t until_ms);
    // When that which was put off is due; nothing: none was.
    std::optional<std::int64_t> commit_deferred_until() const { return deferred_until_ms_; }
    // All that was written since the last commit was put off.
    bool may_commit_later() const { return !undeferred_ && deferred_until_ms_; }
    bool commit();

    std::string store_uuid();
    // Another store, from a backup: what it says of leases is over, and the rest is not believed before begin_anew.
    void mark_restored();
    bool is_restored();
    std::string boot_id();
    void set_boot_id(const std::string& boot_id);
    // When all that is mounted was last trimmed by itself, or the first start that was to do so; 0: never.
    std::int64_t trimmed_at();
    void set_trimmed_at(std::int64_t wall_ms);
    // Numbers are reserved in blocks, so that none is used twice even by operations without a row.
    std::uint64_t next_operation();
    void reserve_operations(std::uint64_t below);

    std::optional<PoolRow> pool();
    void insert_pool(const PoolRow& row);
    void set_pool_state(const std::string& state);
    void set_pool_spec(const schemas::PoolSpec& spec);
    void set_pool_limits(const schemas::PoolLimits& limits);
    void set_planned(std::uint64_t transaction_id);
    void set_confirmed(std::uint64_t transaction_id);
    void delete_pool();
    void delete_pool_and_volumes();
    // All that is said of a pool goes, and the store is another one; events and given answers stay.
    void begin_anew();
    // Spends the next id for good; no_space when the 24 bits are used up.
    Result<std::uint32_t> spend_thin_id();
    // The n-th volume gets thin id n + 1, as in the metadata after a rewind; nobody has a lease. Gives the next one.
    std::uint32_t count_thin_ids_anew();
    void raise_next_thin_id(std::uint32_t least);

    std::optional<VolumeRow> find_volume(std::string_view name);
    std::optional<VolumeRow> volume(std::uint32_t thin_id);
    std::optional<VolumeRow> find_template(std::string_view key);
    std::vector<ThinRow> thin_ids();  // All of them.
    std::vector<VolumeRow> list_volumes(std::string_view after, std::uint32_t limit);
    std::vector<VolumeRow> volumes_after(std::int64_t thin_id, std::uint32_t limit);  // All kinds, by thin id.
    std::uint64_t count_ready_volumes();
    void insert_volume(const VolumeRow& row);
    void set_volume_ready(std::uint32_t thin_id, std::uint64_t born_max, bool filling);
    void set_born(std::uint32_t thin_id, std::uint64_t born_max);  // It is in the pool.
    void set_volume_filled(std::uint32_t thin_id);
    void set_volume_removing(std::uint32_t thin_id);
    // fs_sectors stays, except where there is no file system to fill it.
    void set_size(std::uint32_t thin_id, std::uint64_t sectors);
    void set_volume_image(std::uint32_t thin_id);
    void rename_volume(std::uint32_t thin_id, std::string_view name);  // Also as the parent of its clones.
    void set_labels(std::uint32_t thin_id, const schemas::Labels& labels);
    void set_warm(std::uint32_t thin_id, std::uint32_t count, bool mounted);
    std::vector<VolumeRow> warm_images();                              // That want any.
    std::vector<VolumeRow> warm_clones(std::uint32_t thin_id);         // Of that image, which are ready; by thin id.
    void name_warm_clone(std::uint32_t thin_id, const VolumeRow& as);  // It is this volume from now on.
    bool has_clones(std::uint32_t thin_id);                            // Also such as are being made or removed.
    // Of all volumes that have the label and a name. Counted when somebody asks first, and kept from then on.
    std::uint64_t labelled_bytes(const std::string& key, const std::string& value);
    std::uint64_t promised_bytes();  // Likewise, of all that have a name.
    void set_fs_sectors(std::uint32_t thin_id, std::uint64_t sectors);
    void move_volume(std::uint32_t from, std::uint32_t to);  // To another thin id; it has no leases.
    void delete_volume(std::uint32_t thin_id);

    std::vector<LeaseRow> leases(std::uint32_t thin_id);
    std::vector<NamedLease> list_leases(std::string_view after_name, std::string_view after_holder,
                                        std::uint32_t limit);
    std::vector<std::uint32_t> leased_volumes();
    std::uint64_t count_leases();
    void insert_lease(const LeaseRow& row);
    void delete_lease(std::uint32_t thin_id, std::string_view holder);
    void delete_leases(std::uint32_t thin_id);

    std::vector<OperationRow> unfinished_operations();
    void insert_operation(const OperationRow& row);
    void set_attempts(std::uint64_t number, std::uint32_t attempts, std::uint32_t deaths);
    void delete_operation(std::uint64_t number);

    std::optional<RequestRow> request(std::string_view request_id);
    // An accepted request whose answer is still to come, and that answer (with or without the former).
    void insert_request(std::string_view request_id, std::string_view digest);
    void set_reply(std::string_view request_id, std::string_view digest, std::string_view reply);
    void forget_request(std::string_view request_id);  // As if it had never been accepted.
    // Forgets up to `most` answers older than an hour that have 100,000 newer ones, and events past
    // the newest 100,000.
    void purge(std::uint32_t most);

    void append_event(std::string_view type, std::string_view subject, const EventBody& body);
    std::vector<StoredEvent> take_events();  // Appended since the last call; for after a commit, to be published.
    std::vector<StoredEvent> events_since(std::uint64_t seq, std::uint32_t limit);  // Those that are committed.
    std::uint64_t last_event_seq() const { return committed_next_event_ - 1; }
    std::uint64_t oldest_event_seq();

    void quarantine(std::uint32_t thin_id, const std::string& reason);
    void end_quarantine(std::uint32_t thin_id);  // It is not in the pool any more.
    std::vector<std::pair<std::uint32_t, std::string>> quarantined();

private:
    enum class Count : std::uint8_t { add, take };
    void count_size(const VolumeRow& row, Count count);
    void count_size(std::uint32_t thin_id, Count count);
    void count_labels(const VolumeRow& row, Count count);
    void forget_counts();
    Store(Database database, StoreDisk disk) : database_(std::move(database)), disk_(std::move(disk)) {}
    Result<void> migrate();

    Database database_;
    StoreDisk disk_;
    bool made_now_ = false;
    std::int64_t now_ = 0;
    std::string now_text_;  // As events have it.
    std::uint64_t next_event_ = 1;
    std::uint64_t committed_next_event_ = 1;
    std::vector<StoredEvent> events_;  // Of the savepoints released since the last commit.
    std::size_t events_before_savepoint_ = 0;
    std::optional<std::int64_t> deferring_until_ms_;  // What this savepoint writes.
    std::optional<std::int64_t> deferred_until_ms_;
    bool undeferred_ = false;  // Something has been written that must not wait.
    std::int64_t changes_ = 0;
    std::optional<std::map<std::pair<std::string, std::string>, std::uint64_t>> labelled_;  // Bytes, by label.
    std::optional<std::uint64_t> promised_;
    std::optional<std::int64_t> kept_from_;  // The 100,000 newest answers were not older than this.
    std::uint32_t answers_since_count_ = 0;
};

}  // namespace cowslip
