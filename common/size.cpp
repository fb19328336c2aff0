#include "common/size.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <limits>
#include <optional>

#include <fmt/format.h>

namespace cowslip {

namespace {

__extension__ typedef unsigned __int128 Wide;  // NOLINT(modernize-use-using): __extension__ wants it.

constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kUnits = "KMGTPE";

Error bad_size(std::string_view text, std::string_view why) {
    return Error{Errc::invalid_argument, fmt::format("size '{}': {}; write it as 512M, 10G or 1.5T", text, why)};
}

// The power of two that a unit stands for.
std::optional<unsigned> parse_unit(std::string_view unit) {
    if (unit.empty() || unit == "B") return 0;
    const char letter = static_cast<char>(unit[0] & ~0x20);
    const std::size_t index = kUnits.find(letter);
    if (index == std::string_view::npos) return std::nullopt;
    const std::string_view rest = unit.substr(1);
    if (!rest.empty() && rest != "iB" && rest != "i") return std::nullopt;
    return 10 * static_cast<unsigned>(index + 1);
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
    const std::size_t whole_end = std::min(text.find_first_not_of(kDigits), text.size());
    std::string digits(text.substr(0, whole_end));
    if (digits.empty()) return bad_size(text, "it does not begin with a number");
    std::string_view unit = text.substr(whole_end);
    std::size_t decimals = 0;
    if (unit.starts_with('.')) {
        unit.remove_prefix(1);
        decimals = std::min(unit.find_first_not_of(kDigits), unit.size());
        if (decimals == 0) return bad_size(text, "no digits after the point");
        digits += unit.substr(0, decimals);
        unit.remove_prefix(decimals);
    }
    const auto shift = parse_unit(unit);
    if (!shift) return bad_size(text, fmt::format("'{}' is not a unit", unit));

    // 20 digits and 60 bits of unit stay below 2^127.
    if (digits.size() > 20) return bad_size(text, "it has too many digits");
    Wide value = 0;
    for (const char digit : digits) value = value * 10 + static_cast<unsigned>(digit - '0');
    value <<= *shift;
    for (; decimals > 0; --decimals) {
        if (value % 10 != 0) return bad_size(text, "that is no whole number of bytes");
        value /= 10;
    }
    if (value > std::numeric_limits<std::uint64_t>::max()) return bad_size(text, "it is too large");
    if (value == 0) return bad_size(text, "it must be more than 0");
    return static_cast<std::uint64_t>(value);
}

std::string format_size(std::uint64_t bytes) {
    if (bytes < 1024) return fmt::format("{} B", bytes);
    unsigned shift = 10;
    while (shift < 60 && (bytes >> shift) >= 1024) shift += 10;
    const std::uint64_t unit = std::uint64_t{1} << shift;
    // Rounded down: "10 GiB" is never less than 10 GiB.
    const std::uint64_t tenths = static_cast<std::uint64_t>(static_cast<Wide>(bytes % unit) * 10 / unit);
    const std::string number =
        tenths == 0 ? fmt::format("{}", bytes >> shift) : fmt::format("{}.{}", bytes >> shift, tenths);
    return fmt::format("{} {}iB", number, kUnits[shift / 10 - 1]);
}

Result<std::chrono::milliseconds> parse_duration(std::string_view text) {
    using std::chrono::milliseconds;
    constexpr std::uint64_t kMost = std::uint64_t{1000} * 3600 * 1000;
    const auto bad = [&](std::string_view why) {
        return Error{Errc::invalid_argument,
                     fmt::format("duration '{}': {}; write it as 500ms, 30s, 2m, 1h, 2d or 1w", text, why)};
    };
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc::invalid_argument) return bad("it does not begin with a number");
    const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
    std::uint64_t scale = 0;
    if (unit == "ms") scale = 1;
    if (unit == "s") scale = 1000;
    if (unit == "m") scale = 60 * 1000;
    if (unit == "h") scale = 3600 * 1000;
    if (unit == "d") scale = 24 * 3600 * 1000;
    if (unit == "w") scale = 7 * 24 * 3600 * 1000;
    if (scale == 0) return bad(unit.empty() ? "the unit is missing" : fmt::format("'{}' is not a unit", unit));
    if (error == std::errc::result_out_of_range || number > kMost / scale) return bad("it is more than 1000h");
    if (number == 0) return bad("it must be more than 0");
    return milliseconds(number * scale);
}

std::string format_duration(std::chrono::milliseconds duration) {
    const auto ms = std::max<std::int64_t>(duration.count(), 0);
    if (ms < 1000) return fmt::format("{}ms", ms);
    const auto s = ms / 1000;
    if (s < 60) return ms % 1000 < 100 ? fmt::format("{}s", s) : fmt::format("{}.{}s", s, ms % 1000 / 100);
    if (s < 3600) return fmt::format("{}m {}s", s / 60, s % 60);
    if (s < 86400) return fmt::format("{}h {}m", s / 3600, s % 3600 / 60);
    return fmt::format("{}d {}h", s / 86400, s % 86400 / 3600);
}

}  // namespace cowslip
