#include "common/compress.h"

#include <unistd.h>
#include <zlib.h>

#include <cerrno>

namespace cowslip {

std::string compress(std::string_view bytes) {
    uLongf size = compressBound(bytes.size());
    std::string text(size, '\0');
    // Cannot fail with room for the worst case, but for want of memory.
    if (compress2(reinterpret_cast<Bytef*>(text.data()), &size, reinterpret_cast<const Bytef*>(bytes.data()),
                  bytes.size(), Z_BEST_SPEED) != Z_OK) {
        throw std::bad_alloc();
    }
    text.resize(size);
    return text;
}

Result<std::string> decompress(std::string_view bytes, std::size_t limit_bytes) {
    uLongf size = limit_bytes;
    std::string text(limit_bytes, '\0');
    const int answer = uncompress(reinterpret_cast<Bytef*>(text.data()), &size,
                                  reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
    if (answer != Z_OK) return Error{Errc::internal, "decompress: the bytes are damaged"};
    text.resize(size);
    return text;
}

GzipWriter::GzipWriter(int fd) : file_(nullptr) {
    const int copy = ::dup(fd);
    file_ = copy < 0 ? nullptr : gzdopen(copy, "wb1");
    if (file_ == nullptr) error_number_ = errno != 0 ? errno : ENOMEM;
}

GzipWriter::~GzipWriter() {
    if (file_ != nullptr) gzclose_w(static_cast<gzFile>(file_));
}

void GzipWriter::write(std::string_view bytes) {
    if (error_number_ != 0 || bytes.empty()) return;
    errno = 0;
    if (gzwrite(static_cast<gzFile>(file_), bytes.data(), static_cast<unsigned>(bytes.size())) > 0) return;
    error_number_ = errno != 0 ? errno : EIO;
}

Result<void> GzipWriter::finish() {
    errno = 0;
    if (file_ != nullptr && gzclose_w(static_cast<gzFile>(file_)) != Z_OK && error_number_ == 0) {
        error_number_ = errno != 0 ? errno : EIO;
    }
    file_ = nullptr;
    if (error_number_ != 0) return errno_error(error_number_, "write a gzip file");
    return {};
}

}  // namespace cowslip
