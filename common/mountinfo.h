// /proc/PID/mountinfo as data: what is mounted where in somebody's mount namespace.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace cowslip {

struct MountEntry {
    std::uint64_t id = 0;
    std::uint64_t parent_id = 0;
    dev_t device = 0;  // Of the file system, as st_dev of its files.
    std::string root;  // What of the file system is mounted: "/" for all of it.
    std::string mount_point;
    std::string options;  // Of this mount, "rw,relatime".
    std::string fs;
    std::string source;
    std::string super_options;  // Of the file system, whoever mounted it.
};

// Nothing if the line is malformed. Paths come back unescaped, options as they are.
std::optional<MountEntry> parse_mountinfo_line(std::string_view line);

// All that can be read; lines that cannot be parsed are left out.
Result<std::vector<MountEntry>> read_mountinfo(const std::string& path = "/proc/self/mountinfo");

// The value of `name` in a list "rw,context=\"a,b\"": unquoted and unescaped; empty for a flag;
// nothing if it is not there.
std::optional<std::string> find_mount_option(std::string_view options, std::string_view name);

}  // namespace cowslip
