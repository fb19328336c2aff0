#include "common/result.h"

#include <array>

namespace cowslip {

namespace {
constexpr std::array<std::string_view, 12> kNames = {
    "internal", "invalid_argument", "not_found",    "already_exists",    "in_use",        "no_space", "unavailable",
    "busy",     "timed_out",        "needs_repair", "permission_denied", "unimplemented",
};
}  // namespace

std::string_view to_string(Errc code) {
    return kNames.at(static_cast<std::size_t>(code));
}

Errc parse_errc(std::string_view word) {
    for (std::size_t i = 0; i < kNames.size(); ++i) {
        if (kNames.at(i) == word) return static_cast<Errc>(i);
    }
    return Errc::internal;
}

Error errno_error(int number, std::string_view what) {
    Errc code = Errc::internal;
    if (number == ENOSPC || number == EDQUOT) code = Errc::no_space;
    if (number == EACCES || number == EPERM) code = Errc::permission_denied;
    return Error{code, std::string(what) + ": " + std::strerror(number)};
}

}  // namespace cowslip
