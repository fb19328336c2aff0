// What the fakes of device-mapper and of the host stand on: block devices, files, loop devices, dm
// devices, and what dm-thin keeps in memory and on the metadata device. A plain value: it outlives
// the actors that work on it, can be copied, and reboot() is all that a power cut leaves.
//
// Rules are the kernel's (6.1), not ours; tests/fakes/device_mapper_conformance.cpp is run against
// the fake and against the kernel, so that this cannot drift.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/device_mapper.h"
#include "common/thin_pool.h"

namespace cowslip {

// Which block of a thin lies in which of the data. Blocks of the data are told apart by numbers that only go up: where
// the kernel would put them is not modelled.
class FakeMapping {
public:
    struct Block {
        std::uint64_t data_block = 0;
        std::uint32_t time = 0;  // The pool's clock when it was mapped.
    };
    // From one block on, each in the next block of the data.
    struct Run {
        std::uint64_t length = 0;
        Block first;
    };
    std::optional<Block> find(std::uint64_t block) const;
    void map(std::uint64_t block, const Run& run);
    void unmap(std::uint64_t begin, std::uint64_t end);
    void forget_times();
    std::uint64_t size() const;
    std::uint64_t end() const;  // Behind the last one that is mapped.
    const std::map<std::uint64_t, Run>& runs() const { return runs_; }

private:
    std::map<std::uint64_t, Run> runs_;
};

struct FakeThin {
    FakeMapping blocks = {};
    std::uint32_t snapshotted_time = 0;  // What was mapped before may be shared.
    bool changed = false;                // In this transaction.
    std::uint64_t transaction_id = 0;    // The pool's at its birth.
    // The kernel does not mind; we do.
    bool torn = false;         // A snapshot of a device that ran.
    bool used_before = false;  // Its id was a deleted one's.
};

// What thin-pool writes on a metadata device, or holds in memory of it.
struct FakeMetadata {
    bool formatted = false;
    bool damaged = false;  // Its superblock has a wrong checksum.
    bool needs_check = false;
    std::uint32_t block_sectors = 0;
    std::uint64_t data_blocks = 0;
    std::uint64_t metadata_blocks = 0;  // 0: made for as many as its device has.
    std::uint64_t transaction_id = 0;
    std::uint32_t time = 0;
    std::uint64_t next_block = 0;
    std::uint64_t leaked_blocks = 0;  // Taken for a write that could not be mapped.
    std::uint64_t held_root = 0;
    bool leaf_damaged = false;                // In a block that a load does not read; thin_check does, and a create.
    int load_error = 0;                       // Of a load: ENOTBLK if it reads a block that is another's, or none.
    std::set<std::uint32_t> unmendable = {};  // thin_repair leaves them out.
    std::map<std::uint32_t, std::uint64_t> torn = {};  // It leaves them with so many blocks.
    std::map<std::uint32_t, FakeThin> thins = {};
    std::map<std::uint32_t, FakeThin> held_thins = {};  // As they were at reserve_metadata_snap.

