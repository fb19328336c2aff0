// The worker processes of a benchmark: each says when it is ready, all begin when the parent lets them, and their
// results lie in memory that is shared with it.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "common/result.h"

namespace cowslip {

// Two pipes: a worker that has closed its end of the one is ready (or dead, which its status tells), and waits until
// the parent closes the other. To be opened before the forks.
class Gate {
public:
    Result<void> open() {
        if (::pipe2(ready_.data(), O_CLOEXEC) != 0 || ::pipe2(begin_.data(), O_CLOEXEC) != 0) {
            return errno_error(errno, "pipe");
        }
        return {};
    }
    // In a worker.
    void ready_and_wait() {
        ::close(begin_[1]);
        ::close(ready_[1]);
        wait_for_end(begin_[0]);
    }
    // In the parent, after the forks.
    void wait_for_ready() {
        ::close(ready_[1]);
        wait_for_end(ready_[0]);
    }
    void let_go() { ::close(begin_[1]); }

private:
    static void wait_for_end(int fd) {
        char byte = 0;
        while (::read(fd, &byte, 1) > 0) {
        }
    }
    std::array<int, 2> ready_{};
    std::array<int, 2> begin_{};
};

// `each` results of every worker. One at a time in a process.
template <class Value>
class Workers {
public:
    // Forks them; the parent must have no thread yet. `work(number, results, gate)` gives a Result<void>.
    template <class Work>
    static Result<Workers> fork(unsigned count, std::size_t each, const Work& work) {
        Workers workers;
        const std::size_t bytes = count * each * sizeof(Value);
        void* shared = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED) return errno_error(errno, "mmap");
        workers.results_ = {static_cast<Value*>(shared), count * each};
        TRY(workers.gate_.open());
        for (unsigned number = 0; number < count; ++number) {
            const pid_t pid = ::fork();
            if (pid < 0) return errno_error(errno, "fork");
            if (pid > 0) {
                workers.pids_.push_back(pid);
                continue;
            }
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            const Result<void> worked = work(number, workers.results_.subspan(number * each, each), workers.gate_);
            if (!worked) fmt::print(stderr, "worker {}: {}\n", number, worked.error().message);
            ::_exit(worked ? 0 : 1);
        }
        return workers;
    }

    void wait_for_ready() { gate_.wait_for_ready(); }
    void let_go() { gate_.let_go(); }
    Result<void> wait() {
        bool failed = false;
        for (const pid_t pid : pids_) {
            int status = 0;
            failed = ::waitpid(pid, &status, 0) != pid || status != 0 || failed;
        }
        if (failed) return Error{Errc::internal, "a worker failed"};
        return {};
    }
    std::span<const Value> results() const { return results_; }

private:
    Gate gate_;
    std::vector<pid_t> pids_;
    std::span<Value> results_;  // Mapped until the process ends.
};

inline double percentile(std::vector<double> values, double part) {
    std::sort(values.begin(), values.end());
    return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))];
}

}  // namespace cowslip
