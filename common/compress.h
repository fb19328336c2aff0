// zlib, as much of it as is needed: a text smaller, and back. The only user of zlib.h.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "common/result.h"

namespace cowslip {

std::string compress(std::string_view bytes);
// What is damaged, or would be larger than the limit, is an error (internal).
Result<std::string> decompress(std::string_view bytes, std::size_t limit_bytes);

}  // namespace cowslip
