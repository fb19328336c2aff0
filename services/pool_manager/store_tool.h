// What is done to a store's file while no pool-manager has it open, for the command line: this program alone opens
// stores.
#pragma once

#include <string>

#include "common/options.h"
#include "common/result.h"
#include "common/state_folder.h"
#include "schemas/pool_manager.h"

namespace cowslip {

// Makes it, goes into DIR/store and gives privileges up. From then on every path is relative, so that no parent needs
// to be traversable.
Result<StateFolder> enter_state_folder(const StateFolder& folder, const Account& account);

// A file beside the store, so that one that is emptied is told from one that never was.
inline constexpr const char* kStoreMade = "made";
Result<void> mark_store_made();

// Reads `file` with the rights of the caller, gives these up, and looks at it in memory: nothing is made or changed. Of
// the live store of a service that runs, its newest backup is looked at instead; in_use if there is none.
Result<schemas::StoreLook> verify_store_file(const ServiceOptions& options, const std::string& file);

// Puts `file` in the place of the service's store, as another store that is not believed before a rebuild (restore.h).
// in_use while a pool-manager runs. Likewise read with the rights of the caller, and all the rest with the account's.
Result<schemas::StoreLook> restore_store_file(const ServiceOptions& options, const std::string& file);

}  // namespace cowslip
