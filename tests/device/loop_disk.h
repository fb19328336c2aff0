// A block device of a test's own: a sparse file on a loop device, gone with it.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <string>

#include <catch2/catch.hpp>

#include "common/device_mapper.h"
#include "common/files.h"
#include "services/device_actor/block_device.h"
#include "services/device_actor/loop_device.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip {

class LoopDisk {
public:
    explicit LoopDisk(std::uint64_t sectors)
        : file_(::open((folder_ / "disk").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
        REQUIRE(file_);
        REQUIRE(ftruncate(file_.get(), static_cast<off_t>(sectors * 512)) == 0);
        path_ = attach_loop_device(file_.get()).value();
    }
    ~LoopDisk() { static_cast<void>(detach_loop_device(path_)); }

    const std::string& path() const { return path_; }
    std::string number() const { return device_number(block_device_number(path_).value()); }
    void grow(std::uint64_t sectors) const {
        REQUIRE(ftruncate(file_.get(), static_cast<off_t>(sectors * 512)) == 0);
        REQUIRE(attach_loop_device(file_.get()).value() == path_);  // Which reads the size anew.
    }
    int file() const { return file_.get(); }

private:
    TemporaryFolder folder_;
    Fd file_;
    std::string path_;
};

}  // namespace cowslip
