// What the command line says and how: data on stdout, messages on stderr; tables for a terminal,
// tab-separated lines without headings for a pipe, JSON where asked. Whatever came from outside is
// made printable first, so that no name can drive the terminal.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "services/ctl/json.h"

namespace cowslip::ctl {

// The exit codes of the manual, from the error's code. 0, 1 and 130 are no errors and not here.
int exit_code(Errc code);

// Control characters as \xNN.
std::string printable(std::string_view text);

struct Console {
    std::ostream& out;
    std::ostream& err;
    bool out_is_terminal = false;
    bool err_is_terminal = false;
    bool json = false;
    bool exact_bytes = false;
    bool color = false;  // Of messages on stderr.

    std::string size(std::uint64_t bytes) const;
    // One document: indented on a terminal, else one line.
    void print(const Json& value) const;
    // One line of a stream, out at once.
    void print_line(std::string_view line) const;
    // A message for a person, only where one is watching.
    void note(std::string_view message) const;
    // `code` is the error's own word unless given (an interrupt is no Errc).
    void error(const Error& error, std::string_view code = {}) const;
};

// Columns, as wide as they must be.
class Table {
public:
    explicit Table(std::vector<std::string> headings = {}) : headings_(std::move(headings)) {}
    void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
    void print(const Console& console) const;

private:
    std::vector<std::string> headings_;  // None: two columns, key and value.
    std::vector<std::vector<std::string>> rows_;
};

// One line on a terminal, drawn over and over; nothing elsewhere. Gone when the work is.
class ProgressLine {
public:
    explicit ProgressLine(const Console& console) : console_(console) {}
    ProgressLine(const ProgressLine&) = delete;
    ProgressLine& operator=(const ProgressLine&) = delete;
    ~ProgressLine() { clear(); }
    void draw(std::string_view text);
    void clear();

private:
    const Console& console_;
    bool drawn_ = false;
};

}  // namespace cowslip::ctl
