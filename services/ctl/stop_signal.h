// SIGINT and SIGTERM as something to look at between two steps, instead of a death in the middle of
// one. Made before any thread is, so that every thread inherits the blocked mask.
#pragma once

#include "common/result.h"

namespace cowslip::ctl {

class StopSignal {
public:
    static Result<StopSignal> watch();
    StopSignal(StopSignal&& other) noexcept;
    StopSignal(const StopSignal&) = delete;
    StopSignal& operator=(const StopSignal&) = delete;
    ~StopSignal();

    // The first signal that has come, or 0.
    int caught();
    // Whether more than one has: somebody is in a hurry.
    bool caught_again();
    int fd() const { return fd_; }

private:
    explicit StopSignal(int fd) : fd_(fd) {}
    int fd_ = -1;
    void read_all();
    int caught_ = 0;
    int count_ = 0;
};

}  // namespace cowslip::ctl
