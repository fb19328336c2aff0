#include "common/codec.h"

#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <string>
#include <vector>

using namespace cowslip;

namespace {

std::string bytes(std::initializer_list<int> values) {
    std::string text;
    for (const int value : values) text += static_cast<char>(value);
    return text;
}

std::string repeated(const std::string& piece, std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) text += piece;
    return text;
}

// `depth` arrays of one element each, in each other, round a nil.
std::string nested(std::size_t depth) {
    return repeated("\x91", depth) + "\xc0";
}

struct Sample {
    std::string text = "usual";
    std::uint32_t number = 7;
    bool flag = false;
    std::map<std::string, std::vector<std::string>> lists;
    COWSLIP_FIELDS(text, number, flag, lists)
};

template <class Body>
struct EnvelopeOf {
    std::string name;
    Body body;
    COWSLIP_FIELDS(name, body)
};

}  // namespace

TEST_CASE("what is encoded is decoded", "[codec]") {
    const Sample sample{"ä", 4294967295U, true, {{"a", {"x", "y"}}, {"b", {}}}};
    const auto again = decode_as<Sample>(std::string_view(encode(sample)));
    REQUIRE(again);
    CHECK(again->text == sample.text);
    CHECK(again->number == sample.number);
    CHECK(again->flag);
    CHECK(again->lists == sample.lists);
}

TEST_CASE("fields come in any order and among others; one that is missing keeps its default", "[codec]") {
    const std::string unknown = encode(std::string("unknown")) + encode(std::map<std::string, int>{{"text", 1}});
    const std::string flag = encode(std::string("flag")) + encode(true);
    const std::string text = encode(std::string("text")) + encode(std::string("given"));
    const auto [all, whole] = GENERATE_COPY(table<std::string, bool>({{flag + unknown + text, true},
                                                                      {unknown + text + flag, true},
                                                                      {text + flag + unknown, true},
                                                                      {unknown, false}}));
    const char head = static_cast<char>(whole ? 0x83 : 0x81);
    const auto sample = decode_as<Sample>(std::string_view(head + all));
    REQUIRE(sample);
    CHECK(sample->text == (whole ? "given" : "usual"));
    CHECK(sample->flag == whole);
    CHECK(sample->number == 7);
}

TEST_CASE("nil is a message with nothing in it", "[codec]") {
    const auto sample = decode_as<Sample>(std::string_view("\xc0"));
    REQUIRE(sample);
    CHECK(sample->text == "usual");
    CHECK(sample->number == 7);
}

TEST_CASE("what is encoded already is embedded as it is, and nothing as nil", "[codec]") {
    const std::string inner = encode(Sample{"inner", 1, false, {}});
    const auto outer = encode(EnvelopeOf<Encoded>{"n", {inner}});
    CHECK(outer.find(inner) != std::string::npos);
    const auto document = decode(outer);
    REQUIRE(document);
    std::map<std::string, msgpack::object> fields;
    document->root().convert(fields);
    CHECK(decode_as<Sample>(fields.at("body"))->text == "inner");
    const auto empty = decode(encode(EnvelopeOf<Encoded>{"n", {}}));
    REQUIRE(empty);
    empty->root().convert(fields);
    CHECK(fields.at("body").is_nil());
}

TEST_CASE("what is not exactly one whole value is refused", "[codec]") {
    const auto text = GENERATE(std::string(), bytes({0xc1}), bytes({0x81}), bytes({0x81, 0xa1, 'a'}),
                               bytes({0xa5, 'a', 'b'}), bytes({0xc0, 0xc0}), bytes({0x80, 0x00}), bytes({0xcd, 0x01}));
    CAPTURE(text.size());
    const auto document = decode(text);
    REQUIRE_FALSE(document);
    CHECK(document.error().code == Errc::invalid_argument);
}

// Five bytes that speak of four thousand million elements: a parser that believes them asks for 64 GiB.
TEST_CASE("a count that the message cannot hold is refused at once", "[codec]") {
    const auto text = GENERATE(bytes({0xdd, 0xff, 0xff, 0xff, 0xff}), bytes({0xdf, 0xff, 0xff, 0xff, 0xff}),
                               bytes({0xdb, 0xff, 0xff, 0xff, 0xff}), bytes({0xc6, 0xff, 0xff, 0xff, 0xff}),
                               bytes({0xc9, 0xff, 0xff, 0xff, 0xff, 0x01}), bytes({0xdd, 0x00, 0x00, 0x40, 0x01}),
                               bytes({0xdc, 0xff, 0xff}), bytes({0xde, 0xff, 0xff}));
    CAPTURE(text.size());
    CHECK_FALSE(decode(text));
}

