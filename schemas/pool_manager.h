// Everything a client can ask the pool manager, and what it answers. Sizes are bytes unless the
// name says otherwise; an empty string or 0 means "not given". Fields are added freely, never
// renamed or reused; tests/wire/golden holds one example of each message.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "schemas/envelope.h"

namespace cowslip::schemas {

using Labels = std::map<std::string, std::string>;

struct Empty : NoFields {};

// ---- pool ------------------------------------------------------------------------------------

struct Usage {
    std::uint64_t used_bytes = 0;
    std::uint64_t total_bytes = 0;
    COWSLIP_FIELDS(used_bytes, total_bytes)
};

// How far a pool may go.
struct PoolLimits {
    // Of data, to which it grows by itself, with devices of its own as far as these go. 0: it does not.
    std::uint64_t max_bytes = 0;
    std::uint64_t grow_step_bytes = 0;  // By so much each time, when less than half of it is free.
    std::uint64_t min_free_bytes = 0;   // Of data: with less no volume is made. Default 1 % of it, at most 1 GiB.
    std::uint64_t min_free_metadata_bytes = 0;  // Likewise, of metadata. Default a fifth of them.
    // Who finds the pool full waits (the kernel gives up after a minute) instead of getting an error. Not of an adopted
    // pool.
    bool queue_when_full = false;
    // Bytes that volumes with a label ("team=blue") may be promised, all in all.
    std::map<std::string, std::uint64_t> quotas = {};
    // All volumes may be promised so much of the data that the pool may come to have; 0: as much as they like.
    std::uint32_t overprovision_percent = 0;
    COWSLIP_FIELDS(max_bytes, grow_step_bytes, min_free_bytes, min_free_metadata_bytes, queue_when_full, quotas,
                   overprovision_percent)
};

inline constexpr std::size_t kMostQuotas = 256;

struct QuotaUse {
    std::string label;
    Usage bytes;  // Promised to the volumes that have it, of what they may be.
    COWSLIP_FIELDS(label, bytes)
};

struct PoolStatus : NoFields {
    static constexpr const char* kType = "pool.status";
    struct Reply {
        std::string name;
        std::string uuid;
        std::string state;    // none, formatting, starting, ready, stopped, needs_repair, repairing, read_only, frozen
                              // (store and pool disagree).
        std::string verdict;  // Do store and pool belong together: normal, or what is wrong (schemas/bus.md).
        std::string mode;     // The kernel's: rw, ro, out_of_data_space, Fail; empty when not loaded.
        bool needs_check = false;
        std::uint64_t transaction_id = 0;
        std::uint64_t block_size_bytes = 0;
        Usage data;
        Usage metadata;
        std::uint64_t volumes = 0;          // Volumes in state ready.
        std::uint64_t snapshots_taken = 0;  // The kernel's 24-bit clock, from the superblock.
        std::uint64_t low_water = 0;        // Blocks.
        std::string backing;                // loop, pair, devices or adopted.
        // As in the kernel's table: skip_block_zeroing, no_discard_passdown, queue_if_no_space; and preallocated.
        std::vector<std::string> features;
        std::string data_device;
        std::string metadata_device;
        std::vector<std::string> devices;  // What these two are put together of, where the pool has devices of its own.
        std::uint64_t reserve_bytes = 0;   // For data, on its own devices: what it has not taken yet.
        PoolLimits limits;                 // Those in force.
        std::vector<QuotaUse> quotas;
        std::vector<std::string> warnings;
        std::uint64_t promised_bytes = 0;  // What all volumes may be, together.
        COWSLIP_FIELDS(name, uuid, state, verdict, mode, needs_check, transaction_id, block_size_bytes, data, metadata,
                       volumes, snapshots_taken, low_water, backing, features, data_device, metadata_device, devices,
                       reserve_bytes, limits, quotas, warnings, promised_bytes)
    };
};

// Exactly one of: loop_bytes; data_device with metadata_device; devices; adopt.
struct PoolCreate {
    static constexpr const char* kType = "pool.create";
    using Reply = PoolStatus::Reply;
    std::string name;  // Default "default".
    std::uint64_t loop_bytes = 0;
    std::uint64_t metadata_bytes = 0;  // Default: from the data size.
    std::uint64_t block_size_bytes = 65536;
    std::string data_device;
    std::string metadata_device;
    std::string adopt;  // dm name of an existing thin-pool.
    bool force = false;
    bool accept_no_zeroing = false;
    PoolLimits limits;  // max_bytes and grow_step_bytes: only with loop_bytes or data_bytes.
    // Of a pool that is made, not of an adopted one:
    bool preallocate = false;          // In files only: they have all their blocks at once, and keep them.
    bool keep_discarded = false;       // What volumes discard is free in the pool, and the devices below are not told.
    bool no_zeroing = false;           // A new block shows what it last held, also if that was another volume's.
    std::vector<std::string> devices;  // The pool has all of them for its own: metadata, room to mend those, and data.
    // With devices: so much of them at first, and the rest is its reserve. 0: all.
    std::uint64_t data_bytes = 0;
    COWSLIP_FIELDS(name, loop_bytes, metadata_bytes, block_size_bytes, data_device, metadata_device, adopt, force,
                   accept_no_zeroing, limits, preallocate, keep_discarded, no_zeroing, devices, data_bytes)
};

// How many bytes the volumes with a label may be promised; 0: as many as they like. What they have already is not taken
// away. no_space is then the answer to a create, resize or label that would pass it.
struct PoolQuota {
    static constexpr const char* kType = "pool.quota";
    using Reply = QuotaUse;
    std::string label;  // "team=blue".
    std::uint64_t max_bytes = 0;
    COWSLIP_FIELDS(label, max_bytes)
};

// Changes how far the pool may go; what is absent stays, and 0 is the default, or none. What there is already is not
// taken away. A pool that never grew by itself does so from now on, if it has a limit.
struct PoolSetLimits {
    static constexpr const char* kType = "pool.set_limits";
    using Reply = PoolStatus::Reply;
    std::optional<std::uint64_t> max_bytes;
    std::optional<std::uint64_t> grow_step_bytes;
    std::optional<std::uint64_t> min_free_bytes;
    std::optional<std::uint64_t> min_free_metadata_bytes;
    std::optional<std::uint32_t> overprovision_percent;
    COWSLIP_FIELDS(max_bytes, grow_step_bytes, min_free_bytes, min_free_metadata_bytes, overprovision_percent)
};

struct PoolStart {
    static constexpr const char* kType = "pool.start";
    using Reply = PoolStatus::Reply;
    bool read_only =
        false;  // Nothing of the pool is changed, so one that is frozen can be looked at; until it is stopped.
    COWSLIP_FIELDS(read_only)
};

// Makes the pool larger while it is used: a pool in files as large in all as is said here (0: as it is), one on two
// devices as large as these have become, one with devices of its own, to which those that are named are added, as large
// as is said (0: as it is; both 0: as large as these have become). invalid_argument: smaller than now, or an adopted
// pool, which is its owner's to grow. no_space: the file system under the files has too little room, or the devices
// have. Crash: the old or the new size, and it goes on.
struct PoolGrow {
    static constexpr const char* kType = "pool.grow";
    struct Reply {
        bool changed = false;
        PoolStatus::Reply pool;
        COWSLIP_FIELDS(changed, pool)
    };
    std::uint64_t data_bytes = 0;
    std::uint64_t metadata_bytes = 0;
    std::vector<std::string> devices;
    COWSLIP_FIELDS(data_bytes, metadata_bytes, devices)
};

// Makes the store anew from what the pool has: names from the newest backup in it (and from the store, where that is an
// older one), all that nobody knows as `recovered-<thin id>`. Only of a pool that is not in service. Where the store
// knows of none, it is the one in files below DIR/pool unless it is named here.
struct PoolRebuild {
    static constexpr const char* kType = "pool.rebuild";
    struct Reply {
        PoolStatus::Reply pool;
        std::string backup_taken_at;         // RFC 3339, UTC; empty: there was none.
        std::vector<std::string> recovered;  // Volumes of which no name was found.
        std::vector<std::string> dropped;    // Those in backup or store that the pool does not have.
        COWSLIP_FIELDS(pool, backup_taken_at, recovered, dropped)
    };
    std::string data_device;
    std::string metadata_device;
    std::string adopt;                 // dm name.
    std::vector<std::string> devices;  // One of a pool's own will do: the others are found by their headers.
    COWSLIP_FIELDS(data_device, metadata_device, adopt, devices)
};

// Puts the pool away, as system.cleanup does, while nobody has a lease (in_use, details["holders"]). The next create,
// get or attach starts it again.
struct PoolStop : NoFields {
    static constexpr const char* kType = "pool.stop";
    using Reply = PoolStatus::Reply;
};

// thin_check of a stopped pool's metadata (in_use: it is in service). Damaged ones are mended then
// as if the service had come upon them by itself.
struct PoolCheck : NoFields {
    static constexpr const char* kType = "pool.check";
    struct Reply {
        bool sound = false;
        std::string report;  // What is wrong, in thin_check's words.
        COWSLIP_FIELDS(sound, report)
    };
};

// The pool and all volumes in it are gone for good: its files are deleted, its block devices wiped, an adopted one,
// which must have no volumes, is given back. in_use with details["holders"] while there are leases.
struct PoolDestroy {
    static constexpr const char* kType = "pool.destroy";
    using Reply = Empty;
    std::string name;  // Must be the pool's: so that nobody destroys another one than he means.
    COWSLIP_FIELDS(name)
};

// Opens the pool's lifetimes again, its clock of snapshots and its thin ids, both of 24 bits: volumes keep
// what they hold and get new thin ids. in_use unless the pool is stopped (system.cleanup) and nothing is
// unfinished.
struct PoolRewind {
    static constexpr const char* kType = "pool.rewind";
    struct Reply {
        std::uint64_t snapshots_taken = 0;  // From now on.
        std::uint32_t next_thin_id = 0;
        COWSLIP_FIELDS(snapshots_taken, next_thin_id)
    };
    std::string spare;  // Where the new metadata of a pair go, a device as large as the old ones, which are kept.
    COWSLIP_FIELDS(spare)
};

// Checks the pool's metadata and mends them, with the pool put away meanwhile. Success too if nothing is wrong.
// needs_repair with details["holders"] while there are leases and no `evict`; with details["lost"] if volumes would be
// lost.
struct PoolRepair {
    static constexpr const char* kType = "pool.repair";
    struct Reply {
        std::string how;           // nothing, checked (they were whole), repaired (by a mended copy).
        std::string damaged_copy;  // Where the damaged metadata are kept.
        std::vector<std::string> lost;
        COWSLIP_FIELDS(how, damaged_copy, lost)
    };
    bool evict = false;        // Ends all leases first.
    std::string spare;         // A pair's device for the mended copy, as large as the damaged one.
    bool accept_loss = false;  // Goes on although volumes, or blocks of them, are lost.
    COWSLIP_FIELDS(evict, spare, accept_loss)
};

// Counts what volumes take of the pool, for volume.show and volume.list: what active ones have mapped, as the kernel
// knows it, or with `exact` what all have and share, from a snapshot of the pool's metadata. That may take minutes.
// unavailable, in_use: the pool is not in service, or another program holds its metadata snapshot.
struct PoolMeasure {
    static constexpr const char* kType = "pool.measure";
    struct Reply {
        std::uint64_t volumes = 0;  // That were counted.
        COWSLIP_FIELDS(volumes)
    };
    bool exact = false;
    COWSLIP_FIELDS(exact)
};

// ---- volumes ---------------------------------------------------------------------------------

struct Lease {
    std::string holder;
    std::string mode;  // mounted_rw, mounted_ro, attached_rw, attached_ro.
    COWSLIP_FIELDS(holder, mode)
};

// Clones of an image that are kept ready: create takes one of them, and another is made behind its reply.
struct WarmClones {
    std::uint32_t wanted = 0;
    std::uint32_t ready = 0;  // In the pool and active, and mounted if that is wanted. As far as there is room.
    bool mounted = false;     // Wanted so.
    COWSLIP_FIELDS(wanted, ready, mounted)
};

inline constexpr std::uint32_t kMostWarmOfOne = 64;
inline constexpr std::uint32_t kMostWarm = 256;  // Of all images.

struct Volume {
    std::string id;
    std::string parent;  // The volume it was cloned from, by the last name that had; empty for none.
    std::string kind;    // volume or image.
    std::string state;   // creating, ready, removing, lost.
    std::uint32_t thin_id = 0;
    std::uint64_t transaction_id = 0;  // The pool's, when it was born.
    std::uint64_t size_bytes = 0;
    std::string fs;          // ext4, xfs or none.
    std::string created_at;  // RFC 3339 UTC.
    Labels labels;
    std::vector<Lease> leases;
    std::optional<std::string> device;  // Absent unless active.
    std::optional<std::string> mount;   // Absent unless mounted.
    // What it takes of the pool, as pool.measure last counted it, by `as_of` (RFC 3339 UTC); absent until then. A
    // removal gives the exclusive ones back. An image's warm clones, which go with it, are counted with it.
    std::optional<std::uint64_t> mapped_bytes;     // Of active ones as of any later pool.measure.
    std::optional<std::uint64_t> exclusive_bytes;  // In blocks that nobody else has.
    std::optional<std::uint64_t> shared_bytes;     // In blocks that others have, too.
    std::optional<std::string> as_of;
    std::string mkfs_options;             // As its file system was made with; a clone's are its parent's.
    std::string mount_options;            // As it is mounted with.
    std::optional<WarmClones> warm = {};  // Absent unless some are wanted.
    COWSLIP_FIELDS(id, parent, kind, state, thin_id, transaction_id, size_bytes, fs, created_at, labels, leases, device,
                   mount, mapped_bytes, exclusive_bytes, shared_bytes, as_of, mkfs_options, mount_options, warm)
};

struct VolumeCreate {
    static constexpr const char* kType = "volume.create";
    struct Reply {
        Volume volume;
        std::string path;  // With get: what volume.get would answer.
        COWSLIP_FIELDS(volume, path)
    };
    std::string id;
    std::string parent;            // Where it has a warm clone of that size and with those options, that is taken.
    std::uint64_t size_bytes = 0;  // Default 10 GiB, or the parent's.
    std::string fs;                // Default ext4, or the parent's.
    Labels labels;
    bool get = false;  // Also take a lease and mount it (read-write).
    std::string holder;
    std::string mount_label;
    // With get: stay in state creating until volume.put with filled=true, so that nobody sees it
    // half filled. volume.remove gives it up.
    bool filling = false;
    // "bytes-per-inode=8192,journal-mib=64", "commit=30,nodev" (common/filesystem_options.h). Default: the service's
    // configuration for that file system; of a clone, the parent's. Not mkfs_options with a parent.
    std::optional<std::string> mkfs_options;
    std::optional<std::string> mount_options;
    COWSLIP_FIELDS(id, parent, size_bytes, fs, labels, get, holder, mount_label, filling, mkfs_options, mount_options)
};

struct VolumeRemove {
    static constexpr const char* kType = "volume.remove";
    struct Reply {
        bool existed = false;
        COWSLIP_FIELDS(existed)
    };
    std::string id;
    bool wait = false;          // Answer only when the pool's blocks are back.
    bool must_exist = false;    // Otherwise an unknown id is success.
    std::uint32_t thin_id = 0;  // If given: only that life of the name.
    COWSLIP_FIELDS(id, wait, must_exist, thin_id)
};

// Makes it larger, online: first its device, if that is active, then its file system, at once where it is mounted
// writable and else with the next such mount. From the moment it is accepted it has the new size, whatever becomes of
// the rest; an error afterwards says that device or file system do not have it yet. Never smaller (invalid_argument).
struct VolumeResize {
    static constexpr const char* kType = "volume.resize";
    struct Reply {
        Volume volume;
        bool changed = false;  // False: it had that size.
        COWSLIP_FIELDS(volume, changed)
    };
    std::string id;
    std::uint64_t size_bytes = 0;
    COWSLIP_FIELDS(id, size_bytes)
};

// Makes it an image: from now on nobody writes to it, and it is got and attached read-only. Its file system is mounted
// once before, so that none of its journal is left to replay. in_use with details["holders"]: who may write to it, or
// has it attached. With `warm` so many clones of it are kept ready from now on (0: none, and those there are go);
// without, what was asked for stays. no_space: more than all images together may have.
struct VolumeFreeze {
    static constexpr const char* kType = "volume.freeze";
    struct Reply {
        Volume volume;
        bool changed = false;  // False: it was one, and has the same clones.
        COWSLIP_FIELDS(volume, changed)
    };
    std::string id;
    std::optional<std::uint32_t> warm = {};
    bool warm_mounted = false;  // With warm: mounted as well, if it has a file system.
    COWSLIP_FIELDS(id, warm, warm_mounted)
};

// The name goes to the same volume, with all that it is; clones of it name their parent anew. in_use while it is
// mounted, as the path has the name.
struct VolumeRename {
    static constexpr const char* kType = "volume.rename";
    struct Reply {
        Volume volume;
        bool changed = false;  // False: both names are one.
        COWSLIP_FIELDS(volume, changed)
    };
    std::string id;
    std::string new_id;
    COWSLIP_FIELDS(id, new_id)
};

struct VolumeLabel {
    static constexpr const char* kType = "volume.label";
    using Reply = Volume;
    std::string id;
    Labels set;
    std::vector<std::string> remove;  // Keys; one that is not there is no error.
    COWSLIP_FIELDS(id, set, remove)
};

// Gives blocks back to the pool that the file system of a volume does not use: of one that is mounted writable, else
// invalid_argument. Slowly and in small parts, and no longer than some seconds or until nobody waits: the answer says
// where to go on.
struct VolumeTrim {
    static constexpr const char* kType = "volume.trim";
    struct Reply {
        std::uint64_t trimmed_bytes = 0;      // By this request, as the file system counts them.
        std::uint64_t next_offset_bytes = 0;  // For the next one.
        bool complete = false;                // There is no more to do.
        COWSLIP_FIELDS(trimmed_bytes, next_offset_bytes, complete)
    };
    std::string id;
    std::uint64_t offset_bytes = 0;
    COWSLIP_FIELDS(id, offset_bytes)
};

struct VolumeGet {
    static constexpr const char* kType = "volume.get";
    struct Reply {
        std::string path;      // DIR/mnt/<id>/rootfs.
        bool changed = false;  // False: this holder had the lease already.
        COWSLIP_FIELDS(path, changed)
    };
    std::string id;
    std::string holder;  // Default "default".
    bool read_only = false;
    std::string mount_label;
    COWSLIP_FIELDS(id, holder, read_only, mount_label)
};

struct VolumePut {
    static constexpr const char* kType = "volume.put";
    struct Reply {
        bool changed = false;  // False: there was no such lease.
        COWSLIP_FIELDS(changed)
    };
    std::string id;
    std::string holder;
    bool all_holders = false;
    bool force = false;   // Give the lease up even if the last writes could not be synced.
    bool remove = false;  // Also volume.remove, in the same request.
    bool filled = false;  // Ends volume.create's `filling`.
    COWSLIP_FIELDS(id, holder, all_holders, force, remove, filled)
};

struct VolumeAttach {
    static constexpr const char* kType = "volume.attach";
    struct Reply {
        std::string device;
        bool changed = false;
        COWSLIP_FIELDS(device, changed)
    };
    std::string id;
    std::string holder;
    bool read_only = false;
    COWSLIP_FIELDS(id, holder, read_only)
};

struct VolumeDetach {
    static constexpr const char* kType = "volume.detach";
    using Reply = VolumePut::Reply;
    std::string id;
    std::string holder;
    bool all_holders = false;
    COWSLIP_FIELDS(id, holder, all_holders)
};

struct VolumeExists {
    static constexpr const char* kType = "volume.exists";
    struct Reply {
        bool exists = false;
        COWSLIP_FIELDS(exists)
    };
    std::string id;
    COWSLIP_FIELDS(id)
};

struct VolumeShow {
    static constexpr const char* kType = "volume.show";
    using Reply = Volume;
    std::string id;
    COWSLIP_FIELDS(id)
};

// A page of volumes in the order of their names; ask again with after = the last id while `more`.
struct VolumeList {
    static constexpr const char* kType = "volume.list";
    struct Reply {
        std::vector<Volume> volumes;
        bool more = false;
        COWSLIP_FIELDS(volumes, more)
    };
    Labels labels;  // Every one of them must match.
    std::string after;
    std::uint32_t limit = 500;  // At most 500.
    COWSLIP_FIELDS(labels, after, limit)
};

// ---- leases, operations, the service ---------------------------------------------------------

struct LeaseList {
    static constexpr const char* kType = "lease.list";
    struct Entry {
        std::string id;
        std::string holder;
        std::string mode;
        std::string path;  // The mount, or the device.
        std::string taken_at;
        COWSLIP_FIELDS(id, holder, mode, path, taken_at)
    };
    struct Reply {
        std::vector<Entry> leases;
        bool more = false;
        COWSLIP_FIELDS(leases, more)
    };
    std::string after_id;
    std::string after_holder;
    std::uint32_t limit = 500;
    COWSLIP_FIELDS(after_id, after_holder, limit)
};

struct Operation {
    std::uint64_t number = 0;
    std::string type;  // The request's type, or the name of the work behind a reply.
    std::string subject;
    std::string waiting_for;  // In words: "its turn", "device-actor-123", "the pool".
    std::uint64_t age_ms = 0;
    std::uint32_t attempt = 0;
    bool behind_reply = false;
    COWSLIP_FIELDS(number, type, subject, waiting_for, age_ms, attempt, behind_reply)
};

struct OperationList : NoFields {
    static constexpr const char* kType = "operation.list";
    struct Reply {
        std::vector<Operation> operations;  // The oldest 500.
        std::uint64_t total = 0;
        COWSLIP_FIELDS(operations, total)
    };
};

// Answered when the operation has ended: with its answer's error, or nothing.
struct OperationWait {
    static constexpr const char* kType = "operation.wait";
    using Reply = Empty;
    std::uint64_t operation = 0;
    COWSLIP_FIELDS(operation)
};

// The answer to a request whose time ran out after it was accepted; any reply body may be this.
struct Accepted {
    bool accepted = false;
    std::uint64_t operation = 0;
    COWSLIP_FIELDS(accepted, operation)
};

struct Actor {
    std::string incarnation;
    std::string kind;
    std::uint32_t pid = 0;
    bool watcher = false;
    std::string doing;  // Empty when idle.
    std::uint64_t busy_ms = 0;
    COWSLIP_FIELDS(incarnation, kind, pid, watcher, doing, busy_ms)
};

struct Finding {
    std::string kind;
    std::string subject;
    std::string detail;
    COWSLIP_FIELDS(kind, subject, detail)
};

struct SystemStatus : NoFields {
    static constexpr const char* kType = "system.status";
    struct Reply {
        std::string version;
        std::uint32_t pid = 0;
        std::string account;  // What the manager runs as.
        std::uint64_t uptime_ms = 0;
        std::uint64_t event_seq = 0;
        std::vector<Actor> actors;
        PoolStatus::Reply pool;
        std::uint64_t leases = 0;
        std::uint64_t operations = 0;
        std::uint64_t behind_reply = 0;  // Removals and deactivations that nobody waits for.
        std::vector<Finding> findings;
        std::map<std::string, std::uint64_t>
            counters;  // Since the manager started: "turns", "commits", "store_syncs", "origins_suspended" ...
        COWSLIP_FIELDS(version, pid, account, uptime_ms, event_seq, actors, pool, leases, operations, behind_reply,
                       findings, counters)
    };
};

// Ends all leases, unmounts and deactivates everything, then puts the pool away if we made it.
struct SystemCleanup : NoFields {
    static constexpr const char* kType = "system.cleanup";
    struct Reply {
        std::uint64_t leases_ended = 0;
        std::vector<std::string> left;  // Volumes that were busy, with their holders. Empty: all is away.
        COWSLIP_FIELDS(leases_ended, left)
    };
};

// Compares what should be there (the store) with what is (the pool's thin ids, live devices, mounts),
// while work goes on; what is being worked on is left out. in_use, unavailable, internal: it could not
// be read, and nothing has changed.
struct SystemFsck {
    static constexpr const char* kType = "system.fsck";
    struct Reply {
        bool ok = false;                // Nothing was found, or nothing is left.
        std::vector<Finding> findings;  // What is left, as system.status has it too; as many as fit.
        std::vector<Finding> repaired;
        std::uint64_t total = 0;     // Of findings.
        bool pool_compared = false;  // False: the pool is not in service, or its list is held by another program.
        COWSLIP_FIELDS(ok, findings, repaired, total, pool_compared)
    };
    // Put right what loses nothing: put away what nobody has open or a lease on, resume, bring leases
    // back or end them, release a held metadata snapshot. Unknown thin ids are left alone in any case.
    bool repair = false;
    COWSLIP_FIELDS(repair)
};

// ---- the store -------------------------------------------------------------------------------

// A file that holds a store, and what that says.
struct StoreCopy {
    std::string path;
    std::uint64_t sequence = 0;  // Of the service's own backups; the rest has 0.
    std::string taken_at;        // Likewise; RFC 3339, UTC.
    std::uint64_t bytes = 0;
    std::string store_uuid;
    std::string pool;  // Its name; empty: the store has none.
    std::string pool_uuid;
    std::uint64_t transaction_id = 0;  // The pool's, as far as the store knows.
    std::uint64_t volumes = 0;         // In state ready.
    std::string damage;                // Why it is of no use; then the rest is not known.
    bool dump = false;                 // With the pool's metadata, as DIR/pool/backups/<its name>.xml.gz.
    std::string no_dump;               // In the answer to StoreBackup: why there is none.
    COWSLIP_FIELDS(path, sequence, taken_at, bytes, store_uuid, pool, pool_uuid, transaction_id, volumes, damage, dump,
                   no_dump)
};

// What the pool-manager's program answers the command line that has it look at a store, or put it in place.
struct StoreLook {
    StoreCopy store;
    std::string replaced;  // Where the one before is kept; empty: there was none.
    COWSLIP_FIELDS(store, replaced)
};

// A checked copy of the store in DIR/store/backups, made while work goes on, and right after it a dump of the pool's
// metadata, if that can be made. Success: it outlives a power cut. The newest three are kept. no_space: the state file
// system has no room for it, and nothing of it is left.
struct StoreBackup : NoFields {
    static constexpr const char* kType = "store.backup";
    using Reply = StoreCopy;
};

// The backups there are, the newest first.
struct StoreList : NoFields {
    static constexpr const char* kType = "store.list";
    struct Reply {
        std::vector<StoreCopy> backups;
        COWSLIP_FIELDS(backups)
    };
};

struct EventSince {
    static constexpr const char* kType = "event.since";
    struct Reply {
        std::vector<EventOf<std::map<std::string, std::string>>> events;
        bool more = false;
        std::uint64_t oldest = 0;  // Events before this one are no longer kept.
        COWSLIP_FIELDS(events, more, oldest)
    };
    std::uint64_t seq = 0;      // The first event wanted is seq + 1.
    std::uint32_t limit = 500;  // At most 500.
    COWSLIP_FIELDS(seq, limit)
};

}  // namespace cowslip::schemas
