#include "common/filesystem_options.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string_view>
#include <vector>

#include <fmt/format.h>

namespace cowslip {

namespace {

constexpr std::size_t kLongestText = 255;
constexpr std::uint64_t kMiB = 1U << 20U;

struct Known {
    std::string_view fs;  // Empty: of each.
    std::string_view name;
    std::uint64_t least = 0;  // A number, if `most` is not 0.
    std::uint64_t most = 0;
    std::vector<std::string_view> words = {};  // One of these; with neither, it is a flag.
};

// Within the bounds of mke2fs 1.47 and mkfs.xfs 6.1.
const std::vector<Known>& mkfs_options() {
    static const std::vector<Known> known = {
        {"ext4", "bytes-per-inode", 4096, 64 * kMiB},
        {"ext4", "inode-size", 0, 0, {"256", "512", "1024"}},
        {"ext4", "journal-mib", 4, 1024},
        {"ext4", "reserved-percent", 0, 50},
        {"xfs", "inode-percent", 1, 100},
        {"xfs", "inode-size", 0, 0, {"512", "1024", "2048"}},
        {"xfs", "log-mib", 64, 2047},
    };
    return known;
}

// By the kernel's names. Not here: what weakens a sync (nobarrier), panics (errors=panic), shows a file system that
// never was (norecovery), names a device (journal_path), and what is fixed (ro, noatime, nouuid,
// no_prefetch_block_bitmaps, context).
const std::vector<Known>& mount_options() {
    static const std::vector<Known> known = {
        {"", "dirsync"},
        {"", "discard"},
        {"", "lazytime"},
        {"", "nodev"},
        {"", "noexec"},
        {"", "nosuid"},
        {"", "sync"},
        {"ext4", "commit", 1, 900},
        {"ext4", "data", 0, 0, {"journal", "ordered", "writeback"}},
        {"ext4", "errors", 0, 0, {"continue", "remount-ro"}},
        {"ext4", "nodelalloc"},
        {"xfs", "allocsize", 4096, 1024 * kMiB},
        {"xfs", "gquota"},
        {"xfs", "inode32"},
        {"xfs", "largeio"},
        {"xfs", "logbsize", 0, 0, {"16384", "32768", "65536", "131072", "262144"}},
        {"xfs", "logbufs", 2, 8},
        {"xfs", "prjquota"},
        {"xfs", "uquota"},
        {"xfs", "wsync"},
    };
    return known;
}

std::string describe(const Known& option) {
    if (option.most != 0) return fmt::format("{}={}..{}", option.name, option.least, option.most);
    if (!option.words.empty()) return fmt::format("{}={}", option.name, fmt::join(option.words, "|"));
    return std::string(option.name);
}

bool is_of(const Known& option, const std::string& fs) {
    return option.fs.empty() || option.fs == fs;
}

bool fits(const Known& option, const std::string& value) {
    if (option.most == 0) {
        return option.words.empty() ? value.empty()
                                    : std::find(option.words.begin(), option.words.end(), value) != option.words.end();
    }
    std::uint64_t number = 0;
    const char* end = value.data() + value.size();
    const auto read = std::from_chars(value.data(), end, number);
    const bool canonical = value == std::to_string(number);
    return read.ec == std::errc() && read.ptr == end && canonical && number >= option.least && number <= option.most;
}

std::string join(const std::map<std::string, std::string>& options) {
    std::string text;
    for (const auto& [name, value] : options) {
        text += fmt::format("{}{}{}{}", text.empty() ? "" : ",", name, value.empty() ? "" : "=", value);
    }
    return text;
}

Result<std::string> check(const std::string& what, const std::vector<Known>& known, const std::string& fs,
                          const std::string& text) {
    if (text.empty()) return std::string();
    if (fs != "ext4" && fs != "xfs") {
        return Error{Errc::invalid_argument, fmt::format("{}: a volume without a file system has none", what)};
    }
    if (text.size() > kLongestText) {
        return Error{Errc::invalid_argument, fmt::format("{}: at most {} bytes", what, kLongestText)};
    }
    const auto options = split_options(text);
    for (const auto& given : options) {
        const std::string& name = given.first;
        const std::string& value = given.second;
        const auto option =
            std::find_if(known.begin(), known.end(), [&](const Known& k) { return k.name == name && is_of(k, fs); });
        if (option == known.end()) {
            std::vector<std::string> all;
            for (const Known& other : known) {
                if (is_of(other, fs)) all.push_back(describe(other));
            }
            return Error{Errc::invalid_argument,
                         fmt::format("{}: {} has no '{}' here: {}", what, fs, name, fmt::join(all, ", "))};
        }
        if (!fits(*option, value)) {
            return Error{Errc::invalid_argument, fmt::format("{}: '{}' must be {}", what, name, describe(*option))};
        }
    }
    std::string ordered = join(options);
    if (ordered.size() != text.size()) {
        return Error{Errc::invalid_argument, fmt::format("{}: '{}' has one twice, or an empty one", what, text)};
    }
    return ordered;
}

}  // namespace

Result<std::string> check_mkfs_options(const std::string& fs, const std::string& text) {
    return check("mkfs options", mkfs_options(), fs, text);
}

Result<std::string> check_mount_options(const std::string& fs, const std::string& text) {
    return check("mount options", mount_options(), fs, text);
}

std::map<std::string, std::string> split_options(const std::string& text) {
    std::map<std::string, std::string> options;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find(',', at), text.size());
        const std::string one = text.substr(at, end - at);
        const std::size_t equals = std::min(one.find('='), one.size());
        options[one.substr(0, equals)] = equals < one.size() ? one.substr(equals + 1) : "";
        at = end + 1;
    }
    return options;
}

}  // namespace cowslip
