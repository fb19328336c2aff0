// A thin pool of the test's own, made with dmsetup over loop devices, a DIR/mnt beside it, and the
// mount actor's kernel side over both. Everything is put away in the end, mounted or not.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "schemas/mount_actor.h"
#include "services/mount_actor/kernel_filesystems.h"
#include "services/mount_actor/mount_actor.h"
#include "tests/device/other_process.h"
#include "tests/fakes/mount_conformance.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip {

// Runs a tool and returns what it says; fails the test if it fails.
std::string run(const std::vector<std::string>& arguments);

class MountLab : public mount_conformance::World {
public:
    explicit MountLab(std::uint64_t data_mib = 1024, const std::string& features = "0");
    MountLab(const MountLab&) = delete;
    ~MountLab() override;

    Filesystems& filesystems() override { return *filesystems_; }
    MountActor& actor() { return actor_; }
    std::string mounts_folder() const { return folder_ / "mnt"; }
    std::string uuid_file() const { return folder_ / "uuid"; }
    std::string rootfs(const std::string& directory) const { return mounts_folder() + "/" + directory + "/rootfs"; }

    schemas::DeviceRef make_device(std::uint64_t size_mib) override;
    schemas::DeviceRef snapshot(const schemas::DeviceRef& origin) override;
    std::function<void()> hold(const std::string& directory) override;
    bool run_until(int effects, const std::function<void(MountActor&)>& commands) override;

    void resize(const schemas::DeviceRef& device, std::uint64_t size_mib);
    // Another table for the same life.
    void reload(const schemas::DeviceRef& device, const std::string& table, bool read_only = false);
    std::string thin_table(const schemas::DeviceRef& device) const;
    // The device is gone, its blocks are not. False: somebody has it open.
    bool deactivate(const schemas::DeviceRef& device);
    void activate_again(const schemas::DeviceRef& device);
    // A snapshot as a power cut leaves it: the origin's journal is not replayed.
    schemas::DeviceRef crash_image(const schemas::DeviceRef& origin);
    std::uint64_t mapped_kib(const schemas::DeviceRef& device) const;
    std::uint64_t written_kib(const schemas::DeviceRef& device) const;

private:
    struct Thin {
        std::uint32_t id = 0;
        std::uint64_t size_mib = 0;
    };
    schemas::DeviceRef activate(std::uint32_t id, std::uint64_t size_mib);
    std::uint32_t create_snap(const schemas::DeviceRef& origin);
    std::string name_of(const schemas::DeviceRef& device) const;

    TemporaryFolder folder_;
    std::string pool_;
    std::vector<std::string> loops_;
    std::uint32_t next_id_ = 2;
    std::map<std::string, Thin> thins_;  // By dm uuid.
    std::optional<KernelFilesystems> filesystems_;
    MountActor actor_;
    std::optional<OtherProcess> holder_;
};

}  // namespace cowslip
