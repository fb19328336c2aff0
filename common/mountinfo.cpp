#include "common/mountinfo.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>

#include "common/files.h"

namespace cowslip {

namespace {

// The kernel writes blank, tab, newline, '\' and '#' as \ooo.
std::string unescape(std::string_view text) {
    const auto octal = [&](std::size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '7'; };
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
            const int value = (text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0');
            plain += static_cast<char>(value);
            i += 3;
        } else {
            plain += text[i];
        }
    }
    return plain;
}

// Cuts the next word off `text`; empty at its end.
std::string_view take_word(std::string_view& text, char separator) {
    const std::size_t end = std::min(text.find(separator), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    return word;
}

template <class Number>
bool parse(std::string_view text, Number& number) {
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
    return status == std::errc{} && end == text.data() + text.size();
}

}  // namespace

std::optional<MountEntry> parse_mountinfo_line(std::string_view line) {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 … - ext3 /dev/root rw,errors=continue
    MountEntry entry;
    unsigned int major_number = 0;
    unsigned int minor_number = 0;
    if (!parse(take_word(line, ' '), entry.id) || !parse(take_word(line, ' '), entry.parent_id)) return std::nullopt;
    if (!parse(take_word(line, ':'), major_number) || !parse(take_word(line, ' '), minor_number)) return std::nullopt;
    entry.device = makedev(major_number, minor_number);
    entry.root = unescape(take_word(line, ' '));
    entry.mount_point = unescape(take_word(line, ' '));
    entry.options = take_word(line, ' ');
    while (!line.empty() && take_word(line, ' ') != "-") {  // Propagation: any number of words.
    }
    entry.fs = unescape(take_word(line, ' '));
    entry.source = unescape(take_word(line, ' '));
    entry.super_options = line;
    if (entry.super_options.empty()) return std::nullopt;
    return entry;
}

Result<std::vector<MountEntry>> read_mountinfo(const std::string& path) {
    const std::string text = TRY(read_file(path, 64U << 20U));
    std::vector<MountEntry> entries;
    for (std::string_view rest = text; !rest.empty();) {
        if (auto entry = parse_mountinfo_line(take_word(rest, '\n'))) entries.push_back(std::move(*entry));
    }
    return entries;
}

std::optional<std::string> find_mount_option(std::string_view options, std::string_view name) {
    while (!options.empty()) {
        std::size_t end = 0;
        for (bool quoted = false; end < options.size() && (quoted || options[end] != ','); ++end) {
            if (options[end] == '"') quoted = !quoted;
        }
        std::string_view option = options.substr(0, end);
        options.remove_prefix(std::min(end + 1, options.size()));
        if (take_word(option, '=') != name) continue;
        if (option.size() >= 2 && option.front() == '"' && option.back() == '"') {
            option = option.substr(1, option.size() - 2);
        }
        return unescape(option);
    }
    return std::nullopt;
}

}  // namespace cowslip
