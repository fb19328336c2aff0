#include "common/signals.h"

#include <sys/signalfd.h>

#include <csignal>

namespace cowslip {

Result<int> stop_signal_fd() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return errno_error(errno, "block SIGTERM and SIGINT");
    ::signal(SIGPIPE, SIG_IGN);
    const int fd = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) return errno_error(errno, "signalfd");
    return fd;
}

}  // namespace cowslip
