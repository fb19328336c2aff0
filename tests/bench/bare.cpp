// cowslip-bench-bare: what the main job costs without any service, the reference for deploy/bench. Each of K processes
// does cycles of: snapshot of a base in a thin pool, activate, mount (ext4), write 4 KiB, unmount, remove, delete; with
// libdevmapper and system calls, as a careful C program would: no process started, no sync of its own, no wait for
// udev. The base must not be active. Prints JSON; times are in milliseconds.
#include <fcntl.h>
#include <libdevmapper.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "common/result.h"
#include "tests/bench/gate.h"

namespace {

using cowslip::Errc;
using cowslip::errno_error;
using cowslip::Error;
using cowslip::Gate;
using cowslip::Result;
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

// `times` are those of all workers.
Result<void> work(const Options& options, unsigned number, Times* times, Gate& gate) {
    // libdevmapper is not to be shared with the parent: its descriptor is opened here.
    dm_udev_set_sync_support(0);
    dm_udev_set_checking(0);
    dm_hold_control_dev(1);
    Worker worker(options, number);
    TRY(worker.prepare());
    gate.ready_and_wait();
    Result<void> result;
    for (unsigned i = 0; i < options.cycles && result; ++i) {
        const auto cycle = worker.cycle();
        if (cycle) {
            times[number * options.cycles + i] = *cycle;
        } else {
            result = cycle.error();
        }
    }
    worker.tidy();
    return result;
}

// Forks the workers, lets them begin together, and waits for them. The seconds that they took.
Result<double> run_workers(const Options& options, Times* times) {
    Gate gate;
    TRY(gate.open());
    std::vector<pid_t> pids;
    for (unsigned number = 0; number < options.workers; ++number) {
        const pid_t pid = fork();
        if (pid < 0) return errno_error(errno, "fork");
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            const auto result = work(options, number, times, gate);
            if (!result) fmt::print(stderr, "worker {}: {}\n", number, result.error().message);
            _exit(result ? 0 : 1);
        }
        pids.push_back(pid);
    }
    gate.wait_for_ready();
    const auto start = Clock::now();
    gate.let_go();
    bool failed = false;
    for (const pid_t pid : pids) {
        int status = 0;
        failed = waitpid(pid, &status, 0) != pid || status != 0 || failed;
    }
    const std::chrono::duration<double> seconds = Clock::now() - start;
    if (failed) return Error{Errc::internal, "a worker failed"};
    return seconds.count();
}

double percentile(std::vector<double> values, double part) {
    std::sort(values.begin(), values.end());
    return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1) + 0.5)];
}

Result<void> run(const Options& options) {
    const std::size_t count = std::size_t{options.workers} * options.cycles;
    void* memory = mmap(nullptr, count * sizeof(Times), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return errno_error(errno, "mmap");
    const auto* times = static_cast<Times*>(memory);
    const double seconds = TRY(run_workers(options, static_cast<Times*>(memory)));

    fmt::print("{{\"workers\": {}, \"cycles\": {}, \"cycles_per_second\": {:.3f}", options.workers, count,
               static_cast<double>(count) / seconds);
    for (std::size_t step = 0; step <= kCycle; ++step) {
        std::vector<double> values;
        for (std::size_t i = 0; i < count; ++i) values.push_back(times[i][step]);
        const char* name = step == kCycle ? "cycle" : kSteps[step];
        fmt::print(", \"{0}_p50_ms\": {1:.3f}, \"{0}_p99_ms\": {2:.3f}", name, percentile(values, 0.5),
                   percentile(values, 0.99));
    }
    fmt::print("}}\n");
    return {};
}

}  // namespace

int main(int argc, char** argv) {
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
    if (!result) fmt::print(stderr, "cowslip-bench-bare: {}\n", result.error().message);
    return result ? 0 : 1;
}
