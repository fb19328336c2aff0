// Every command, one function each, and the pure half of those that have one. They print to the
// session's console and return the exit code; an error is printed by whoever called them.
#pragma once

#include <vector>

#include "schemas/pool_manager.h"
#include "services/ctl/command_line.h"

namespace cowslip::ctl {

// pool_commands.cpp
Result<int> pool_create(Session& session, const Arguments& arguments);
Result<int> pool_status(Session& session, const Arguments& arguments);
Result<int> pool_grow(Session& session, const Arguments& arguments);
Result<int> pool_rewind(Session& session, const Arguments& arguments);
Result<int> pool_start(Session& session, const Arguments& arguments);
Result<int> pool_stop(Session& session, const Arguments& arguments);
Result<int> pool_check(Session& session, const Arguments& arguments);
Result<int> pool_destroy(Session& session, const Arguments& arguments);
Result<int> pool_rebuild(Session& session, const Arguments& arguments);
Result<int> pool_repair(Session& session, const Arguments& arguments);
Result<schemas::PoolCreate> make_pool_create(const Arguments& arguments);

// volume_commands.cpp
Result<int> volume_create(Session& session, const Arguments& arguments);
Result<int> volume_remove(Session& session, const Arguments& arguments);
Result<int> volume_resize(Session& session, const Arguments& arguments);
Result<int> volume_freeze(Session& session, const Arguments& arguments);
Result<int> volume_rename(Session& session, const Arguments& arguments);
Result<int> pool_limits(Session& session, const Arguments& arguments);
Result<int> pool_quota(Session& session, const Arguments& arguments);
Result<int> volume_label(Session& session, const Arguments& arguments);
Result<schemas::VolumeFreeze> make_volume_freeze(const Arguments& arguments);
Result<schemas::VolumeLabel> make_volume_label(const Arguments& arguments);
Result<int> volume_get(Session& session, const Arguments& arguments);
Result<int> volume_put(Session& session, const Arguments& arguments);
Result<int> volume_exists(Session& session, const Arguments& arguments);
Result<int> volume_attach(Session& session, const Arguments& arguments);
Result<int> volume_detach(Session& session, const Arguments& arguments);
Result<schemas::VolumeCreate> make_volume_create(const Arguments& arguments);
Result<schemas::Labels> parse_labels(const std::vector<std::string>& labels);

// trim_command.cpp
Result<int> volume_trim(Session& session, const Arguments& arguments);

// list_commands.cpp
Result<std::vector<schemas::Volume>> list_all(Session& session, const schemas::Labels& labels);  // All pages.
Result<int> volume_list(Session& session, const Arguments& arguments);
Result<int> volume_show(Session& session, const Arguments& arguments);
Result<int> volume_tree(Session& session, const Arguments& arguments);
Result<int> volume_space(Session& session, const Arguments& arguments);
// By what they have for themselves, those first that have most; what was not counted comes last.
void sort_by_space(std::vector<schemas::Volume>& volumes);
Result<int> lease_list(Session& session, const Arguments& arguments);

// tree.cpp: the lines of `tree`, each volume with what stands before its name ("│  └─ ").
struct TreeLine {
    std::string branch;
    const schemas::Volume* volume = nullptr;
};
std::vector<TreeLine> tree_lines(const std::vector<schemas::Volume>& volumes);

// service_commands.cpp
Result<int> service_status(Session& session, const Arguments& arguments);
Result<int> service_cleanup(Session& session, const Arguments& arguments);
Result<int> service_fsck(Session& session, const Arguments& arguments);
Result<int> operation_list(Session& session, const Arguments& arguments);
Result<int> operation_wait(Session& session, const Arguments& arguments);
Result<std::uint64_t> parse_number(std::string_view what, const std::string& text);

// events.cpp
Result<int> events(Session& session, const Arguments& arguments);

// bus_commands.cpp
Result<int> bus_call(Session& session, const Arguments& arguments);
Result<int> bus_describe(Session& session, const Arguments& arguments);
Result<int> bus_monitor(Session& session, const Arguments& arguments);

// store_commands.cpp
Result<int> store_backup(Session& session, const Arguments& arguments);
Result<int> store_list(Session& session, const Arguments& arguments);
Result<int> store_verify(Session& session, const Arguments& arguments);
Result<int> store_restore(Session& session, const Arguments& arguments);

// import.cpp, up.cpp
Result<int> import_tar(Session& session, const Arguments& arguments);
Result<int> up(Session& session, const Arguments& arguments);
// A program of ours: beside this one, else in PATH.
Result<std::string> find_program(const std::string& name);

}  // namespace cowslip::ctl
