#include "services/mount_actor/kernel_log.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace cowslip {

namespace {
constexpr int kMostMessages = 3;
constexpr int kMostRecords = 1000;
}  // namespace

KernelLog::KernelLog() : fd_(open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
    if (fd_) lseek(fd_.get(), 0, SEEK_END);
}

std::string KernelLog::about(const std::string& kernel_name) const {
    std::string messages;
    std::array<char, 8192> buffer{};
    const std::string mark = "(" + kernel_name + ")";  // "EXT4-fs (dm-3): …"
    int found = 0;
    for (int records = 0; fd_ && found < kMostMessages && records < kMostRecords; ++records) {
        const ssize_t size = read(fd_.get(), buffer.data(), buffer.size());  // One record: "6,339,5140900,-;text\n".
        if (size < 0 && (errno == EPIPE || errno == EINTR)) continue;        // EPIPE: some were overwritten.
        if (size <= 0) break;
        std::string_view text(buffer.data(), static_cast<std::size_t>(size));
        text.remove_prefix(std::min(text.find(';') + 1, text.size()));
        text = text.substr(0, text.find('\n'));
        if (text.find(mark) == std::string_view::npos) continue;
        if (found++ > 0) messages += "; ";
        messages += text;
    }
    return messages;
}

}  // namespace cowslip
