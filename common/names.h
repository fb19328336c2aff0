// Every name that cowslip gives to something in the kernel or the file system is made and parsed
// here, by pure functions: dm names and uuids, volume directories, and what makes an id valid.
// A client's id is up to 255 bytes of anything but control characters, so it never becomes a path
// or a dm name unescaped.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"

namespace cowslip {

// 1-255 bytes of UTF-8 without control characters.
Result<void> check_volume_id(std::string_view id);
// Likewise, 1-128 bytes.
Result<void> check_holder(std::string_view holder);
// Key [a-z0-9._/-]{1,63}, value of 0-255 bytes.
Result<void> check_label(std::string_view key, std::string_view value);
// [a-z0-9][a-z0-9._-]{0,31}.
Result<void> check_pool_name(std::string_view name);

// The name of a volume's directory below DIR/mnt. The id itself where that is a safe file name of
// at most 200 bytes; else percent-escaped; if that passes 255 bytes or looks like what follows, '%'
// and 32 hex digits of its SHA-256. Never two ids with one directory: an escaped form holds '%',
// which a plain one cannot.
std::string volume_directory(std::string_view id);
// ".warm-7": of a clone that has no id yet, with the thin id that its dm uuid ends in. No id's directory begins with a
// dot.
std::string warm_directory(std::string_view dm_uuid);
bool is_warm_directory(std::string_view directory);

// Of a pool whose uuid is 32 hex digits: "cowslip-<8 hex>-pool" and "COWSLIP-<32 hex>-pool". The
// uuid makes the kernel itself refuse to activate one thin id twice. At most 8+9+9 and 8+33+9
// bytes, well inside dm's 127.
std::string pool_dm_name(std::string_view pool_uuid);
std::string pool_dm_uuid(std::string_view pool_uuid);
// Likewise with "data", "metadata" or "spare": what a pool on whole devices is put together of.
std::string pool_part_dm_name(std::string_view pool_uuid, std::string_view part);
std::string pool_part_dm_uuid(std::string_view pool_uuid, std::string_view part);
std::string thin_dm_name(std::string_view pool_uuid, std::uint32_t thin_id);
std::string thin_dm_uuid(std::string_view pool_uuid, std::uint32_t thin_id);

// The thin id in a dm uuid of this pool, or nothing.
std::optional<std::uint32_t> parse_thin_dm_uuid(std::string_view pool_uuid, std::string_view dm_uuid);

bool is_pool_uuid(std::string_view text);  // 32 lower-case hex digits.
std::string new_uuid();                    // Such, at random.

// 24 bits, and 0 and 1 are our own internal devices.
inline constexpr std::uint32_t kFirstThinId = 2;
inline constexpr std::uint32_t kLastThinId = (1U << 24U) - 1;

}  // namespace cowslip
