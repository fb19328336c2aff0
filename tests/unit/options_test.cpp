#include "common/options.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <poll.h>
#include <spdlog/spdlog.h>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "common/signals.h"
#include "tests/fakes/temporary_folder.h"

using namespace cowslip;

namespace {

// std::cout and std::cerr of a scope, as text.
class Captured {
public:
    Captured() : out_(std::cout.rdbuf(text_.rdbuf())), err_(std::cerr.rdbuf(text_.rdbuf())) {}
    Captured(const Captured&) = delete;
    Captured& operator=(const Captured&) = delete;
    ~Captured() {
        std::cout.rdbuf(out_);
        std::cerr.rdbuf(err_);
    }
    std::string text() const { return text_.str(); }

private:
    std::ostringstream text_;
    std::streambuf* out_;
    std::streambuf* err_;
};

struct Outcome {
    ParsedOptions parsed;
    std::uint64_t workers = 3;
    std::string text;
};

Outcome parse(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "cowslip-test");
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    Outcome outcome;
    const Captured captured;
    outcome.parsed = parse_options("cowslip-test", "Tests.", static_cast<int>(arguments.size()), pointers.data(),
                                   {{"idle-workers", "how many", &outcome.workers, 1, 64}});
    outcome.text = captured.text();
    return outcome;
}

class Environment {
public:
    explicit Environment(const std::string& state) { ::setenv("COWSLIP_STATE", state.c_str(), 1); }
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;
    ~Environment() { ::unsetenv("COWSLIP_STATE"); }
};

}  // namespace

TEST_CASE("the time between backups is a duration, or 0 for never", "[options]") {
    const TemporaryFolder folder;
    const std::string file = folder / "c.toml";
    const auto read = [&](const std::string& value) {
        std::ofstream(file) << "store_backup = '" << value << "'\n";
        return read_config(file);
    };
    CHECK(read("30m")->store_backup == "30m");
    CHECK(read("0")->store_backup == "0");
    std::ofstream(file) << "trim = '1w'\n";
    CHECK(read_config(file)->trim == "1w");
    std::ofstream(file) << "trim = 'weekly'\n";
    CHECK_FALSE(read_config(file));
    CHECK_FALSE(read("soon"));
    CHECK_FALSE(read("0s"));
}

TEST_CASE("what new file systems get is in the file, and checked", "[options]") {
    const TemporaryFolder folder;
    const std::string config = folder / "config.toml";
    std::ofstream(config) << "mkfs-ext4 = 'journal-mib=8,inode-size=512'\nmount_xfs = 'nodev'\n";
    const auto outcome = parse({"--config", config});
    REQUIRE_FALSE(outcome.parsed.ends);
    const auto& filesystems = outcome.parsed.options.filesystems;
    CHECK(filesystems.at("ext4") == FilesystemOptions{"inode-size=512,journal-mib=8", ""});
    CHECK(filesystems.at("xfs") == FilesystemOptions{"", "nodev"});

    std::ofstream(config) << "\nmount-ext4 = 'nobarrier'\n";
    const auto wrong = parse({"--config", config});
    CHECK((wrong.parsed.ends && wrong.parsed.exit_status == 2));
    CHECK_THAT(wrong.text, Catch::Contains(config + ":2:14: 'mount-ext4' is wrong: mount options: ext4 has no"));
}

TEST_CASE("without flags the defaults hold", "[options]") {
    const auto outcome = parse({});
    CHECK_FALSE(outcome.parsed.ends);
    CHECK(outcome.parsed.options.state == "/var/lib/cowslip/default");
    // Services kept their sockets in STATE/run, and the command line looked in /run.
    CHECK(outcome.parsed.options.run == "/run/cowslip/default");
    CHECK(parse({"--state", "/s"}).parsed.options.run.empty());
    CHECK(parse({"--run", "/r"}).parsed.options.run == "/r");
    CHECK(parse({"--run", "/r"}).parsed.options.state == "/var/lib/cowslip/default");
    CHECK(outcome.parsed.options.log_level == "info");
    CHECK(outcome.workers == 3);
}

TEST_CASE("a flag beats the environment, which beats the file", "[options]") {
    const TemporaryFolder folder;
    const std::string file = folder / "c.toml";
    std::ofstream(file) << "state = '/file'\nrun = '/file-run'\nlog_level = 'debug'\nidle-workers = 7\n";
    auto outcome = parse({"--config", file});
    CHECK(outcome.parsed.options.state == "/file");
    CHECK(outcome.parsed.options.run == "/file-run");
    CHECK(outcome.parsed.options.log_level == "debug");
    CHECK(outcome.workers == 7);
    const Environment environment("/environment");
    CHECK(parse({}).parsed.options.state == "/environment");
    CHECK(parse({"--config", file}).parsed.options.state == "/environment");
    outcome = parse(
        {"--config", file, "--state", "/flag", "--run", "/flag-run", "--log-level", "warn", "--idle-workers", "9"});
    CHECK(outcome.parsed.options.state == "/flag");
    CHECK(outcome.parsed.options.run == "/flag-run");
    CHECK(outcome.parsed.options.log_level == "warn");
    CHECK(outcome.workers == 9);
}

TEST_CASE("a key may be written with '-' or '_'", "[options]") {
    const TemporaryFolder folder;
    const std::string file = folder / "c.toml";
    std::ofstream(file) << GENERATE("idle-workers = 7", "idle_workers = 7");
    CHECK(parse({"--config", file}).workers == 7);
}

