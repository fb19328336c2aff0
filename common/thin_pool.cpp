#include "common/thin_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <limits>

#include "common/crc32c.h"

namespace cowslip {

namespace {

std::vector<std::string_view> split(std::string_view text) {
    std::vector<std::string_view> words;
    while (true) {
        const auto begin = text.find_first_not_of(' ');
        if (begin == std::string_view::npos) return words;
        const auto end = std::min(text.find(' ', begin), text.size());
        words.push_back(text.substr(begin, end - begin));
        text.remove_prefix(end);
    }
}

template <class T>
bool parse_number(std::string_view word, T& value) {
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    return error == std::errc{} && end == word.data() + word.size();
}

// "5/4096"
bool parse_fraction(std::string_view word, std::uint64_t& used, std::uint64_t& total) {
    const auto slash = word.find('/');
    return slash != std::string_view::npos && parse_number(word.substr(0, slash), used) &&
           parse_number(word.substr(slash + 1), total);
}

bool parse_writable_mode(std::string_view word, PoolMode& mode) {
    for (const auto known : {PoolMode::rw, PoolMode::out_of_data_space, PoolMode::ro}) {
        if (word != to_string(known)) continue;
        mode = known;
        return true;
    }
    return false;
}

bool parse_held_root(std::string_view word, std::uint64_t& root) {
    return word == "-" || parse_number(word, root);
}

bool parse_discard(std::string_view word, ThinPoolStatus& status) {
    status.ignore_discard = word == "ignore_discard";
    status.discard_passdown = word == "discard_passdown";
    return status.ignore_discard || status.discard_passdown || word == "no_discard_passdown";
}

bool parse_no_space(std::string_view word, ThinPoolStatus& status) {
    status.error_if_no_space = word == "error_if_no_space";
    return status.error_if_no_space || word == "queue_if_no_space";
}

bool parse_needs_check(std::string_view word, ThinPoolStatus& status) {
    status.needs_check = word == "needs_check";
    return status.needs_check || word == "-";
}

bool parse_fields(const std::vector<std::string_view>& words, ThinPoolStatus& status) {
    return words.size() >= 9 && parse_number(words[0], status.transaction_id) &&
           parse_fraction(words[1], status.used_metadata_blocks, status.total_metadata_blocks) &&
           parse_fraction(words[2], status.used_data_blocks, status.total_data_blocks) &&
           parse_held_root(words[3], status.held_root) && parse_writable_mode(words[4], status.mode) &&
           parse_discard(words[5], status) && parse_no_space(words[6], status) && parse_needs_check(words[7], status) &&
           parse_number(words[8], status.metadata_low_water_blocks);
}

template <class T>
T little_endian(std::string_view bytes, std::size_t offset) {
    T value = 0;
    for (std::size_t i = sizeof(T); i > 0; --i) {
        value = static_cast<T>(value << 8U) | static_cast<std::uint8_t>(bytes[offset + i - 1]);
    }
    return value;
}

// struct thin_disk_superblock in the kernel's dm-thin-metadata.c.
constexpr std::uint64_t kSuperblockMagic = 27022010;
constexpr std::uint32_t kChecksumXor = 160774;
constexpr std::uint32_t kNeedsCheckFlag = 1;
constexpr std::size_t kFlagsAt = 4;
constexpr std::size_t kMagicAt = 32;
constexpr std::size_t kTimeAt = 44;
constexpr std::size_t kTransactionIdAt = 48;
constexpr std::size_t kHeldRootAt = 56;
constexpr std::size_t kDataSpaceMapAt = 64;  // struct disk_sm_root: blocks, allocated blocks, ...
constexpr std::size_t kMetadataSpaceMapAt = kDataSpaceMapAt + 128;
constexpr std::size_t kDataBlockSectorsAt = 336;

}  // namespace

std::string_view to_string(PoolMode mode) {
    switch (mode) {
        case PoolMode::rw:
            return "rw";
        case PoolMode::out_of_data_space:
            return "out_of_data_space";
        case PoolMode::ro:
            return "ro";
        case PoolMode::fail:
            return "Fail";
        case PoolMode::error:
            return "Error";
    }
    return "";
}

Result<ThinPoolStatus> parse_thin_pool_status(std::string_view text) {
    ThinPoolStatus status;
    const auto words = split(text);
    if (words.size() == 1 && words[0] == "Fail") {
        status.mode = PoolMode::fail;
        return status;
    }
    if (words.size() == 1 && words[0] == "Error") {
        status.mode = PoolMode::error;
        return status;
    }
    if (!parse_fields(words, status)) {
        return Error{Errc::internal, fmt::format("parse thin-pool status: unexpected text '{}'", text)};
    }
    return status;
}

bool is_good(const ThinPoolStatus& status, std::uint64_t confirmed, std::uint64_t planned) {
    const bool commits = status.mode == PoolMode::rw || status.mode == PoolMode::out_of_data_space;
    return commits && !status.needs_check && confirmed <= status.transaction_id && status.transaction_id <= planned;
}

Outcome judge(int error_number, std::string_view status, std::uint64_t confirmed, std::uint64_t planned) {
    const auto parsed = parse_thin_pool_status(status);
    if (!parsed || !is_good(*parsed, confirmed, planned)) return Outcome::unknown;
    return error_number == 0 ? Outcome::done : Outcome::refused;
}

std::string make_thin_pool_table(const ThinPoolTable& table) {
    std::vector<std::string_view> features;
    if (table.skip_zeroing) features.emplace_back("skip_block_zeroing");
    if (table.ignore_discard) features.emplace_back("ignore_discard");
    if (!table.discard_passdown) features.emplace_back("no_discard_passdown");
    if (table.read_only) features.emplace_back("read_only");
    if (table.error_if_no_space) features.emplace_back("error_if_no_space");
    std::string text = fmt::format("{} {} {} {} {}", table.metadata_device, table.data_device, table.block_sectors,
                                   table.low_water_blocks, features.size());
    for (const auto feature : features) text.append(" ").append(feature);
    return text;
}

Result<ThinPoolTable> parse_thin_pool_table(std::string_view text) {
    const Error odd{Errc::internal, fmt::format("parse thin-pool table: unexpected text '{}'", text)};
    const auto words = split(text);
    ThinPoolTable table;
    if (words.size() < 4 || !parse_number(words[2], table.block_sectors) ||
        !parse_number(words[3], table.low_water_blocks)) {
        return odd;
    }
    table.metadata_device = words[0];
    table.data_device = words[1];
    if (words.size() == 4) return table;
    std::size_t count = 0;
    if (!parse_number(words[4], count) || words.size() != 5 + count) return odd;
    for (std::size_t i = 5; i < words.size(); ++i) {
        if (words[i] == "skip_block_zeroing") {
            table.skip_zeroing = true;
        } else if (words[i] == "ignore_discard") {
            table.ignore_discard = true;
        } else if (words[i] == "no_discard_passdown") {
            table.discard_passdown = false;
        } else if (words[i] == "read_only") {
            table.read_only = true;
        } else if (words[i] == "error_if_no_space") {
            table.error_if_no_space = true;
        } else {
            return odd;
        }
    }
    return table;
}

std::string make_thin_table(const ThinTable& table) {
    std::string text = fmt::format("{} {}", table.pool_device, table.thin_id);
    if (table.external_origin) text.append(" ").append(*table.external_origin);
    return text;
}

Result<ThinTable> parse_thin_table(std::string_view text) {
    const auto words = split(text);
    ThinTable table;
    if (words.size() < 2 || words.size() > 3 || !parse_number(words[1], table.thin_id)) {
        return Error{Errc::internal, fmt::format("parse thin table: unexpected text '{}'", text)};
    }
    table.pool_device = words[0];
    if (words.size() == 3) table.external_origin = words[2];
    return table;
}

std::string create_thin_message(std::uint32_t thin_id) {
    return fmt::format("create_thin {}", thin_id);
}

std::string create_snap_message(std::uint32_t thin_id, std::uint32_t origin_id) {
    return fmt::format("create_snap {} {}", thin_id, origin_id);
}

std::string delete_message(std::uint32_t thin_id) {
    return fmt::format("delete {}", thin_id);
}

std::string set_transaction_id_message(std::uint64_t from, std::uint64_t to) {
    return fmt::format("set_transaction_id {} {}", from, to);
}

std::uint32_t superblock_checksum(std::string_view bytes) {
    return crc32c(bytes.substr(kFlagsAt)) ^ kChecksumXor;
}

bool is_metadata_damage(int error_number) {
    return error_number == EILSEQ || error_number == ENOTBLK;
}

ThinPoolSuperblock parse_superblock(std::string_view bytes) {
    ThinPoolSuperblock superblock;
    if (bytes.size() != kSuperblockBytes) return superblock;
    superblock.zeroed = std::all_of(bytes.begin(), bytes.end(), [](char byte) { return byte == 0; });
    const bool magic = little_endian<std::uint64_t>(bytes, kMagicAt) == kSuperblockMagic;
    superblock.valid = magic && little_endian<std::uint32_t>(bytes, 0) == superblock_checksum(bytes);
    superblock.damaged = magic && !superblock.valid;
    if (!superblock.valid) return superblock;
    superblock.needs_check = (little_endian<std::uint32_t>(bytes, kFlagsAt) & kNeedsCheckFlag) != 0;
    superblock.transaction_id = little_endian<std::uint64_t>(bytes, kTransactionIdAt);
    superblock.time = little_endian<std::uint32_t>(bytes, kTimeAt);
    superblock.data_block_sectors = little_endian<std::uint32_t>(bytes, kDataBlockSectorsAt);
    superblock.held_root = little_endian<std::uint64_t>(bytes, kHeldRootAt);
    superblock.total_data_blocks = little_endian<std::uint64_t>(bytes, kDataSpaceMapAt);
    superblock.used_data_blocks = little_endian<std::uint64_t>(bytes, kDataSpaceMapAt + 8);
    superblock.total_metadata_blocks = little_endian<std::uint64_t>(bytes, kMetadataSpaceMapAt);
    return superblock;
}

Result<std::vector<ThinListEntry>> parse_thin_list(std::string_view text, Sharing sharing) {
    const std::size_t fields = sharing == Sharing::counted ? 4 : 3;
    std::vector<ThinListEntry> entries;
    while (!text.empty()) {
        const auto newline = text.find('\n');
        const auto line = text.substr(0, newline);
        const auto words = split(line);
        ThinListEntry entry;
        if (newline == std::string_view::npos || words.size() != fields || !parse_number(words[0], entry.thin_id) ||
            !parse_number(words[1], entry.mapped_blocks) || !parse_number(words[2], entry.transaction_id) ||
            (fields == 4 && !parse_number(words[3], entry.exclusive_blocks))) {
            return Error{Errc::internal, fmt::format("parse list of thin devices: unexpected line '{}'", line)};
        }
        entries.push_back(entry);
        text.remove_prefix(newline + 1);
    }
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.thin_id < b.thin_id; });
    return entries;
}

// "<mapped sectors> <highest mapped sector>", or "0 -", "Fail", "Error".
std::optional<std::uint64_t> parse_thin_status(std::string_view text) {
    const auto words = split(text);
    std::uint64_t mapped = 0;
    if (words.size() != 2 || !parse_number(words[0], mapped)) return std::nullopt;
    return mapped;
}

std::uint64_t default_metadata_sectors(std::uint64_t data_sectors, std::uint32_t block_sectors) {
    constexpr std::uint64_t kMib = std::uint64_t{1} << 20U;
    if (block_sectors == 0) return kMinMetadataSectors;
    const std::uint64_t data_blocks = data_sectors / block_sectors;
    // Beyond this the answer is the maximum anyway, and the product below would not fit.
    if (data_blocks > std::numeric_limits<std::uint32_t>::max()) return kMaxMetadataSectors;
    const std::uint64_t mib = (data_blocks * 64 + kMib - 1) / kMib + 16;
    return std::clamp(mib * kMib / kSectorBytes, kMinMetadataSectors, kMaxMetadataSectors);
}

}  // namespace cowslip
