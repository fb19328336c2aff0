// What the mount actor does to the operating system, one effect a call: the kernel's is
// kernel_filesystems.h, the tests' behaving one tests/fakes/fake_filesystems.h. A process may die
// between any two of these calls, so none relies on the one before it having been made just now.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "schemas/mount_actor.h"

namespace cowslip {

struct DirectoryState {
    bool exists = false;
    // Of what is mounted on its `rootfs`, if anything is. Of what is no dm device, some other
    // word: never empty, and never one of ours.
    std::optional<std::string> mounted_uuid;
};

struct MountOptions {
    bool read_only = false;
    std::string mount_label;
    bool operator==(const MountOptions&) const = default;
};

class Filesystems {
public:
    virtual ~Filesystems() = default;

    // permission_denied unless it is that of a thin device of this service's pool (DIR/pool/uuid).
    virtual Result<void> check_ours(const std::string& dm_uuid) = 0;

    // ---- a template's device, which is believed only if it has its dm uuid (invalid_argument)

    virtual Result<void> format(const schemas::MakeFilesystem& request) = 0;
    // Its root directory: 0755, without lost+found. Mounted nowhere that anybody could see.
    virtual Result<void> prepare_root(const schemas::MakeFilesystem& request) = 0;

    // ---- a volume's directory in DIR/mnt

    virtual std::string mount_path(const std::string& directory) const = 0;
    virtual Result<DirectoryState> look(const std::string& directory) = 0;
    virtual Result<void> ensure_directory(const std::string& directory) = 0;
    virtual Result<void> ensure_id(const std::string& directory, const std::string& id) = 0;
    virtual Result<void> ensure_mount_point(const std::string& directory) = 0;
    // Success if it is gone already. The mount point's also frees the device of copies of the mount
    // in other mount namespaces, which umount leaves.
    virtual Result<void> remove_mount_point(const std::string& directory) = 0;
    // With the note of a sync's error.
    virtual Result<void> remove_id(const std::string& directory) = 0;
    virtual Result<void> remove_directory(const std::string& directory) = 0;
    // With what is mounted in it. `to` is not there.
    virtual Result<void> rename_directory(const std::string& from, const std::string& to) = 0;
    // Behind `after`, in byte order.
    virtual Result<schemas::ListMounts::Reply> list(const std::string& after) = 0;

    // ---- its mount

    virtual bool has_selinux() const = 0;
    // On a mount point that nothing is mounted on; grown first if asked, so that nobody sees it
    // smaller and a failure leaves no mount.
    virtual Result<void> mount(const schemas::Mount& request) = 0;
    virtual Result<MountOptions> read_options(const std::string& directory) = 0;
    // The file system fills its device, durably.
    virtual Result<void> grow(const std::string& directory) = 0;
    // Bytes that it has discarded there. unimplemented: its device takes no discards.
    virtual Result<std::uint64_t> trim(const std::string& directory, std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) = 0;
    // The errno of what could not be written, or 0. The kernel tells it once, whoever asks; so it is
    // noted beside the mount, and told from then on, until remove_id. An actor that died in the middle
    // may have been told and noted nothing: that is EIO, unless the pool is sound (schemas::Unmount).
    virtual Result<std::int32_t> sync(const std::string& directory, bool pool_sound) = 0;
    // The noted errno; 0: an actor died before it knew.
    virtual Result<std::optional<std::int32_t>> find_unsynced(const std::string& directory) = 0;
    virtual Result<void> forget_unsynced(const std::string& directory) = 0;
    // It takes no more writes and has none outstanding: what it has not written is lost. So that umount does not wait
    // for a device that takes none. Success if it is so already.
    virtual Result<void> shut_down(const std::string& directory) = 0;
    // False: it is in use, and stays whole.
    virtual Result<bool> unmount(const std::string& directory) = 0;
    virtual std::vector<schemas::Holder> find_holders(const std::string& directory) = 0;
};

}  // namespace cowslip
