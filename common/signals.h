// SIGTERM and SIGINT as a descriptor, for a poll loop.
#pragma once

#include "common/result.h"

namespace cowslip {

// Blocks both signals for this process and gives a signalfd that is readable once one has come.
// Before any thread exists (ZeroMQ starts some), since threads inherit the mask. SIGPIPE is ignored.
Result<int> stop_signal_fd();

}  // namespace cowslip
