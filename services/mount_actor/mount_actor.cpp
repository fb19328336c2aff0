#include "services/mount_actor/mount_actor.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/actor_session.h"
#include "common/filesystem_options.h"
#include "common/names.h"

namespace cowslip {

namespace {

constexpr std::string_view kOurUuids = "COWSLIP-";
constexpr std::size_t kLongestFileName = 255;
constexpr std::size_t kLongestMountLabel = 255;  // Of fsconfig.

Result<void> check_uuid(const std::string& dm_uuid) {
    if (dm_uuid.starts_with(kOurUuids)) return {};
    return Error{Errc::invalid_argument, fmt::format("device uuid '{}': it is none of ours", dm_uuid)};
}

Result<void> check_fs(const std::string& fs) {
    if (fs == "ext4" || fs == "xfs") return {};
    return Error{Errc::invalid_argument, fmt::format("file system '{}': it must be ext4 or xfs", fs)};
}

Result<void> check_directory(const std::string& directory) {
    const bool good = !directory.empty() && directory.size() <= kLongestFileName && directory.front() != '.' &&
                      directory.find('/') == std::string::npos && directory.find('\0') == std::string::npos;
    if (good || is_warm_directory(directory)) return {};
    return Error{Errc::invalid_argument, fmt::format("directory '{}': it is none of a volume", directory)};
}

Result<void> check_label(const std::string& label) {
    const bool control = std::any_of(label.begin(), label.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; });
    if (label.size() <= kLongestMountLabel && !control) return {};
    return Error{Errc::invalid_argument, fmt::format("mount label: it must have at most {} bytes, and no control "
                                                     "character",
                                                     kLongestMountLabel)};
}

Result<void> check_directory_of(const std::string& id, const std::string& directory) {
    TRY(check_volume_id(id));
    TRY(check_directory(directory));
    if (directory == volume_directory(id)) return {};
    return Error{Errc::invalid_argument, fmt::format("directory '{}': it is not that of volume '{}'", directory, id)};
}

Result<void> check_warm_directory(const std::string& dm_uuid, const std::string& directory) {
    if (is_warm_directory(directory) && directory == warm_directory(dm_uuid)) return {};
    return Error{Errc::invalid_argument,
                 fmt::format("directory '{}': it is not that of a warm clone on '{}'", directory, dm_uuid)};
}

Result<void> check(const schemas::Mount& request) {
    TRY(request.id.empty() ? check_warm_directory(request.device.dm_uuid, request.directory)
                           : check_directory_of(request.id, request.directory));
    TRY(check_fs(request.fs));
    TRY(check_mount_options(request.fs, request.options));
    TRY(check_uuid(request.device.dm_uuid));
    return check_label(request.mount_label);
}

}  // namespace

Result<std::string> MountActor::handle(std::string_view type, const msgpack::object& body) {
    const auto run = [this](const auto& request) { return handle(request); };
    if (auto reply = on<schemas::MakeFilesystem>(type, body, run)) return std::move(*reply);
    if (auto reply = on<schemas::Mount>(type, body, run)) return std::move(*reply);
    if (auto reply = on<schemas::Unmount>(type, body, run)) return std::move(*reply);
    if (auto reply = on<schemas::RenameMount>(type, body, run)) return std::move(*reply);
    if (auto reply = on<schemas::Trim>(type, body, run)) return std::move(*reply);
    if (auto reply = on<schemas::ListMounts>(type, body, run)) return std::move(*reply);
    return Error{Errc::unimplemented, fmt::format("command '{}': a mount actor has no such command", type)};
}

Result<schemas::MakeFilesystem::Reply> MountActor::handle(const schemas::MakeFilesystem& request) {
    TRY(check_fs(request.fs));
    TRY(check_mkfs_options(request.fs, request.options));
    TRY(check_uuid(request.device.dm_uuid));
    TRY(filesystems_.check_ours(request.device.dm_uuid));
    TRY(filesystems_.format(request));
    TRY(filesystems_.prepare_root(request));
    spdlog::debug("formatted fs={} device={}", request.fs, request.device.dm_uuid);
    return schemas::MakeFilesystem::Reply{};
}

Result<schemas::Mount::Reply> MountActor::handle(const schemas::Mount& request) {
    TRY(check(request));
    TRY(filesystems_.check_ours(request.device.dm_uuid));
    if (!request.mount_label.empty() && !filesystems_.has_selinux()) {
        return Error{Errc::invalid_argument,
                     "mount label given, but this kernel has no SELinux: leave --mount-label away"};
    }
    const DirectoryState state = TRY(filesystems_.look(request.directory));
    if (state.mounted_uuid) return accept_mounted(request, *state.mounted_uuid);

    if (auto mounted = make_directory_and_mount(request); !mounted) {
        // A mount that was refused leaves nothing behind. Should this fail too, the directory is
        // listed as left over, and the next mount or unmount of this volume deals with it.
        if (auto removed = remove_all(request.directory); !removed) {
            spdlog::warn("left over directory={} error=\"{}\"", request.directory, removed.error().message);
        }
        return std::move(mounted).error();
    }
    spdlog::debug("mounted directory={} device={}", request.directory, request.device.dm_uuid);
    return schemas::Mount::Reply{.path = filesystems_.mount_path(request.directory),
                                 .grown = request.grow && !request.read_only};
}

// `rootfs` comes last: whoever sees a mount can rely on the id beside it.
Result<void> MountActor::make_directory_and_mount(const schemas::Mount& request) {
    TRY(filesystems_.ensure_directory(request.directory));
    TRY(filesystems_.forget_unsynced(request.directory));  // An earlier boot's.
    if (!request.id.empty()) TRY(filesystems_.ensure_id(request.directory, request.id));
    TRY(filesystems_.ensure_mount_point(request.directory));
    return filesystems_.mount(request);
}

