// A disk below a linear device, so that its I/O can be made to fail for a while.
#pragma once

#include <fmt/format.h>

#include "tests/device/loop_disk.h"

namespace cowslip {

class FaultyDisk {
public:
    FaultyDisk(DeviceMapper& dm, std::uint64_t sectors) : dm_(dm), sectors_(sectors), disk_(sectors) {
        REQUIRE(dm_.create(kDevice) == 0);
        set_table("linear");
    }
    ~FaultyDisk() { static_cast<void>(dm_.remove(kDevice)); }
    FaultyDisk(const FaultyDisk&) = delete;
    FaultyDisk& operator=(const FaultyDisk&) = delete;

    std::string number() const { return device_number(dm_.find(kDevice).value()->number); }
    std::string path() const { return dm_.ensure_node(dm_.find(kDevice).value().value()).value(); }
    void grow(std::uint64_t sectors) {
        sectors_ = sectors;
        disk_.grow(sectors);
        set_table(type_);
    }
    void fail_writes() { set_table("flakey"); }
    void fail_all() { set_table("error"); }
    void heal() { set_table("linear"); }

private:
    static inline const DmDevice kDevice{"faulty-disk", "FAULTY-disk"};

    void set_table(const std::string& type) {
        type_ = type;
        std::string parameters = disk_.path() + " 0";
        if (type == "flakey") parameters += " 0 3600 1 error_writes";  // Never up, always down.
        if (type == "error") parameters.clear();
        REQUIRE(dm_.load(kDevice, {type, sectors_, parameters}, false) == 0);
        REQUIRE(dm_.suspend(kDevice, SuspendMode::no_flush) == 0);
        REQUIRE(dm_.resume(kDevice) == 0);
    }

    DeviceMapper& dm_;
    std::uint64_t sectors_;
    std::string type_;
    LoopDisk disk_;
};

}  // namespace cowslip
