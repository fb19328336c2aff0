// A file descriptor that closes itself, and small files of the kernel's read whole.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <string>
#include <utility>

#include "common/result.h"

namespace cowslip {

// Owns a descriptor; -1 is none.
class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    Fd(const Fd&) = delete;
    ~Fd() { close(); }

    explicit operator bool() const { return fd_ >= 0; }
    int get() const { return fd_; }
    // Another way to say the same file, for calls that take a path. Valid while this is open.
    std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }
    void close() {
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
    }

private:
    int fd_ = -1;
};

// First thing in main: of 0, 1 and 2 those that are closed become /dev/null, so that no file of ours
// is taken for one of them. To read such a stdin, or to write such a stdout, stays an error.
Result<void> fill_standard_fds();

// The rest of `fd`, or the whole of `path`. A file longer than the limit is an error (internal).
Result<std::string> read_all(int fd, std::size_t limit_bytes);
Result<std::string> read_file(const std::string& path, std::size_t limit_bytes = 64 * 1024);

}  // namespace cowslip
