#include "tests/fakes/fake_mounts.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "common/names.h"

namespace cowslip {

namespace {
constexpr std::size_t kMostListed = 2048;
}  // namespace

bool FakeMountState::is_mounted(const std::string& dm_uuid) const {
    return std::any_of(directories.begin(), directories.end(),
                       [&](const auto& entry) { return entry.second.mount && entry.second.mount->dm_uuid == dm_uuid; });
}

void FakeMountState::reboot() {
    for (auto& [name, directory] : directories) directory.mount.reset();
    holders.clear();
}

FakeMounts::FakeMounts(FakeMountState& state, FakeDevices devices, std::string mounts_folder)
    : state_(state), devices_(std::move(devices)), mounts_folder_(std::move(mounts_folder)) {}

FakeFilesystem& FakeMounts::content(const std::string& dm_uuid) {
    return devices_.content ? devices_.content(dm_uuid) : state_.file_systems[dm_uuid];
}

void FakeMounts::fill(const std::string& dm_uuid) {
    content(dm_uuid).fills_device = true;
    if (devices_.sectors) content(dm_uuid).sectors = devices_.sectors(dm_uuid);
}

Result<void> FakeMounts::check_active(const schemas::DeviceRef& device) const {
    if (devices_.is_active(device)) return {};
    return Error{Errc::invalid_argument, fmt::format("device '{}': it is not '{}'", device.path, device.dm_uuid)};
}

FakeMountState::Mount* FakeMounts::find_mount(const std::string& directory) {
    const auto found = state_.directories.find(directory);
    if (found == state_.directories.end() || !found->second.mount) return nullptr;
    return &*found->second.mount;
}

Result<void> FakeMounts::check_ours(const std::string& dm_uuid) {
    if (state_.own_pool.empty() || parse_thin_dm_uuid(state_.own_pool, dm_uuid)) return {};
    return Error{Errc::permission_denied, fmt::format("device uuid '{}': it is not of this service's pool", dm_uuid)};
}

Result<void> FakeMounts::format(const schemas::MakeFilesystem& request) {
    TRY(check_active(request.device));
    if (state_.is_mounted(request.device.dm_uuid)) {
        return Error{Errc::in_use, fmt::format("device '{}': it is in use", request.device.path)};
    }
    content(request.device.dm_uuid) = FakeFilesystem{.fs = request.fs, .options = request.options};
    fill(request.device.dm_uuid);
    return {};
}

Result<void> FakeMounts::prepare_root(const schemas::MakeFilesystem& request) {
    TRY(check_active(request.device));
    FakeFilesystem& found = content(request.device.dm_uuid);
    if (found.fs != request.fs) return Error{Errc::needs_repair, fmt::format("no {} on it", request.fs)};
    found.root_prepared = true;
    return {};
}

std::string FakeMounts::mount_path(const std::string& directory) const {
    return mounts_folder_ + "/" + directory + "/rootfs";
}

Result<DirectoryState> FakeMounts::look(const std::string& directory) {
    DirectoryState state{.exists = state_.directories.contains(directory), .mounted_uuid = std::nullopt};
    if (const auto* mount = find_mount(directory)) state.mounted_uuid = mount->dm_uuid;
    return state;
}

Result<void> FakeMounts::ensure_directory(const std::string& directory) {
    state_.directories.try_emplace(directory);
    return {};
}

Result<void> FakeMounts::ensure_id(const std::string& directory, const std::string& id) {
    if (!state_.directories.contains(directory)) return errno_error(ENOENT, "write the id in '" + directory + "'");
    state_.directories[directory].id = id;
    return {};
}

Result<void> FakeMounts::ensure_mount_point(const std::string& directory) {
    if (!state_.directories.contains(directory)) return errno_error(ENOENT, "open '" + directory + "'");
    state_.directories[directory].mount_point = true;
    return {};
}

Result<void> FakeMounts::remove_mount_point(const std::string& directory) {
    if (find_mount(directory) != nullptr) return errno_error(EBUSY, "remove the mount point in '" + directory + "'");
    if (state_.directories.contains(directory)) state_.directories[directory].mount_point = false;
    return {};
}

Result<void> FakeMounts::remove_id(const std::string& directory) {
    if (state_.directories.contains(directory)) state_.directories[directory].id.clear();
    return forget_unsynced(directory);
}

Result<void> FakeMounts::remove_directory(const std::string& directory) {
    const auto found = state_.directories.find(directory);
    if (found == state_.directories.end()) return {};
    if (found->second.mount_point || !found->second.id.empty() || found->second.unsynced) {
        return errno_error(ENOTEMPTY, "remove '" + directory + "'");
    }
    state_.directories.erase(found);
    return {};
}

Result<void> FakeMounts::rename_directory(const std::string& from, const std::string& to) {
    if (!state_.directories.contains(from)) return errno_error(ENOENT, "rename '" + from + "'");
    if (state_.directories.contains(to)) return errno_error(EEXIST, "rename '" + from + "' to '" + to + "'");
    auto directory = state_.directories.extract(from);
    directory.key() = to;
    state_.directories.insert(std::move(directory));
    return {};
}

Result<schemas::ListMounts::Reply> FakeMounts::list(const std::string& after) {
    schemas::ListMounts::Reply reply;
    for (auto entry = state_.directories.upper_bound(after); entry != state_.directories.end(); ++entry) {
        if (reply.mounts.size() == kMostListed) {
            reply.more = true;
            break;
        }
        schemas::MountedVolume volume;
        volume.directory = entry->first;
        volume.id = entry->second.id;
        if (const auto& mount = entry->second.mount) {
            volume.dm_uuid = mount->dm_uuid;
            volume.read_only = mount->options.read_only;
            volume.mount_label = mount->options.mount_label;
        }
        reply.mounts.push_back(std::move(volume));
    }
    return reply;
}

Result<void> FakeMounts::mount(const schemas::Mount& request) {
    const auto found = state_.directories.find(request.directory);
    if (found == state_.directories.end() || !found->second.mount_point) {
        return errno_error(ENOENT, "open the mount point in '" + request.directory + "'");
    }
    if (found->second.mount) return errno_error(EXDEV, "open the mount point in '" + request.directory + "'");
    TRY(check_active(request.device));
    FakeFilesystem& on_device = content(request.device.dm_uuid);
    if (on_device.fs != request.fs) {
        return Error{Errc::needs_repair,
                     fmt::format("mount {} on '{}': it is not there", request.fs, request.device.path)};
    }
    if (devices_.sectors && on_device.sectors > devices_.sectors(request.device.dm_uuid)) {
        return Error{Errc::needs_repair, fmt::format("mount '{}': it is larger than its device", request.device.path)};
    }
    const bool device_read_only = devices_.read_only && devices_.read_only(request.device.dm_uuid);
    if (device_read_only && (on_device.journal || !request.read_only)) {
        return Error{Errc::needs_repair, fmt::format("mount '{}': its device is read-only", request.device.path)};
    }
    on_device.journal = !request.read_only;
    if (request.grow && !request.read_only) fill(request.device.dm_uuid);
    on_device.cut_off = false;
    found->second.mount =
        FakeMountState::Mount{.dm_uuid = request.device.dm_uuid,
                              .options = {.read_only = request.read_only, .mount_label = request.mount_label},
                              .chosen = request.options};
    return {};
}

Result<MountOptions> FakeMounts::read_options(const std::string& directory) {
    if (const auto* mount = find_mount(directory)) return mount->options;
    return Error{Errc::internal, "find the mount in '" + directory + "': it is not listed"};
}

Result<void> FakeMounts::grow(const std::string& directory) {
    const auto* mount = find_mount(directory);
    if (mount == nullptr) return errno_error(ENOENT, "grow '" + directory + "'");
    if (mount->options.read_only) return errno_error(EROFS, "grow '" + directory + "'");
    fill(mount->dm_uuid);
    return {};
}

// A block of each stretch is not used.
Result<std::uint64_t> FakeMounts::trim(const std::string& directory, std::uint64_t offset_bytes,
                                       std::uint64_t length_bytes) {
    const auto* mount = find_mount(directory);
    if (mount == nullptr) return errno_error(ENOENT, "trim '" + directory + "'");
    if (mount->options.read_only) return errno_error(EROFS, "trim '" + directory + "'");
    state_.trims[mount->dm_uuid].push_back(offset_bytes);
    return std::min<std::uint64_t>(length_bytes, 4096);
}

Result<std::int32_t> FakeMounts::sync(const std::string& directory, bool pool_sound) {
    const auto* mount = find_mount(directory);
    if (mount == nullptr) return 0;
    const auto known = TRY(find_unsynced(directory));
    if (known && *known != 0) return *known;
    if (known && !pool_sound) return EIO;
    const auto error = state_.sync_errors.extract(mount->dm_uuid);
    if (!error) {
        TRY(forget_unsynced(directory));
        return 0;
    }
    state_.directories[directory].unsynced = error.mapped();
    return error.mapped();
}

Result<std::optional<std::int32_t>> FakeMounts::find_unsynced(const std::string& directory) {
    const auto found = state_.directories.find(directory);
    if (found == state_.directories.end() || !found->second.unsynced) return std::optional<std::int32_t>();
    return found->second.unsynced;
}

Result<void> FakeMounts::forget_unsynced(const std::string& directory) {
    if (state_.directories.contains(directory)) state_.directories[directory].unsynced.reset();
    return {};
}

Result<void> FakeMounts::shut_down(const std::string& directory) {
    if (find_mount(directory) != nullptr) state_.directories[directory].shut_down = true;
    return {};
}

Result<bool> FakeMounts::unmount(const std::string& directory) {
    if (find_mount(directory) == nullptr) return errno_error(EINVAL, "unmount '" + directory + "'");
    if (state_.holders.contains(directory)) return false;
    const auto& [uuid, options, chosen] = *find_mount(directory);
    const bool wrote = !options.read_only && !state_.directories[directory].shut_down;
    if (wrote) content(uuid).journal = false;
    if (wrote && devices_.went_back && devices_.went_back(uuid)) content(uuid).cut_off = true;
    state_.directories[directory].mount.reset();
    state_.directories[directory].shut_down = false;
    return true;
}

std::vector<schemas::Holder> FakeMounts::find_holders(const std::string& directory) {
    const auto found = state_.holders.find(directory);
    return found == state_.holders.end() ? std::vector<schemas::Holder>{} : found->second;
}

}  // namespace cowslip
