#include "common/block_frame.h"

#include "common/crc32c.h"

namespace cowslip {

namespace {

// Header: magic, version, kind, length of the payload, sequence, checksum of all of the frame but itself.
constexpr std::string_view kFrameMagic = "cowslip\n";
constexpr std::uint32_t kFrameVersion = 1;
constexpr std::size_t kFrameChecksumAt = 28;

template <class T>
void put_number(std::string& bytes, T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
}

template <class T>
T get_number(std::string_view bytes, std::size_t at) {
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        value |= static_cast<T>(static_cast<T>(static_cast<unsigned char>(bytes[at + i])) << (8 * i));
    }
    return value;
}

std::uint32_t frame_checksum(std::string_view frame) {
    return crc32c(std::string(frame.substr(0, kFrameChecksumAt)) + std::string(frame.substr(kFrameHeaderBytes)));
}

}  // namespace

std::string make_frame(FrameKind kind, const BlockFrame& frame) {
    std::string bytes(kFrameMagic);
    put_number(bytes, kFrameVersion);
    put_number(bytes, static_cast<std::uint32_t>(kind));
    put_number(bytes, static_cast<std::uint32_t>(frame.payload.size()));
    put_number(bytes, frame.sequence);
    put_number(bytes, std::uint32_t{0});
    bytes += frame.payload;
    const std::uint32_t checksum = frame_checksum(bytes);
    for (std::size_t i = 0; i < 4; ++i) bytes[kFrameChecksumAt + i] = static_cast<char>(checksum >> (8 * i));
    bytes.resize((bytes.size() + kFrameBlockBytes - 1) / kFrameBlockBytes * kFrameBlockBytes, '\0');
    return bytes;
}

std::optional<BlockFrame> parse_frame(FrameKind kind, std::string_view bytes) {
    if (bytes.size() < kFrameHeaderBytes || !bytes.starts_with(kFrameMagic)) return std::nullopt;
    const auto length = get_number<std::uint32_t>(bytes, 16);
    if (get_number<std::uint32_t>(bytes, 8) != kFrameVersion || length > bytes.size() - kFrameHeaderBytes ||
        get_number<std::uint32_t>(bytes, 12) != static_cast<std::uint32_t>(kind)) {
        return std::nullopt;
    }
    const std::string_view frame = bytes.substr(0, kFrameHeaderBytes + length);
    if (get_number<std::uint32_t>(frame, kFrameChecksumAt) != frame_checksum(frame)) return std::nullopt;
    return BlockFrame{get_number<std::uint64_t>(frame, 20), std::string(frame.substr(kFrameHeaderBytes))};
}

}  // namespace cowslip
