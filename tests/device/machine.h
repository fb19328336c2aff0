// A device actor on this machine's device-mapper, with a state folder of its own; all that it made is
// put away at the end.
#pragma once

#include <sys/mount.h>
#include <sys/stat.h>

#include <chrono>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "common/device_mapper.h"
#include "common/files.h"
#include "common/names.h"
#include "common/process.h"
#include "common/thin_pool.h"
#include "services/device_actor/device_actor.h"
#include "services/device_actor/linux_host.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip {

inline constexpr std::uint64_t kMib = 2048;  // Sectors.
inline constexpr std::uint64_t kTag = std::uint64_t{7} << 32U;

class Machine {
public:
    explicit Machine(std::string pool_uuid = "0123456789abcdef0123456789abcdef")
        : uuid(std::move(pool_uuid)), pool{uuid, pool_dm_name(uuid)} {
        REQUIRE(mkdir(pool_folder().c_str(), 0700) == 0);
        spec.pool = pool;
        spec.backing = "loop";
        spec.data_sectors = 512 * kMib;
        spec.metadata_sectors = 16 * kMib;
    }
    Machine(const Machine&) = delete;
    ~Machine() {
        for (auto mount = mounts_.rbegin(); mount != mounts_.rend(); ++mount) umount2(mount->c_str(), MNT_DETACH);
        for (int round = 0; round < 2; ++round) {
            const auto devices = dm.list("COWSLIP-" + uuid).value();
            for (const auto& left : devices) {
                if (left.suspended) static_cast<void>(dm.resume(left.device));
                static_cast<void>(dm.remove(left.device));
            }
        }
        static_cast<void>(host.release_backing(spec));
    }

    std::string pool_folder() const { return folder.path() + "/pool"; }
    DmDevice thin(std::uint32_t id) const { return {thin_dm_name(uuid, id), thin_dm_uuid(uuid, id)}; }
    std::string path(std::uint32_t id) const { return node_path(thin(id).name); }
    Outcome judged(const schemas::Verdict& verdict) const {
        CAPTURE(verdict.error_number, verdict.status);
        return judge(verdict.error_number, verdict.status, kTag + 1, kTag + 2);
    }

    void make_pool() {
        const auto state = actor.create_pool({.spec = spec, .own_transaction_id = kTag + 1});
        INFO((state ? "" : state.error().message));
        REQUIRE(state);
        REQUIRE(judged(actor.set_transaction_id({pool, 0, kTag + 1}).value()) == Outcome::done);
    }
    void make_thin(std::uint32_t id) { REQUIRE(judged(actor.create_thin({pool, id}).value()) == Outcome::done); }
    void activate(std::uint32_t id, std::uint64_t sectors = 256 * kMib) {
        const auto reply = actor.activate({pool, id, sectors, false});
        REQUIRE(reply);
        REQUIRE(reply->error_number == 0);
        REQUIRE(reply->path == path(id));
    }
    // The folder on which it is now mounted.
    std::string mount(std::uint32_t id) {
        const std::string target = folder.path() + "/mount" + std::to_string(id);
        REQUIRE(mkdir(target.c_str(), 0700) == 0);
        REQUIRE(::mount(path(id).c_str(), target.c_str(), "ext4", 0, nullptr) == 0);
        mounts_.push_back(target);
        return target;
    }
    static int run(std::vector<std::string> arguments) {
        ProcessOptions options;
        options.arguments = std::move(arguments);
        const auto result = run_process(options);
        REQUIRE(result);
        INFO(result->errors);
        return result->exit_status;
    }
    void format(std::uint32_t id) { REQUIRE(run({"mkfs.ext4", "-q", "-E", "nodiscard", path(id)}) == 0); }

    std::string uuid;
    schemas::PoolRef pool;
    schemas::PoolSpec spec;
    TemporaryFolder folder;
    Fd lock{open((folder / "lock").c_str(), O_RDWR | O_CREAT, 0600)};
    KernelDeviceMapper dm = KernelDeviceMapper::open().value();
    LinuxHost host{pool_folder(), dm, lock.get()};
    DeviceActor actor{dm, host};

private:
    std::vector<std::string> mounts_;
};

// Overwrites the beginning of a file.
inline void overwrite(const std::string& path, const std::string& bytes, off_t at = 0) {
    const Fd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    REQUIRE(file);
    REQUIRE(pwrite(file.get(), bytes.data(), bytes.size(), at) == static_cast<ssize_t>(bytes.size()));
    REQUIRE(fsync(file.get()) == 0);
}

}  // namespace cowslip
