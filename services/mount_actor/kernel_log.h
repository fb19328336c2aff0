// What the kernel logs about one device while we make a call: file systems give their reasons there
// and not in the call's error.
#pragma once

#include <string>

#include "common/files.h"

namespace cowslip {

class KernelLog {
public:
    KernelLog();  // From here on.
    // The first messages since then that name the device ("dm-3"), "; " between them; may be empty.
    std::string about(const std::string& kernel_name) const;

private:
    Fd fd_;
};

}  // namespace cowslip
