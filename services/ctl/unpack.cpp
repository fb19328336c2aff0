#include "services/ctl/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <clocale>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

namespace cowslip::ctl {

namespace {

constexpr std::size_t kReadBytes = 256 * 1024;

constexpr int kExtract = ARCHIVE_EXTRACT_OWNER | ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_XATTR |
                         ARCHIVE_EXTRACT_ACL | ARCHIVE_EXTRACT_SECURE_SYMLINKS | ARCHIVE_EXTRACT_SECURE_NODOTDOT |
                         ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS;

using Reader = std::unique_ptr<archive, decltype(&archive_read_free)>;
using Writer = std::unique_ptr<archive, decltype(&archive_write_free)>;

bool is_readable(int fd) {
    pollfd handle{.fd = fd, .events = POLLIN, .revents = 0};
    return poll(&handle, 1, 0) > 0;
}

class Unpacking {
public:
    explicit Unpacking(const UnpackJob& job)
        : job_(job),
          buffer_(kReadBytes),
          reader_(archive_read_new(), &archive_read_free),
          writer_(archive_write_disk_new(), &archive_write_free) {}

    Result<UnpackCounts> run() {
        TRY(open());
        archive_entry* entry = nullptr;
        int status = ARCHIVE_OK;
        while ((status = archive_read_next_header(reader_.get(), &entry)) != ARCHIVE_EOF) {
            if (status != ARCHIVE_OK) return read_error();  // Also warnings: something would be left out.
            TRY(unpack(entry));
        }
        // Sets the times and modes of folders, which had to wait for what is in them.
        if (archive_write_close(writer_.get()) != ARCHIVE_OK) return write_error("unpack");
        return counts_;
    }

private:
    Result<void> open() {
        if (!reader_ || !writer_) return Error{Errc::internal, "unpack: no memory"};
        archive* reader = reader_.get();
        archive_read_support_format_tar(reader);
        archive_read_support_filter_gzip(reader);
        archive_read_support_filter_xz(reader);
        archive_read_support_filter_zstd(reader);
        archive_write_disk_set_options(writer_.get(), kExtract);
        // Numbers, not names: the names of the archive are not those of this host.
        if (archive_read_open(reader, this, nullptr, &Unpacking::read_more, nullptr) != ARCHIVE_OK) return read_error();
        return {};
    }

    Result<void> unpack(archive_entry* entry) {
        const char* path = archive_entry_pathname(entry);
        if (path == nullptr) return Error{Errc::invalid_argument, "unpack: an entry without a readable name"};
        const std::string what = fmt::format("unpack '{}'", path);
        if (archive_write_header(writer_.get(), entry) != ARCHIVE_OK) return write_error(what);
        if (archive_entry_size_is_set(entry) != 0 && archive_entry_size(entry) > 0) TRY(copy_data(what));
        if (archive_write_finish_entry(writer_.get()) != ARCHIVE_OK) return write_error(what);
        ++counts_.files;
        job_.progress(counts_);
        return {};
    }

    Result<void> copy_data(const std::string& what) {
        while (true) {
            const void* data = nullptr;
            std::size_t size = 0;
            la_int64_t offset = 0;
            const int status = archive_read_data_block(reader_.get(), &data, &size, &offset);
            if (status == ARCHIVE_EOF) return {};
            if (status != ARCHIVE_OK) return read_error();
            if (archive_write_data_block(writer_.get(), data, size, offset) != ARCHIVE_OK) return write_error(what);
            counts_.bytes += size;
            job_.progress(counts_);
            if (is_readable(job_.stop_fd)) return stopped();
        }
    }

    // libarchive's hunger. Waits for the archive and for a stop alike: stdin may be a pipe that stalls.
    static la_ssize_t read_more(archive* reader, void* self_pointer, const void** data) {
        auto& self = *static_cast<Unpacking*>(self_pointer);
        *data = self.buffer_.data();
        while (true) {
            std::array<pollfd, 2> handles{{{.fd = self.job_.archive_fd, .events = POLLIN, .revents = 0},
                                           {.fd = self.job_.stop_fd, .events = POLLIN, .revents = 0}}};
            if (poll(handles.data(), handles.size(), -1) < 0 && errno != EINTR) break;
            if (handles[1].revents != 0) {
                self.stopped_ = true;
                errno = EINTR;
                break;
            }
            const ssize_t got = ::read(self.job_.archive_fd, self.buffer_.data(), self.buffer_.size());
            if (got >= 0) {
                self.counts_.archive_bytes += static_cast<std::uint64_t>(got);
                return got;
            }
            if (errno != EINTR && errno != EAGAIN) break;
        }
        archive_set_error(reader, errno, "%s", "the archive cannot be read");
        return ARCHIVE_FATAL;
    }

    static Error stopped() { return Error{Errc::timed_out, "unpack: interrupted"}; }

    Error read_error() const {
        if (stopped_) return stopped();
        const char* cause = archive_error_string(reader_.get());
        return Error{Errc::invalid_argument, fmt::format("read the archive after {} entries: {}", counts_.files,
                                                         cause == nullptr ? "?" : cause)};
    }

    Error write_error(const std::string& what) const {
        const char* cause = archive_error_string(writer_.get());
        Error error = errno_error(archive_errno(writer_.get()), what);
        error.message = fmt::format("{}: {}", what, cause == nullptr ? "?" : cause);
        // libarchive's own refusals (a path that leads outside) have no errno of the kernel.
        if (archive_errno(writer_.get()) <= 0) error.code = Errc::invalid_argument;
        return error;
    }

    const UnpackJob& job_;
    std::vector<char> buffer_;
    Reader reader_;
    Writer writer_;
    UnpackCounts counts_;
    bool stopped_ = false;
};

}  // namespace

Result<UnpackCounts> unpack_tar(const UnpackJob& job) {
    // Names in an archive are UTF-8; in the C locale libarchive would drop those that are not ASCII.
    std::setlocale(LC_CTYPE, "C.UTF-8");
    if (::fchdir(job.target_fd) != 0) return errno_error(errno, "enter the folder to unpack into");
    auto result = Unpacking(job).run();
    // A working folder in there would keep it from being unmounted.
    if (::chdir("/") != 0 && result) return errno_error(errno, "leave the folder unpacked into");
    return result;
}

}  // namespace cowslip::ctl
