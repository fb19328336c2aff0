// cowslip-bench COMMAND [ARGUMENT...]: what deploy/bench measures with; each command has --help.
#include <array>
#include <iostream>
#include <string_view>

#include "tests/bench/commands.h"

namespace {

struct Entry {
    std::string_view name;
    int (*command)(int, char**);
};

using namespace cowslip::bench;
constexpr std::array kEntries{
    Entry{"bare", bare::command},
    Entry{"cycle", cycle::command},
    Entry{"warm", warm::command},
    Entry{"requests", requests::command},
    Entry{"echo", echo::command},
    Entry{"actors", actors::command},
    Entry{"subscribers", subscribers::command},
};

}  // namespace

int main(int argc, char** argv) {
    const std::string_view wanted = argc > 1 ? argv[1] : "";
    for (const Entry& entry : kEntries) {
        if (entry.name == wanted) return entry.command(argc - 1, argv + 1);
    }
    std::cerr << "cowslip-bench: the commands are";
    for (const Entry& entry : kEntries) std::cerr << ' ' << entry.name;
    std::cerr << '\n';
    return 2;
}
