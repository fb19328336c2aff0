// What dm-log-writes has recorded: every write to the one disk that state, metadata and data lie on, in the order in
// which it became durable, with marks in between; and what a power cut at any of them may leave on that disk.
//
// Format (Documentation/admin-guide/device-mapper/log-writes.rst): a super sector, then an entry's sector and its data,
// and so on. Writes are logged when the flush after them has ended, that flush last; a FUA write when it has ended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace cowslip::cut {

inline constexpr std::uint64_t kMiB = 1U << 20U;

// The disk: a file system for the state folder, the pool's metadata, its data.
struct Layout {
    static constexpr std::uint64_t kState = 48 * kMiB;
    static constexpr std::uint64_t kMetadata = 8 * kMiB;
    static constexpr std::uint64_t kData = 200 * kMiB;
    static constexpr std::uint64_t kDisk = kState + kMetadata + kData;
};
inline constexpr const char* kDataDevice = "/dev/mapper/cut-data";
inline constexpr const char* kMetadataDevice = "/dev/mapper/cut-metadata";

struct Entry {
    std::uint64_t begin = 0;  // Bytes on the disk.
    std::uint64_t length = 0;
    bool flush = false;    // All that was logged before it was durable before it was written.
    bool fua = false;      // It was durable when it had ended.
    bool discard = false;  // No data: reads as zeros.
    std::string mark;      // Not empty: no write at all.
    std::string_view data;
};

// Part of what is written to the disk; `bytes` empty: that many zeros.
struct Piece {
    std::uint64_t begin = 0;
    std::uint64_t length = 0;
    std::string_view bytes;
};

// A power cut: after the entry of that number, and the marks behind it, with nothing of the next. Variant 0: all that
// was logged is on the disk. Others: of what no flush had made durable some writes are missing, some are torn; chance
// decides, from the seed.
struct Point {
    std::size_t entry = 0;
    std::uint32_t variant = 0;
};

std::string to_string(const Point& point);  // "417.1"
Result<Point> parse_point(std::string_view text);

class Recording {
public:
    // A file or a block device. What was mapped stays mapped till the process ends: entries point into it. The disk was
    // blank before the first entry; or it was what a power cut had left of an earlier recording, if the first mark is
    // "after:POINT:SEED" (then `earlier` is needed).
    static Result<Recording> open(const std::string& path, const std::string& earlier = "");

    const std::vector<Piece>& beginning() const { return beginning_; }  // What was on the disk before the first entry.

    const std::vector<Entry>& entries() const { return entries_; }
    std::optional<std::size_t> find_mark(std::string_view mark) const;

    // Entries below this are on the disk whatever happens.
    std::size_t durable_before(std::size_t entry) const;
    // What else is, in the order of writing.
    std::vector<Piece> undecided(const Point& point, std::uint64_t seed) const;
    // The marks that were set when power failed, an earlier recording's first.
    std::vector<std::string> marks(std::size_t entry) const;
    // The writes between the marks `start` and `end`; those alone that can be seen without the volumes' data, or all.
    enum class Seen : std::uint8_t { natively, by_a_kernel };
    Result<std::vector<std::size_t>> entries_to_cut(Seen seen) const;

private:
    Result<void> parse(std::string_view log);
    Result<void> begin_after(const std::string& earlier);
    std::vector<Entry> entries_;
    std::vector<Piece> beginning_;
    std::vector<std::string> earlier_marks_;
};

// The whole of an entry.
Piece piece_of(const Entry& entry);

// Random 512-byte parts of a piece; 4 KiB ones of the pool's metadata, as dm-thin relies on whole blocks, and of the
// superblock of the state's file system, which is the host's to mend (ext4 has its checksum in another sector than what
// changes; that of a volume is torn, and mended by us).
std::vector<Piece> tear(const Piece& piece, std::mt19937_64& random);

// That many points, spread evenly over the entries.
std::vector<Point> choose_points(const std::vector<std::size_t>& entries, std::size_t count);

// Makes `file` a disk as the cut has left it.
Result<void> lay_out(const Recording& recording, const Point& point, std::uint64_t seed, const std::string& file);

}  // namespace cowslip::cut
