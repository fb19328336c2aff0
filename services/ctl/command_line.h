// The words of the command line: which commands there are, what each takes, and how a wrong one is
// told. Parsing is pure: it fills a CommandLine and starts nothing.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "services/ctl/session.h"

namespace cowslip::ctl {

// All that any command takes; each uses its part. Sizes and labels are still text here.
struct Arguments {
    std::string id;
    std::string new_id;
    std::vector<std::string> ids;
    std::string parent;
    std::string size;
    std::string fs;
    std::optional<std::string> mkfs_options;
    std::optional<std::string> mount_options;
    std::vector<std::string> labels;
    std::string holder;
    std::string mount_label;
    bool get = false;
    bool read_only = false;
    bool wait = false;
    bool must_exist = false;
    bool force = false;
    bool remove = false;
    bool all_holders = false;
    bool repair = false;
    bool exact = false;
    bool all = false;
    bool space = false;
    std::string warm;  // A number; empty is not 0.
    bool warm_mounted = false;

    std::string pool_name;
    std::string loop_size;
    std::string metadata_size;
    std::string block_size;
    std::string data_size;
    std::string max_size;
    std::string grow_step;
    std::string min_free;
    std::string min_free_metadata;
    std::string overprovision;
    std::string data_device;
    std::string metadata_device;
    bool queue_when_full = false;
    std::string quota_label;
    std::string quota;
    std::vector<std::string> devices;
    std::string adopt;
    bool accept_no_zeroing = false;
    bool preallocate = false;
    bool keep_discarded = false;
    bool no_zeroing = false;
    bool evict = false;
    std::string spare;
    bool accept_loss = false;
    bool yes = false;

    std::string operation;
    std::string since;  // A number; empty is not 0.
    bool follow = false;
    std::string message_type;
    std::string message_body;
    std::string pattern;
    std::string tar;
    std::string file;

    unsigned device_actors = 4;
    unsigned mount_actors = 4;
};

// A command returns the process's exit code.
using Action = Result<int> (*)(Session&, const Arguments&);

struct CommandLine {
    Globals globals;
    Arguments arguments;
    Action action = nullptr;
    std::string text;  // Of --help and --version: to be printed, and nothing else done.
};

Result<CommandLine> parse_command_line(const std::vector<std::string>& args);

// What there is, for the manual's test: options without their dashes.
struct CommandDescription {
    std::string name;  // "rm", "pool create".
    std::vector<std::string> options;
};
std::vector<CommandDescription> describe_commands();
std::vector<std::string> describe_globals();

// Parses and carries out. `args` is without the program's name.
int run(const std::vector<std::string>& args, Console& console, StopSignal& stop);

}  // namespace cowslip::ctl
