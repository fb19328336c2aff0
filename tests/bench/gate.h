// The start of a benchmark's worker processes: each says when it is ready, and all begin when the parent lets them.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

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

}  // namespace cowslip
