// Everything the pool manager tells a device actor, and the raw verdicts that come back. The actor
// keeps nothing and decides nothing: it brings about the state named, does what is missing, and
// reports what the kernel said; what that means is the manager's to judge (thin_pool.h).
//
// Each command may be repeated after a crash or a lost reply, but never has two copies that could
// run at once (an actor's lock decides that; see schemas/bus.md). Sizes are in 512-byte sectors.
// An `error` in the reply's envelope means that nothing was done: bad input, or a refusal to touch
// what is not ours. `error_number` is the errno of the kernel's answer, 0 for success.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "schemas/envelope.h"

namespace cowslip::schemas {

// Which pool a command is about. dm names and uuids of thin devices follow from `uuid` and the
// thin id (common/names.h).
struct PoolRef {
    std::string uuid;    // 32 hex digits.
    std::string device;  // dm name of the pool device (an adopted pool keeps its own).
    COWSLIP_FIELDS(uuid, device)
};

// One of the block devices that a pool has for its own.
struct PoolDevice {
    std::string path;  // As root has named it; after a boot, as it was found.
    std::string id;    // 32 random hex digits, in its header as well. Empty: not known.
    COWSLIP_FIELDS(path, id)
};

// All that it takes to load the pool's table again.
struct PoolSpec {
    PoolRef pool;
    std::string backing;    // "loop": files DIR/pool/{data,metadata}, "pair", "devices" or "adopted".
    std::string data_path;  // pair: the block devices. loop, devices: empty.
    std::string metadata_path;
    // The least that must be there: loop: of the files, pair: of the devices. devices: what the pool has of them; 0:
    // all.
    std::uint64_t data_sectors = 0;
    std::uint64_t metadata_sectors = 0;
    std::uint32_t block_sectors = 128;
    std::uint64_t low_water_blocks = 0;
    bool skip_zeroing = false;
    bool discard_passdown = true;
    bool queue_if_no_space = false;
    bool preallocate = false;  // loop: the files have all their blocks at once. The live table does not tell.
    std::vector<PoolDevice> devices = {};  // devices: from device 0 on; those at the end may not be the pool's yet.
    COWSLIP_FIELDS(pool, backing, data_path, metadata_path, data_sectors, metadata_sectors, block_sectors,
                   low_water_blocks, skip_zeroing, discard_passdown, queue_if_no_space, preallocate, devices)
};

// What the kernel said to a message, and a no-flush status of the pool read right after it: rc 0
// alone proves nothing, since the kernel drops its commit's result.
struct Verdict {
    std::int32_t error_number = 0;
    std::string status;  // The raw thin-pool status line; empty if it could not be read.
    COWSLIP_FIELDS(error_number, status)
};

// The metadata superblock as it lies on the device.
struct Superblock {
    bool zeroed = false;  // All zero: the kernel would format it without a word.
    bool valid = false;   // Magic and checksum are right.
    std::uint64_t transaction_id = 0;
    std::uint32_t time = 0;  // Snapshots taken in the pool's life.
    std::uint32_t data_block_sectors = 0;
    std::uint64_t held_root = 0;  // Block of a held metadata snapshot, or 0.
    COWSLIP_FIELDS(zeroed, valid, transaction_id, time, data_block_sectors, held_root)
};

// What a pool is made of, after probing. `error` in the envelope: in_use or invalid_argument with
// the reason, and the pool untouched.
struct PoolState {
    bool loaded = false;
    std::string status;       // No-flush status line, if loaded.
    std::string data_device;  // "/dev/loop0", "/dev/vdb"; as the live table has it for adopted.
    std::string metadata_device;
    Superblock superblock;  // Read before the load, or from under the live pool.
    PoolSpec spec;          // With sizes filled in; for adopted, as found.
    std::uint32_t open_count = 0;
    bool suspended = false;
    std::uint64_t most_data_sectors = 0;  // What its own devices have, with the reserve; 0 for any other pool.
    std::uint64_t most_metadata_sectors = 0;
    COWSLIP_FIELDS(loaded, status, data_device, metadata_device, superblock, spec, open_count, suspended,
                   most_data_sectors, most_metadata_sectors)
};

struct ThinDevice {
    std::uint32_t thin_id = 0;
    std::uint64_t mapped_blocks = 0;
    std::uint64_t transaction_id = 0;    // The pool's, at the thin's creation: its birth mark.
    std::uint64_t exclusive_blocks = 0;  // Mapped by no other thin; with ListThins::sharing.
    COWSLIP_FIELDS(thin_id, mapped_blocks, transaction_id, exclusive_blocks)
};

// Makes what a new pool lies on, zeroes the first 4 KiB of the metadata, and loads the table: this
// formats it. Only sent while the store says `formatting`. Refuses (in_use, invalid_argument) a
// device that holds a file system, a partition table, a pool or anything libblkid knows, unless
// `force`; a device in use is always refused, and one not listed in DIR/pool/devices, too. If a pool of this
// uuid is loaded already (a repeated command), it only reports.
struct CreatePool {
    static constexpr const char* kType = "device.create_pool";
    using Reply = PoolState;
    PoolSpec spec;
    bool force = false;
    std::uint64_t own_transaction_id = 0;  // The first id it will get: metadata with it are this pool's, half made.
    COWSLIP_FIELDS(spec, force, own_transaction_id)
};

// Looks at a dm thin-pool that is to be adopted; changes nothing.
struct InspectPool {
    static constexpr const char* kType = "device.inspect_pool";
    using Reply = PoolState;
    std::string device;  // dm name.
    COWSLIP_FIELDS(device)
};

// Loads the pool's table if it is not loaded; attaches loop files first. Before any load the
// superblock must be valid with a transaction id in [confirmed, planned], or needs_repair. With read_only the kernel
// changes nothing of the pool, so any transaction id will do. Files or devices that are larger than `spec` says are
// taken up: the pool may have grown just before somebody died.
// A pool that is loaded but suspended (its actor died in a reload) is resumed. Adopted: only checked.
struct StartPool {
    static constexpr const char* kType = "device.start_pool";
    using Reply = PoolState;
    PoolSpec spec;
    std::uint64_t confirmed = 0;
    std::uint64_t planned = 0;
    bool read_only = false;
    COWSLIP_FIELDS(spec, confirmed, planned, read_only)
};

// Looks at what a pool lies on and loads nothing: its superblock, and the thin ids that its metadata have. Attaches
// loop files. Without a uuid it is the pool of DIR/pool/uuid, with its sizes as they are found. One that is live is
// described as it is.
struct ExaminePool {
    static constexpr const char* kType = "device.examine_pool";
    struct Reply {
        PoolState state;
        bool listed = false;            // The thin ids could be read; not of a pool that is live.
        std::vector<ThinDevice> thins;  // The first 4096.
        COWSLIP_FIELDS(state, listed, thins)
    };
    PoolSpec spec;
    COWSLIP_FIELDS(spec)
};

// Removes the pool device and detaches its loop devices; success if they are gone already. in_use
// while a thin device of it is active. Adopted: nothing is done.
struct StopPool {
    static constexpr const char* kType = "device.stop_pool";
    using Reply = PoolState;
    PoolSpec spec;
    COWSLIP_FIELDS(spec)
};

// Undoes a CreatePool, and the first SetTransactionId of an adopted pool: puts the pool away as StopPool does, then
// zeroes the superblock or the devices' headers or deletes the two files, and forgets the pool's uuid. Only what that
// command had made is touched: of one that was refused nothing is. Success if it is all gone already.
struct DiscardPool {
    static constexpr const char* kType = "device.discard_pool";
    using Reply = PoolState;
    PoolSpec spec;
    std::uint64_t own_transaction_id = 0;   // As in CreatePool.
    std::vector<std::uint32_t> thin_ids{};  // Adopted: those that we have made in it, to be deleted.
    // Not 0: a pool that was in use, with a transaction id from this one to own_transaction_id, is destroyed: its
    // block devices are wiped. needs_repair, and nothing is touched: the metadata are another pool's, or damaged.
    std::uint64_t least_transaction_id = 0;
    COWSLIP_FIELDS(spec, own_transaction_id, thin_ids, least_transaction_id)
};

// Makes a loaded pool as large as what it lies on, while it is used: of a loop pool the files are first made as large
// as `spec` has them, durably; of a pair the devices count as they are; of whole devices those of `spec` that are not
// the pool's yet become so, and are refused as in CreatePool, what they have become larger by is the pool's reserve,
// and of all that the pool takes as much as `spec` has (0: all). Never smaller. The pool is suspended meanwhile,
// without a flush, and is resumed on every path. With needs_check the kernel takes up nothing before the next load.
// no_space: the file system has less than the files may come to take and the 64 MiB that stay free, or the devices have
// less than is wanted; nothing was done.
struct GrowPool {
    static constexpr const char* kType = "device.grow_pool";
    using Reply = PoolState;
    PoolSpec spec;
    COWSLIP_FIELDS(spec)
};

struct ReadPoolStatus {
    static constexpr const char* kType = "device.read_pool_status";
    using Reply = PoolState;  // `spec` empty.
    PoolRef pool;
    bool superblock = false;   // Also read the superblock (of the metadata device in the live table).
    bool status_only = false;  // Of the reply only `loaded` and `status`: one call, for those who wait for it.
    COWSLIP_FIELDS(pool, superblock, status_only)
};

// Counts the times and thin ids of a pool's metadata anew, while nobody has it loaded: the n-th volume gets thin id
// n + 1, the clock stands at the number of times that are left. The old metadata are kept in
// DIR/pool/metadata.before-rewind, or in the other areas of whole devices; those of a pair stay as they are, and the
// new ones lie on the device `spare` (which root has listed). The new ones have transaction id `to`: where that is
// there already, this has been done before. needs_repair: they cannot be read, or have other volumes.
struct RewindClock {
    static constexpr const char* kType = "device.rewind_clock";
    struct Reply {
        Superblock superblock;  // Of the new ones.
        COWSLIP_FIELDS(superblock)
    };
    PoolSpec spec;
    std::uint64_t confirmed = 0;  // The old ones' transaction id lies between this and `to`.
    std::uint64_t to = 0;
    std::uint64_t volumes = 0;
    std::string spare;
    COWSLIP_FIELDS(spec, confirmed, to, volumes, spare)
};

// Compare-and-swap of the pool's transaction id. EINVAL: it is not `from`; the status tells.
struct SetTransactionId {
    static constexpr const char* kType = "device.set_transaction_id";
    using Reply = Verdict;
    PoolRef pool;
    std::uint64_t from = 0;
    std::uint64_t to = 0;
    COWSLIP_FIELDS(pool, from, to)
};

struct CreateThin {
    static constexpr const char* kType = "device.create_thin";
    using Reply = Verdict;
    PoolRef pool;
    std::uint32_t thin_id = 0;
    COWSLIP_FIELDS(pool, thin_id)
};

// An active origin is suspended (which freezes its file system) round the message, and resumed on
// every path. `torn`: it was found running again before our resume, so the snapshot may be
// inconsistent; the actor has deleted it. With activate_sectors a snapshot that the pool has is then
// activated behind the reply, whose envelope says `more`; the second body is an Activate::Reply.
struct CreateSnap {
    static constexpr const char* kType = "device.create_snap";
    struct Reply {
        Verdict verdict;
        bool torn = false;
        std::int32_t resume_error_number = 0;  // Not 0: the origin stays suspended; send Resume.
        COWSLIP_FIELDS(verdict, torn, resume_error_number)
    };
    PoolRef pool;
    std::uint32_t thin_id = 0;
    std::uint32_t origin_id = 0;
    bool origin_active = false;
    std::uint64_t activate_sectors = 0;  // Size of its device; 0: it stays inactive.
    COWSLIP_FIELDS(pool, thin_id, origin_id, origin_active, activate_sectors)
};

struct Holder {
    std::uint32_t pid = 0;
    std::string command;
    std::string detail;  // "has it open", "mounted in mount namespace 4026532177 at /x".
    COWSLIP_FIELDS(pid, command, detail)
};

// Of a thin that is to be deleted: gives a range of it back to the pool, unless so little is mapped that one deletion
// will do: the kernel deletes in one step, and nobody else's I/O goes on meanwhile. Removes the thin's dm device if
// there is one; EBUSY: somebody has it open (holders). EOPNOTSUPP: the pool takes no discards.
struct DiscardThin {
    static constexpr const char* kType = "device.discard_thin";
    struct Reply {
        Verdict verdict;
        std::vector<Holder> holders;
        std::uint64_t mapped_sectors = 0;  // Of what is left.
        COWSLIP_FIELDS(verdict, holders, mapped_sectors)
    };
    PoolRef pool;
    std::uint32_t thin_id = 0;
    std::uint64_t size_sectors = 0;
    std::uint64_t offset_sectors = 0;
    std::uint64_t length_sectors = 0;
    std::uint64_t at_once_sectors = 0;  // With no more mapped nothing is done.
    COWSLIP_FIELDS(pool, thin_id, size_sectors, offset_sectors, length_sectors, at_once_sectors)
};

// Removes the thin's dm device if there is one, then deletes the thin id. EBUSY: somebody has the
// device open (holders, at most 16) and nothing was deleted. ENODATA: it is gone already.
struct DeleteThin {
    static constexpr const char* kType = "device.delete_thin";
    struct Reply {
        Verdict verdict;
        std::vector<Holder> holders;
        COWSLIP_FIELDS(verdict, holders)
    };
    PoolRef pool;
    std::uint32_t thin_id = 0;
    COWSLIP_FIELDS(pool, thin_id)
};

// Makes the thin's dm device live with this table: compares live table text, suspended flag and
// node, not existence; does what is missing.
struct Activate {
    static constexpr const char* kType = "device.activate";
    struct Reply {
        std::int32_t error_number = 0;
        std::string path;         // "/dev/mapper/cowslip-…".
        std::string pool_status;  // Read when it failed.
        COWSLIP_FIELDS(error_number, path, pool_status)
    };
    PoolRef pool;
    std::uint32_t thin_id = 0;
    std::uint64_t size_sectors = 0;
    bool read_only = false;
    COWSLIP_FIELDS(pool, thin_id, size_sectors, read_only)
};

// Success if it is not there. EBUSY with holders if somebody has it open.
struct Deactivate {
    static constexpr const char* kType = "device.deactivate";
    struct Reply {
        std::int32_t error_number = 0;
        std::vector<Holder> holders;
        COWSLIP_FIELDS(error_number, holders)
    };
    PoolRef pool;
    std::uint32_t thin_id = 0;
    COWSLIP_FIELDS(pool, thin_id)
};

// Resumes the thin, or the pool's own device (not an adopted one's), if it is there and suspended: its
// suspender is dead.
struct Resume {
    static constexpr const char* kType = "device.resume";
    struct Reply {
        std::int32_t error_number = 0;
        bool was_suspended = false;
        COWSLIP_FIELDS(error_number, was_suspended)
    };
    PoolRef pool;
    std::uint32_t thin_id = 0;
    bool pool_device = false;
    COWSLIP_FIELDS(pool, thin_id, pool_device)
};

struct ActiveDevice {
    std::uint32_t thin_id = 0;
    std::uint64_t size_sectors = 0;
    std::uint32_t open_count = 0;
    bool suspended = false;
    bool read_only = false;
    bool live_table = false;
    std::string path;
    std::optional<std::uint64_t> mapped_sectors;  // With ListActive::mapped, if the pool can tell.
    COWSLIP_FIELDS(thin_id, size_sectors, open_count, suspended, read_only, live_table, path, mapped_sectors)
};

// Every dm device whose uuid says it is a thin of this pool. Needs no pool to be loaded. At most
// 4096 a reply: ask again with after_thin_id while `more`.
struct ListActive {
    static constexpr const char* kType = "device.list_active";
    struct Reply {
        std::vector<ActiveDevice> devices;  // By thin id.
        bool more = false;
        COWSLIP_FIELDS(devices, more)
    };
    PoolRef pool;
    std::int64_t after_thin_id = -1;
    bool mapped = false;
    COWSLIP_FIELDS(pool, after_thin_id, mapped)
};

// The two internal thin devices: 0 holds the pool's label, 1 the ring of store backups. Only these are ever read or
// written by an actor, through a device that is there just as long; they are not in ListActive.
inline constexpr std::uint32_t kLabelThinId = 0;
inline constexpr std::uint32_t kBackupsThinId = 1;
inline constexpr std::uint64_t kLabelSectors = 128;
inline constexpr std::uint64_t kBackupsSectors = 524288;  // 256 MiB, of which the pool keeps what is written.
inline constexpr std::uint32_t kMostInternalBytes = 512 << 10U;

// Offset and length: multiples of 4096, at most kMostInternalBytes. Durable when it answers with 0: errno of the
// activation (ENODATA: there is no such thin id), of the write or of its flush.
struct WriteInternal {
    static constexpr const char* kType = "device.write_internal";
    using Reply = Verdict;
    PoolRef pool;
    std::uint32_t thin_id = 0;
    std::uint64_t offset_bytes = 0;
    std::string data;
    COWSLIP_FIELDS(pool, thin_id, offset_bytes, data)
};

struct ReadInternal {
    static constexpr const char* kType = "device.read_internal";
    struct Reply {
        Verdict verdict;
        std::string data;
        COWSLIP_FIELDS(verdict, data)
    };
    PoolRef pool;
    std::uint32_t thin_id = 0;
    std::uint64_t offset_bytes = 0;
    std::uint32_t length = 0;
    COWSLIP_FIELDS(pool, thin_id, offset_bytes, length)
};

// Which file system a thin has, and how large that is; looks at its first 4 KiB, and changes nothing.
struct FindFilesystem {
    static constexpr const char* kType = "device.find_filesystem";
    struct Reply {
        std::int32_t error_number = 0;   // Of the activation or the read.
        std::string fs;                  // ext4, xfs or none: neither.
        std::uint64_t size_sectors = 0;  // 0 with none.
        COWSLIP_FIELDS(error_number, fs, size_sectors)
    };
    PoolRef pool;
    std::uint32_t thin_id = 0;
    COWSLIP_FIELDS(pool, thin_id)
};

// The pool's own list of thin ids, from a metadata snapshot and thin_ls; the snapshot is released
// on every path. At most 4096 a reply, like ListActive.
struct ListThins {
    static constexpr const char* kType = "device.list_thins";
    struct Reply {
        Verdict verdict;  // Of reserve_metadata_snap; EBUSY: one is held already.
        std::vector<ThinDevice> thins;
        bool more = false;
        COWSLIP_FIELDS(verdict, thins, more)
    };
    PoolRef pool;
    std::int64_t after_thin_id = -1;
    bool release_held = false;  // First release one that is held: a dead actor's. Refused for an adopted pool.
    bool sharing = false;       // With exclusive_blocks, which may take minutes.
    COWSLIP_FIELDS(pool, after_thin_id, release_held, sharing)
};

// thin_dump of a metadata snapshot, which is released on every path, into DIR/pool/backups/NAME.xml.gz: durable when
// answered. Then all dumps there but this one and those to keep are deleted. An error has left no dump of that name.
struct DumpMetadata {
    static constexpr const char* kType = "device.dump_metadata";
    struct Reply {
        Verdict verdict;  // Of reserve_metadata_snap; EBUSY: one is held already.
        std::uint64_t bytes = 0;
        COWSLIP_FIELDS(verdict, bytes)
    };
    PoolRef pool;
    std::string name;               // Of digits and capitals, with '-'.
    std::vector<std::string> keep;  // Names.
    bool release_held = false;      // As ListThins.
    COWSLIP_FIELDS(pool, name, keep, release_held)
};

// ---- metadata of a pool that is not loaded (in_use if it is); never those of an adopted one

// thin_check, and if they are whole the flag needs_check is cleared. unavailable: the device cannot be read or written,
// so nothing is known of them.
struct CheckMetadata {
    static constexpr const char* kType = "device.check_metadata";
    struct Reply {
        bool sound = false;
        std::string report;  // What is wrong with them, in thin_check's words.
        COWSLIP_FIELDS(sound, report)
    };
    PoolSpec spec;
    COWSLIP_FIELDS(spec)
};

struct RepairedThin {
    std::uint32_t thin_id = 0;
    std::uint64_t mapped_blocks = 0;
    std::uint64_t blocks_before = 0;  // As the damaged metadata have it; if they cannot tell, the same.
    COWSLIP_FIELDS(thin_id, mapped_blocks, blocks_before)
};

// thin_repair into a copy: the file DIR/pool/metadata.repaired, the spare areas of whole devices, or for a pair the
// device `spare` (which root has listed). The damaged ones stay as they are. What is in the copy comes in pages, like
// ListThins; the first one makes it.
struct RepairMetadata {
    static constexpr const char* kType = "device.repair_metadata";
    struct Reply {
        bool sound = false;  // thin_repair made a copy, and thin_check finds nothing in it.
        std::string report;
        std::uint64_t transaction_id = 0;  // In the copy's superblock.
        std::vector<RepairedThin> thins;
        bool more = false;
        COWSLIP_FIELDS(sound, report, transaction_id, thins, more)
    };
    PoolSpec spec;
    std::string spare;
    std::uint64_t transaction_id = 0;  // For the copy, if the damaged superblock does not tell.
    std::int64_t after_thin_id = -1;
    COWSLIP_FIELDS(spec, spare, transaction_id, after_thin_id)
};

// Puts the copy in the place of a loop pool's metadata file, or of the metadata areas of whole devices. At no instant
// is there none, and the damaged one is kept under the name that comes back.
struct ReplaceMetadata {
    static constexpr const char* kType = "device.replace_metadata";
    struct Reply {
        std::string damaged_copy;
        COWSLIP_FIELDS(damaged_copy)
    };
    PoolSpec spec;
    COWSLIP_FIELDS(spec)
};

}  // namespace cowslip::schemas
