// Keys of the name queue.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cowslip {

inline std::string volume_key(std::string_view name) {
    return "v:" + std::string(name);
}
inline std::optional<std::string> name_of_volume_key(std::string_view key) {
    if (!key.starts_with("v:")) return std::nullopt;
    return std::string(key.substr(2));
}
inline std::string thin_key(std::uint32_t thin_id) {
    return "t:" + std::to_string(thin_id);
}
inline constexpr const char* kPoolKey = "p";
inline constexpr const char* kStartKey = "s";         // Starting the pool; taken by one who holds kPoolKey.
inline constexpr const char* kTablesKey = "l";        // Shared: a thin's table is loaded; exclusive: the pool's.
inline constexpr const char* kMetadataSnapKey = "m";  // One metadata snapshot per pool.
inline constexpr const char* kBackupKey = "b";        // One backup of the store beside it at a time.
inline constexpr const char* kCompareKey = "c";       // One comparison at a time; taken by one who holds kPoolKey.

}  // namespace cowslip
