#include "common/result.h"

#include <catch2/catch.hpp>
#include <memory>
#include <set>
#include <string>

using namespace cowslip;

namespace {

Result<std::unique_ptr<int>> make(bool good) {
    if (!good) return Error{Errc::not_found, "no int", {{"key", {"value"}}}};
    return std::make_unique<int>(5);
}

Result<int> doubled(bool good, bool& went_on) {
    const auto value = TRY(make(good));
    went_on = true;
    return *value * 2;
}

Result<void> nothing(bool good) {
    if (!good) return Error{Errc::busy, "full"};
    return {};
}

Result<std::string> after_nothing(bool good) {
    TRY(nothing(good));
    return std::string("done");
}

}  // namespace

TEST_CASE("TRY gives the value, or hands the whole error to the caller and goes no further", "[result]") {
    bool went_on = false;
    CHECK(doubled(true, went_on) == 10);
    CHECK(went_on);
    went_on = false;
    const auto failed = doubled(false, went_on);
    REQUIRE_FALSE(failed);
    CHECK_FALSE(went_on);
    CHECK(failed.error().code == Errc::not_found);
    CHECK(failed.error().message == "no int");
    CHECK(failed.error().details.at("key").front() == "value");
    CHECK(after_nothing(true) == std::string("done"));
    CHECK(after_nothing(false).error().code == Errc::busy);
}

// Clients and scripts have these words; the list may only grow at its end.
TEST_CASE("error codes keep their words", "[result]") {
    const std::vector<std::string> words = {"internal",  "invalid_argument", "not_found",         "already_exists",
                                            "in_use",    "no_space",         "unavailable",       "busy",
                                            "timed_out", "needs_repair",     "permission_denied", "unimplemented"};
    for (std::size_t i = 0; i < words.size(); ++i) {
        const auto code = static_cast<Errc>(i);
        CHECK(to_string(code) == words[i]);
        CHECK(parse_errc(words[i]) == code);
    }
    CHECK(static_cast<std::size_t>(Errc::unimplemented) + 1 == words.size());
    CHECK(parse_errc("a word of a newer version") == Errc::internal);
    CHECK(parse_errc("") == Errc::internal);
}

TEST_CASE("only what may pass by itself is worth a repeat", "[result]") {
    std::set<std::string_view> words;
    for (int i = 0; i <= static_cast<int>(Errc::unimplemented); ++i) {
        if (retryable(static_cast<Errc>(i))) words.insert(to_string(static_cast<Errc>(i)));
    }
    CHECK(words == std::set<std::string_view>{"unavailable", "busy", "timed_out"});
}

TEST_CASE("an errno keeps its meaning where callers have one for it", "[result]") {
    CHECK(errno_error(ENOSPC, "write 'a'").code == Errc::no_space);
    CHECK(errno_error(EDQUOT, "write 'a'").code == Errc::no_space);
    CHECK(errno_error(EACCES, "open 'a'").code == Errc::permission_denied);
    CHECK(errno_error(EPERM, "open 'a'").code == Errc::permission_denied);
    const auto other = errno_error(EIO, "read 'a'");
    CHECK(other.code == Errc::internal);
    CHECK(other.message == "read 'a': Input/output error");
}
