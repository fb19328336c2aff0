#include "common/size.h"

#include <cstdint>
#include <limits>

#include <catch2/catch.hpp>

namespace cowslip {

using std::chrono::milliseconds;

TEST_CASE("sizes are powers of 1024, in every spelling", "[size]") {
    CHECK(parse_size("1").value() == 1);
    CHECK(parse_size("512B").value() == 512);
    CHECK(parse_size("4K").value() == 4096);
    CHECK(parse_size("10G").value() == std::uint64_t{10} << 30U);
    CHECK(parse_size("10g").value() == std::uint64_t{10} << 30U);
    CHECK(parse_size("10Gi").value() == std::uint64_t{10} << 30U);
    CHECK(parse_size("10GiB").value() == std::uint64_t{10} << 30U);
    CHECK(parse_size("2T").value() == std::uint64_t{2} << 40U);
    CHECK(parse_size("007M").value() == std::uint64_t{7} << 20U);
}

TEST_CASE("a fraction of a size counts when it is a whole number of bytes", "[size]") {
    CHECK(parse_size("1.5G").value() == std::uint64_t{3} << 29U);
    CHECK(parse_size("0.5K").value() == 512);
    CHECK(parse_size("1.50K").value() == 1536);
    CHECK_FALSE(parse_size("0.1K"));
    CHECK_FALSE(parse_size("1.5"));
    CHECK_FALSE(parse_size("1.G"));
    CHECK_FALSE(parse_size(".5G"));
}

TEST_CASE("a size at the limit is taken and one past it is refused", "[size]") {
    CHECK(parse_size("18446744073709551615").value() == std::numeric_limits<std::uint64_t>::max());
    CHECK_FALSE(parse_size("18446744073709551616"));
    CHECK(parse_size("9223372036854775807").value() == std::numeric_limits<std::int64_t>::max());
    CHECK(parse_size("15E").value() == std::uint64_t{15} << 60U);
    CHECK_FALSE(parse_size("16E"));
    CHECK_FALSE(parse_size("9999999999999999999E"));
    CHECK_FALSE(parse_size("99999999999999999999999999999999999999999G"));
}

TEST_CASE("what is no size is refused as an invalid argument that names it", "[size]") {
    const auto* text = GENERATE("", "G", "-1", "-10G", "+1G", " 1G", "1G ", "1 G", "10GB", "10X", "1e9", "0x10", "0",
                                "0G", "0.0G", "1..5G", "1,5G", "10KiBs", "ten");
    CAPTURE(text);
    const auto size = parse_size(text);
    REQUIRE_FALSE(size);
    CHECK(size.error().code == Errc::invalid_argument);
    CHECK_THAT(size.error().message, Catch::Contains("'" + std::string(text) + "'"));
}

TEST_CASE("sizes are shown with at most one decimal, rounded down", "[size]") {
    CHECK(format_size(0) == "0 B");
    CHECK(format_size(1023) == "1023 B");
    CHECK(format_size(1024) == "1 KiB");
    CHECK(format_size(1536) == "1.5 KiB");
    CHECK(format_size((std::uint64_t{10} << 30U) - 1) == "9.9 GiB");
    CHECK(format_size(std::uint64_t{10} << 30U) == "10 GiB");
    CHECK(format_size(std::numeric_limits<std::uint64_t>::max()) == "15.9 EiB");
}

TEST_CASE("durations need a unit", "[size]") {
    CHECK(parse_duration("500ms").value() == milliseconds(500));
    CHECK(parse_duration("30s").value() == milliseconds(30000));
    CHECK(parse_duration("2m").value() == milliseconds(120000));
    CHECK(parse_duration("1000h").value() == milliseconds(3600000000));
    CHECK(parse_duration("2d").value() == milliseconds(172800000));
    CHECK(parse_duration("1w").value() == milliseconds(604800000));
    const auto* text =
        GENERATE("", "30", "s", "-1s", "0s", "1.5s", "1001h", "99999999999999999999s", "3y", "1s ", "1 s");
    CAPTURE(text);
    const auto duration = parse_duration(text);
    REQUIRE_FALSE(duration);
    CHECK(duration.error().code == Errc::invalid_argument);
}

TEST_CASE("durations are shown by their largest units", "[size]") {
    CHECK(format_duration(milliseconds(80)) == "80ms");
    CHECK(format_duration(milliseconds(1000)) == "1s");
    CHECK(format_duration(milliseconds(1550)) == "1.5s");
    CHECK(format_duration(milliseconds(125000)) == "2m 5s");
    CHECK(format_duration(milliseconds(3600000 * 5 + 60000)) == "5h 1m");
    CHECK(format_duration(milliseconds(86400000LL * 3 + 3600000 * 4)) == "3d 4h");
}

}  // namespace cowslip
