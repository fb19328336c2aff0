// Volumes' directories, mounts and file systems in memory: refuses what the kernel refuses. Holds
// the same to the conformance cases as the kernel's does (mount_conformance.h). To die before an
// effect, wrap it in HookedFilesystems.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "services/mount_actor/filesystems.h"

namespace cowslip {

struct FakeFilesystem {
    std::string fs;            // Empty: the device is blank.
    std::string options = {};  // Those of its mkfs.
    bool root_prepared = false;
    bool fills_device = true;
    std::uint64_t sectors = 0;  // What it takes of its device.
    bool journal = false;       // To be replayed: it was not unmounted.
    bool cut_off = false;  // It was unmounted, and not shut down, when its pool had gone back to an earlier commit.
};

// What outlives an actor. A value: copy it to look at the past.
struct FakeMountState {
    struct Mount {
        std::string dm_uuid;
        MountOptions options;
        std::string chosen = {};
    };
    struct Directory {
        std::string id;
        bool mount_point = false;
        bool shut_down = false;  // Its file system.
        std::optional<Mount> mount;
        std::optional<std::int32_t> unsynced = {};  // 0: its actor died before it knew the errno.
    };
    std::map<std::string, Directory> directories;
    std::map<std::string, FakeFilesystem> file_systems;  // By dm uuid, if nobody else keeps them.

    std::map<std::string, std::vector<schemas::Holder>> holders;   // By directory: its umount fails.
    std::map<std::string, std::int32_t> sync_errors;               // By dm uuid; each is told once.
    std::map<std::string, std::vector<std::uint64_t>> trims = {};  // By dm uuid: the offsets.
    bool has_selinux = false;
    std::string own_pool = {};  // Its uuid; empty: every pool is.

    bool is_mounted(const std::string& dm_uuid) const;
    void reboot();  // Mounts are gone; directories stay.
};

struct FakeDevices {
    // Whether the path leads to an active device with that dm uuid.
    std::function<bool(const schemas::DeviceRef&)> is_active;
    // What is on a device: a snapshot begins with its origin's. If not given: the state's own.
    std::function<FakeFilesystem&(const std::string& dm_uuid)> content = {};
    // Sectors of the device that is active with that dm uuid. If not given: sizes are nobody's concern.
    std::function<std::uint64_t(const std::string& dm_uuid)> sectors = {};
    // Whether that device refuses writes. If not given: none does.
    std::function<bool(const std::string& dm_uuid)> read_only = {};
    // Whether its pool has lost a commit. If not given: it has not.
    std::function<bool(const std::string& dm_uuid)> went_back = {};
};

class FakeMounts : public Filesystems {
public:
    FakeMounts(FakeMountState& state, FakeDevices devices, std::string mounts_folder = "/fake/mnt");

    Result<void> check_ours(const std::string& dm_uuid) override;
    Result<void> format(const schemas::MakeFilesystem& request) override;
    Result<void> prepare_root(const schemas::MakeFilesystem& request) override;

    std::string mount_path(const std::string& directory) const override;
    Result<DirectoryState> look(const std::string& directory) override;
    Result<void> ensure_directory(const std::string& directory) override;
    Result<void> ensure_id(const std::string& directory, const std::string& id) override;
    Result<void> ensure_mount_point(const std::string& directory) override;
    Result<void> remove_mount_point(const std::string& directory) override;
    Result<void> remove_id(const std::string& directory) override;
    Result<void> remove_directory(const std::string& directory) override;
    Result<void> rename_directory(const std::string& from, const std::string& to) override;
    Result<schemas::ListMounts::Reply> list(const std::string& after) override;

    bool has_selinux() const override { return state_.has_selinux; }
    Result<void> mount(const schemas::Mount& request) override;
    Result<MountOptions> read_options(const std::string& directory) override;
    Result<void> grow(const std::string& directory) override;
    Result<std::uint64_t> trim(const std::string& directory, std::uint64_t offset_bytes,
                               std::uint64_t length_bytes) override;
    Result<std::int32_t> sync(const std::string& directory, bool pool_sound) override;
    Result<std::optional<std::int32_t>> find_unsynced(const std::string& directory) override;
    Result<void> forget_unsynced(const std::string& directory) override;
    Result<void> shut_down(const std::string& directory) override;
    Result<bool> unmount(const std::string& directory) override;
    std::vector<schemas::Holder> find_holders(const std::string& directory) override;

private:
    FakeFilesystem& content(const std::string& dm_uuid);
    void fill(const std::string& dm_uuid);
    Result<void> check_active(const schemas::DeviceRef& device) const;
    // Null unless something is mounted there.
    FakeMountState::Mount* find_mount(const std::string& directory);

    FakeMountState& state_;
    FakeDevices devices_;
    std::string mounts_folder_;
};

}  // namespace cowslip
