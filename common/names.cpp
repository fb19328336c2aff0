#include "common/names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>

#include <fmt/format.h>
#include <sodium.h>

namespace cowslip {

namespace {

// Length of the well-formed UTF-8 sequence at the front of `text`, 0 if there is none: no overlong
// forms, no surrogates, nothing past U+10FFFF.
std::size_t utf8_length(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const auto continues = [&](std::size_t from, std::size_t count) {
        if (text.size() < from + count) return false;
        for (std::size_t i = from; i < from + count; ++i) {
            if ((byte(i) & 0xC0U) != 0x80U) return false;
        }
        return true;
    };
    const unsigned char first = byte(0);
    if (first < 0x80) return 1;
    if (first >= 0xC2 && first <= 0xDF) return continues(1, 1) ? 2 : 0;
    if (first >= 0xE0 && first <= 0xEF && continues(1, 2)) {
        if (first == 0xE0 && byte(1) < 0xA0) return 0;
        if (first == 0xED && byte(1) > 0x9F) return 0;
        return 3;
    }
    if (first >= 0xF0 && first <= 0xF4 && continues(1, 3)) {
        if (first == 0xF0 && byte(1) < 0x90) return 0;
        if (first == 0xF4 && byte(1) > 0x8F) return 0;
        return 4;
    }
    return 0;
}

Result<void> check_text(std::string_view what, std::string_view text, std::size_t least, std::size_t most) {
    if (text.size() < least || text.size() > most) {
        return Error{Errc::invalid_argument,
                     fmt::format("{} is {} bytes long: it must have {} to {}", what, text.size(), least, most)};
    }
    for (std::size_t i = 0; i < text.size();) {
        const std::size_t length = utf8_length(text.substr(i));
        if (length == 0) return Error{Errc::invalid_argument, fmt::format("{} is not UTF-8", what)};
        const auto first = static_cast<unsigned char>(text[i]);
        const bool c1_control = length == 2 && first == 0xC2 && static_cast<unsigned char>(text[i + 1]) < 0xA0;
        if (first < 0x20 || first == 0x7F || c1_control) {
            return Error{Errc::invalid_argument, fmt::format("{} holds a control character", what)};
        }
        i += length;
    }
    return {};
}

bool all_of(std::string_view text, std::string_view allowed) {
    return text.find_first_not_of(allowed) == std::string_view::npos;
}

constexpr std::string_view kAlphanumeric = "abcdefghijklmnopqrstuvwxyz0123456789";
constexpr std::string_view kHex = "0123456789abcdef";
constexpr std::size_t kHashDigits = 32;
constexpr std::string_view kWarm = ".warm-";
constexpr std::size_t kLongestThinId = 8;  // Digits.

}  // namespace

Result<void> check_volume_id(std::string_view id) {
    return check_text("volume id", id, 1, 255);
}
Result<void> check_holder(std::string_view holder) {
    return check_text("holder", holder, 1, 128);
}

Result<void> check_label(std::string_view key, std::string_view value) {
    if (key.empty() || key.size() > 63 || !all_of(key, std::string(kAlphanumeric) + "._/-")) {
        return Error{Errc::invalid_argument,
                     fmt::format("label key '{}': 1 to 63 of a-z 0-9 . _ / - are allowed", key)};
    }
    return check_text("label value", value, 0, 255);
}

Result<void> check_pool_name(std::string_view name) {
    const bool good = !name.empty() && name.size() <= 32 && all_of(name, std::string(kAlphanumeric) + "._-") &&
                      all_of(name.substr(0, 1), kAlphanumeric);
    if (good) return {};
    return Error{Errc::invalid_argument,
                 fmt::format("pool name '{}': 1 to 32 of a-z 0-9 . _ - are allowed, a letter or digit first", name)};
}

std::string volume_directory(std::string_view id) {
    const bool odd_start = id.starts_with('.') || id.starts_with('-');
    if (id.size() <= 200 && !odd_start && id.find_first_of("/%") == std::string_view::npos) return std::string(id);
    std::string escaped;
    for (std::size_t i = 0; i < id.size(); ++i) {
        const char c = id[i];
        if (c == '/' || c == '%' || (i == 0 && odd_start)) {
            escaped += fmt::format("%{:02X}", static_cast<unsigned char>(c));
        } else {
            escaped += c;
        }
    }
    // What looks like a hash would be another id's.
    const bool like_hash = escaped.size() == 1 + kHashDigits && all_of(std::string_view(escaped).substr(1), kHex);
    if (escaped.size() <= 255 && !like_hash) return escaped;
    std::array<unsigned char, crypto_hash_sha256_BYTES> digest{};
    crypto_hash_sha256(digest.data(), reinterpret_cast<const unsigned char*>(id.data()), id.size());
    std::string hashed = "%";
    for (std::size_t i = 0; i < kHashDigits / 2; ++i) hashed += fmt::format("{:02x}", digest.at(i));
    return hashed;
}

std::string warm_directory(std::string_view dm_uuid) {
    return std::string(kWarm) + std::string(dm_uuid.substr(dm_uuid.rfind('-') + 1));
}

bool is_warm_directory(std::string_view directory) {
    const std::string_view thin_id = directory.substr(std::min(kWarm.size(), directory.size()));
    return directory.starts_with(kWarm) && !thin_id.empty() && thin_id.size() <= kLongestThinId &&
           all_of(thin_id, "0123456789");
}

std::string pool_dm_name(std::string_view pool_uuid) {
    return pool_part_dm_name(pool_uuid, "pool");
}
std::string pool_dm_uuid(std::string_view pool_uuid) {
    return pool_part_dm_uuid(pool_uuid, "pool");
}

std::string pool_part_dm_name(std::string_view pool_uuid, std::string_view part) {
    return fmt::format("cowslip-{}-{}", pool_uuid.substr(0, 8), part);
}
std::string pool_part_dm_uuid(std::string_view pool_uuid, std::string_view part) {
    return fmt::format("COWSLIP-{}-{}", pool_uuid, part);
}

std::string thin_dm_name(std::string_view pool_uuid, std::uint32_t thin_id) {
    return fmt::format("cowslip-{}-{}", pool_uuid.substr(0, 8), thin_id);
}

std::string thin_dm_uuid(std::string_view pool_uuid, std::uint32_t thin_id) {
    return fmt::format("COWSLIP-{}-{}", pool_uuid, thin_id);
}

std::optional<std::uint32_t> parse_thin_dm_uuid(std::string_view pool_uuid, std::string_view dm_uuid) {
    const std::string prefix = fmt::format("COWSLIP-{}-", pool_uuid);
    if (!dm_uuid.starts_with(prefix)) return std::nullopt;
    const std::string_view digits = dm_uuid.substr(prefix.size());
    std::uint32_t id = 0;
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
    if (status != std::errc{} || end != digits.data() + digits.size() || id > kLastThinId) return std::nullopt;
    if (thin_dm_uuid(pool_uuid, id) != dm_uuid) return std::nullopt;  // "007"
    return id;
}

std::string new_uuid() {
    std::array<unsigned char, 16> bytes{};
    randombytes_buf(bytes.data(), bytes.size());
    std::string text;
    for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
    return text;
}

bool is_pool_uuid(std::string_view text) {
    return text.size() == 32 && all_of(text, kHex);
}

}  // namespace cowslip
