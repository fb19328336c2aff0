#include "services/ctl/device_list.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include <fmt/format.h>

#include "common/files.h"

namespace cowslip::ctl {

namespace {

Result<void> check_device(const std::string& path) {
    const std::string what = fmt::format("take the device '{}'", path);
    if (!path.starts_with('/') || path.find('\n') != std::string::npos) {
        return Error{Errc::invalid_argument, what + ": give its absolute path"};
    }
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) {
        if (errno == ENOENT) return Error{Errc::not_found, what + ": no such file"};
        return errno_error(errno, what);
    }
    if (!S_ISBLK(status.st_mode)) return Error{Errc::invalid_argument, what + ": it is no block device"};
    return {};
}

}  // namespace

std::string missing_lines(const std::string& text, const std::vector<std::string>& devices) {
    const std::string known = "\n" + text + "\n";
    std::string lines;
    for (const auto& device : devices) {
        if (known.find("\n" + device + "\n") == std::string::npos) lines += device + "\n";
    }
    // A line that was cut by a crash must not swallow the next.
    if (!lines.empty() && !text.empty() && !text.ends_with('\n')) lines.insert(0, "\n");
    return lines;
}

Result<void> allow_devices(const std::string& state, const std::vector<std::string>& devices) {
    if (::geteuid() != 0) {
        return Error{Errc::permission_denied, "give block devices to the service: only root may; run this as root"};
    }
    if (state.empty()) {
        return Error{Errc::invalid_argument,
                     "give block devices to the service: name its state folder with --state DIR"};
    }
    for (const auto& device : devices) TRY(check_device(device));

    const std::string folder = state + "/pool";
    const std::string what = fmt::format("write '{}/devices'", folder);
    const Fd directory(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!directory) return errno_error(errno, what);
    const Fd file(::openat(directory.get(), "devices", O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file || ::flock(file.get(), LOCK_EX) != 0) return errno_error(errno, what);
    const std::string lines = missing_lines(TRY(read_all(file.get(), 1U << 20U)), devices);
    if (lines.empty()) return {};
    if (::write(file.get(), lines.data(), lines.size()) != static_cast<ssize_t>(lines.size()) ||
        ::fsync(file.get()) != 0) {
        return errno_error(errno, what);
    }
    return {};
}

}  // namespace cowslip::ctl
