// Another store put in the place of today's, in three files of one folder: it is staged first, and decided by that;
// from then on it is put in place by whoever comes first, this process, the next start or the next restore. Today's is
// kept.
//
// Crash: before it is staged the old store is there as it was; after that the new one.
#pragma once

#include <functional>
#include <string>

#include "common/result.h"

namespace cowslip {

// For tests: called before each change to the folder.
using BeforeStep = std::function<void()>;

// no_space: nothing is left of it.
Result<void> stage_store(const std::string& folder, const std::string& bytes, const BeforeStep& before = {});

// Puts a staged store in place. Gives the name under which the one before is kept, with its log beside it; empty if
// there was none, or nothing is staged.
Result<std::string> finish_restore(const std::string& folder, const BeforeStep& before = {});

}  // namespace cowslip
