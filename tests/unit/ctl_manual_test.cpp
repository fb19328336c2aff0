// The manual and --help say the same: every command and every option of one is in the other.

#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include <catch2/catch.hpp>

#include "services/ctl/command_line.h"

namespace cowslip::ctl {

namespace {

std::string manual() {
    std::ifstream file("services/ctl/cowslip.1");  // Tests run in the source folder.
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

std::set<std::string> all_matches(const std::string& text, const std::regex& pattern) {
    std::set<std::string> found;
    for (std::sregex_iterator match(text.begin(), text.end(), pattern), end; match != end; ++match)
        found.insert((*match)[1]);
    return found;
}

}  // namespace

TEST_CASE("the manual has every command of the program, and no other", "[ctl]") {
    std::set<std::string> documented;
    // ".It Cm pool create Oo Ar NAME": the words up to the first macro, which has a capital.
    for (const auto& words : all_matches(manual(), std::regex("\\.It Cm ((?:[a-z]+(?: |\n))+)"))) {
        documented.insert(words.substr(0, words.size() - 1));
    }
    std::set<std::string> built;
    for (const auto& command : describe_commands()) built.insert(command.name);
    CHECK(documented == built);
}

TEST_CASE("the manual has every option of the program, and no other", "[ctl]") {
    const auto documented = all_matches(manual(), std::regex("Fl -([a-z-]+)"));
    std::set<std::string> built{"help", "version"};
    for (const auto& option : describe_globals()) built.insert(option);
    for (const auto& command : describe_commands()) built.insert(command.options.begin(), command.options.end());
    CHECK(documented == built);
}

TEST_CASE("each command's options are in the lines of the manual that name it", "[ctl]") {
    const std::string text = manual();
    for (const auto& command : describe_commands()) {
        const auto lines = all_matches(text, std::regex("\\.It Cm " + command.name + "(?= |\n)([^\n]*)"));
        std::set<std::string> documented;
        for (const auto& line : lines) {
            for (const auto& option : all_matches(line, std::regex("Fl -([a-z-]+)"))) documented.insert(option);
        }
        CAPTURE(command.name);
        CHECK(documented == std::set<std::string>(command.options.begin(), command.options.end()));
    }
}

}  // namespace cowslip::ctl
