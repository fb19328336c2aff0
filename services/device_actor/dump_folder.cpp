#include "services/device_actor/dump_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "common/files.h"
#include "common/store_files.h"

namespace cowslip {

namespace {

constexpr const char* kBeingWritten = "new.tmp";
constexpr std::size_t kLongestHead = 4096;

std::string file_of(const std::string& name) {
    return name + ".xml.gz";
}

// Whoever gives it may have been subverted: it names a file here, and none that we make for ourselves.
bool is_dump_name(const std::string& name) {
    return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || c == '-';
    });
}

}  // namespace

void DataBlocksFiller::write(std::string_view bytes) {
    if (over_) return out_.write(bytes);
    head_ += bytes;
    if (head_.find('>') != std::string::npos || head_.size() > kLongestHead) finish();
}

void DataBlocksFiller::finish() {
    if (over_) return;
    over_ = true;
    const std::string none = "nr_data_blocks=\"0\"";
    const std::size_t found = head_.find(none);
    if (found < head_.find('>')) {
        head_.replace(found, none.size(), fmt::format("nr_data_blocks=\"{}\"", data_blocks_));
    }
    out_.write(head_);
}

Result<void> DumpFolder::ensure() const {
    if (::mkdir(path_.c_str(), 0700) == 0) return sync_folder_of(path_);
    if (errno == EEXIST) return {};
    return errno_error(errno, fmt::format("make folder '{}'", path_));
}

Result<std::uint64_t> DumpFolder::write(const std::string& name, const std::vector<std::string>& keep,
                                        const std::function<Result<void>(GzipWriter&)>& fill) const {
    if (!is_dump_name(name)) return Error{Errc::invalid_argument, fmt::format("dump the metadata as '{}'", name)};
    const std::string being_written = path_ + "/" + kBeingWritten;
    const auto written = [&]() -> Result<std::uint64_t> {
        const Fd fd(::open(being_written.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
        if (!fd) return errno_error(errno, fmt::format("open '{}'", being_written));
        GzipWriter out(fd.get());
        TRY(fill(out));
        TRY(out.finish());
        struct stat status {};
        if (::fstat(fd.get(), &status) != 0) return errno_error(errno, fmt::format("look at '{}'", being_written));
        return static_cast<std::uint64_t>(status.st_size);
    }();
    Result<void> placed;
    if (written) placed = kernel_store_files().put_in_place(being_written, path_ + "/" + file_of(name));
    if (!written || !placed) {
        ::unlink(being_written.c_str());
        return written ? placed.error() : written.error();
    }
    std::vector<std::string> stay = {file_of(name)};
    for (const std::string& other : keep) stay.push_back(file_of(other));
    remove_all_but(stay);
    return *written;
}

void DumpFolder::remove_all_but(const std::vector<std::string>& files) const {
    for (const StoreFile& file : kernel_store_files().list(path_)) {
        if (std::find(files.begin(), files.end(), file.name) == files.end()) {
            ::unlink((path_ + "/" + file.name).c_str());
        }
    }
}

}  // namespace cowslip
