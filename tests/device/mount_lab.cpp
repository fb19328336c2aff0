#include "tests/device/mount_lab.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/files.h"
#include "common/names.h"
#include "common/process.h"
#include "tests/fakes/hooked_filesystems.h"

namespace cowslip {

namespace {

constexpr const char* kPoolUuid = "00000000000000000000000000c0ffee";
constexpr std::uint64_t kSectorsPerMib = 2048;

bool try_run(const std::vector<std::string>& arguments) {
    const auto result = run_process({.arguments = arguments});
    return result && result->exit_status == 0;
}

}  // namespace

std::string run(const std::vector<std::string>& arguments) {
    INFO(fmt::format("{}", fmt::join(arguments, " ")));
    const auto result = run_process({.arguments = arguments});
    REQUIRE(result);
    INFO(result->errors);
    REQUIRE(result->exit_status == 0);
    std::string output = result->output;
    while (output.ends_with('\n')) output.pop_back();
    return output;
}

MountLab::MountLab(std::uint64_t data_mib, const std::string& features)
    : pool_("cowslip-test-" + std::filesystem::path(folder_.path()).filename().string()),
      filesystems_([this] {
          std::filesystem::create_directory(mounts_folder());
          std::ofstream(uuid_file()) << kPoolUuid << "\n";
          auto opened = KernelFilesystems::open(mounts_folder(), uuid_file(), {});
          REQUIRE(opened);
          return std::move(*opened);
      }()),
      actor_(*filesystems_) {
    for (const auto& [name, mib] : {std::pair<std::string, std::uint64_t>("metadata", 8), {"data", data_mib}}) {
        std::ofstream(folder_ / name).close();
        std::filesystem::resize_file(folder_ / name, mib << 20U);
        loops_.push_back(run({"losetup", "--find", "--show", folder_ / name}));
    }
    run({"dmsetup", "create", pool_, "--table",
         fmt::format("0 {} thin-pool {} {} 128 0 {}", data_mib * kSectorsPerMib, loops_[0], loops_[1], features)});
}

MountLab::~MountLab() {
    holder_.reset();
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(mounts_folder(), ignored)) {
        umount2((entry.path() / "rootfs").c_str(), MNT_DETACH);
    }
    for (const auto& [uuid, thin] : thins_) {
        const std::string path = "/dev/mapper/" + thin_dm_name(kPoolUuid, thin.id);
        for (int attempt = 0; attempt < 50 && access(path.c_str(), F_OK) == 0; ++attempt) {
            if (try_run({"dmsetup", "remove", path})) break;
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
    }
    try_run({"dmsetup", "remove", pool_});
    for (const auto& loop : loops_) try_run({"losetup", "--detach", loop});
}

schemas::DeviceRef MountLab::activate(std::uint32_t id, std::uint64_t size_mib) {
    const std::string uuid = thin_dm_uuid(kPoolUuid, id);
    const std::string name = thin_dm_name(kPoolUuid, id);
    thins_[uuid] = {.id = id, .size_mib = size_mib};
    const schemas::DeviceRef device{.path = "/dev/mapper/" + name, .dm_uuid = uuid};
    run({"dmsetup", "create", name, "--uuid", uuid, "--table", thin_table(device)});
    return device;
}

std::string MountLab::thin_table(const schemas::DeviceRef& device) const {
    const Thin& thin = thins_.at(device.dm_uuid);
    return fmt::format("0 {} thin /dev/mapper/{} {}", thin.size_mib * kSectorsPerMib, pool_, thin.id);
}

std::string MountLab::name_of(const schemas::DeviceRef& device) const {
    return thin_dm_name(kPoolUuid, thins_.at(device.dm_uuid).id);
}

schemas::DeviceRef MountLab::make_device(std::uint64_t size_mib) {
    const std::uint32_t id = next_id_++;
    run({"dmsetup", "message", pool_, "0", fmt::format("create_thin {}", id)});
    return activate(id, size_mib);
}

schemas::DeviceRef MountLab::snapshot(const schemas::DeviceRef& origin) {
    run({"dmsetup", "suspend", name_of(origin)});  // Freezes its file system.
    const std::uint32_t id = create_snap(origin);
    run({"dmsetup", "resume", name_of(origin)});
    return activate(id, thins_.at(origin.dm_uuid).size_mib);
}

schemas::DeviceRef MountLab::crash_image(const schemas::DeviceRef& origin) {
    run({"dmsetup", "suspend", "--nolockfs", name_of(origin)});
    const std::uint32_t id = create_snap(origin);
    run({"dmsetup", "resume", name_of(origin)});
    return activate(id, thins_.at(origin.dm_uuid).size_mib);
}

std::uint32_t MountLab::create_snap(const schemas::DeviceRef& origin) {
    const std::uint32_t id = next_id_++;
    run({"dmsetup", "message", pool_, "0", fmt::format("create_snap {} {}", id, thins_.at(origin.dm_uuid).id)});
    return id;
}

void MountLab::reload(const schemas::DeviceRef& device, const std::string& table, bool read_only) {
    std::vector<std::string> load = {"dmsetup", "load", name_of(device), "--table", table};
    if (read_only) load.push_back("--readonly");
    run(load);
    run({"dmsetup", "suspend", name_of(device)});
    run({"dmsetup", "resume", name_of(device)});
}

void MountLab::resize(const schemas::DeviceRef& device, std::uint64_t size_mib) {
    thins_.at(device.dm_uuid).size_mib = size_mib;
    reload(device, thin_table(device));
}

void MountLab::activate_again(const schemas::DeviceRef& device) {
    const Thin thin = thins_.at(device.dm_uuid);
    activate(thin.id, thin.size_mib);
}

bool MountLab::deactivate(const schemas::DeviceRef& device) {
    return try_run({"dmsetup", "remove", name_of(device)});
}

std::uint64_t MountLab::mapped_kib(const schemas::DeviceRef& device) const {
    std::istringstream status(run({"dmsetup", "status", name_of(device)}));  // 0 1024 thin 128 1023
    std::string word;
    std::uint64_t sectors = 0;
    status >> word >> word >> word >> sectors;
    return sectors / 2;
}

std::uint64_t MountLab::written_kib(const schemas::DeviceRef& device) const {
    struct stat status {};
    REQUIRE(stat(device.path.c_str(), &status) == 0);
    std::istringstream counts(
        *read_file(fmt::format("/sys/dev/block/{}:{}/stat", major(status.st_rdev), minor(status.st_rdev))));
    std::uint64_t sectors = 0;
    for (int field = 0; field < 7; ++field) counts >> sectors;
    return sectors / 2;
}

std::function<void()> MountLab::hold(const std::string& directory) {
    const std::string path = rootfs(directory);
    holder_.emplace([&] {
        if (chdir(path.c_str()) != 0) _exit(1);
    });
    return [this] { holder_.reset(); };
}

bool MountLab::run_until(int effects, const std::function<void(MountActor&)>& commands) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        HookedFilesystems mortal(*filesystems_, [&effects](std::string_view) {
            if (effects-- == 0) kill(getpid(), SIGKILL);
        });
        MountActor actor(mortal);
        commands(actor);
        _exit(0);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status);
}

}  // namespace cowslip
