#include "common/names.h"

#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <string>

using namespace cowslip;

namespace {

const std::string kUuid = "0123456789abcdef0123456789abcdef";

std::string repeated(const std::string& piece, std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) text += piece;
    return text;
}

// The id that a directory's name stands for; what the rules say, from the other side.
std::string unescaped(const std::string& directory) {
    std::string id;
    for (std::size_t i = 0; i < directory.size(); ++i) {
        if (directory[i] != '%') {
            id += directory[i];
        } else {
            id += static_cast<char>(std::stoi(directory.substr(i + 1, 2), nullptr, 16));
            i += 2;
        }
    }
    return id;
}

}  // namespace

TEST_CASE("a volume id is 1 to 255 bytes of UTF-8 without control characters", "[names]") {
    for (const std::string& good :
         {std::string("a"), std::string("registry.example/app:v1 latest"), std::string("ä☃𝄞"), std::string(255, 'x'),
          repeated("ä", 127) + "x", std::string("-rf"), std::string(".."), std::string("%"), std::string("a\xc2\xa0z"),
          std::string("\xf4\x8f\xbf\xbf")}) {
        CAPTURE(good);
        CHECK(check_volume_id(good));
    }
    for (const std::string& bad :
         {std::string(), std::string(256, 'x'), repeated("ä", 128), std::string("a\nb"), std::string("a\0b", 3),
          std::string("\x1b[31m"), std::string("\x7f"), std::string("\xc2\x80"), std::string("a\xc2\x9fz")}) {
        CAPTURE(bad);
        const auto checked = check_volume_id(bad);
        REQUIRE_FALSE(checked);
        CHECK(checked.error().code == Errc::invalid_argument);
    }
}

TEST_CASE("what is no UTF-8 is no id: stray, cut off, overlong, surrogate, too large", "[names]") {
    const auto bad =
        GENERATE("\x80", "\xc3", "a\xc3(", "\xe2\x82", "\xf0\x9f\x98", "\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf",
                 "\xed\xa0\x80", "\xed\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xfe\xff");
    CHECK_FALSE(check_volume_id(bad));
    CHECK_FALSE(check_holder(bad));
    CHECK_FALSE(check_label("key", bad));
}

TEST_CASE("holders, labels and pool names have their grammar", "[names]") {
    CHECK(check_holder(std::string(128, 'h')));
    CHECK_FALSE(check_holder(std::string(129, 'h')));
    CHECK_FALSE(check_holder(""));

    CHECK(check_label("io.example/team_-9", ""));
    CHECK(check_label(std::string(63, 'k'), std::string(255, 'v')));
    CHECK_FALSE(check_label(std::string(64, 'k'), ""));
    CHECK_FALSE(check_label("key", std::string(256, 'v')));
    for (const char* key : {"", "Key", "a b", "a=b", "ä"}) CHECK_FALSE(check_label(key, ""));
    CHECK_FALSE(check_label("key", "a\nb"));

    for (const char* name : {"default", "a", "0", "pool.1_x-y"}) CHECK(check_pool_name(name));
    CHECK(check_pool_name(std::string(32, 'p')));
    CHECK_FALSE(check_pool_name(std::string(33, 'p')));
    for (const char* name : {"", ".", "..", "-a", "_a", ".a", "A", "a/b", "a b", "ä"})
        CHECK_FALSE(check_pool_name(name));
}

TEST_CASE("a safe id is its own directory, any other is escaped", "[names]") {
    CHECK(volume_directory("app") == "app");
    CHECK(volume_directory("app v1:2 ä") == "app v1:2 ä");
    CHECK(volume_directory("a.b-c") == "a.b-c");
    CHECK(volume_directory("a/b") == "a%2Fb");
    CHECK(volume_directory("100%") == "100%25");
    CHECK(volume_directory(".") == "%2E");
    CHECK(volume_directory("..") == "%2E.");
    CHECK(volume_directory("-rf") == "%2Drf");
    CHECK(volume_directory("../../etc") == "%2E.%2F..%2Fetc");
    CHECK(volume_directory(std::string(200, 'x')) == std::string(200, 'x'));
    CHECK(volume_directory("a/b") != volume_directory("a%2Fb"));
}

TEST_CASE("a warm clone's directory has its thin id, and is no id's", "[names]") {
    CHECK(warm_directory(thin_dm_uuid(std::string(32, 'a'), 7)) == ".warm-7");
    CHECK(is_warm_directory(".warm-7"));
    CHECK(is_warm_directory(".warm-16777215"));
    for (const char* other :
         {"", ".", "..", ".warm-", ".warm-x", ".warm-7/..", ".warm-123456789", "warm-7", "%warm-7"}) {
        CHECK_FALSE(is_warm_directory(other));
    }
    CHECK_FALSE(is_warm_directory(volume_directory(".warm-7")));
}