TEST_CASE("a mistake in the file is named with file, line and column, and ends with 2", "[options]") {
    const TemporaryFolder folder;
    const std::string file = folder / "c.toml";
    const auto [text, place, word] = GENERATE(table<std::string, std::string, std::string>({
        {"state = '/a'\n  sate = '/b'\n", ":2:3: ", "unknown key 'sate'"},
        {"[pool]\nname = 'x'\n", ":1:2: ", "unknown key 'pool'"},
        {"state = 5\n", ":1:9: ", "'state' must be a string"},
        {"\nidle-workers = 'many'\n", ":2:16: ", "'idle-workers' must be a number from 1 to 64"},
        {"idle-workers = 65\n", ":1:16: ", "from 1 to 64"},
        {"idle-workers = -1\n", ":1:16: ", "from 1 to 64"},
        {"log-level = 'loud'\n", ":1:13: ", "debug, info, warn, error"},
        {"timeout = '5'\n", ":1:11: ", "'timeout' is no time"},
        {"state = \n", ":1:", ""},
    }));
    CAPTURE(text);
    std::ofstream(file) << text;
    const auto outcome = parse({"--config", file});
    CHECK(outcome.parsed.ends);
    CHECK(outcome.parsed.exit_status == 2);
    CHECK_THAT(outcome.text, Catch::Contains(file + place) && Catch::Contains(word));
}

TEST_CASE("one file serves all programs", "[options]") {
    const TemporaryFolder folder;
    const std::string file = folder / "c.toml";
    std::ofstream(file) << "state = '/file'\nsocket = '/file/clients.sock'\ntimeout = '5s'\n";
    CHECK(parse({"--config", file}).parsed.options.state == "/file");
    CHECK(parse({"--config", file}).parsed.options.run.empty());
}

TEST_CASE("a wrong key is a mistake also where a flag overrides it", "[options]") {
    const TemporaryFolder folder;
    const std::string file = folder / "c.toml";
    std::ofstream(file) << "log-level = 'loud'\n";
    CHECK(parse({"--config", file, "--log-level", "info"}).parsed.exit_status == 2);
}

TEST_CASE("a mistake on the command line ends with 2", "[options]") {
    const auto arguments =
        GENERATE(std::vector<std::string>{"--sate", "/a"}, std::vector<std::string>{"stray"},
                 std::vector<std::string>{"--idle-workers", "0"}, std::vector<std::string>{"--idle-workers", "x"},
                 std::vector<std::string>{"--log-level", "loud"}, std::vector<std::string>{"--state"},
                 std::vector<std::string>{"--config", "/absent.toml"});
    CAPTURE(arguments);
    const auto outcome = parse(arguments);
    CHECK(outcome.parsed.ends);
    CHECK(outcome.parsed.exit_status == 2);
    CHECK_FALSE(outcome.text.empty());
}

TEST_CASE("closed standard descriptors are filled before anything else is opened", "[options]") {
    // The first file to be opened took the place of a closed stdin.
    const pid_t child = ::fork();
    if (child == 0) {
        for (const int fd : {0, 1, 2}) ::close(fd);
        char program[] = "cowslip-test";
        char* arguments[] = {program, nullptr};
        if (parse_options(program, "Tests.", 1, arguments).ends) ::_exit(1);
        const int first = ::open("/dev/null", O_RDONLY);
        char byte = 0;
        if (first < 3) ::_exit(2);
        ::_exit(::read(0, &byte, 1) < 0 && ::write(1, "x", 1) < 0 ? 0 : 3);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("help and version are answered, and end with 0", "[options]") {
    const auto help = parse({"--help"});
    CHECK(help.parsed.ends);
    CHECK(help.parsed.exit_status == 0);
    CHECK_THAT(help.text, Catch::Contains("--state") && Catch::Contains("--idle-workers") && Catch::Contains("Tests."));
    const auto version = parse({"--version"});
    CHECK(version.parsed.exit_status == 0);
    CHECK(version.text == "cowslip-test " COWSLIP_VERSION "\n");
}

namespace {

// What a child process writes to its stderr while it does `work`.
template <class Work>
std::string stderr_of_child(Work&& work) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::dup2(ends[1], STDERR_FILENO);
        work();
        spdlog::default_logger()->flush();
        ::_exit(0);
    }
    ::close(ends[1]);
    std::string text;
    char buffer[4096];
    for (ssize_t size = 0; (size = ::read(ends[0], buffer, sizeof(buffer))) > 0;) {
        text.append(buffer, static_cast<std::size_t>(size));
    }
    ::close(ends[0]);
    CHECK(::waitpid(child, nullptr, 0) == child);
    return text;
}

}  // namespace

TEST_CASE("an event is one line of the log, whatever its text, and only from its level on", "[options]") {
    const std::string text = stderr_of_child([] {
        setup_logging("cowslip-test", "warn");
        spdlog::info("event=quiet");
        spdlog::warn("event=said error='{}'", "first\nsecond\x1b[31m\x7f end");
    });
    CHECK(std::count(text.begin(), text.end(), '\n') == 1);
    CHECK_THAT(text, Catch::Contains("event=said error='first\\x0asecond\\x1b[31m\\x7f end'") &&
                         Catch::Contains(" cowslip-test[") && Catch::Contains("Z "));
    CHECK_THAT(text, !Catch::Contains("quiet"));
}

TEST_CASE("SIGTERM and SIGINT become readable instead of deadly", "[options]") {
    const int number = GENERATE(SIGTERM, SIGINT);
    const pid_t child = ::fork();
    if (child == 0) {
        const auto fd = stop_signal_fd();
        if (!fd) ::_exit(1);
        pollfd entry{*fd, POLLIN, 0};
        if (::poll(&entry, 1, 0) != 0) ::_exit(2);
        ::kill(::getpid(), number);
        ::_exit(::poll(&entry, 1, 5000) == 1 ? 0 : 3);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}
