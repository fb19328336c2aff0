// Everything the pool manager tells a mount actor. As with the device actor: states to bring about,
// idempotent, at most one copy of a command able to run.
//
// A volume's directory is DIR/mnt/<directory>/ (root, 0711), made of `id` (0600, the exact volume
// id) and `rootfs`, the mount point (0000 underneath, so nothing is written there while it is not
// mounted). `directory` is made by common/names.h and resolved beneath DIR/mnt without symlinks. That of a warm clone,
// which has no id, is ".warm-<thin id>" and has no `id` file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "schemas/device_actor.h"
#include "schemas/envelope.h"

namespace cowslip::schemas {

// Which device, by life: `path` is only believed if the kernel says that it has `dm_uuid`.
struct DeviceRef {
    std::string path;
    std::string dm_uuid;
    COWSLIP_FIELDS(path, dm_uuid)
};

// Formats a template device. Destroys what is on it: the manager sends this for templates only,
// and deletes one that was interrupted. Errors: invalid_argument (unknown file system, too small),
// internal with the tool's own words, no_space.
struct MakeFilesystem {
    static constexpr const char* kType = "mount.make_filesystem";
    struct Reply : NoFields {};
    DeviceRef device;
    std::string fs;
    bool stale_blocks = false;  // The pool does not zero new blocks (adopted, accept_no_zeroing).
    std::string options;        // common/filesystem_options.h: of mkfs.
    COWSLIP_FIELDS(device, fs, stale_blocks, options)
};

// Mounted at DIR/mnt/<directory>/rootfs. If it is mounted there already with the same device and
// options: success. Another device there: in_use. Errors: invalid_argument where a mount label is
// given and the kernel has no SELinux; needs_repair where the file system is damaged.
struct Mount {
    static constexpr const char* kType = "mount.mount";
    struct Reply {
        std::string path;    // Absolute.
        bool grown = false;  // The file system now fills the device.
        COWSLIP_FIELDS(path, grown)
    };
    DeviceRef device;
    std::string directory;
    std::string id;  // Empty: of a warm clone.
    std::string fs;
    bool read_only = false;
    std::string mount_label;  // SELinux context=; empty for none.
    bool grow = false;        // The device is larger than its file system; grown once mounted (not if read_only).
    std::string options;      // common/filesystem_options.h: of a mount. What is mounted already is not asked for them.
    COWSLIP_FIELDS(device, directory, id, fs, read_only, mount_label, grow, options)
};

// syncfs, umount, rmdir of the mount point and of the directory (the rmdir detaches copies that leaked into other mount
// namespaces). Success if nothing is mounted there. Refuses (invalid_argument) another life's
// mount. A busy mount stays whole.
struct Unmount {
    static constexpr const char* kType = "mount.unmount";
    struct Reply {
        bool busy = false;
        std::vector<Holder> holders;  // At most 16, when busy.
        // errno of syncfs, from then on told each time. Unless `force`, it stays mounted then.
        std::int32_t sync_error = 0;
        COWSLIP_FIELDS(busy, holders, sync_error)
    };
    std::string directory;
    std::string dm_uuid;
    bool force = false;
    // The pool takes writes, so an actor that died in an earlier syncfs was not told of a loss. Without
    // it, what that actor was told counts as EIO.
    bool pool_sound = false;
    // The pool does not take its writes, and umount could wait for them for ever: the file system is shut down first,
    // and what it has not written is lost (EIO).
    bool shut_down = false;
    COWSLIP_FIELDS(directory, dm_uuid, force, pool_sound, shut_down)
};

// A mounted warm clone gets a name: its directory becomes that of volume `id`, whose `id` file is written before, and
// the mount moves with it. Success if it is mounted there already. Refuses (in_use, invalid_argument) where another
// life is mounted, there or in its own directory, and where nothing is.
struct RenameMount {
    static constexpr const char* kType = "mount.rename";
    struct Reply {
        std::string path;  // Absolute.
        COWSLIP_FIELDS(path)
    };
    std::string from;
    std::string directory;
    std::string id;
    std::string dm_uuid;
    COWSLIP_FIELDS(from, directory, id, dm_uuid)
};

// Discards what the mounted file system does not use in this stretch of it: what lies behind its end is none. Refuses
// (invalid_argument) another life's mount, and where nothing is mounted. unimplemented: its device takes no discards.
struct Trim {
    static constexpr const char* kType = "mount.trim";
    struct Reply {
        std::uint64_t trimmed_bytes = 0;
        COWSLIP_FIELDS(trimmed_bytes)
    };
    std::string directory;
    std::string dm_uuid;
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;
    COWSLIP_FIELDS(directory, dm_uuid, offset_bytes, length_bytes)
};

struct MountedVolume {
    std::string directory;
    std::string id;       // From the id file; empty if it is missing.
    std::string dm_uuid;  // Of the device mounted there; empty if there is no mount, only a directory.
    bool read_only = false;
    std::string mount_label;
    COWSLIP_FIELDS(directory, id, dm_uuid, read_only, mount_label)
};

// Every directory in DIR/mnt, mounted or left over. At most 2048 a reply, in byte order; again with `after`.
struct ListMounts {
    static constexpr const char* kType = "mount.list";
    struct Reply {
        std::vector<MountedVolume> mounts;
        bool more = false;
        COWSLIP_FIELDS(mounts, more)
    };
    std::string after;
    COWSLIP_FIELDS(after)
};

}  // namespace cowslip::schemas
