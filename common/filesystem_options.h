// What a volume's file system is made and mounted with beside what is fixed, as text: "commit=30,nodev". Only what is
// in a list of our own: mkfs and the kernel take more, and with it other devices, syncs that promise nothing, a panic.
#pragma once

#include <map>
#include <string>

#include "common/result.h"

namespace cowslip {

// Checked: in the order of their names.
struct FilesystemOptions {
    std::string mkfs;
    std::string mount;
    bool operator==(const FilesystemOptions&) const = default;
};

// Gives the text in the order of its names, so that equal options are equal text. invalid_argument, with what there is:
// an unknown one, a value out of its bounds, one given twice, a file system that has none.
Result<std::string> check_mkfs_options(const std::string& fs, const std::string& text);
Result<std::string> check_mount_options(const std::string& fs, const std::string& text);

// Of a checked text: "commit=30" is commit -> 30, and a flag has no value.
std::map<std::string, std::string> split_options(const std::string& text);

}  // namespace cowslip
