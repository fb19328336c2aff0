// The rig's own reading of a recorded log: were it wrong, its power cuts would be none.
#include "tests/cut/recording.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <set>

#include <catch2/catch.hpp>

#include "tests/cut/history.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip::cut {

namespace {

constexpr std::uint64_t kFlush = 1;
constexpr std::uint64_t kFua = 2;
constexpr std::uint64_t kMark = 8;

struct Logged {
    std::uint64_t sector = 0;
    std::uint64_t sectors = 0;
    std::uint64_t flags = 0;
    std::string mark = {};
};

// As the kernel writes it; each sector holds the number of its entry.
std::string make_log(const std::vector<Logged>& entries) {
    std::string log;
    const auto add_sector = [&](const std::vector<std::uint64_t>& numbers, const std::string& rest = "") {
        std::string sector(512, '\0');
        std::memcpy(sector.data(), numbers.data(), numbers.size() * 8);
        std::memcpy(sector.data() + 32, rest.data(), rest.size());
        log += sector;
    };
    add_sector({0x6a736677736872ULL, 1, entries.size(), 512});
    for (std::size_t i = 0; i < entries.size(); ++i) {
        const Logged& entry = entries[i];
        add_sector({entry.sector, entry.sectors, entry.flags, entry.mark.size()}, entry.mark);
        if (entry.mark.empty()) log += std::string(entry.sectors * 512, static_cast<char>('a' + i));
    }
    return log + std::string(4096, '\0');
}

Recording record(const std::vector<Logged>& entries) {
    const TemporaryFolder folder;
    std::ofstream(folder / "log") << make_log(entries);
    auto recording = Recording::open(folder / "log");
    REQUIRE(recording);
    return *recording;
}

// Which entries have left something, over many seeds: all sets that were seen.
std::set<std::string> outcomes(const Recording& recording, const Point& point) {
    std::set<std::string> seen;
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
        std::string left;
        for (const Piece& piece : recording.undecided(point, seed)) left += piece.bytes.front();
        left.erase(std::unique(left.begin(), left.end()), left.end());
        seen.insert(left);
    }
    return seen;
}

const std::vector<Logged> kLog = {
    {.sector = 8, .sectors = 8},                    // a
    {.sector = 0, .sectors = 0, .flags = kFlush},   // b: a is durable.
    {.sector = 16, .sectors = 8},                   // c
    {.sector = 24, .sectors = 2, .flags = kFua},    // d
    {.flags = kMark, .mark = "1:done"},             // e
    {.sector = 32, .sectors = 1},                   // f
    {.sector = 40, .sectors = 1, .flags = kFlush},  // g: only when c and f are durable.
};

}  // namespace

TEST_CASE("a recorded log is read: writes, flushes, marks", "[cut]") {
    const Recording recording = record(kLog);
    REQUIRE(recording.entries().size() == kLog.size());
    CHECK(recording.entries()[2].begin == 16 * 512);
    CHECK(recording.entries()[2].data == std::string(8 * 512, 'c'));
    CHECK(recording.entries()[3].fua);
    CHECK(recording.entries()[6].flush);
    CHECK(recording.find_mark("1:done") == 4);
    CHECK(recording.marks(2).empty());
    CHECK(recording.marks(3) == std::vector<std::string>{"1:done"});  // Set before the next write.
}

TEST_CASE("a log that is cut short or none is refused", "[cut]") {
    const TemporaryFolder folder;
    std::string log = make_log(kLog);
    log.resize(512 * 12);
    std::ofstream(folder / "log") << log;
    CHECK_FALSE(Recording::open(folder / "log"));
    std::ofstream(folder / "zeros") << std::string(8192, '\0');
    CHECK_FALSE(Recording::open(folder / "zeros"));
}

TEST_CASE("what a flush has made durable is on the disk after every cut, and variant 0 has all that was logged",
          "[cut]") {
    const Recording recording = record(kLog);
    CHECK(recording.durable_before(0) == 0);
    CHECK(recording.durable_before(3) == 1);
    CHECK(recording.durable_before(6) == 6);
    CHECK(outcomes(recording, {5, 0}) == std::set<std::string>{"cdf"});
}

TEST_CASE("other variants lose any of the writes that are not durable, and no others", "[cut]") {
    const Recording recording = record(kLog);
    // d is FUA. g is being written only if c and f are there, whole.
    CHECK(outcomes(recording, {5, 1}) == std::set<std::string>{"d", "df", "cd", "cdf", "cdfg"});
    // f is being written behind d.
    CHECK(outcomes(recording, {3, 1}) == std::set<std::string>{"d", "df", "cd", "cdf"});
    CHECK(outcomes(recording, {2, 1}) == std::set<std::string>{"", "c", "cd", "d"});
}

TEST_CASE("a torn write keeps sectors, and whole blocks of the pool's metadata and of the state's superblock",
          "[cut]") {
    // A superblock of the host's own file system that was torn counted as a loss of ours.
    const std::string bytes(4096 * 4, 'x');
    std::mt19937_64 random(1);
    std::set<std::size_t> sizes;
    for (int i = 0; i < 200; ++i) {
        for (const Piece& part : tear({4096, bytes.size(), bytes}, random)) CHECK(part.length == 512);
        for (const Piece& part : tear({0, 4096, bytes}, random)) CHECK(part.length == 4096);
        const auto parts = tear({Layout::kState, bytes.size(), bytes}, random);
        for (const Piece& part : parts) CHECK(part.length == 4096);
        sizes.insert(parts.size());
    }
    CHECK(sizes == std::set<std::size_t>{0, 1, 2, 3, 4});
}

TEST_CASE("points are spread over the entries; more points than entries look at each several times", "[cut]") {
    const auto few = choose_points({5, 6, 7, 8}, 2);
    CHECK(to_string(few[0]) == "5.0");
    CHECK(to_string(few[1]) == "7.1");
    std::vector<std::string> many;
    for (const Point& point : choose_points({5, 6}, 5)) many.push_back(to_string(point));
    CHECK(many == std::vector<std::string>{"5.0", "5.1", "5.2", "6.0", "6.1"});
    CHECK(parse_point("417.12")->variant == 12);
    CHECK_FALSE(parse_point("417"));
}

TEST_CASE("what must be there after a cut: the acknowledged, and of the unanswered either", "[cut]") {
    const History history({"start", "1:begin:pool", "1:done", "2:begin:create:base:", "2:done",
                           "3:begin:write:base:f:7:100", "3:done", "4:begin:create:a:base", "5:begin:create:b:base",
                           "5:done", "6:begin:rm:b"});
    CHECK(history.pool());
    CHECK(history.complain_about({"base"}).empty());
    CHECK(history.complain_about({"base", "a", "b"}).empty());
    CHECK_FALSE(history.complain_about({"a"}).empty());          // base is lost.
    CHECK_FALSE(history.complain_about({"base", "c"}).empty());  // Nobody asked for c.
    CHECK(history.files_of("a").at("f").bytes == 100);           // A clone has what its parent had.
    const History removed({"2:begin:create:base:", "2:done", "3:begin:rm:base", "3:done"});
    CHECK_FALSE(removed.complain_about({"base"}).empty());
    const History early({"2:begin:create:base:"}, true);
    CHECK_FALSE(early.complain_about({}).empty());
}

}  // namespace cowslip::cut
