// What we write beside dm-thin's metadata, as bytes: frames of whole 4 KiB blocks, each with its kind, a sequence and a
// checksum, so that a torn one is seen and the newest whole one is found. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cowslip {

inline constexpr std::uint64_t kFrameBlockBytes = 4096;
inline constexpr std::size_t kFrameHeaderBytes = 32;

enum class FrameKind : std::uint8_t { label, backup_head, backup_chunk, device };

struct BlockFrame {
    std::uint64_t sequence = 0;
    std::string payload;
};

std::string make_frame(FrameKind kind, const BlockFrame& frame);  // Padded to whole blocks.
// Nothing if it is of another kind, torn or damaged. More bytes than the frame's are ignored.
std::optional<BlockFrame> parse_frame(FrameKind kind, std::string_view bytes);

}  // namespace cowslip