// SHA-256 of 255 slashes, by sha256sum.
TEST_CASE("an id whose escaped form is too long gets its hash", "[names]") {
    const std::string hashed = volume_directory(std::string(255, '/'));
    CHECK(hashed.size() == 33);
    CHECK(hashed.starts_with('%'));
    CHECK(hashed == "%595e6ca3d0f666a13da6535365bf31bb");
    CHECK(volume_directory(std::string(85, '/')).size() == 255);
    CHECK(volume_directory(std::string(86, '/')).size() == 33);
}

TEST_CASE("an id whose escaped form looks like a hash gets its own", "[names]") {
    // '%' and 30 hex digits were escaped to what is the hash of another id, if somebody looked for one.
    const std::string id = "%" + std::string(30, 'a');
    const std::string directory = volume_directory(id);
    CHECK(directory.size() == 33);
    CHECK(directory != "%25" + std::string(30, 'a'));
    CHECK_FALSE(directory.starts_with("%25aaaa"));
    // All others have their plain escaped form.
    CHECK(volume_directory("%" + std::string(29, 'a')) == "%25" + std::string(29, 'a'));
    CHECK(volume_directory("%" + std::string(31, 'a')) == "%25" + std::string(31, 'a'));
    CHECK(volume_directory("%" + std::string(29, 'a') + "g") == "%25" + std::string(29, 'a') + "g");
    CHECK(volume_directory("%" + std::string(29, 'a') + "A") == "%25" + std::string(29, 'a') + "A");
    CHECK(volume_directory("/" + std::string(30, 'a')) == "%2F" + std::string(30, 'a'));
}

TEST_CASE("no two ids have one directory, and each directory is one safe file name", "[names]") {
    std::mt19937 random(3);
    const std::vector<std::string> pieces = {
        "/", "%", ".", "-", "2F", "25", "2E", "a", "b", "ä", " ", "..", std::string(60, 'x')};
    std::map<std::string, std::string> ids;
    for (int i = 0; i < 50000; ++i) {
        std::string id;
        const std::size_t count = 1 + random() % 12;
        for (std::size_t k = 0; k < count; ++k) id += pieces[random() % pieces.size()];
        if (!check_volume_id(id)) continue;
        const std::string directory = volume_directory(id);
        CAPTURE(id, directory);
        const auto [known, fresh] = ids.emplace(directory, id);
        REQUIRE((fresh || known->second == id));
        REQUIRE(!directory.empty());
        REQUIRE(directory.size() <= 255);
        REQUIRE(directory.find('/') == std::string::npos);
        REQUIRE(directory[0] != '.');
        REQUIRE(directory[0] != '-');
        if (directory.size() != 33 || directory[0] != '%') REQUIRE(unescaped(directory) == id);
    }
    CHECK(ids.size() > 10000);
}

TEST_CASE("dm names and uuids fit into dm's 127 bytes and are read back", "[names]") {
    CHECK(pool_dm_name(kUuid) == "cowslip-01234567-pool");
    CHECK(pool_dm_uuid(kUuid) == "COWSLIP-" + kUuid + "-pool");
    CHECK(thin_dm_name(kUuid, 42) == "cowslip-01234567-42");
    CHECK(thin_dm_uuid(kUuid, kLastThinId).size() < 128);
    for (const std::uint32_t id : {0U, 1U, kFirstThinId, 42U, kLastThinId}) {
        CHECK(parse_thin_dm_uuid(kUuid, thin_dm_uuid(kUuid, id)) == id);
    }
}

TEST_CASE("a dm uuid that is not exactly a thin's of this pool is nobody's", "[names]") {
    const std::string prefix = "COWSLIP-" + kUuid + "-";
    for (const std::string& text :
         {std::string(), prefix, pool_dm_uuid(kUuid), prefix + "042", prefix + "+42", prefix + "-1", prefix + "42x",
          prefix + " 42", prefix + "16777216", prefix + "99999999999999999999", "cowslip-" + kUuid + "-42",
          "COWSLIP-" + std::string(32, 'f') + "-42", "LVM-" + prefix + "42"}) {
        CAPTURE(text);
        CHECK_FALSE(parse_thin_dm_uuid(kUuid, text));
    }
}

TEST_CASE("a pool's uuid is 32 lower-case hex digits", "[names]") {
    CHECK(is_pool_uuid(kUuid));
    CHECK_FALSE(is_pool_uuid(""));
    CHECK_FALSE(is_pool_uuid(kUuid + "0"));
    CHECK_FALSE(is_pool_uuid(kUuid.substr(1)));
    CHECK_FALSE(is_pool_uuid("0123456789ABCDEF0123456789abcdef"));
    CHECK_FALSE(is_pool_uuid("01234567-89ab-cdef-0123-456789abcd"));
}
