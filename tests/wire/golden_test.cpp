// The messages as bytes. tests/wire/golden/<type>.{request,reply}.bin are compared exactly, so a
// renamed, dropped or retyped field is seen here before a client of another version sees it; the
// .json beside each says the same for humans.
//
// COWSLIP_ACCEPT_GOLDEN=1 writes the files anew, and that run fails: it has proved nothing.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "common/codec.h"
#include "tests/wire/examples.h"

using namespace cowslip;

namespace {

const std::filesystem::path kGolden = "tests/wire/golden";  // The tests run in the project's folder.

std::string read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::string json_of(const std::string& bytes) {
    return nlohmann::json::from_msgpack(bytes).dump(2) + "\n";
}

// The same map with one entry changed, encoded.
template <class Change>
std::string with(const msgpack::object& root, Change&& change) {
    std::map<std::string, msgpack::object> entries;
    root.convert(entries);
    change(entries);
    return encode(entries);
}

// Names of fields of `example` that have their default still, in itself and in the maps below it.
std::vector<std::string> left_at_default(const msgpack::object& example, const msgpack::object& plain) {
    std::map<std::string, msgpack::object> fields;
    std::map<std::string, msgpack::object> defaults;
    example.convert(fields);
    plain.convert(defaults);
    std::vector<std::string> names;
    for (const auto& [name, field] : fields) {
        const auto& usual = defaults.at(name);
        if (field.type == msgpack::type::MAP && usual.type == msgpack::type::MAP && usual.via.map.size > 0) {
            for (const auto& inner : left_at_default(field, usual)) names.push_back(name + "." + inner);
        } else if (field == usual) {
            names.push_back(name);
        }
    }
    return names;
}

// What an example leaves at its default because the type says so.
const std::set<std::string> kRightlyDefault = {"v", "hello", "reply", "reply.body", "reply.error", "look"};

}  // namespace

TEST_CASE("every message is, byte for byte, what its golden file says", "[wire]") {
    const bool accept = std::getenv("COWSLIP_ACCEPT_GOLDEN") != nullptr;
    if (accept) {
        std::filesystem::remove_all(kGolden);
        std::filesystem::create_directories(kGolden);
    }
    schemas::for_each_example([&](const std::string& name, const auto& example) {
        CAPTURE(name);
        const std::string bytes = encode(example);
        const std::string file = (kGolden / name).string();
        if (accept) {
            std::ofstream(file + ".bin", std::ios::binary) << bytes;
            std::ofstream(file + ".json") << json_of(bytes);
        }
        REQUIRE(std::filesystem::exists(file + ".bin"));
        const std::string golden = read(file + ".bin");
        CHECK(json_of(bytes) == json_of(golden));
        CHECK(bytes == golden);
        CHECK(read(file + ".json") == json_of(golden));
    });
    if (accept) FAIL("golden files were written anew: look at them with git diff, and run again without the switch");
}

TEST_CASE("every type of message in the schemas has its golden files, and no other file lies there", "[wire]") {
    std::set<std::string> expected;
    for (const auto& header : std::filesystem::directory_iterator("schemas")) {
        if (header.path().extension() != ".h") continue;
        const std::string text = read(header.path());
        const std::regex type("kType = \"([^\"]+)\"");
        for (auto found = std::sregex_iterator(text.begin(), text.end(), type); found != std::sregex_iterator();
             ++found) {
            for (const char* kind : {".request", ".reply"}) expected.insert((*found)[1].str() + kind);
        }
    }
    CHECK(expected.size() > 50);
    schemas::for_each_envelope([&](const std::string& name, const auto&) { expected.insert(name); });
    std::set<std::string> there;
    for (const auto& file : std::filesystem::directory_iterator(kGolden)) there.insert(file.path().stem().string());
    CHECK(there == expected);
}

TEST_CASE("no field of an example is at its default, so that each is seen to be read", "[wire]") {
    schemas::for_each_example([](const std::string& name, const auto& example) {
        CAPTURE(name);
        const auto bytes = encode(example);
        const auto plain_bytes = encode(std::decay_t<decltype(example)>{});
        const auto document = decode(bytes);
        const auto plain = decode(plain_bytes);
        REQUIRE((document && plain));
        for (const auto& field : left_at_default(document->root(), plain->root())) {
            CAPTURE(field);
            CHECK(kRightlyDefault.count(field) == 1);
        }
    });
}

TEST_CASE("what is decoded is what was encoded", "[wire]") {
    schemas::for_each_example([](const std::string& name, const auto& example) {
        CAPTURE(name);
        const auto bytes = encode(example);
        const auto again = decode_as<std::decay_t<decltype(example)>>(std::string_view(bytes));
        REQUIRE(again);
        CHECK(encode(*again) == bytes);
    });
}

TEST_CASE("a key from the future is ignored, and a key from the past that is missing has its default", "[wire]") {
    schemas::for_each_example([](const std::string& name, const auto& example) {
        using Message = std::decay_t<decltype(example)>;
        CAPTURE(name);
        const auto bytes = encode(example);
        const auto document = decode(bytes);
        REQUIRE(document);
        const auto more = decode_as<Message>(std::string_view(with(document->root(), [](auto& entries) {
            entries["from the future"] = entries.empty() ? msgpack::object(5) : entries.begin()->second;
        })));
        REQUIRE(more);
        CHECK(encode(*more) == bytes);

        std::map<std::string, msgpack::object> fields;
        document->root().convert(fields);
        const auto plain_bytes = encode(Message{});
        const auto plain = decode(plain_bytes);
        std::map<std::string, msgpack::object> defaults;
        plain->root().convert(defaults);
        for (const auto& [field, value] : fields) {
            CAPTURE(field);
            const auto less = decode_as<Message>(
                std::string_view(with(document->root(), [&key = field](auto& entries) { entries.erase(key); })));
            REQUIRE(less);
            const auto back = encode(*less);
            const auto wanted =
                with(document->root(), [&, &key = field](auto& entries) { entries[key] = defaults.at(key); });
            CHECK(nlohmann::json::from_msgpack(back) == nlohmann::json::from_msgpack(wanted));
        }
    });
}

TEST_CASE("a field of the wrong type is an error, never a guess", "[wire]") {
    schemas::for_each_example([](const std::string& name, const auto& example) {
        using Message = std::decay_t<decltype(example)>;
        CAPTURE(name);
        const auto bytes = encode(example);
        const auto document = decode(bytes);
        REQUIRE(document);
        std::map<std::string, msgpack::object> fields;
        document->root().convert(fields);
        for (const auto& [field, value] : fields) {
            CAPTURE(field);
            const auto wrong =
                decode_as<Message>(std::string_view(with(document->root(), [&key = field](auto& entries) {
                    entries[key] = msgpack::object(1.5);  // No field of ours is a fraction.
                })));
            REQUIRE_FALSE(wrong);
            CHECK(wrong.error().code == Errc::invalid_argument);
        }
    });
}
