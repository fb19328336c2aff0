// cowslip-bench bare: what the main job costs without any service, the reference for deploy/bench. Each of K processes
// does cycles of: snapshot of a base in a thin pool, activate, mount (ext4), write 4 KiB, unmount, remove, delete; with
// libdevmapper and system calls, as a careful C program would: no process started, no sync of its own, no wait for
// udev. The base must not be active. Prints JSON; times are in milliseconds.
#include <fcntl.h>
#include <libdevmapper.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "common/result.h"
#include "tests/bench/commands.h"
#include "tests/bench/workers.h"

namespace cowslip::bench::bare {

using Clock = std::chrono::steady_clock;

struct Options {
    std::string pool;  // Its dm name.
    std::uint32_t base_id = 0;
    std::uint64_t sectors = 0;   // Of the base.
    std::uint32_t first_id = 0;  // This thin id and workers * cycles from there on are free.
    unsigned workers = 1;
    unsigned cycles = 50;
    std::string folder;  // Below it are the mount points.
};

constexpr std::array kSteps{"create_snap", "activate", "mount", "write", "umount", "remove", "delete"};
constexpr std::size_t kCycle = kSteps.size();  // After the steps: the whole.

using Times = std::array<double, kSteps.size() + 1>;

class DmTask {
public:
    DmTask(int type, const std::string& name) : task_(dm_task_create(type), &dm_task_destroy), name_(name) {
        if (task_ && dm_task_set_name(task_.get(), name.c_str()) == 0) task_.reset();
    }
    dm_task* get() { return task_.get(); }

    Result<void> run(const std::string& what) {
        if (!task_) return Error{Errc::internal, what + ": no dm task"};
        if (dm_task_run(task_.get()) == 0)
            return errno_error(dm_task_get_errno(task_.get()), what + " '" + name_ + "'");
        return {};
    }

    // For what makes a uevent: udev is told to leave the device alone, and not waited for.
    Result<void> run_without_udev(const std::string& what) {
        constexpr std::uint16_t kFlags = DM_UDEV_DISABLE_DM_RULES_FLAG | DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG |
                                         DM_UDEV_DISABLE_DISK_RULES_FLAG | DM_UDEV_DISABLE_OTHER_RULES_FLAG;
        std::uint32_t cookie = 0;
        if (task_ && dm_task_set_cookie(task_.get(), &cookie, kFlags) == 0) {
            return Error{Errc::internal, what + ": no udev cookie"};
        }
        TRY(run(what));
        dm_task_update_nodes();
        return {};
    }

private:
    std::unique_ptr<dm_task, decltype(&dm_task_destroy)> task_;
    std::string name_;
};

class Worker {
public:
    Worker(const Options& options, unsigned number)
        : options_(options),
          next_id_(options.first_id + number * options.cycles),
          device_(fmt::format("{}-bare-{}", options.pool, number)),
          node_("/dev/mapper/" + device_),
          mount_point_(fmt::format("{}/{}", options.folder, number)),
          file_(mount_point_ + "/written") {}

    Result<void> prepare() {
        if (mkdir(mount_point_.c_str(), 0700) != 0) return errno_error(errno, "make '" + mount_point_ + "'");
        return {};
    }

    Result<Times> cycle() {
        const std::uint32_t id = next_id_++;
        auto times = steps(id);
        if (!times) {  // Whatever of it there is goes away again.
            umount2(mount_point_.c_str(), MNT_DETACH);
            (void)deactivate();
            (void)message(fmt::format("delete {}", id));
        }
        return times;
    }

    void tidy() { rmdir(mount_point_.c_str()); }

private:
    Result<Times> steps(std::uint32_t id) {
        Times times{};
        std::size_t step = 0;
        const auto start = Clock::now();
        auto last = start;
        const auto lap = [&](Clock::time_point from) {
            const auto now = Clock::now();
            times[step++] = std::chrono::duration<double, std::milli>(now - from).count();
            last = now;
        };
        TRY(message(fmt::format("create_snap {} {}", id, options_.base_id)));
        lap(last);
        TRY(activate(id));
        lap(last);
        if (mount(node_.c_str(), mount_point_.c_str(), "ext4", 0, nullptr) != 0) {
            return errno_error(errno, "mount '" + node_ + "'");
        }
        lap(last);
        TRY(write_block());
        lap(last);
        if (umount2(mount_point_.c_str(), 0) != 0) return errno_error(errno, "unmount '" + mount_point_ + "'");
        lap(last);
        TRY(deactivate());
        lap(last);
        TRY(message(fmt::format("delete {}", id)));
        lap(last);
        lap(start);
        return times;
    }

