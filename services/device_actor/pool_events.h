// The kernel's own word that something has happened to the pool: it has come to its low water, is full, or its mode has
// changed. Only a hint to look sooner: one that is missed is found by the next look.
#pragma once

#include <cstdint>

#include "common/device_mapper.h"
#include "common/files.h"

namespace cowslip {

class PoolEvents {
public:
    explicit PoolEvents(DeviceMapper& dm) : dm_(dm) {}

    // What happens from now on; so before a look at the pool. Ends with the next event.
    void watch(const DmDevice& pool);
    void stop() { watching_ = false; }
    // Readable when there is an event of any dm device. -1: nothing is watched.
    int fd() const { return watching_ ? control_.get() : -1; }
    // Whether one of these was the pool's; until then it goes on watching.
    bool happened();

private:
    bool arm();

    DeviceMapper& dm_;
    Fd control_;  // libdevmapper hides its own.
    DmDevice pool_;
    std::uint32_t event_number_ = 0;
    bool watching_ = false;
};

}  // namespace cowslip
