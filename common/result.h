// The error model of the whole project: a fallible function returns Result<T>, and an ignored
// Result is a compile error. A cause is carried up and logged once, by whoever stops passing it on.
// Messages read `what was tried: cause`, lower case, no full stop, names in single quotes.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <tl/expected.hpp>

namespace cowslip {

// One code per *reaction* a caller can have; everything else goes into the message. The names
// travel on the wire (schemas/envelope.h), so the list is append-only.
enum class Errc : std::uint8_t {
    internal,          // A defect of ours, or a kernel answer we have no rule for.
    invalid_argument,  // The request can never succeed as it stands.
    not_found,
    already_exists,
    in_use,        // Somebody holds it; details["holders"] says who.
    no_space,      // The pool or the state file system is full.
    unavailable,   // Not now: starting, stopping, pool out of service. Retry.
    busy,          // Overload only: a queue is at its bound. Retry.
    timed_out,     // The wait ended, the operation may go on.
    needs_repair,  // The pool or the store contradicts itself; an operator must look.
    permission_denied,
    unimplemented,
};

// The wire and JSON spelling of a code, and back; an unknown word (a newer peer) is internal.
std::string_view to_string(Errc code);
Errc parse_errc(std::string_view word);

// Whether the same request may succeed later without anything being corrected.
constexpr bool retryable(Errc code) {
    return code == Errc::unavailable || code == Errc::busy || code == Errc::timed_out;
}

struct Error {
    Errc code = Errc::internal;
    std::string message;
    std::map<std::string, std::vector<std::string>> details = {};  // For programs; e.g. "holders".
};

// tl::expected, plus what it lacks: an ignored result is a compile error, and `return Error{...}`
// needs no wrapping.
template <class T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
public:
    using tl::expected<T, Error>::expected;
    Result(Error error) : tl::expected<T, Error>(tl::unexpect, std::move(error)) {}
};

// `what: strerror(number)`. ENOSPC, EACCES and EPERM keep their meaning, the rest is internal.
Error errno_error(int number, std::string_view what);

namespace detail {
template <class T>
T take(Result<T>& result) {
    return std::move(*result);
}
inline void take(Result<void>& /*result*/) {}
}  // namespace detail

}  // namespace cowslip

// auto id = TRY(store.spend_thin_id());   // the value, or return the error to our caller
#define TRY(expression)                                          \
    __extension__({                                              \
        auto try_result_ = (expression);                         \
        if (!try_result_) return std::move(try_result_).error(); \
        ::cowslip::detail::take(try_result_);                    \
    })
