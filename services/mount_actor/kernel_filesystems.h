// The mount actor's hands: Filesystems as the kernel has them. Everything in DIR/mnt is resolved
// beneath a descriptor of it, through no symbolic link.
#pragma once

#include <string>
#include <vector>

#include "common/files.h"
#include "common/result.h"
#include "services/mount_actor/filesystems.h"

namespace cowslip {

class KernelFilesystems : public Filesystems {
public:
    // `mounts_folder` is DIR/mnt, absolute, and `uuid_file` DIR/pool/uuid. `inherited_fds` are left
    // open in children: the actor's lock, which must be held as long as an mkfs lives (protocol.md A15).
    static Result<KernelFilesystems> open(const std::string& mounts_folder, const std::string& uuid_file,
                                          std::vector<int> inherited_fds);

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

    bool has_selinux() const override;
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
    KernelFilesystems(std::string mounts_path, Fd mounts, std::string uuid_file, std::vector<int> inherited_fds);
    Result<void> note_unsynced(const std::string& directory, const std::string& text);
    std::string describe(const char* verb, const std::string& directory) const;

    std::string mounts_path_;
    Fd mounts_;
    std::string uuid_file_;
    std::vector<int> inherited_fds_;
};

}  // namespace cowslip
