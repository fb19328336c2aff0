// I/O of block devices past the page cache: each is done, and answered, at once.
#pragma once

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "common/device_mapper.h"
#include "common/files.h"
#include "common/thin_pool.h"

namespace cowslip {

// These give an errno; `begin` and `end` are sectors.
class DirectIo {
public:
    DirectIo(DeviceMapper& dm, const DmDevice& device, int flags) {
        const auto node = dm.ensure_node(dm.find(device).value().value());
        device_ = Fd(::open(node.value().c_str(), flags | O_DIRECT | O_CLOEXEC));
    }
    bool is_open() const { return static_cast<bool>(device_); }

    int write(std::uint64_t begin, std::uint64_t end, std::uint64_t tag) {
        const std::size_t bytes = (end - begin) * kSectorBytes;
        const Buffer buffer = make_buffer(bytes);
        std::fill_n(buffer.get(), bytes / sizeof tag, tag);
        return pwrite(device_.get(), buffer.get(), bytes, offset(begin)) < 0 ? errno : 0;
    }
    int read_tag(std::uint64_t begin, std::uint64_t& tag) {
        const Buffer buffer = make_buffer(kPageBytes);
        if (pread(device_.get(), buffer.get(), kPageBytes, offset(begin)) < 0) return errno;
        tag = *buffer;
        return 0;
    }
    int flush() { return fsync(device_.get()) < 0 ? errno : 0; }
    int discard(std::uint64_t begin, std::uint64_t end) {
        std::array<std::uint64_t, 2> range = {begin * kSectorBytes, (end - begin) * kSectorBytes};
        return ioctl(device_.get(), BLKDISCARD, range.data()) < 0 ? errno : 0;
    }

private:
    static constexpr std::size_t kPageBytes = 4096;
    using Buffer = std::unique_ptr<std::uint64_t, decltype(&std::free)>;
    static Buffer make_buffer(std::size_t bytes) {
        return {static_cast<std::uint64_t*>(std::aligned_alloc(kPageBytes, bytes)), &std::free};
    }
    static off_t offset(std::uint64_t sector) { return static_cast<off_t>(sector * kSectorBytes); }

    Fd device_;
};

}  // namespace cowslip
