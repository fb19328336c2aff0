#include "tests/simulation/mutants.h"

#include <cerrno>
#include <cstdlib>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "common/codec.h"
#include "common/sqlite.h"
#include "common/thin_pool.h"
#include "schemas/device_actor.h"
#include "services/pool_manager/name_queue.h"
#include "services/pool_manager/store.h"

// The linker leads calls of these functions here (--wrap in tests/CMakeLists.txt); `real_...` is the product's. A
// member function is told its object in the first place.
namespace cowslip {

Outcome real_judge(int, std::string_view, std::uint64_t,
                   std::uint64_t) __asm__("__real__ZN7cowslip5judgeEiSt17basic_string_viewIcSt11char_traitsIcEEmm");
Outcome wrapped_judge(int, std::string_view, std::uint64_t,
                      std::uint64_t) __asm__("__wrap__ZN7cowslip5judgeEiSt17basic_string_viewIcSt11char_traitsIcEEmm");
bool real_commit(Database*) __asm__("__real__ZN7cowslip8Database6commitEv");
bool wrapped_commit(Database*) __asm__("__wrap__ZN7cowslip8Database6commitEv");
Result<std::uint32_t> real_spend_thin_id(Store*) __asm__("__real__ZN7cowslip5Store13spend_thin_idEv");
Result<std::uint32_t> wrapped_spend_thin_id(Store*) __asm__("__wrap__ZN7cowslip5Store13spend_thin_idEv");
Result<void> real_insert_operation(Store*, const OperationRow&) __asm__(
    "__real__ZN7cowslip5Store16insert_operationERKNS_12OperationRowE");
Result<void> wrapped_insert_operation(Store*, const OperationRow&) __asm__(
    "__wrap__ZN7cowslip5Store16insert_operationERKNS_12OperationRowE");
Result<void> real_set_reply(Store*, std::string_view, std::string_view, std::string_view) __asm__(
    "__real__ZN7cowslip5Store9set_replyESt17basic_string_viewIcSt11char_traitsIcEES4_S4_");
Result<void> wrapped_set_reply(Store*, std::string_view, std::string_view, std::string_view) __asm__(
    "__wrap__ZN7cowslip5Store9set_replyESt17basic_string_viewIcSt11char_traitsIcEES4_S4_");
Result<void> real_set_planned(Store*, std::uint64_t) __asm__("__real__ZN7cowslip5Store11set_plannedEm");
Result<void> wrapped_set_planned(Store*, std::uint64_t) __asm__("__wrap__ZN7cowslip5Store11set_plannedEm");
Result<void> real_set_volume_removing(Store*, std::uint32_t) __asm__("__real__ZN7cowslip5Store19set_volume_removingEj");
Result<void> wrapped_set_volume_removing(Store*,
                                         std::uint32_t) __asm__("__wrap__ZN7cowslip5Store19set_volume_removingEj");
Result<void> real_mark_restored(Store*) __asm__("__real__ZN7cowslip5Store13mark_restoredEv");
Result<void> wrapped_mark_restored(Store*) __asm__("__wrap__ZN7cowslip5Store13mark_restoredEv");
bool real_is_restored(Store*) __asm__("__real__ZN7cowslip5Store11is_restoredEv");
bool wrapped_is_restored(Store*) __asm__("__wrap__ZN7cowslip5Store11is_restoredEv");
std::uint64_t real_enqueue(NameQueue*, std::vector<LockRequest>) __asm__(
    "__real__ZN7cowslip9NameQueue7enqueueESt6vectorINS_11LockRequestESaIS2_EE");
std::uint64_t wrapped_enqueue(NameQueue*, std::vector<LockRequest>) __asm__(
    "__wrap__ZN7cowslip9NameQueue7enqueueESt6vectorINS_11LockRequestESaIS2_EE");

namespace {

// What was written in this turn is durable only with the next one, and its messages leave before.
bool late = false;

bool out_of_data_space(std::string_view status) {
    return status.find(" out_of_data_space ") != std::string_view::npos;
}

}  // namespace

Outcome wrapped_judge(int error_number, std::string_view status, std::uint64_t confirmed, std::uint64_t planned) {
    const Outcome outcome = real_judge(error_number, status, confirmed, planned);
    if (simulation::mutant("no_status_check")) return error_number == 0 ? Outcome::done : Outcome::refused;
    if (simulation::mutant("only_rw_counts") && out_of_data_space(status)) return Outcome::unknown;
    if (simulation::mutant("eexist_adopted") && error_number == EEXIST && outcome == Outcome::refused)
        return Outcome::done;
    if (simulation::mutant("first_eexist_retried") && error_number == EEXIST && outcome == Outcome::refused) {
        static bool again = false;
        again = !again;
        if (again) return Outcome::unknown;
    }
    return outcome;
}

bool wrapped_commit(Database* database) {
    if (!std::exchange(late, false)) {
        const bool committed = real_commit(database);
        if (simulation::mutant("synchronous_normal")) static_cast<void>(database->execute("PRAGMA synchronous=NORMAL"));
        return committed;
    }
    database->release_savepoint();
    return true;
}

Result<std::uint32_t> wrapped_spend_thin_id(Store* store) {
    if (!simulation::mutant("id_reused")) return real_spend_thin_id(store);
    std::uint32_t lowest = 2;
    for (const auto& row : store->thin_ids()) {
        if (row.thin_id == lowest) ++lowest;
    }
    return lowest;
}

Result<void> wrapped_insert_operation(Store* store, const OperationRow& row) {
    if (simulation::mutant("pool_first")) late = true;
    return real_insert_operation(store, row);
}

Result<void> wrapped_set_reply(Store* store, std::string_view id, std::string_view digest, std::string_view reply) {
    if (simulation::mutant("answer_before_commit")) late = true;
    return real_set_reply(store, id, digest, reply);
}

Result<void> wrapped_set_planned(Store* store, std::uint64_t planned) {
    if (simulation::mutant("swap_before_planned")) late = true;
    return real_set_planned(store, planned);
}

Result<void> wrapped_set_volume_removing(Store* store, std::uint32_t thin_id) {
    if (simulation::mutant("removal_deferred")) store->defer_commit(store->now() + 10);
    return real_set_volume_removing(store, thin_id);
}

Result<void> wrapped_mark_restored(Store* store) {
    if (simulation::mutant("restore_unmarked")) return {};
    return real_mark_restored(store);
}

bool wrapped_is_restored(Store* store) {
    return !simulation::mutant("restored_believed") && real_is_restored(store);
}

std::uint64_t wrapped_enqueue(NameQueue* queue, std::vector<LockRequest> set) {
    if (simulation::mutant("heads_not_only")) {
        for (auto& request : set) request.mode = LockMode::shared;
    }
    return real_enqueue(queue, std::move(set));
}

namespace simulation {

bool mutant(std::string_view name) {
    static const std::string chosen = [] {
        const char* text = std::getenv("COWSLIP_MUTANT");
        return std::string(text == nullptr ? "" : text);
    }();
    return chosen == name;
}

int MutableDeviceMapper::suspend(const DmDevice& device, SuspendMode mode) {
    return mutant("no_suspend") ? 0 : FakeDeviceMapper::suspend(device, mode);
}

// To one that does not suspend, and looks whether it is suspended, it must look so.
Result<std::optional<DmInfo>> MutableDeviceMapper::find(const DmDevice& device) {
    auto found = FakeDeviceMapper::find(device);
    if (mutant("no_suspend") && found && *found) (*found)->suspended = true;
    return found;
}

int MutableDeviceMapper::create(const DmDevice& device, dev_t* number) {
    return FakeDeviceMapper::create(mutant("no_uuid") ? DmDevice{device.name, ""} : device, number);
}

std::optional<std::string> mutated_command(const schemas::Command& command) {
    if (!mutant("label_only") || command.type != schemas::StartPool::kType) return std::nullopt;
    auto start = *decode_as<schemas::StartPool>(command.body);
    start.confirmed = 0;
    start.planned = std::numeric_limits<std::uint64_t>::max();
    return encode(start);
}

Result<std::string> mutated_reply(const schemas::Command& command, Result<std::string> reply) {
    if (!mutant("sync_believed") || command.type != schemas::ReadPoolStatus::kType || !reply) return reply;
    if (!decode_as<schemas::ReadPoolStatus>(command.body)->status_only) return reply;
    auto state = *decode_as<schemas::PoolState>(std::string_view(*reply));
    for (const auto& [bad, good] : {std::pair(" ro ", " rw "), std::pair(" needs_check ", " - ")}) {
        if (const auto at = state.status.find(bad); at != std::string::npos)
            state.status.replace(at, std::string_view(bad).size(), good);
    }
    return encode(state);
}

Result<void> MutableFilesystems::remove_mount_point(const std::string& directory) {
    if (mutant("no_rmdir")) return {};
    return HookedFilesystems::remove_mount_point(directory);
}

}  // namespace simulation
}  // namespace cowslip
