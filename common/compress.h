// zlib, as much of it as is needed: a text smaller, and back; and a gzip file as it is written. The only user of
// zlib.h.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "common/result.h"

namespace cowslip {

std::string compress(std::string_view bytes);
// What is damaged, or would be larger than the limit, is an error (internal).
Result<std::string> decompress(std::string_view bytes, std::size_t limit_bytes);

// Writes to a copy of `fd`, which stays the caller's. After an error the rest is dropped, and finish() tells it.
class GzipWriter {
public:
    explicit GzipWriter(int fd);
    GzipWriter(const GzipWriter&) = delete;
    GzipWriter& operator=(const GzipWriter&) = delete;
    ~GzipWriter();
    void write(std::string_view bytes);
    Result<void> finish();  // All of it is written; not synced.

private:
    void* file_;
    int error_number_ = 0;
};

}  // namespace cowslip
