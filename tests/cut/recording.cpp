#include "tests/cut/recording.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

#include "common/files.h"

namespace cowslip::cut {

namespace {

constexpr std::uint64_t kMagic = 0x6a736677736872ULL;
constexpr std::uint64_t kVersion = 1;
constexpr std::uint64_t kFlush = 1U << 0U;
constexpr std::uint64_t kFua = 1U << 1U;
constexpr std::uint64_t kDiscard = 1U << 2U;
constexpr std::uint64_t kMark = 1U << 3U;
constexpr std::size_t kEntryBytes = 32;
constexpr std::uint64_t kWholeBlock = 4096;
constexpr std::string_view kAfter = "after:";

std::uint64_t number(std::string_view log, std::size_t at) {
    std::uint64_t value = 0;  // Little-endian, as all machines that run this.
    std::memcpy(&value, log.data() + at, sizeof value);
    return value;
}

}  // namespace

std::string to_string(const Point& point) {
    return fmt::format("{}.{}", point.entry, point.variant);
}

Result<Point> parse_point(std::string_view text) {
    Point point;
    const auto* end = text.data() + text.size();
    const auto entry = std::from_chars(text.data(), end, point.entry);
    if (entry.ec == std::errc{} && entry.ptr != end && *entry.ptr == '.') {
        const auto variant = std::from_chars(entry.ptr + 1, end, point.variant);
        if (variant.ec == std::errc{} && variant.ptr == end) return point;
    }
    return Error{Errc::invalid_argument, fmt::format("point '{}': it is ENTRY.VARIANT, such as 417.1", text)};
}

Result<Recording> Recording::open(const std::string& path, const std::string& earlier) {
    const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return errno_error(errno, "open '" + path + "'");
    const off_t size = ::lseek(file.get(), 0, SEEK_END);
    if (size <= 0) return Error{Errc::invalid_argument, "'" + path + "' is empty"};
    const auto bytes = static_cast<std::size_t>(size);
    void* mapped = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.get(), 0);
    if (mapped == MAP_FAILED) return errno_error(errno, "map '" + path + "'");
    Recording recording;
    TRY(recording.parse({static_cast<const char*>(mapped), bytes}));
    if (!recording.entries_.empty() && recording.entries_.front().mark.starts_with(kAfter))
        TRY(recording.begin_after(earlier));
    return recording;
}

Result<void> Recording::begin_after(const std::string& earlier) {
    const std::string_view mark = std::string_view(entries_.front().mark).substr(kAfter.size());
    const auto colon = mark.find(':');
    const Point point = TRY(parse_point(mark.substr(0, colon)));
    std::uint64_t seed = 0;
    if (colon != std::string_view::npos) std::from_chars(mark.data() + colon + 1, mark.data() + mark.size(), seed);
    if (earlier.empty())
        return Error{Errc::invalid_argument, "the recording begins after a cut of an earlier one: which?"};
    const Recording before = TRY(open(earlier));
    if (point.entry >= before.entries_.size()) return Error{Errc::invalid_argument, "the earlier recording is another"};
    for (std::size_t i = 0; i < before.durable_before(point.entry); ++i) {
        const Entry& entry = before.entries_[i];
        if (entry.mark.empty() && entry.length > 0) beginning_.push_back(piece_of(entry));
    }
    const auto undecided = before.undecided(point, seed);
    beginning_.insert(beginning_.end(), undecided.begin(), undecided.end());
    earlier_marks_ = before.marks(point.entry);
    return {};
}

Result<void> Recording::parse(std::string_view log) {
    const auto broken = [](std::size_t at, const char* what) {
        return Error{Errc::invalid_argument, fmt::format("read the recorded log at byte {}: {}", at, what)};
    };
    if (log.size() < 4096 || number(log, 0) != kMagic || number(log, 8) != kVersion) return broken(0, "it is none");
    const std::uint64_t count = number(log, 16);
    const std::uint64_t sector = number(log, 24) & 0xffffffffU;
    if (sector < 512 || sector > 4096) return broken(24, "sector size");
    std::size_t at = sector;
    for (std::uint64_t i = 0; i < count; ++i) {
        if (at + sector > log.size()) return broken(at, "it ends in the middle");
        const std::uint64_t flags = number(log, at + 16);
        Entry entry;
        entry.begin = number(log, at) * sector;
        entry.length = number(log, at + 8) * sector;
        entry.flush = (flags & kFlush) != 0;
        entry.fua = (flags & kFua) != 0;
        entry.discard = (flags & kDiscard) != 0;
        if ((flags & kMark) != 0) {
            const std::uint64_t length = number(log, at + 24);
            if (length == 0 || length > sector - kEntryBytes) return broken(at, "length of a mark");
            entry.mark = log.substr(at + kEntryBytes, length);
            entry.mark.resize(std::strlen(entry.mark.c_str()));
        }
        at += sector;
        if (entry.mark.empty() && !entry.discard) {
            if (at + entry.length > log.size()) return broken(at, "it ends in the middle of a write");
            entry.data = log.substr(at, entry.length);
            at += entry.length;
        }
        entries_.push_back(std::move(entry));
    }
    return {};
}

std::optional<std::size_t> Recording::find_mark(std::string_view mark) const {
    const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.mark == mark; });
    if (found == entries_.end()) return std::nullopt;
    return static_cast<std::size_t>(found - entries_.begin());
}

std::size_t Recording::durable_before(std::size_t entry) const {
    for (std::size_t i = entry; i > 0; --i) {
        if (entries_[i].flush) return i;
    }
    return 0;
}

