#include "common/compress.h"

#include <zlib.h>

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

}  // namespace cowslip
