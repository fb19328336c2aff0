#include "common/store_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include <fmt/format.h>

#include "common/files.h"

namespace cowslip {

namespace {

Error failed(int error_number, const std::string& what) {
    Error error = errno_error(error_number, what);
    if (error_number == ENOSPC || error_number == EDQUOT) error.code = Errc::no_space;
    return error;
}

Result<void> sync_file(const std::string& file, int flags) {
    const Fd fd(::open(file.c_str(), flags | O_CLOEXEC));
    if (!fd) return failed(errno, fmt::format("open '{}'", file));
    if (::fsync(fd.get()) != 0) return failed(errno, fmt::format("sync '{}'", file));
    return {};
}

class KernelStoreFiles : public StoreFiles {
public:
    Result<void> ensure_folder(const std::string& folder) override {
        if (::mkdir(folder.c_str(), 0700) == 0) return sync_folder_of(folder);
        if (errno == EEXIST) return {};
        return failed(errno, fmt::format("make folder '{}'", folder));
    }
    std::vector<StoreFile> list(const std::string& folder) override {
        std::vector<StoreFile> files;
        std::error_code error;
        for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
            std::error_code gone;
            const std::uint64_t bytes = entry.is_regular_file(gone) ? entry.file_size(gone) : 0;
            if (!gone) files.push_back({entry.path().filename().string(), bytes});
        }
        std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
        return files;
    }
    std::uint64_t free_bytes() override {
        struct statvfs space {};
        if (::statvfs(".", &space) != 0) return 0;
        return static_cast<std::uint64_t>(space.f_bavail) * space.f_frsize;
    }
    void begin_writing(const std::string& file) override {
        const Fd fd(::open(file.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
        if (fd) ::sync_file_range(fd.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
    }
    Result<void> put_in_place(const std::string& from, const std::string& to) override {
        TRY(sync_file(from, O_RDWR | O_NOFOLLOW));
        return rename_durably(from, to);
    }
    void remove(const std::string& file) override { ::unlink(file.c_str()); }
};

}  // namespace

StoreFiles& kernel_store_files() {
    static KernelStoreFiles files;
    return files;
}

Result<void> write_durably(const std::string& file, const std::string& bytes) {
    const Fd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) return failed(errno, fmt::format("open '{}'", file));
    for (std::size_t done = 0; done < bytes.size();) {
        const ssize_t count = ::write(fd.get(), bytes.data() + done, bytes.size() - done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return failed(errno, fmt::format("write '{}'", file));
        done += static_cast<std::size_t>(count);
    }
    if (::fsync(fd.get()) != 0) return failed(errno, fmt::format("sync '{}'", file));
    return {};
}

Result<void> rename_durably(const std::string& from, const std::string& to) {
    if (::rename(from.c_str(), to.c_str()) != 0) return failed(errno, fmt::format("rename '{}' to '{}'", from, to));
    return sync_folder_of(to);
}

Result<void> sync_folder_of(const std::string& file) {
    const std::string folder = std::filesystem::path(file).parent_path().string();
    return sync_file(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY);
}

}  // namespace cowslip