    std::uint64_t used_data_blocks() const;
    // A new place for each of a thin's blocks, of which there are so many from now on.
    void remap(std::uint32_t thin_id, std::uint64_t blocks);
};

// How many blocks of the data these have, of which some have been mapped by several.
std::uint64_t count_data_blocks(const std::vector<const FakeMapping*>& mappings);

// What keeps its bytes when the power goes: a disk, or the file below a loop device.
struct FakeMedium {
    std::uint64_t sectors = 0;
    FakeMetadata metadata = {};
    std::set<std::uint32_t> deleted = {};  // Thin ids, also where that was not committed.
    std::string signature = {};            // What libblkid would call it, e.g. "ext4 file system".
    std::string device_id = {};            // In the header of a pool's own device,
    std::string device_pool = {};          // and that pool,
    std::uint64_t device_sectors = 0;      // and how large it is by that.
    // Of a pool's data: the 4 KiB blocks of internal thins, by thin id and offset. Pools that were made alike have them
    // in the same places, so another pool's metadata find these.
    std::map<std::pair<std::uint32_t, std::uint64_t>, std::string> contents = {};
    bool unreadable = false;  // A fault: reading it is an I/O error.
};

struct FakeBlockDevice {
    std::string medium;
    dev_t number = 0;
    bool loop = false;
    bool in_use = false;  // By somebody outside device-mapper: mounted, swap, a partition of it.
};

struct FakeDmDevice {
    struct Table {
        DmTarget target;
        bool read_only = false;
    };
    DmDevice device;
    std::optional<Table> live = {};
    std::optional<Table> inactive = {};
    bool suspended = false;
    bool added = false;         // Since its first table was loaded: before that nobody can open it.
    std::uint32_t openers = 0;  // Mounts and open descriptors; tables on it are counted by themselves.
};

// A writer who waits for room.
struct FakeWrite {
    std::uint32_t thin_id = 0;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
};

// A loaded pool: what the kernel has in memory.
struct FakePool {
    std::string medium;  // Of the metadata.
    std::string data_medium;
    FakeMetadata core;
    PoolMode mode = PoolMode::rw;
    bool in_service = false;  // Something was changed since it was loaded: before that a commit writes nothing.
    bool error_if_no_space = false;
    std::vector<FakeWrite> waiting = {};
    // A failed commit takes the trees back, but not what the kernel has counted of thins that are open.
    std::map<std::uint32_t, std::uint64_t> counted_blocks = {};
};

struct FakeKernel {
    std::map<std::string, FakeMedium> media;                      // By name: a disk's path, or "file:data".
    std::map<std::string, FakeBlockDevice> blocks;                // By path.
    std::uint64_t file_system_sectors = std::uint64_t{1} << 50U;  // What a pool's files may take together.
    std::map<dev_t, FakeDmDevice> devices;
    std::map<dev_t, FakePool> pools;
    std::map<std::string, dev_t> nodes;     // /dev/mapper/NAME.
    std::set<std::string> allowed_devices;  // DIR/pool/devices.
    std::optional<std::string> own_pool;    // DIR/pool/uuid.

    // Faults.
    // That many commits fail from now on; where the medium is unreadable as well, so does to take them back.
    std::uint32_t fail_commits = 0;
    std::uint64_t used_metadata_blocks = 10;  // Beside one for each thin; full = OUT_OF_METADATA.
    std::uint32_t short_openers = 0;          // That many removes find the device open for a moment.
    std::set<std::string> resume_fails;       // dm uuids: resume answers EIO.

    std::map<std::string, std::vector<std::uint32_t>> dumps;  // DIR/pool/backups: thin ids, by name.
    bool list_thins_fails = false;
    std::uint32_t writes_fail = 0;  // That many writes of a range answer EIO.

    std::uint64_t refused_writes = 0;     // Blocks that somebody waited for in vain.
    std::chrono::milliseconds paused{0};  // How long the actor waited, all in all.

    // Called before each effect, with its name and object: "message create_thin 2". May throw: the
    // caller has then died before it.
    std::function<void(const std::string& effect)> before_effect;
    std::map<std::string, std::uint64_t> effects;  // How often, by the first word.

    void add_disk(const std::string& path, std::uint64_t sectors);
    // Somebody mounts it, or opens it, and lets it go again.
    void open(const DmDevice& device);
    void close(const DmDevice& device);
    // Somebody writes to blocks of a thin: those that are not mapped, or may be shared, get new ones. ENOSPC: the pool
    // is full. In one that queues he waits instead for what there was no room for.
    int write(const DmDevice& device, std::uint64_t begin, std::uint64_t end);
    int write(const DmDevice& device, std::uint64_t count);  // Behind all that is mapped.
    int discard(const DmDevice& device, std::uint64_t begin, std::uint64_t end);
    std::optional<FakeMapping::Block> find_block(const DmDevice& device, std::uint64_t block);
    // Power cut: media stay, with what was committed.
    void reboot();

    // For the fakes.
    void effect(const std::string& name);
    dev_t number_of(const DmDevice& device) const;  // 0: absent.
    std::uint32_t open_count(dev_t number) const;
    std::map<std::string, std::uint32_t> table_users() const;  // By device number, "253:0".
    const FakeBlockDevice* block(const std::string& path_or_number) const;
    bool commit(FakePool& pool);  // False: it failed, or the pool was not writable.
    bool has_metadata_space(const FakePool& pool) const;
    // What this transaction has freed counts as free at once, but is given to nobody before its commit.
    std::uint64_t taken_data_blocks(const FakePool& pool) const;
    void write_waiting(FakePool& pool);
    bool is_open(dev_t pool, std::uint32_t thin_id) const;
    FakePool* pool_of(const DmDevice& thin);

private:
    std::uint32_t thin_id_of(const DmDevice& thin) const;
    int write_blocks(FakePool& pool, FakeWrite& write);
    void abort(FakePool& pool);
};

}  // namespace cowslip
