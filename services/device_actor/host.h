// What the device actor needs of the host besides device-mapper: what a pool lies on, its
// superblock, thin_ls, and who holds a device. The second seam, beside DeviceMapper: with both
// faked, the whole actor runs in memory.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/thin_pool.h"
#include "schemas/device_actor.h"

namespace cowslip {

// Two block devices that are there and may be used.
struct Backing {
    std::string data_path;
    std::string metadata_path;
    std::uint64_t data_sectors = 0;
    std::uint64_t metadata_sectors = 0;
    std::vector<schemas::PoolDevice> devices = {};  // What these two are put together of, as it is called now,
    std::uint64_t most_data_sectors = 0;            // and what they have, with the pool's reserve.
    std::uint64_t most_metadata_sectors = 0;
};

// What the growth of a pool leaves free in the file system below its files.
inline constexpr std::uint64_t kKeptFreeBytes = std::uint64_t{64} << 20U;

// What a new pool may be put over.
struct Overwrite {
    bool anything = false;                 // The operator said --force. Never what is in use.
    std::uint64_t own_transaction_id = 0;  // Metadata with this id: the same pool, half made.
    // Not 0: a whole pool, that has an id from this one on.
    std::uint64_t least_transaction_id = 0;

    bool is_whole() const { return least_transaction_id != 0; }
    bool owns(std::uint64_t transaction_id) const {
        const std::uint64_t least = is_whole() ? least_transaction_id : own_transaction_id;
        return own_transaction_id != 0 && transaction_id >= least && transaction_id <= own_transaction_id;
    }
};

// What thin_repair must be told when the superblock does not.
struct MetadataFacts {
    std::uint64_t transaction_id = 0;  // 0: the superblock tells all of it.
    std::uint32_t block_sectors = 0;
    std::uint64_t data_blocks = 0;
};

enum class ClearNeedsCheck : std::uint8_t { no, yes };
enum class Place : std::uint8_t { make, find };

class Host {
public:
    virtual ~Host() = default;

    // For a new pool. loop: makes the two files, durably, and attaches them. pair: they must be listed
    // by root, unused, and hold nothing. Does not write to them. devices: likewise, and gives each its header.
    virtual Result<Backing> make_backing(const schemas::PoolSpec& spec, const Overwrite& overwrite) = 0;
    // For one that exists, as large as it is now; a loop file that is gone or too short is needs_repair.
    virtual Result<Backing> find_backing(const schemas::PoolSpec& spec) = 0;
    // Of one that is in use. loop: its files and their devices are as large as is said, durably, if they were smaller;
    // no_space if the file system could not fill them and keep kKeptFreeBytes. pair: nothing. devices: those that are
    // not the pool's yet become so, what they have become larger by is its reserve, and the two that the pool lies on
    // are as long as is said (0: as they can be); no_space if they cannot be.
    virtual Result<void> grow_backing(const schemas::PoolSpec& spec) = 0;
    // Detaches loop devices, takes apart what was put together of whole devices; fine if there are none.
    virtual Result<void> release_backing(const schemas::PoolSpec& spec) = 0;
    // Undoes make_backing, and what was written since: the superblock or the headers zeroed, or the files deleted, and
    // the record of the uuid last. Metadata that are another pool's stay, and files that hold something if there is no
    // such record.
    virtual Result<void> discard_backing(const schemas::PoolSpec& spec, const Overwrite& own) = 0;
    // The pool whose folder DIR/pool is (DIR/pool/uuid); nothing if it has none yet.
    virtual Result<std::optional<std::string>> own_pool() = 0;
    // Durable when it returns.
    virtual Result<void> record_own_pool(const std::string& uuid) = 0;
    virtual Result<void> forget_own_pool(const std::string& uuid) = 0;  // If it is this one.
    // permission_denied unless root has listed it in DIR/pool/devices.
    virtual Result<void> check_listed(const std::string& path) = 0;

    // Past the page cache: an earlier look at the device may have left an old copy there.
    virtual Result<ThinPoolSuperblock> read_superblock(const std::string& device) = 0;
    virtual Result<void> zero_superblock(const std::string& device) = 0;
    // From the metadata snapshot that is held.
    virtual Result<std::vector<ThinListEntry>> list_thins(const std::string& metadata_device, Sharing sharing) = 0;
    // Likewise, as XML for a pool of so many blocks, into DIR/pool/backups/NAME.xml.gz, durably; then those that are
    // not to be kept are deleted. Its bytes. An error leaves nothing.
    struct Dump {
        std::string name;
        std::vector<std::string> keep;
        std::uint64_t data_blocks = 0;
    };
    virtual Result<std::uint64_t> dump_metadata(const std::string& metadata_device, const Dump& wanted) = 0;
    // Of metadata that no pool has loaded.
    virtual Result<std::vector<ThinListEntry>> list_unloaded_thins(const std::string& metadata_device) = 0;

    // Past the page cache, in whole blocks of 4096; 0 or errno. A write is durable when it returns 0.
    [[nodiscard]] virtual int read_range(const std::string& device, std::uint64_t offset, std::string& data) = 0;
    [[nodiscard]] virtual int write_range(const std::string& device, std::uint64_t offset, const std::string& data) = 0;
    // Bytes; 0 or errno.
    [[nodiscard]] virtual int discard_range(const std::string& device, std::uint64_t offset, std::uint64_t length) = 0;

    // Metadata that nobody has loaded: their times and thin ids counted anew (metadata_xml.h) into a copy, which takes
    // their place in one step; a pair's is made on `spare`, as for copy_place, and stays there. They must have as many
    // volumes as is said. An error has changed nothing.
    struct Recount {
        std::uint64_t transaction_id = 0;  // Of the copy.
        std::uint64_t volumes = 0;
        std::string spare = {};
    };
    virtual Result<void> recount_metadata(const schemas::PoolSpec& spec, const Recount& wanted) = 0;
    // ---- metadata that nobody has loaded

    // thin_check's words for what is wrong; empty: nothing is.
    virtual Result<std::string> check_metadata(const std::string& device, ClearNeedsCheck clear) = 0;
    // thin_repair of `from` onto `to`; its words if it could not. What it leaves out it does not tell.
    virtual Result<std::string> mend_metadata(const std::string& from, const std::string& to,
                                              const MetadataFacts& facts) = 0;
    // unavailable: there are blocks that cannot be read.
    virtual Result<void> read_through(const std::string& device) = 0;
    // The device for a mended copy: a file of its own beside a loop pool's, the other areas of whole devices, else
    // `spare`, which must be listed, unused, large enough, and blank or an earlier copy of ours.
    virtual Result<std::string> copy_place(const schemas::PoolSpec& spec, const std::string& spare,
                                           std::uint64_t transaction_id, Place place) = 0;
    // A loop pool's copy becomes its metadata file, in one step, and so do the other areas of whole devices. Gives the
    // name under which the old one is kept.
    virtual Result<std::string> replace_metadata(const schemas::PoolSpec& spec) = 0;

    virtual Result<std::string> device_path(const std::string& number) = 0;  // "7:0" -> "/dev/loop0"
    virtual Result<std::uint64_t> device_sectors(const std::string& path) = 0;

    virtual std::vector<schemas::Holder> holders(dev_t device) = 0;
    virtual void pause(std::chrono::milliseconds duration) = 0;
};

}  // namespace cowslip
