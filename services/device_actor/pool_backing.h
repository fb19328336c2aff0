// What a pool lies on: two files below DIR/pool on loop devices, two block devices that root has listed in
// DIR/pool/devices, or any number of such that it has for its own (device_set.h). Nothing else, whatever a command
// says.
#pragma once

#include <string>

#include "common/files.h"
#include "services/device_actor/device_set.h"
#include "services/device_actor/host.h"

namespace cowslip {

class PoolBacking {
public:
    // `folder`: DIR/pool.
    PoolBacking(std::string folder, DeviceMapper& dm) : folder_(std::move(folder)), devices_(devices_file(), dm) {}

    Result<Backing> make(const schemas::PoolSpec& spec, const Overwrite& overwrite) const;
    Result<Backing> find(const schemas::PoolSpec& spec) const;
    Result<void> grow(const schemas::PoolSpec& spec) const;
    Result<void> release(const schemas::PoolSpec& spec) const;
    Result<void> discard(const schemas::PoolSpec& spec, const Overwrite& own) const;

    // schemas::RepairMetadata and ReplaceMetadata; see Host.
    Result<std::string> copy_place(const schemas::PoolSpec& spec, const std::string& spare,
                                   std::uint64_t transaction_id, Place place) const;
    Result<std::string> replace_metadata(const schemas::PoolSpec& spec) const;

    // A device over an empty file as large as a loop pool's metadata, for those that are counted anew; and that file,
    // written, in the place of the metadata, which are kept as `old_metadata_file`. At each moment one of them is
    // there. Of whole devices it is the areas that do not have the metadata; a pair's is `spare`, as for copy_place,
    // and it is the store that says which of them has the metadata.
    Result<std::string> make_rewound_copy(const schemas::PoolSpec& spec, const std::string& spare,
                                          std::uint64_t transaction_id) const;
    Result<void> use_rewound_copy(const schemas::PoolSpec& spec) const;

    // Half of it is never seen, and it does not get lost again.
    Result<void> record_uuid(const std::string& uuid) const;
    Result<void> forget_uuid() const;

    std::string uuid_file() const { return folder_ + "/uuid"; }
    std::string dumps_folder() const { return folder_ + "/backups"; }
    std::string devices_file() const { return folder_ + "/devices"; }
    std::string data_file() const { return folder_ + "/data"; }
    std::string metadata_file() const { return folder_ + "/metadata"; }
    std::string rewound_file() const { return folder_ + "/metadata.rewound"; }
    std::string old_metadata_file() const { return folder_ + "/metadata.before-rewind"; }
    std::string scratch_file(const std::string& name) const { return folder_ + "/" + name; }
    std::string repaired_file() const { return folder_ + "/metadata.repaired"; }
    std::string damaged_file(int number) const { return folder_ + "/metadata.damaged-" + std::to_string(number); }

private:
    Result<Backing> make_files(const schemas::PoolSpec& spec, const Overwrite& overwrite) const;
    Result<Backing> attach_files(const schemas::PoolSpec& spec) const;
    Result<void> check_room(std::uint64_t claim) const;
    Result<Backing> find_pair(const schemas::PoolSpec& spec) const;
    Result<void> delete_files(bool recorded, const Overwrite& own) const;
    Result<void> delete_other_metadata() const;
    Result<void> check_spare(const schemas::PoolSpec& spec, const std::string& spare,
                             std::uint64_t transaction_id) const;
    Result<std::string> make_copy(const std::string& name) const;
    Result<void> use_copy(const std::string& name, const std::string& kept) const;
    Result<std::string> name_for_damaged() const;

    std::string folder_;
    DeviceSet devices_;
};

}  // namespace cowslip
