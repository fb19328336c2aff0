// What every program of cowslip takes on its command line and in its configuration file, the same
// for all: --state, --run, --log-level, --config FILE, --version, --help. A flag beats the
// environment, that beats the file (TOML; an unknown key is an error with its line and column).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"

namespace cowslip {

struct ServiceOptions {
    std::string state = "/var/lib/cowslip/default";  // COWSLIP_STATE
    std::string run;                                 // Empty: <state>/run.
    std::string log_level = "info";
};

// A program's own option: --name VALUE, or name = VALUE in the file.
struct NumberOption {
    std::string name;
    std::string help;
    std::uint64_t* value;
    std::uint64_t least;
    std::uint64_t most;
};

struct ParsedOptions {
    bool ends = false;    // --help or --version was printed, or the usage was wrong (said on stderr):
    int exit_status = 0;  // end with this.
    ServiceOptions options;
};

ParsedOptions parse_options(const std::string& program, const std::string& what_it_is, int argc, char** argv,
                            const std::vector<NumberOption>& own = {});

// spdlog to stderr, one line per event: time, program[pid], level, text.
void setup_logging(const std::string& program, const std::string& level);

}  // namespace cowslip
