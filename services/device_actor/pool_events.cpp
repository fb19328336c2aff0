#include "services/device_actor/pool_events.h"

#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

namespace cowslip {

// From now on `control_` is not readable before the next event.
bool PoolEvents::arm() {
    if (!control_) control_ = Fd(open("/dev/mapper/control", O_RDWR | O_CLOEXEC));
    dm_ioctl request{};
    request.version[0] = DM_VERSION_MAJOR;
    request.data_size = sizeof(request);
    if (control_ && ioctl(control_.get(), DM_DEV_ARM_POLL, &request) == 0) return true;
    spdlog::debug("wait for the pool's events: {}", std::strerror(errno));  // There are the slow looks.
    return false;
}

void PoolEvents::watch(const DmDevice& pool) {
    watching_ = arm();
    if (!watching_) return;
    const auto found = dm_.find(pool);
    watching_ = found && *found;
    if (!watching_) return;
    pool_ = pool;
    event_number_ = (*found)->event_number;
}

bool PoolEvents::happened() {
    watching_ = watching_ && arm();
    if (!watching_) return false;
    const auto found = dm_.find(pool_);
    if (found && *found && (*found)->event_number == event_number_) return false;
    watching_ = false;
    return true;
}

}  // namespace cowslip
