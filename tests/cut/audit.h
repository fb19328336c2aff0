// A real service that has come back after a power cut, asked as a client asks: what was acknowledged is there, with the
// bytes that were synced; what was not answered is whole or absent, and happens once when it is asked again; and the
// service goes on.
#pragma once

#include <string>

#include "common/result.h"
#include "tests/cut/history.h"

namespace cowslip::cut {

// Empty, or what is wrong. An error: it could not be looked at.
Result<std::string> audit(const std::string& state, const History& history);

}  // namespace cowslip::cut
