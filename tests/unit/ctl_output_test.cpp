#include "services/ctl/output.h"

#include <set>
#include <sstream>

#include <catch2/catch.hpp>

namespace cowslip::ctl {

namespace {

struct Terminal {
    std::ostringstream out;
    std::ostringstream err;
    Console console{.out = out, .err = err};
};

}  // namespace

TEST_CASE("each error code has the exit code of the manual", "[ctl]") {
    CHECK(exit_code(Errc::invalid_argument) == 2);
    CHECK(exit_code(Errc::not_found) == 3);
    CHECK(exit_code(Errc::already_exists) == 4);
    CHECK(exit_code(Errc::in_use) == 5);
    CHECK(exit_code(Errc::no_space) == 6);
    CHECK(exit_code(Errc::unavailable) == 7);
    CHECK(exit_code(Errc::busy) == 7);
    CHECK(exit_code(Errc::timed_out) == 8);
    CHECK(exit_code(Errc::needs_repair) == 9);
    CHECK(exit_code(Errc::permission_denied) == 10);
    CHECK(exit_code(Errc::unimplemented) == 11);
    CHECK(exit_code(Errc::internal) == 70);
}

TEST_CASE("a table in a pipe is rows with tabs, and no headings", "[ctl]") {
    Terminal terminal;
    Table table({"ID", "SIZE"});
    table.add({"a", "10 GiB"});
    table.add({"b", ""});
    table.print(terminal.console);
    CHECK(terminal.out.str() == "a\t10 GiB\nb\t\n");
}

TEST_CASE("a table on a terminal is aligned by code points and leaves no blanks at line ends", "[ctl]") {
    Terminal terminal;
    terminal.console.out_is_terminal = true;
    Table table({"ID", "SIZE"});
    table.add({"└─ a", "1 B"});
    table.add({"longer", "10 GiB"});
    table.print(terminal.console);
    CHECK(terminal.out.str() == "ID      SIZE\n└─ a    1 B\nlonger  10 GiB\n");
}

TEST_CASE("no name can drive the terminal", "[ctl]") {
    CHECK(printable("plain ünïcode") == "plain ünïcode");
    CHECK(printable("a\x1b[2Jb\tc\n\x7f") == "a\\x1b[2Jb\\x09c\\x0a\\x7f");
    CHECK(printable("csi \xc2\x9b 0m") == "csi \\x9b 0m");
    Terminal terminal;
    Table table({"ID"});
    table.add({"a\tb\nc"});
    table.print(terminal.console);
    CHECK(terminal.out.str() == "a\\x09b\\x0ac\n");
}

TEST_CASE("an error as JSON is one line with code, message and details", "[ctl]") {
    Terminal terminal;
    terminal.console.json = true;
    terminal.console.error(Error{Errc::in_use, "remove 'a': held", {{"holders", {"x", "y"}}}});
    CHECK(
        terminal.err.str() ==
        "{\"error\":{\"code\":\"in_use\",\"message\":\"remove 'a': held\",\"details\":{\"holders\":[\"x\",\"y\"]}}}\n");
    CHECK(terminal.out.str().empty());
}

TEST_CASE("an error without details has an empty object of them", "[ctl]") {
    Terminal terminal;
    terminal.console.json = true;
    terminal.console.error(Error{Errc::not_found, "no"}, "interrupted");
    CHECK(terminal.err.str() == "{\"error\":{\"code\":\"interrupted\",\"message\":\"no\",\"details\":{}}}\n");
}

TEST_CASE("an error for a person names the holders once", "[ctl]") {
    Terminal terminal;
    terminal.console.error(Error{Errc::in_use, "remove 'a': held by builder", {{"holders", {"builder", "tester"}}}});
    CHECK(terminal.err.str() == "error: remove 'a': held by builder\n  holders: tester\n");
}

TEST_CASE("JSON is one line in a pipe and indented on a terminal", "[ctl]") {
    Terminal terminal;
    terminal.console.print(Json{{"b", 1}, {"a", nullptr}});
    CHECK(terminal.out.str() == "{\"b\":1,\"a\":null}\n");
    terminal.out.str("");
    terminal.console.out_is_terminal = true;
    terminal.console.print(Json{{"b", 1}});
    CHECK(terminal.out.str() == "{\n  \"b\": 1\n}\n");
}

TEST_CASE("sizes are for people unless exact ones are wanted", "[ctl]") {
    Terminal terminal;
    CHECK(terminal.console.size(10U << 20U) == "10 MiB");
    terminal.console.exact_bytes = true;
    CHECK(terminal.console.size(10U << 20U) == "10485760");
}

TEST_CASE("notes and progress are for a terminal only", "[ctl]") {
    Terminal terminal;
    terminal.console.note("hello");
    ProgressLine(terminal.console).draw("10%");
    CHECK(terminal.err.str().empty());
    terminal.console.err_is_terminal = true;
    terminal.console.note("hello");
    ProgressLine(terminal.console).draw("10%");
    CHECK(terminal.err.str() == "hello\n\r\x1b[K10%\r\x1b[K");
}

TEST_CASE("JSON becomes a message and back, in the same order", "[ctl]") {
    const auto message = message_from_json(R"({"id":"x","size_bytes":10737418240,"get":true,"labels":{"k":"v"}})");
    REQUIRE(message);
    const auto json = json_from_message(*message);
    REQUIRE(json);
    CHECK(dump(*json, false) == R"({"id":"x","size_bytes":10737418240,"get":true,"labels":{"k":"v"}})");
}

TEST_CASE("what is no message is refused, however deep", "[ctl]") {
    CHECK(message_from_json("[1]").error().code == Errc::invalid_argument);
    CHECK(message_from_json("{").error().code == Errc::invalid_argument);
    CHECK(message_from_json("").error().code == Errc::invalid_argument);
    CHECK(message_from_json("{}x").error().code == Errc::invalid_argument);
    CHECK(message_from_json("{\"a\":" + std::string(100000, '[')).error().code == Errc::invalid_argument);
    std::string deep = "1";
    for (int i = 0; i < 50; ++i) deep = "{\"a\":" + deep + "}";
    CHECK(message_from_json(deep).error().code == Errc::invalid_argument);
}

}  // namespace cowslip::ctl
