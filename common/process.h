// Child processes: no shell, a bound on time and output, and no descriptor leaked but the ones
// named. A child is killed with its process group when its time is up, and alone when the thread
// that started it dies. Our return means that it has ended: after the kill we wait without a limit.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace cowslip {

struct ProcessOptions {
    std::vector<std::string> arguments;  // arguments[0] is looked up in PATH (sbin folders included).
    std::chrono::milliseconds timeout{60000};
    std::size_t output_limit_bytes = 64 * 1024;  // Of stdout and of stderr each; the rest is read and dropped.
    std::vector<int> inherited_fds = {};         // E.g. an actor's lock: it must outlive the actor in the child.
    std::function<void(std::string_view)> take_output = nullptr;  // Is given stdout, in pieces and without a limit.
};

struct ProcessResult {
    int exit_status = 0;  // As a shell has it: 128 + signal for a death by signal.
    std::string output;
    std::string errors;
    bool output_cut = false;
};

// Runs it to its end, with an empty stdin and LC_ALL=C; what it leaves behind in its process group is
// killed. Errors: unavailable (no such program; names the Debian package if it is one we know: not
// not_found, which a client takes for a volume), timed_out (killed). A non-zero exit is a result,
// not an error.
Result<ProcessResult> run_process(const ProcessOptions& options);

}  // namespace cowslip
