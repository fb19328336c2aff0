// cowslip: the command line.

#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "common/files.h"
#include "services/ctl/command_line.h"

namespace {

bool wants_color() {
    const char* no_color = std::getenv("NO_COLOR");
    const char* terminal = std::getenv("TERM");
    if (no_color != nullptr && *no_color != '\0') return false;
    return isatty(STDERR_FILENO) == 1 && terminal != nullptr && std::string_view(terminal) != "dumb";
}

}  // namespace

int main(int argc, char** argv) {
    using namespace cowslip;
    if (const auto filled = fill_standard_fds(); !filled) return ctl::exit_code(filled.error().code);
    ctl::Console console{.out = std::cout,
                         .err = std::cerr,
                         .out_is_terminal = isatty(STDOUT_FILENO) == 1,
                         .err_is_terminal = isatty(STDERR_FILENO) == 1,
                         .color = wants_color()};
    auto stop = ctl::StopSignal::watch();
    if (!stop) {
        console.error(stop.error());
        return ctl::exit_code(stop.error().code);
    }
    const int code = ctl::run(std::vector<std::string>(argv + 1, argv + argc), console, *stop);
    if (!std::cout.flush() && code == 0) {
        console.error(Error{Errc::internal, "write the answer: stdout cannot be written"});
        return ctl::exit_code(Errc::internal);
    }
    return code;
}