TEST_CASE("arrays and maps have at most 16384 entries, and may have that many", "[codec]") {
    CHECK(decode(bytes({0xdc, 0x40, 0x00}) + std::string(16384, '\x01')));
    CHECK_FALSE(decode(bytes({0xdc, 0x40, 0x01}) + std::string(16385, '\x01')));
    std::string map;
    for (int i = 0; i < 16385; ++i) map += encode(i) + "\xc0";
    CHECK_FALSE(decode(bytes({0xde, 0x40, 0x01}) + map));
}

TEST_CASE("a message is at most 1 MiB, and may be that long", "[codec]") {
    const std::string largest = encode(std::string(kMaxFrameBytes - 5, 'x'));
    REQUIRE(largest.size() == kMaxFrameBytes);
    CHECK(decode(largest));
    const auto larger = decode(encode(std::string(kMaxFrameBytes - 4, 'x')));
    REQUIRE_FALSE(larger);
    CHECK_THAT(larger.error().message, Catch::Contains("1 MiB"));
}

TEST_CASE("nesting is bounded well before the stack is", "[codec]") {
    CHECK(decode(nested(10)));
    for (const std::size_t depth : {17U, 100U, 100000U, 1000000U}) {
        CAPTURE(depth);
        CHECK_FALSE(decode(nested(depth)));
        CHECK_FALSE(decode(repeated("\x81\xa1k", depth) + "\xc0"));
    }
}

// Two readers that take the first and the last of a repeated key see two different messages.
TEST_CASE("a repeated key is refused at any depth", "[codec]") {
    const std::string twice = bytes({0x82, 0xa1, 'a', 0x01, 0xa1, 'a', 0x02});
    CHECK_FALSE(decode(twice));
    CHECK_FALSE(decode(bytes({0x81, 0xa1, 'b'}) + twice));
    CHECK_FALSE(decode(bytes({0x92, 0x01}) + twice));
    CHECK_FALSE(decode(bytes({0x82, 0xa1, 'a', 0x01, 0xd9, 0x01, 'a', 0x02})));  // The same key, written longer.
    CHECK(decode(bytes({0x82, 0xa1, 'a', 0x01, 0xa1, 'b', 0x02})));
}

TEST_CASE("a key that is no text is refused", "[codec]") {
    const auto sample =
        decode_as<Sample>(std::string_view(bytes({0x82, 0x05, 0x06, 0xa4, 't', 'e', 'x', 't', 0xa1, 'x'})));
    REQUIRE_FALSE(sample);
    CHECK(sample.error().code == Errc::invalid_argument);
}

TEST_CASE("a value of the wrong type, or out of its range, is refused", "[codec]") {
    using Entry = std::pair<std::string, std::string>;
    const auto [key, value] =
        GENERATE_COPY(values<Entry>({{"text", encode(5)},
                                     {"number", encode(std::string("7"))},
                                     {"number", encode(-1)},
                                     {"number", encode(std::uint64_t{4294967296})},
                                     {"number", encode(7.5)},
                                     {"flag", encode(1)},
                                     {"lists", encode(std::vector<int>{1})},
                                     {"lists", encode(std::map<std::string, std::string>{{"a", "b"}})}}));
    CAPTURE(key);
    const auto sample = decode_as<Sample>(std::string_view("\x81" + encode(key) + value));
    REQUIRE_FALSE(sample);
    CHECK(sample.error().code == Errc::invalid_argument);
}

TEST_CASE("a message that is no map is refused", "[codec]") {
    const auto text = GENERATE(encode(5), encode(std::string("text")), encode(std::vector<int>{1, 2}), encode(true));
    CHECK_FALSE(decode_as<Sample>(std::string_view(text)));
}

TEST_CASE("random bytes, and messages with random damage, never do harm", "[codec]") {
    std::mt19937 random(7);
    const std::string good = encode(Sample{"text", 5, true, {{"a", {"x", "y"}}}});
    int refused = 0;
    for (int i = 0; i < 20000; ++i) {
        std::string text = good;
        if (i % 2 == 0) {
            text.resize(random() % 64);
            for (char& byte : text) byte = static_cast<char>(random());
        } else {
            for (int k = 0; k < 3; ++k) text.at(random() % text.size()) = static_cast<char>(random());
            if (i % 3 == 0) text.resize(random() % text.size());
        }
        if (!decode_as<Sample>(std::string_view(text))) ++refused;
    }
    CHECK(refused > 10000);
    CHECK(refused < 20000);
}
