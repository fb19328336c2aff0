// The fakes with calls that fail: the n-th of all calls of device-mapper, host and file systems, once or from then on.
// A call that fails has done nothing. What the kernel has no word for (closing, pausing) does not fail.
#pragma once

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tests/fakes/fake_host.h"
#include "tests/simulation/mutants.h"

namespace cowslip::simulation {

struct CallFaults {
    std::int64_t fail_at = -1;  // Counted from 0; -1: none fails.
    bool for_ever = false;      // All behind it, too.
    std::int64_t calls = 0;     // So far.

    bool fails() {
        const std::int64_t number = calls++;
        return fail_at >= 0 && (for_ever ? number >= fail_at : number == fail_at);
    }
    void heal() { fail_at = -1; }
};

inline Error failed_call(std::string_view what) {
    return errno_error(EIO, what);
}

class FailingDeviceMapper : public MutableDeviceMapper {
public:
    FailingDeviceMapper(FakeKernel& kernel, CallFaults& faults) : MutableDeviceMapper(kernel), faults_(faults) {}

    Result<std::optional<DmInfo>> find(const DmDevice& device) override {
        if (faults_.fails()) return failed_call("find device");
        return MutableDeviceMapper::find(device);
    }
    Result<std::vector<DmInfo>> list(std::string_view uuid_prefix) override {
        if (faults_.fails()) return failed_call("list devices");
        return MutableDeviceMapper::list(uuid_prefix);
    }
    Result<DmTable> targets(const DmDevice& device) override {
        if (faults_.fails()) return failed_call("read table");
        return MutableDeviceMapper::targets(device);
    }
    Result<std::optional<DmTarget>> status(const DmDevice& device) override {
        if (faults_.fails()) return failed_call("read status");
        return MutableDeviceMapper::status(device);
    }
    [[nodiscard]] int create(const DmDevice& device, dev_t* number) override {
        return faults_.fails() ? EIO : MutableDeviceMapper::create(device, number);
    }
    using DeviceMapper::create;
    [[nodiscard]] int load(const DmDevice& device, const DmTable& table, bool read_only) override {
        return faults_.fails() ? EIO : MutableDeviceMapper::load(device, table, read_only);
    }
    [[nodiscard]] int suspend(const DmDevice& device, SuspendMode mode) override {
        return faults_.fails() ? EIO : MutableDeviceMapper::suspend(device, mode);
    }
    [[nodiscard]] int resume(const DmDevice& device) override {
        return faults_.fails() ? EIO : MutableDeviceMapper::resume(device);
    }
    [[nodiscard]] int remove(const DmDevice& device) override {
        return faults_.fails() ? EIO : MutableDeviceMapper::remove(device);
    }
    [[nodiscard]] int message(const DmDevice& device, const std::string& text) override {
        return faults_.fails() ? EIO : MutableDeviceMapper::message(device, text);
    }
    Result<std::string> ensure_node(const DmInfo& info) override {
        if (faults_.fails()) return failed_call("make node");
        return MutableDeviceMapper::ensure_node(info);
    }

private:
    CallFaults& faults_;
};

class FailingHost : public FakeHost {
public:
    FailingHost(FakeKernel& kernel, CallFaults& faults) : FakeHost(kernel), faults_(faults) {}