std::vector<Piece> Recording::undecided(const Point& point, std::uint64_t seed) const {
    std::vector<Piece> pieces;
    std::seed_seq mix{seed, std::uint64_t{point.entry}, std::uint64_t{point.variant}};
    std::mt19937_64 random(mix);
    const auto chance = [&](double probability) {
        return std::uniform_real_distribution<>(0, 1)(random) < probability;
    };
    // Now all is gone that may be, now nearly nothing, now half of it.
    const double missing = std::vector<double>{1.0, 0.1, 0.5, 0.9}[random() % 4];
    bool whole = true;
    for (std::size_t i = durable_before(point.entry); i <= point.entry; ++i) {
        const Entry& entry = entries_[i];
        if (!entry.mark.empty() || entry.length == 0) continue;
        const Piece piece = piece_of(entry);
        if (point.variant == 0 || entry.fua || !chance(missing)) {
            pieces.push_back(piece);
            continue;
        }
        whole = false;
        if (!chance(0.2)) continue;
        for (const Piece& part : tear(piece, random)) pieces.push_back(part);
    }
    if (point.variant == 0) return pieces;
    // The next write may have been going on.
    for (std::size_t i = point.entry + 1; i < entries_.size(); ++i) {
        const Entry& next = entries_[i];
        if (!next.mark.empty()) continue;
        if (next.length == 0 || (next.flush && !whole) || !chance(0.5)) break;
        for (const Piece& part : tear(piece_of(next), random)) pieces.push_back(part);
        break;
    }
    return pieces;
}

std::vector<std::string> Recording::marks(std::size_t entry) const {
    std::vector<std::string> found = earlier_marks_;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
        if (!entries_[i].mark.empty()) {
            found.push_back(entries_[i].mark);
        } else if (i > entry) {
            break;
        }
    }
    return found;
}

Result<std::vector<std::size_t>> Recording::entries_to_cut(Seen seen) const {
    const auto start = find_mark("start");
    const auto end = find_mark("end");
    if (!start || !end) return Error{Errc::invalid_argument, "the recording has no start or no end"};
    std::vector<std::size_t> found;
    for (std::size_t i = *start + 1; i < *end; ++i) {
        const Entry& entry = entries_[i];
        if (!entry.mark.empty() || entry.length == 0) continue;
        if (seen == Seen::by_a_kernel || entry.begin < Layout::kState + Layout::kMetadata) found.push_back(i);
    }
    return found;
}

Piece piece_of(const Entry& entry) {
    return {entry.begin, entry.length, entry.data};
}

std::vector<Piece> tear(const Piece& piece, std::mt19937_64& random) {
    const bool metadata = piece.begin >= Layout::kState && piece.begin < Layout::kState + Layout::kMetadata;
    const bool superblock = piece.begin < kWholeBlock;
    const std::uint64_t grain = metadata || superblock ? kWholeBlock : 512;
    // A beginning, an end, or whatever.
    const std::uint64_t grains = piece.length / grain;
    const std::uint64_t limit = random() % (grains + 1);
    const auto how = random() % 3;
    std::vector<Piece> parts;
    for (std::uint64_t i = 0; i < grains; ++i) {
        if (how == 0 ? i >= limit : how == 1 ? i < limit : random() % 2 == 0) continue;
        const std::uint64_t offset = i * grain;
        parts.push_back(
            {piece.begin + offset, grain, piece.bytes.empty() ? piece.bytes : piece.bytes.substr(offset, grain)});
    }
    return parts;
}

std::vector<Point> choose_points(const std::vector<std::size_t>& entries, std::size_t count) {
    std::vector<Point> points;
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t which = i * entries.size() / count;
        // Fewer points than entries: whole ones and torn ones by turns. More: several of each entry, the first whole.
        const bool again = !points.empty() && points.back().entry == entries[which];
        const std::uint32_t variant = again                     ? points.back().variant + 1
                                      : count <= entries.size() ? static_cast<std::uint32_t>(i % 2)
                                                                : 0;
        points.push_back({entries[which], variant});
    }
    return points;
}

Result<void> lay_out(const Recording& recording, const Point& point, std::uint64_t seed, const std::string& file) {
    const Fd disk(::open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!disk || ::ftruncate(disk.get(), static_cast<off_t>(Layout::kDisk)) != 0)
        return errno_error(errno, "make '" + file + "'");
    void* mapped = ::mmap(nullptr, Layout::kDisk, PROT_READ | PROT_WRITE, MAP_SHARED, disk.get(), 0);
    if (mapped == MAP_FAILED) return errno_error(errno, "map '" + file + "'");
    auto* bytes = static_cast<char*>(mapped);
    const auto write = [&](const Piece& piece) {
        if (piece.begin + piece.length > Layout::kDisk) return;
        if (piece.bytes.empty()) {
            std::memset(bytes + piece.begin, 0, piece.length);
        } else {
            std::memcpy(bytes + piece.begin, piece.bytes.data(), piece.length);
        }
    };
    for (const Piece& piece : recording.beginning()) write(piece);
    for (std::size_t i = 0; i < recording.durable_before(point.entry); ++i) {
        const Entry& entry = recording.entries()[i];
        if (entry.mark.empty() && entry.length > 0) write(piece_of(entry));
    }
    for (const Piece& piece : recording.undecided(point, seed)) write(piece);
    ::munmap(mapped, Layout::kDisk);
    return {};
}

}  // namespace cowslip::cut
