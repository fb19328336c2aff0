// Numbers that a caller of the tests may set, e.g. COWSLIP_SEEDS=1000.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

namespace cowslip {

inline std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::stoull(text);
}

}  // namespace cowslip
