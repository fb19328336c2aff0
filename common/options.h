// What every program of cowslip takes on its command line and in its configuration file, the same
// for all: --state, --run, --log-level, --config FILE, --version, --help. A flag beats the
// environment, that beats the file (TOML; an unknown key is an error with its line and column). One
// file serves all programs: each knows the keys of the others.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/filesystem_options.h"
#include "common/result.h"

namespace cowslip {

// The host's default pool.
inline constexpr const char* kDefaultState = "/var/lib/cowslip/default";
inline constexpr const char* kDefaultRun = "/run/cowslip/default";

struct ServiceOptions {
    std::string state;  // COWSLIP_STATE; if neither it nor run is given, the host's default pool.
    std::string run;    // Empty: <state>/run.
    std::string log_level = "info";
    std::string reconcile = "10m";    // In the file only: between two comparisons of store, pool and kernel.
    std::string store_backup = "1h";  // Likewise: between two backups of the store beside it; "0": none.
    std::string trim = "0";  // Likewise: between two trims of all volumes that are mounted writable; "0": none.
    std::map<std::string, FilesystemOptions> filesystems = {};  // Likewise, by type: what new volumes get.
};

// A program's own option: --name VALUE, or name = VALUE in the file.
struct NumberOption {
    std::string name;
    std::string help;
    std::uint64_t* value;
    std::uint64_t least;
    std::uint64_t most;
};

// Likewise, on the command line only.
struct TextOption {
    std::string name;
    std::string help;
    std::string* value;
};

struct FlagOption {
    std::string name;
    std::string help;
    bool* value;
};

// What a configuration file holds, of the keys that are the same everywhere; empty: not given.
struct ConfigFile {
    std::string state = {};
    std::string run = {};
    std::string log_level = {};
    std::string reconcile = {};                                 // A duration, checked.
    std::string store_backup = {};                              // Likewise, or "0".
    std::string trim = {};                                      // Likewise, or "0".
    std::string socket = {};                                    // The command line's, as the rest.
    std::string timeout = {};                                   // A duration, checked.
    std::map<std::string, FilesystemOptions> filesystems = {};  // mkfs-ext4, mount-ext4, mkfs-xfs, mount-xfs; checked.
};

// invalid_argument with file, line and column.
Result<ConfigFile> read_config(const std::string& file, const std::vector<NumberOption>& own = {});

struct ParsedOptions {
    bool ends = false;    // --help or --version was printed, or the usage was wrong (said on stderr):
    int exit_status = 0;  // end with this.
    ServiceOptions options;
};

// To be the first call in main: it also fills closed standard descriptors (files.h).
ParsedOptions parse_options(const std::string& program, const std::string& what_it_is, int argc, char** argv,
                            const std::vector<NumberOption>& own = {}, const std::vector<TextOption>& texts = {},
                            const std::vector<FlagOption>& flags = {});

// spdlog to stderr, one line per event: time, program[pid], level, text.
void setup_logging(const std::string& program, const std::string& level);

}  // namespace cowslip