// A repeated command: its first copy died behind the mount, or its answer was lost.
Result<schemas::Mount::Reply> MountActor::accept_mounted(const schemas::Mount& request,
                                                         const std::string& mounted_uuid) {
    const std::string path = filesystems_.mount_path(request.directory);
    if (mounted_uuid != request.device.dm_uuid) {
        return Error{Errc::in_use, fmt::format("mount '{}': device '{}' is mounted there", path, mounted_uuid)};
    }
    const MountOptions wanted{.read_only = request.read_only, .mount_label = request.mount_label};
    const MountOptions found = TRY(filesystems_.read_options(request.directory));
    if (found != wanted) {
        return Error{Errc::in_use, fmt::format("mount '{}': it is mounted {} with mount label '{}'", path,
                                               found.read_only ? "read-only" : "writable", found.mount_label)};
    }
    const bool grow = request.grow && !request.read_only;
    if (grow) TRY(filesystems_.grow(request.directory));
    return schemas::Mount::Reply{.path = path, .grown = grow};
}

Result<schemas::Unmount::Reply> MountActor::handle(const schemas::Unmount& request) {
    TRY(check_directory(request.directory));
    schemas::Unmount::Reply reply;
    const DirectoryState state = TRY(filesystems_.look(request.directory));
    if (!state.exists) return reply;
    if (state.mounted_uuid) {
        // An unmount that comes late must not take away what was mounted since: X2 in the protocol.
        if (*state.mounted_uuid != request.dm_uuid) {
            return Error{Errc::invalid_argument,
                         fmt::format("unmount '{}': device '{}' is mounted there, not '{}'",
                                     filesystems_.mount_path(request.directory), *state.mounted_uuid, request.dm_uuid)};
        }
        TRY(filesystems_.check_ours(request.dm_uuid));
        if (request.shut_down) {
            TRY(filesystems_.shut_down(request.directory));
            reply.sync_error = EIO;
        } else {
            // umount itself reports success after losing writes in a full pool: only syncfs tells.
            reply.sync_error = TRY(filesystems_.sync(request.directory, request.pool_sound));
        }
        if (reply.sync_error != 0 && !request.force) return reply;
        if (!TRY(filesystems_.unmount(request.directory))) {
            reply.busy = true;
            reply.holders = filesystems_.find_holders(request.directory);
            return reply;
        }
    } else if (request.force) {
        // Its first copy may have died behind the umount.
        const auto known = TRY(filesystems_.find_unsynced(request.directory));
        reply.sync_error = known == 0 && !request.pool_sound ? EIO : known.value_or(0);
    }
    TRY(remove_all(request.directory));
    spdlog::debug("unmounted directory={} device={}", request.directory, request.dm_uuid);
    return reply;
}

// The rename is the last effect: an error before it leaves the mount where it was.
Result<schemas::RenameMount::Reply> MountActor::handle(const schemas::RenameMount& request) {
    TRY(check_uuid(request.dm_uuid));
    TRY(check_warm_directory(request.dm_uuid, request.from));
    TRY(check_directory_of(request.id, request.directory));
    TRY(filesystems_.check_ours(request.dm_uuid));
    const std::string path = filesystems_.mount_path(request.directory);
    const DirectoryState there = TRY(filesystems_.look(request.directory));
    if (there.mounted_uuid == request.dm_uuid) return schemas::RenameMount::Reply{.path = path};
    if (there.mounted_uuid) {
        return Error{Errc::in_use,
                     fmt::format("rename to '{}': device '{}' is mounted there", path, *there.mounted_uuid)};
    }
    const DirectoryState state = TRY(filesystems_.look(request.from));
    if (state.mounted_uuid != request.dm_uuid) {
        return Error{Errc::invalid_argument, fmt::format("rename '{}': device '{}' is not mounted there",
                                                         filesystems_.mount_path(request.from), request.dm_uuid)};
    }
    if (there.exists) TRY(remove_all(request.directory));  // Left over.
    TRY(filesystems_.ensure_id(request.from, request.id));
    TRY(filesystems_.rename_directory(request.from, request.directory));
    spdlog::debug("renamed from={} directory={} device={}", request.from, request.directory, request.dm_uuid);
    return schemas::RenameMount::Reply{.path = path};
}

Result<schemas::Trim::Reply> MountActor::handle(const schemas::Trim& request) {
    TRY(check_directory(request.directory));
    const DirectoryState state = TRY(filesystems_.look(request.directory));
    if (!state.mounted_uuid || *state.mounted_uuid != request.dm_uuid) {
        return Error{Errc::invalid_argument, fmt::format("trim '{}': device '{}' is not mounted there",
                                                         filesystems_.mount_path(request.directory), request.dm_uuid)};
    }
    TRY(filesystems_.check_ours(request.dm_uuid));
    const std::uint64_t trimmed = TRY(filesystems_.trim(request.directory, request.offset_bytes, request.length_bytes));
    return schemas::Trim::Reply{.trimmed_bytes = trimmed};
}

// The reverse of the order in which they are made; each is gone or whole.
Result<void> MountActor::remove_all(const std::string& directory) {
    TRY(filesystems_.remove_mount_point(directory));
    TRY(filesystems_.remove_id(directory));
    return filesystems_.remove_directory(directory);
}

Result<schemas::ListMounts::Reply> MountActor::handle(const schemas::ListMounts& request) {
    return filesystems_.list(request.after);
}

}  // namespace cowslip
