// Any Filesystems, with a call before each effect (not before what only looks): to count them, to
// throw, or to die there.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "services/mount_actor/filesystems.h"

namespace cowslip {

class HookedFilesystems : public Filesystems {
public:
    using Hook = std::function<void(std::string_view effect)>;
    HookedFilesystems(Filesystems& inner, Hook before) : inner_(inner), before_(std::move(before)) {}

    Result<void> check_ours(const std::string& dm_uuid) override { return inner_.check_ours(dm_uuid); }
    Result<void> format(const schemas::MakeFilesystem& request) override {
        before_("format");
        return inner_.format(request);
    }
    Result<void> prepare_root(const schemas::MakeFilesystem& request) override {
        before_("prepare_root");
        return inner_.prepare_root(request);
    }
    std::string mount_path(const std::string& directory) const override { return inner_.mount_path(directory); }
    Result<DirectoryState> look(const std::string& directory) override { return inner_.look(directory); }
    Result<void> ensure_directory(const std::string& directory) override {
        before_("ensure_directory");
        return inner_.ensure_directory(directory);
    }
    Result<void> ensure_id(const std::string& directory, const std::string& id) override {
        before_("ensure_id");
        return inner_.ensure_id(directory, id);
    }
    Result<void> ensure_mount_point(const std::string& directory) override {
        before_("ensure_mount_point");
        return inner_.ensure_mount_point(directory);
    }
    Result<void> remove_mount_point(const std::string& directory) override {
        before_("remove_mount_point");
        return inner_.remove_mount_point(directory);
    }
    Result<void> remove_id(const std::string& directory) override {
        before_("remove_id");
        return inner_.remove_id(directory);
    }
    Result<void> remove_directory(const std::string& directory) override {
        before_("remove_directory");
        return inner_.remove_directory(directory);
    }
    Result<void> rename_directory(const std::string& from, const std::string& to) override {
        before_("rename_directory");
        return inner_.rename_directory(from, to);
    }
    Result<schemas::ListMounts::Reply> list(const std::string& after) override { return inner_.list(after); }
    bool has_selinux() const override { return inner_.has_selinux(); }
    Result<void> mount(const schemas::Mount& request) override {
        before_("mount");
        return inner_.mount(request);
    }
    Result<MountOptions> read_options(const std::string& directory) override { return inner_.read_options(directory); }
    Result<void> grow(const std::string& directory) override {
        before_("grow");
        return inner_.grow(directory);
    }
    Result<std::uint64_t> trim(const std::string& directory, std::uint64_t offset_bytes,
                               std::uint64_t length_bytes) override {
        before_("trim");
        return inner_.trim(directory, offset_bytes, length_bytes);
    }
    Result<std::int32_t> sync(const std::string& directory, bool pool_sound) override {
        before_("sync");
        return inner_.sync(directory, pool_sound);
    }
    Result<std::optional<std::int32_t>> find_unsynced(const std::string& directory) override {
        return inner_.find_unsynced(directory);
    }
    Result<void> forget_unsynced(const std::string& directory) override {
        before_("forget_unsynced");
        return inner_.forget_unsynced(directory);
    }
    Result<void> shut_down(const std::string& directory) override {
        before_("shut_down");
        return inner_.shut_down(directory);
    }
    Result<bool> unmount(const std::string& directory) override {
        before_("unmount");
        return inner_.unmount(directory);
    }
    std::vector<schemas::Holder> find_holders(const std::string& directory) override {
        return inner_.find_holders(directory);
    }

private:
    Filesystems& inner_;
    Hook before_;
};

}  // namespace cowslip
