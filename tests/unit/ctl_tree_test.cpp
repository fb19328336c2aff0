#include <unistd.h>

#include <catch2/catch.hpp>

#include "services/ctl/commands.h"
#include "services/ctl/device_list.h"

namespace cowslip::ctl {

namespace {

schemas::Volume volume(const std::string& id, std::uint32_t thin_id, const std::string& parent = "") {
    schemas::Volume result;
    result.id = id;
    result.thin_id = thin_id;
    result.parent = parent;
    return result;
}

std::vector<std::string> drawn(const std::vector<schemas::Volume>& volumes) {
    std::vector<std::string> lines;
    for (const auto& line : tree_lines(volumes)) lines.push_back(line.branch + line.volume->id);
    return lines;
}

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("clones stand below their parents, in the order of names", "[ctl]") {
    CHECK(drawn({volume("web-1", 4, "debian"), volume("base", 2), volume("debian", 3, "base"),
                 volume("web-2", 5, "debian"), volume("db", 6, "base"), volume("alone", 7)}) ==
          Lines{"alone", "base", "├─ db", "└─ debian", "   ├─ web-1", "   └─ web-2"});
    CHECK(drawn({volume("a", 2), volume("b", 3, "a"), volume("c", 4, "b"), volume("d", 5, "a")}) ==
          Lines{"a", "├─ b", "│  └─ c", "└─ d"});
}

TEST_CASE("a clone whose parent was removed is a root", "[ctl]") {
    CHECK(drawn({volume("b", 3, "gone"), volume("a", 2)}) == Lines{"a", "b"});
}

TEST_CASE("a later bearer of the parent's name is no parent", "[ctl]") {
    CHECK(drawn({volume("a", 9), volume("b", 3, "a")}) == Lines{"a", "b"});
}

TEST_CASE("a volume that names itself as its parent is shown once", "[ctl]") {
    CHECK(drawn({volume("a", 2, "a"), volume("b", 3, "c"), volume("c", 4, "b")}) == Lines{"a", "b", "└─ c"});
    CHECK(drawn({}).empty());
}

TEST_CASE("a very long chain of clones is drawn, too", "[ctl]") {
    std::vector<schemas::Volume> chain{volume("v0", 2)};
    for (std::uint32_t i = 1; i < 2000; ++i) chain.push_back(volume("v" + std::to_string(i), i + 2, chain.back().id));
    CHECK(drawn(chain).size() == 2000);
}

TEST_CASE("a device is listed once, on a line of its own", "[ctl]") {
    CHECK(missing_lines("", {"/dev/a", "/dev/b"}) == "/dev/a\n/dev/b\n");
    CHECK(missing_lines("/dev/a\n", {"/dev/a", "/dev/b"}) == "/dev/b\n");
    CHECK(missing_lines("/dev/a1\n/dev/b\n", {"/dev/a", "/dev/b"}) == "/dev/a\n");
    CHECK(missing_lines("/dev/a\n/dev/", {"/dev/a", "/dev/b"}) == "\n/dev/b\n");
    CHECK(missing_lines("/dev/a", {"/dev/a"}).empty());
}

TEST_CASE("only an existing block device with an absolute path is given to the service", "[ctl]") {
    if (::geteuid() != 0) {
        WARN("skipped: needs root");
        return;
    }
    CHECK(allow_devices("/nowhere", {"dev/x"}).error().code == Errc::invalid_argument);
    CHECK(allow_devices("/nowhere", {"/dev/does-not-exist"}).error().code == Errc::not_found);
    CHECK(allow_devices("/nowhere", {"/dev/null"}).error().code == Errc::invalid_argument);
    CHECK(allow_devices("", {}).error().code == Errc::invalid_argument);
}

}  // namespace cowslip::ctl