    Result<Backing> make_backing(const schemas::PoolSpec& spec, const Overwrite& overwrite) override {
        if (faults_.fails()) return failed_call("make backing");
        return FakeHost::make_backing(spec, overwrite);
    }
    Result<Backing> find_backing(const schemas::PoolSpec& spec) override {
        if (faults_.fails()) return failed_call("find backing");
        return FakeHost::find_backing(spec);
    }
    Result<void> grow_backing(const schemas::PoolSpec& spec) override {
        if (faults_.fails()) return failed_call("grow backing");
        return FakeHost::grow_backing(spec);
    }
    Result<void> release_backing(const schemas::PoolSpec& spec) override {
        if (faults_.fails()) return failed_call("release backing");
        return FakeHost::release_backing(spec);
    }
    Result<std::optional<std::string>> own_pool() override {
        if (faults_.fails()) return failed_call("read own pool");
        return FakeHost::own_pool();
    }
    Result<void> record_own_pool(const std::string& uuid) override {
        if (faults_.fails()) return failed_call("record own pool");
        return FakeHost::record_own_pool(uuid);
    }
    Result<void> check_listed(const std::string& path) override {
        if (faults_.fails()) return failed_call("check list of devices");
        return FakeHost::check_listed(path);
    }
    Result<ThinPoolSuperblock> read_superblock(const std::string& device) override {
        if (faults_.fails()) return failed_call("read superblock");
        return FakeHost::read_superblock(device);
    }
    Result<void> zero_superblock(const std::string& device) override {
        if (faults_.fails()) return failed_call("zero superblock");
        return FakeHost::zero_superblock(device);
    }
    Result<std::vector<ThinListEntry>> list_thins(const std::string& metadata_device, Sharing sharing) override {
        if (faults_.fails()) return failed_call("thin_ls");
        return FakeHost::list_thins(metadata_device, sharing);
    }
    Result<std::uint64_t> dump_metadata(const std::string& metadata_device, const Dump& wanted) override {
        if (faults_.fails()) return failed_call("thin_dump");
        return FakeHost::dump_metadata(metadata_device, wanted);
    }
    [[nodiscard]] int discard_range(const std::string& device, std::uint64_t offset, std::uint64_t length) override {
        return faults_.fails() ? EIO : FakeHost::discard_range(device, offset, length);
    }
    Result<std::string> device_path(const std::string& number) override {
        if (faults_.fails()) return failed_call("find path of device");
        return FakeHost::device_path(number);
    }
    Result<std::uint64_t> device_sectors(const std::string& path) override {
        if (faults_.fails()) return failed_call("read size of device");
        return FakeHost::device_sectors(path);
    }

private:
    CallFaults& faults_;
};

class FailingFilesystems : public MutableFilesystems {
public:
    FailingFilesystems(Filesystems& inner, Hook before, CallFaults& faults)
        : MutableFilesystems(inner, std::move(before)), faults_(faults) {}

    Result<void> check_ours(const std::string& dm_uuid) override {
        if (faults_.fails()) return failed_call("check device");
        return MutableFilesystems::check_ours(dm_uuid);
    }
    Result<void> format(const schemas::MakeFilesystem& request) override {
        if (faults_.fails()) return failed_call("mkfs");
        return MutableFilesystems::format(request);
    }
    Result<void> prepare_root(const schemas::MakeFilesystem& request) override {
        if (faults_.fails()) return failed_call("prepare root directory");
        return MutableFilesystems::prepare_root(request);
    }
    Result<DirectoryState> look(const std::string& directory) override {
        if (faults_.fails()) return failed_call("look at directory");
        return MutableFilesystems::look(directory);
    }
    Result<void> ensure_directory(const std::string& directory) override {
        if (faults_.fails()) return failed_call("mkdir");
        return MutableFilesystems::ensure_directory(directory);
    }
    Result<void> ensure_id(const std::string& directory, const std::string& id) override {
        if (faults_.fails()) return failed_call("write id");
        return MutableFilesystems::ensure_id(directory, id);
    }
    Result<void> ensure_mount_point(const std::string& directory) override {
        if (faults_.fails()) return failed_call("make mount point");
        return MutableFilesystems::ensure_mount_point(directory);
    }
    Result<void> remove_mount_point(const std::string& directory) override {
        if (faults_.fails()) return failed_call("remove mount point");
        return MutableFilesystems::remove_mount_point(directory);
    }
    Result<void> remove_id(const std::string& directory) override {
        if (faults_.fails()) return failed_call("remove id");
        return MutableFilesystems::remove_id(directory);
    }
    Result<void> remove_directory(const std::string& directory) override {
        if (faults_.fails()) return failed_call("rmdir");
        return MutableFilesystems::remove_directory(directory);
    }
    Result<void> rename_directory(const std::string& from, const std::string& to) override {
        if (faults_.fails()) return failed_call("rename directory");
        return MutableFilesystems::rename_directory(from, to);
    }
    Result<schemas::ListMounts::Reply> list(const std::string& after) override {
        if (faults_.fails()) return failed_call("list mounts");
        return MutableFilesystems::list(after);
    }
    Result<void> mount(const schemas::Mount& request) override {
        if (faults_.fails()) return failed_call("mount");
        return MutableFilesystems::mount(request);
    }
    Result<MountOptions> read_options(const std::string& directory) override {
        if (faults_.fails()) return failed_call("read mount options");
        return MutableFilesystems::read_options(directory);
    }
    Result<void> grow(const std::string& directory) override {
        if (faults_.fails()) return failed_call("grow file system");
        return MutableFilesystems::grow(directory);
    }
    Result<std::int32_t> sync(const std::string& directory, bool pool_sound) override {
        if (faults_.fails()) return failed_call("sync");
        return MutableFilesystems::sync(directory, pool_sound);
    }
    Result<bool> unmount(const std::string& directory) override {
        if (faults_.fails()) return failed_call("umount");
        return MutableFilesystems::unmount(directory);
    }

private:
    CallFaults& faults_;
};

}  // namespace cowslip::simulation
