#include "services/ctl/command_line.h"

#include <catch2/catch.hpp>

#include "services/ctl/commands.h"

namespace cowslip::ctl {

namespace {

CommandLine parsed(const std::vector<std::string>& args) {
    auto line = parse_command_line(args);
    INFO((line ? std::string() : line.error().message));
    REQUIRE(line);
    return *line;
}

std::string refused(const std::vector<std::string>& args) {
    const auto line = parse_command_line(args);
    REQUIRE_FALSE(line);
    CHECK(exit_code(line.error().code) == 2);
    return line.error().message;
}

}  // namespace

TEST_CASE("global options stand before or after the command", "[ctl]") {
    for (const auto& args : {std::vector<std::string>{"--json", "--timeout", "5s", "ls"},
                             std::vector<std::string>{"ls", "--json", "--timeout=5s"}}) {
        const auto line = parsed(args);
        CHECK(line.globals.json);
        CHECK(line.globals.timeout == std::chrono::milliseconds(5000));
        CHECK(line.action == &volume_list);
    }
    CHECK(parsed({"pool", "status", "--state", "/s"}).globals.state == "/s");
}

TEST_CASE("an argument comes as it was given, whatever it begins and ends with", "[ctl]") {
    // The guard that hides a bracket from CLI11 was taken off every argument that ended like it.
    for (const std::string id : {"[a,b]", "{}", "x\x01", "[x\x01", "\x01", "{\x01\x01"}) {
        CAPTURE(id);
        CHECK(parsed({"create", id, "--parent", id, "--label", id}).arguments.id == id);
        CHECK(parsed({"create", id, "--parent", id}).arguments.parent == id);
        CHECK(parsed({"rm", id}).arguments.ids == std::vector{id});
    }
}

TEST_CASE("an unknown command is told with the one that was meant", "[ctl]") {
    CHECK_THAT(refused({"creat", "x"}), Catch::Contains("unknown command 'creat': did you mean 'create'?"));
    CHECK_THAT(refused({"pool", "statsu"}), Catch::Contains("did you mean 'status'?"));
    CHECK_THAT(refused({"xyzzyx"}), Catch::Contains("unknown command 'xyzzyx'") && !Catch::Contains("mean"));
    CHECK_THAT(refused({}), Catch::Contains("which command?"));
    CHECK_THAT(refused({"pool"}), Catch::Contains("which command?"));
}

TEST_CASE("what a command does not take is refused", "[ctl]") {
    refused({"create"});
    refused({"create", "a", "b"});
    refused({"create", "a", "--nonsense"});
    refused({"ls", "--timeout", "5"});
    refused({"ls", "--timeout", "-5s"});
    refused({"up", "--device-actors", "0"});
    refused({"ls", "--state", "/a", "--socket", "/b"});
}

TEST_CASE("devices are given one after the other, or each by itself", "[ctl]") {
    const std::vector<std::string> both = {"/dev/vda", "/dev/vdb"};
    CHECK(parsed({"pool", "create", "--device", "/dev/vda", "/dev/vdb"}).arguments.devices == both);
    CHECK(parsed({"pool", "create", "fast", "--device", "/dev/vda", "/dev/vdb"}).arguments.pool_name == "fast");
    CHECK(parsed({"pool", "grow", "--device=/dev/vda", "--device", "/dev/vdb"}).arguments.devices == both);
    const auto request = make_pool_create(parsed({"pool", "create", "--device", "/dev/vda"}).arguments);
    REQUIRE(request);
    CHECK(request->devices == std::vector<std::string>{"/dev/vda"});
    CHECK_FALSE(make_pool_create(parsed({"pool", "create", "--device", "/dev/vda", "--loop", "1G"}).arguments));
}

TEST_CASE("a pool is destroyed only by somebody who says that he means it", "[ctl]") {
    refused({"pool", "destroy"});
    CHECK(parsed({"pool", "destroy", "--yes"}).action == &pool_destroy);
    CHECK(parsed({"pool", "stop"}).action == &pool_stop);
    CHECK(parsed({"pool", "check"}).action == &pool_check);
}

TEST_CASE("an id may look like anything", "[ctl]") {
    CHECK(parsed({"create", "status"}).arguments.id == "status");
    CHECK(parsed({"create", "status"}).action == &volume_create);
    CHECK(parsed({"show", "[a,b]"}).arguments.id == "[a,b]");
    CHECK(parsed({"get", "--", "-x"}).arguments.id == "-x");
    CHECK(parsed({"get", "--", "--json"}).arguments.id == "--json");
    CHECK(parsed({"get", "a b/c:d"}).arguments.id == "a b/c:d");
    CHECK(parsed({"get", ""}).arguments.id.empty());
    CHECK(parsed({"create", "x", "--parent", "[y]"}).arguments.parent == "[y]");
    CHECK(parsed({"pool", "create", "pool", "--loop", "1G"}).arguments.pool_name == "pool");
}

TEST_CASE("rm takes many ids, each as it is written", "[ctl]") {
    const std::vector<std::string> ids{"a", "[b,c]", "{}", "rm", "pool", "", "d"};
    std::vector<std::string> args{"rm", "--wait"};
    args.insert(args.end(), ids.begin(), ids.end());
    CHECK(parsed(args).arguments.ids == ids);
    CHECK(parsed({"rm", "{}"}).arguments.ids == std::vector<std::string>{"{}"});
    CHECK(parsed({"rm", "--", "-a", "--wait"}).arguments.ids == std::vector<std::string>{"-a", "--wait"});
}

TEST_CASE("create's words become its request", "[ctl]") {
    const auto line = parsed({"create", "web", "--parent", "base", "--size", "20G", "--fs", "xfs", "--label", "a=1",
                              "--label", "b=x=y", "--get", "--holder", "me"});
    const auto request = make_volume_create(line.arguments);
    REQUIRE(request);
    CHECK(request->id == "web");
    CHECK(request->parent == "base");
    CHECK(request->size_bytes == std::uint64_t{20} << 30U);
    CHECK(request->fs == "xfs");
    CHECK(request->labels == schemas::Labels{{"a", "1"}, {"b", "x=y"}});
    CHECK(request->get);
    CHECK(request->holder == "me");
    CHECK_FALSE(request->filling);
}

TEST_CASE("create refuses what cannot be meant", "[ctl]") {
    const auto code = [](const std::vector<std::string>& args) {
        const auto request = make_volume_create(parsed(args).arguments);
        return request ? Errc::internal : request.error().code;
    };
    CHECK(code({"create", "a", "--size", "0"}) == Errc::invalid_argument);
    CHECK(code({"create", "a", "--size", "-1G"}) == Errc::invalid_argument);
    CHECK(code({"create", "a", "--label", "k"}) == Errc::invalid_argument);
    CHECK(code({"create", "a", "--label", "K=v"}) == Errc::invalid_argument);
    CHECK(code({"create", "a", "--label", "k=1", "--label", "k=2"}) == Errc::invalid_argument);
    CHECK(code({"create", "a", "--holder", "me"}) == Errc::invalid_argument);
}

TEST_CASE("freeze's words become its request", "[ctl]") {
    const auto request = [](const std::vector<std::string>& args) {
        return make_volume_freeze(parsed(args).arguments);
    };
    CHECK_FALSE(request({"freeze", "base"})->warm);
    CHECK(request({"freeze", "base", "--warm", "0"})->warm == 0U);
    const auto mounted = request({"freeze", "base", "--warm", "8", "--warm-mounted"});
    REQUIRE(mounted);
    CHECK(mounted->warm == 8U);
    CHECK(mounted->warm_mounted);
    CHECK(request({"freeze", "base", "--warm", "99999999999"})->warm > schemas::kMostWarmOfOne);
    CHECK_FALSE(request({"freeze", "base", "--warm", "some"}));
    CHECK_FALSE(parse_command_line({"freeze", "base", "--warm-mounted"}));
}

TEST_CASE("a pool is made in exactly one way", "[ctl]") {
    const auto make = [](std::vector<std::string> args) {
        args.insert(args.begin(), {"pool", "create"});
        return make_pool_create(parsed(args).arguments);
    };
    CHECK(make({"--loop", "10G"}).value().loop_bytes == std::uint64_t{10} << 30U);
    CHECK(make({"--loop", "10G"}).value().block_size_bytes == 65536);
    CHECK(make({"fast", "--loop", "10G", "--metadata-size", "64M", "--block-size", "128K"}).value().metadata_bytes ==
          64U << 20U);
    CHECK(make({"--adopt", "vg-thin", "--accept-no-zeroing"}).value().accept_no_zeroing);
    CHECK(make({"--data", "/dev/a", "--metadata", "/dev/b", "--force"}).value().force);
    CHECK(make({"--loop", "1G", "--preallocate"}).value().preallocate);
    CHECK(make({"--loop", "1G", "--keep-discarded"}).value().keep_discarded);
    CHECK(make({"--loop", "1G", "--no-zeroing"}).value().no_zeroing);
    CHECK(make({}).error().code == Errc::invalid_argument);
    CHECK(make({"--loop", "1G", "--adopt", "x"}).error().code == Errc::invalid_argument);
    CHECK(make({"--data", "/dev/a"}).error().code == Errc::invalid_argument);
    CHECK(make({"--metadata", "/dev/a"}).error().code == Errc::invalid_argument);
    CHECK(make({"--adopt", "x", "--metadata-size", "64M"}).error().code == Errc::invalid_argument);
    CHECK(make({"--adopt", "x", "--block-size", "64K"}).error().code == Errc::invalid_argument);
}

TEST_CASE("an option goes before the environment, and a socket before a state folder", "[ctl]") {
    const auto socket = [](const Globals& globals, const char* state, const char* path) {
        return find_place(globals, state, path).value().clients_socket;
    };
    CHECK(socket({}, nullptr, nullptr) == "/run/cowslip/default/clients.sock");
    CHECK(socket({}, "", "") == "/run/cowslip/default/clients.sock");
    CHECK(socket({}, "/s", nullptr) == "/s/run/clients.sock");
    CHECK(socket({}, "/s", "/x/c.sock") == "/x/c.sock");
    CHECK(socket({.state = "/t"}, "/s", "/x/c.sock") == "/t/run/clients.sock");
    CHECK(socket({.socket = "/y/c.sock"}, "/s", "/x/c.sock") == "/y/c.sock");
    CHECK(find_place({.socket = "/y/c.sock"}, nullptr, nullptr).value().events_socket == "/y/events.sock");
    const auto with_file = [](const Globals& globals, const char* state, const ConfigFile& file) {
        return find_place(globals, state, nullptr, file).value().clients_socket;
    };
    CHECK(with_file({}, nullptr, {.state = "/f"}) == "/f/run/clients.sock");
    CHECK(with_file({}, nullptr, {.state = "/f", .run = "/r"}) == "/r/clients.sock");
    CHECK(with_file({}, nullptr, {.state = "/f", .socket = "/z/c.sock"}) == "/z/c.sock");
    CHECK(with_file({}, "/s", {.state = "/f", .socket = "/z/c.sock"}) == "/s/run/clients.sock");
    CHECK(with_file({.state = "/t"}, "/s", {.state = "/f"}) == "/t/run/clients.sock");
    CHECK(with_file({}, nullptr, {.run = "/r"}) == "/r/clients.sock");
}

TEST_CASE("help and version are text and no action", "[ctl]") {
    CHECK_THAT(parsed({"--help"}).text, Catch::Contains("import") && Catch::Contains("Examples"));
    CHECK_THAT(parsed({"create", "--help"}).text, Catch::Contains("--parent"));
    CHECK_THAT(parsed({"--version"}).text, Catch::StartsWith("cowslip "));
    CHECK(parsed({"--help"}).action == nullptr);
}

}  // namespace cowslip::ctl
