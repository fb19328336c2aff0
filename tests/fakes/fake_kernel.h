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

#include "common/device_mapper.h"
#include "common/thin_pool.h"

namespace cowslip {

struct FakeThin {
    std::uint64_t mapped_blocks = 0;
    std::uint64_t born_blocks = 0;     // Of its origin's.
    std::uint64_t transaction_id = 0;  // The pool's at its birth.
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
    std::uint64_t transaction_id = 0;
    std::uint32_t time = 0;
    std::uint64_t held_root = 0;
    bool leaf_damaged = false;                // In a block that a load does not read; thin_check does, and a create.
    int load_error = 0;                       // Of a load: ENOTBLK if it reads a block that is another's, or none.
    std::set<std::uint32_t> unmendable = {};  // thin_repair leaves them out.
    std::map<std::uint32_t, std::uint64_t> torn = {};  // It leaves them with so many blocks.
    std::map<std::uint32_t, FakeThin> thins = {};
    std::map<std::uint32_t, FakeThin> held_thins = {};  // As they were at reserve_metadata_snap.

    std::uint64_t used_data_blocks() const;  // Shared blocks are not modelled: each mapping counts once.
};

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

// A loaded pool: what the kernel has in memory.
struct FakePool {
    std::string medium;  // Of the metadata.
    std::string data_medium;
    FakeMetadata core;
    PoolMode mode = PoolMode::rw;
    std::uint64_t total_metadata_blocks = 0;
    std::map<std::uint32_t, std::uint64_t> waiting = {};  // Blocks that writers wait for, by thin id.
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
    std::uint32_t fail_commits = 0;           // That many commits fail from now on.
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
    // Somebody writes `count` blocks that were not mapped. ENOSPC: the pool was full, or is now. In a pool that queues
    // he waits instead for what there was no room for.
    int write(const DmDevice& device, std::uint64_t count);
    // Power cut: media stay, with what was committed.
    void reboot();

    // For the fakes.
    void effect(const std::string& name);
    dev_t number_of(const DmDevice& device) const;  // 0: absent.
    std::uint32_t open_count(dev_t number) const;
    std::map<std::string, std::uint32_t> table_users() const;  // By device number, "253:0".
    const FakeBlockDevice* block(const std::string& path_or_number) const;
    void commit(FakePool& pool);
    bool has_metadata_space(const FakePool& pool) const;
    FakePool* pool_of(const DmDevice& thin);
};

}  // namespace cowslip
