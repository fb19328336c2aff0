#include "services/pool_manager/ballast.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdint>

#include "common/files.h"

namespace cowslip {

namespace {
constexpr std::int64_t kBytes = std::int64_t{8} << 20U;
}

Ballast Ballast::take(const std::string& file) {
    struct stat status {};
    if (::stat(file.c_str(), &status) == 0 && status.st_blocks * 512 >= kBytes) return Ballast(true);
    struct statvfs space {};
    const bool room =
        ::statvfs(".", &space) == 0 && static_cast<std::int64_t>(space.f_bavail * space.f_frsize) >= 2 * kBytes;
    const Fd fd(room ? ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1);
    if (fd && ::posix_fallocate(fd.get(), 0, kBytes) == 0) return Ballast(true);
    release(file);
    return Ballast(false);
}

void Ballast::release(const std::string& file) {
    ::unlink(file.c_str());
}

}  // namespace cowslip
