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

namespace cowslip {

namespace {

// A member function as a free one, which is told its object in the first place.
template <class Member>
struct Free;
template <class R, class Object, class... Arguments>
struct Free<R (Object::*)(Arguments...)> {
    using type = R(Object*, Arguments...);
};
template <auto kMember>
using FreeOf = typename Free<decltype(kMember)>::type;

}  // namespace

// The linker leads calls of these functions here (--wrap in tests/CMakeLists.txt); `real_...` is the product's. Their
// types are taken from it: a wrapper that returned something else took its arguments for others.
decltype(judge) real_judge __asm__("__real__ZN7cowslip5judgeEiSt17basic_string_viewIcSt11char_traitsIcEEmm");
decltype(judge) wrapped_judge __asm__("__wrap__ZN7cowslip5judgeEiSt17basic_string_viewIcSt11char_traitsIcEEmm");
FreeOf<&Database::commit> real_commit __asm__("__real__ZN7cowslip8Database6commitEv");
FreeOf<&Database::commit> wrapped_commit __asm__("__wrap__ZN7cowslip8Database6commitEv");
FreeOf<&Store::spend_thin_id> real_spend_thin_id __asm__("__real__ZN7cowslip5Store13spend_thin_idEv");
FreeOf<&Store::spend_thin_id> wrapped_spend_thin_id __asm__("__wrap__ZN7cowslip5Store13spend_thin_idEv");
FreeOf<&Store::insert_operation> real_insert_operation __asm__(
    "__real__ZN7cowslip5Store16insert_operationERKNS_12OperationRowE");
FreeOf<&Store::insert_operation> wrapped_insert_operation __asm__(
    "__wrap__ZN7cowslip5Store16insert_operationERKNS_12OperationRowE");
FreeOf<&Store::set_reply> real_set_reply __asm__(
    "__real__ZN7cowslip5Store9set_replyESt17basic_string_viewIcSt11char_traitsIcEES4_S4_");
FreeOf<&Store::set_reply> wrapped_set_reply __asm__(
    "__wrap__ZN7cowslip5Store9set_replyESt17basic_string_viewIcSt11char_traitsIcEES4_S4_");
FreeOf<&Store::set_planned> real_set_planned __asm__("__real__ZN7cowslip5Store11set_plannedEm");
FreeOf<&Store::set_planned> wrapped_set_planned __asm__("__wrap__ZN7cowslip5Store11set_plannedEm");
FreeOf<&Store::set_volume_removing> real_set_volume_removing __asm__("__real__ZN7cowslip5Store19set_volume_removingEj");
FreeOf<&Store::set_volume_removing> wrapped_set_volume_removing __asm__(
    "__wrap__ZN7cowslip5Store19set_volume_removingEj");
FreeOf<&Store::mark_restored> real_mark_restored __asm__("__real__ZN7cowslip5Store13mark_restoredEv");
FreeOf<&Store::mark_restored> wrapped_mark_restored __asm__("__wrap__ZN7cowslip5Store13mark_restoredEv");
FreeOf<&Store::is_restored> real_is_restored __asm__("__real__ZN7cowslip5Store11is_restoredEv");
FreeOf<&Store::is_restored> wrapped_is_restored __asm__("__wrap__ZN7cowslip5Store11is_restoredEv");
std::uint64_t real_enqueue(NameQueue*, std::vector<LockRequest>) __asm__(
    "__real__ZN7cowslip9NameQueue7enqueueESt6vectorINS_11LockRequestESaIS2_EE");
std::uint64_t wrapped_enqueue(NameQueue*, std::vector<LockRequest>) __asm__(
    "__wrap__ZN7cowslip9NameQueue7enqueueESt6vectorINS_11LockRequestESaIS2_EE");  // Private.

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

void wrapped_insert_operation(Store* store, const OperationRow& row) {
    if (simulation::mutant("pool_first")) late = true;
    real_insert_operation(store, row);
}

void wrapped_set_reply(Store* store, std::string_view id, std::string_view digest, std::string_view reply) {
    if (simulation::mutant("answer_before_commit")) late = true;
    real_set_reply(store, id, digest, reply);
}

void wrapped_set_planned(Store* store, std::uint64_t planned) {
    if (simulation::mutant("swap_before_planned")) late = true;
    real_set_planned(store, planned);
}

void wrapped_set_volume_removing(Store* store, std::uint32_t thin_id) {
    if (simulation::mutant("removal_deferred")) store->defer_commit(store->now() + 10);
    real_set_volume_removing(store, thin_id);
}

void wrapped_mark_restored(Store* store) {
    if (!simulation::mutant("restore_unmarked")) real_mark_restored(store);
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
