// DIR/pool/devices: the block devices that root has given to the service, one absolute path a line,
// as `pool create` was told them. The actors take no other, whatever the manager asks for, since it
// parses what strangers send (protocol: trust).
#pragma once

#include <string>
#include <vector>

#include "common/result.h"

namespace cowslip::ctl {

// Adds those that are missing. Must run as root; refuses what is not a block device.
Result<void> allow_devices(const std::string& state, const std::vector<std::string>& devices);

// The lines to append to a list that already holds `text`.
std::string missing_lines(const std::string& text, const std::vector<std::string>& devices);

}  // namespace cowslip::ctl
