// What dm-thin says and wants to be told, as text and bytes: tables, messages, status lines, the
// superblock, thin_ls. Pure functions, without device-mapper and without root.
//
// Also the judgement of a pool message: rc 0 alone proves nothing, because the kernel drops the
// result of the commit that follows it (protocol.md part 1, "Success of a message").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace cowslip {

inline constexpr std::uint64_t kSectorBytes = 512;

enum class PoolMode : std::uint8_t {
    rw,
    out_of_data_space,  // Still carries out and commits messages.
    ro,                 // Metadata full (without needs_check), or a commit failed (with it).
    fail,               // Status line `Fail`: aborting a failed commit failed; only a reload leaves it.
    error,              // Status line `Error`: the kernel could not read its own counters.
};

std::string_view to_string(PoolMode mode);  // As the kernel writes it.

struct ThinPoolStatus {
    PoolMode mode = PoolMode::rw;  // With fail and error, everything below is zero.
    std::uint64_t transaction_id = 0;
    std::uint64_t used_metadata_blocks = 0;  // 4 KiB each; includes the kernel's own reserve.
    std::uint64_t total_metadata_blocks = 0;
    std::uint64_t used_data_blocks = 0;
    std::uint64_t total_data_blocks = 0;
    std::uint64_t held_root = 0;  // Block of a held metadata snapshot, or 0.
    bool ignore_discard = false;
    bool discard_passdown = false;
    bool error_if_no_space = false;  // Also what a queueing pool says once its no-space time is over.
    bool needs_check = false;
    std::uint64_t metadata_low_water_blocks = 0;
};

// A truncated or unknown line is an error that shows it. More fields than we know are ignored.
Result<ThinPoolStatus> parse_thin_pool_status(std::string_view text);

// Does the pool take and keep what it is told, and is its transaction id one that we gave it?
// An id outside the window means that store and pool disagree: the pool is to be frozen (A1).
bool is_good(const ThinPoolStatus& status, std::uint64_t confirmed, std::uint64_t planned);

enum class Outcome : std::uint8_t {
    done,     // It is on the metadata device.
    refused,  // It was not done, for the reason that the errno names.
    unknown,  // Ask again when the pool can be written; undo nothing from memory.
};

// `error_number` of the message and the no-flush status read right after it (schemas' Verdict). An
// EEXIST or ENODATA is `refused`: whether it is success all the same is for the caller to know.
Outcome judge(int error_number, std::string_view status, std::uint64_t confirmed, std::uint64_t planned);

struct ThinPoolTable {
    std::string metadata_device;  // A path when made; "7:0" when the kernel wrote it.
    std::string data_device;
    std::uint32_t block_sectors = 128;
    std::uint64_t low_water_blocks = 0;
    bool skip_zeroing = false;
    bool ignore_discard = false;
    bool discard_passdown = true;
    bool read_only = false;
    bool error_if_no_space = false;
};

std::string make_thin_pool_table(const ThinPoolTable& table);
Result<ThinPoolTable> parse_thin_pool_table(std::string_view text);

struct ThinTable {
    std::string pool_device;
    std::uint32_t thin_id = 0;
    std::optional<std::string> external_origin = {};
};

std::string make_thin_table(const ThinTable& table);
Result<ThinTable> parse_thin_table(std::string_view text);

std::string create_thin_message(std::uint32_t thin_id);
std::string create_snap_message(std::uint32_t thin_id, std::uint32_t origin_id);
std::string delete_message(std::uint32_t thin_id);
std::string set_transaction_id_message(std::uint64_t from, std::uint64_t to);
inline constexpr const char* kReserveMetadataSnapMessage = "reserve_metadata_snap";
inline constexpr const char* kReleaseMetadataSnapMessage = "release_metadata_snap";

// Of a load or a message: the kernel came upon a metadata block whose checksum is wrong (EILSEQ), or that is another
// one than it should be (ENOTBLK; the validators in drivers/md/persistent-data).
bool is_metadata_damage(int error_number);

inline constexpr std::size_t kSuperblockBytes = 4096;

struct ThinPoolSuperblock {
    bool zeroed = false;   // All zero: the kernel would format it without a word.
    bool damaged = false;  // The magic is right, and the rest is not: a pool that may be repaired.
    bool valid = false;    // Magic and checksum are right; all below is zero unless it is.
    bool needs_check = false;
    std::uint64_t transaction_id = 0;
    std::uint32_t time = 0;  // The clock that each snapshot advances; the mappings keep 24 bits of it.
    std::uint32_t data_block_sectors = 0;
    std::uint64_t held_root = 0;
    std::uint64_t total_data_blocks = 0;
    std::uint64_t used_data_blocks = 0;
    std::uint64_t total_metadata_blocks = 0;
};

// The first 4 KiB of a metadata device; other lengths are never valid.
ThinPoolSuperblock parse_superblock(std::string_view bytes);

// What a superblock's checksum must be. For those who make or change one (tests, the clock rewind).
std::uint32_t superblock_checksum(std::string_view bytes);

struct ThinListEntry {
    std::uint32_t thin_id = 0;
    std::uint64_t mapped_blocks = 0;
    std::uint64_t transaction_id = 0;    // The pool's, when the thin was made.
    std::uint64_t exclusive_blocks = 0;  // Mapped by no other thin; 0 unless counted.
};

// Whether a list of thins says how much each has for itself: for that thin_ls must look at every mapping, twice.
enum class Sharing : std::uint8_t { ignored, counted };

inline constexpr const char* kThinListFields = "DEV,MAPPED_BLOCKS,TRANSACTION";
inline constexpr const char* kThinSharingFields = "DEV,MAPPED_BLOCKS,TRANSACTION,EXCLUSIVE_BLOCKS";

// Output of `thin_ls --no-headers -o` with these fields, sorted by id. Anything odd, also a last line
// without its newline, is an error: half a list would make volumes look lost.
Result<std::vector<ThinListEntry>> parse_thin_list(std::string_view text, Sharing sharing = Sharing::ignored);

// The mapped sectors in a thin target's status; nothing where the pool cannot tell.
std::optional<std::uint64_t> parse_thin_status(std::string_view text);

inline constexpr std::uint64_t kMinMetadataSectors = (std::uint64_t{4} << 20U) / kSectorBytes;
// 255 space map entries of 16,320 blocks: the kernel uses no more.
inline constexpr std::uint64_t kMaxMetadataSectors = std::uint64_t{255} * (16384 - 64) * 8;

// For a pool of that much data: 64 bytes for each data block (a mapping takes 16, in leaves between
// half and wholly full, with room for clones that have their own), and 16 MiB for a thousand clones
// (at least four 4 KiB blocks each, once written to). Whole MiB, within the bounds above.
std::uint64_t default_metadata_sectors(std::uint64_t data_sectors, std::uint32_t block_sectors);

}  // namespace cowslip
