#include "services/ctl/stop_signal.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

namespace cowslip::ctl {

Result<StopSignal> StopSignal::watch() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    if (const int error = pthread_sigmask(SIG_BLOCK, &signals, nullptr); error != 0) {
        return errno_error(error, "block signals");
    }
    const int fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0) return errno_error(errno, "make a signal descriptor");
    return StopSignal(fd);
}

StopSignal::StopSignal(StopSignal&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), caught_(other.caught_), count_(other.count_) {}

StopSignal::~StopSignal() {
    if (fd_ >= 0) close(fd_);
}

void StopSignal::read_all() {
    signalfd_siginfo info{};
    while (read(fd_, &info, sizeof info) == sizeof info) {
        if (count_++ == 0) caught_ = static_cast<int>(info.ssi_signo);
    }
}

int StopSignal::caught() {
    read_all();
    return caught_;
}

bool StopSignal::caught_again() {
    read_all();
    return count_ > 1;
}

}  // namespace cowslip::ctl