    Result<void> message(const std::string& text) {
        DmTask task(DM_DEVICE_TARGET_MSG, options_.pool);
        if (task.get() != nullptr) {
            dm_task_set_sector(task.get(), 0);
            dm_task_set_message(task.get(), text.c_str());
        }
        return task.run("message '" + text + "' to");
    }

    // One task with the table in it creates, loads and resumes.
    Result<void> activate(std::uint32_t id) {
        DmTask task(DM_DEVICE_CREATE, device_);
        const std::string table = fmt::format("/dev/mapper/{} {}", options_.pool, id);
        if (task.get() != nullptr) dm_task_add_target(task.get(), 0, options_.sectors, "thin", table.c_str());
        return task.run_without_udev("create device");
    }

    Result<void> deactivate() { return DmTask(DM_DEVICE_REMOVE, device_).run_without_udev("remove device"); }

    Result<void> write_block() {
        const std::array<char, 4096> block{'x'};
        const int fd = open(file_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0) return errno_error(errno, "open '" + file_ + "'");
        const bool written = write(fd, block.data(), block.size()) == static_cast<ssize_t>(block.size());
        const int number = errno;
        if (close(fd) != 0 || !written) return errno_error(number, "write '" + file_ + "'");
        return {};
    }

    const Options& options_;
    std::uint32_t next_id_;
    std::string device_;
    std::string node_;
    std::string mount_point_;
    std::string file_;
};

Result<void> work(const Options& options, unsigned number, std::span<Times> times, Gate& gate) {
    // libdevmapper is not to be shared with the parent: its descriptor is opened here.
    dm_udev_set_sync_support(0);
    dm_udev_set_checking(0);
    dm_hold_control_dev(1);
    Worker worker(options, number);
    TRY(worker.prepare());
    gate.ready_and_wait();
    Result<void> result;
    for (Times& cycle : times) {
        const auto taken = worker.cycle();
        if (!taken) {
            result = taken.error();
            break;
        }
        cycle = *taken;
    }
    worker.tidy();
    return result;
}

Result<void> run(const Options& options) {
    auto workers = TRY(Workers<Times>::fork(
        options.workers, options.cycles,
        [&](unsigned number, std::span<Times> times, Gate& gate) { return work(options, number, times, gate); }));
    workers.wait_for_ready();
    const auto start = Clock::now();
    workers.let_go();
    TRY(workers.wait());
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const std::span<const Times> times = workers.results();
    const std::size_t count = times.size();

    fmt::print("{{\"workers\": {}, \"cycles\": {}, \"cycles_per_second\": {:.3f}", options.workers, count,
               static_cast<double>(count) / seconds);
    for (std::size_t step = 0; step <= kCycle; ++step) {
        std::vector<double> values;
        for (const Times& cycle : times) values.push_back(cycle[step]);
        const char* name = step == kCycle ? "cycle" : kSteps[step];
        fmt::print(", \"{0}_p50_ms\": {1:.3f}, \"{0}_p99_ms\": {2:.3f}", name, percentile(values, 0.5),
                   percentile(values, 0.99));
    }
    fmt::print("}}\n");
    return {};
}

int command(int argc, char** argv) {
    Options options;
    CLI::App app("What the main job costs with libdevmapper and system calls alone; prints JSON");
    app.add_option("--pool", options.pool, "dm name of an existing pool")->required();
    app.add_option("--base", options.base_id, "thin id of an ext4 volume in it that is not active")->required();
    app.add_option("--sectors", options.sectors, "the base's size")->required();
    app.add_option("--first-id", options.first_id, "this thin id, and WORKERS * CYCLES from there on, are free")
        ->required();
    app.add_option("--workers", options.workers, "processes; default 1")->check(CLI::Range(1U, 1024U));
    app.add_option("--cycles", options.cycles, "by each of them; default 50")->check(CLI::Range(1U, 100000U));
    app.add_option("--folder", options.folder, "an empty folder for the mount points")->required();
    CLI11_PARSE(app, argc, argv);
    const auto result = run(options);
    if (!result) fmt::print(stderr, "cowslip-bench bare: {}\n", result.error().message);
    return result ? 0 : 1;
}

}  // namespace cowslip::bench::bare
