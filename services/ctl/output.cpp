#include "services/ctl/output.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "common/size.h"

namespace cowslip::ctl {

namespace {

// Columns on a terminal, counting each code point as one.
std::size_t width(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(
        text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

std::string tab_separated(const std::vector<std::string>& row) {
    std::string line;
    for (const auto& cell : row) line += (&cell == row.data() ? "" : "\t") + printable(cell);
    return line + "\n";
}

std::string aligned(const std::vector<std::string>& row, const std::vector<std::size_t>& widths) {
    std::string line;
    std::size_t pending = 0;  // Blanks owed before the next cell: none at the end of a line.
    for (std::size_t i = 0; i < row.size(); ++i) {
        const std::string cell = printable(row[i]);
        line += std::string(pending, ' ') + cell;
        pending = widths[i] - width(cell) + 2;
    }
    return line + "\n";
}

}  // namespace

int exit_code(Errc code) {
    switch (code) {
        case Errc::invalid_argument:
            return 2;
        case Errc::not_found:
            return 3;
        case Errc::already_exists:
            return 4;
        case Errc::in_use:
            return 5;
        case Errc::no_space:
            return 6;
        case Errc::unavailable:
        case Errc::busy:
            return 7;
        case Errc::timed_out:
            return 8;
        case Errc::needs_repair:
            return 9;
        case Errc::permission_denied:
            return 10;
        case Errc::unimplemented:
            return 11;
        case Errc::internal:
            return 70;
    }
    return 70;
}

std::string printable(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        // U+0080 to U+009F are C2 80 to C2 9F, and some terminals obey them.
        const bool c1 = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
        if (c1) {
            result += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[++i]));
        } else if (byte < 0x20 || byte == 0x7F) {
            result += fmt::format("\\x{:02x}", byte);
        } else {
            result += text[i];
        }
    }
    return result;
}

std::string Console::size(std::uint64_t bytes) const {
    return exact_bytes ? std::to_string(bytes) : format_size(bytes);
}

void Console::print(const Json& value) const {
    out << dump(value, out_is_terminal) << '\n';
}

void Console::print_line(std::string_view line) const {
    out << line << '\n' << std::flush;
}

void Console::note(std::string_view message) const {
    if (err_is_terminal && !json) err << printable(message) << '\n';
}

void Console::error(const Error& error, std::string_view code) const {
    const std::string_view word = code.empty() ? to_string(error.code) : code;
    if (json) {
        Json details = Json::object();
        for (const auto& [key, values] : error.details) details[key] = values;
        err << dump(Json{{"error", {{"code", word}, {"message", error.message}, {"details", details}}}}, false) << '\n';
        return;
    }
    err << (color ? "\x1b[1;31merror:\x1b[0m " : "error: ") << printable(error.message) << '\n';
    for (const auto& [key, values] : error.details) {
        for (const auto& value : values) {
            if (error.message.find(value) != std::string::npos) continue;  // Said already.
            err << "  " << printable(key) << ": " << printable(value) << '\n';
        }
    }
}

void Table::print(const Console& console) const {
    if (!console.out_is_terminal) {
        for (const auto& row : rows_) console.out << tab_separated(row);
        return;
    }
    std::vector<std::size_t> widths;
    const auto measure = [&](const std::vector<std::string>& row) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(printable(row[i])));
    };
    measure(headings_);
    for (const auto& row : rows_) measure(row);
    if (!headings_.empty()) console.out << aligned(headings_, widths);
    for (const auto& row : rows_) console.out << aligned(row, widths);
}

void ProgressLine::draw(std::string_view text) {
    if (!console_.err_is_terminal || console_.json) return;
    console_.err << "\r\x1b[K" << printable(text) << std::flush;
    drawn_ = true;
}

void ProgressLine::clear() {
    if (std::exchange(drawn_, false)) console_.err << "\r\x1b[K" << std::flush;
}

}  // namespace cowslip::ctl
