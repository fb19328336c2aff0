#include "common/files.h"

#include <fcntl.h>

#include <array>

#include <fmt/format.h>

namespace cowslip {

Result<void> fill_standard_fds() {
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (fcntl(fd, F_GETFD) >= 0) continue;
        // It gets the lowest number that is free: this one.
        if (open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) {
            return errno_error(errno, "open '/dev/null'");
        }
    }
    return {};
}

Result<std::string> read_all(int fd, std::size_t limit_bytes) {
    std::string text;
    std::array<char, 16384> buffer{};
    while (true) {
        const ssize_t count = read(fd, buffer.data(), buffer.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return errno_error(errno, "read");
        if (count == 0) return text;
        text.append(buffer.data(), static_cast<std::size_t>(count));
        if (text.size() > limit_bytes) return Error{Errc::internal, fmt::format("read: over {} bytes", limit_bytes)};
    }
}

Result<std::string> read_file(const std::string& path, std::size_t limit_bytes) {
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) {
        if (errno == ENOENT) return Error{Errc::not_found, fmt::format("open '{}': {}", path, std::strerror(errno))};
        return errno_error(errno, fmt::format("open '{}'", path));
    }
    auto text = read_all(fd.get(), limit_bytes);
    if (!text) return Error{text.error().code, fmt::format("'{}': {}", path, text.error().message)};
    return text;
}

}  // namespace cowslip
