#include "services/pool_manager/rebuild_plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "common/names.h"

namespace cowslip {

namespace {

// As the pool has it now: what was begun when the backup was taken may have been finished since, and a clone that is in
// the pool is whole. Only of a template is that not so: its mkfs may have been cut off.
VolumeRow as_found(VolumeRow row, std::uint64_t birth) {
    const bool half_formatted = row.template_key && row.state != "ready";
    const bool nobodys = !row.name && !row.template_key;
    if (half_formatted || nobodys || row.state == "removing") {
        row.state = "removing";
        row.name.reset();
        row.template_key.reset();
    } else {
        row.state = "ready";
    }
    row.filling = false;
    row.born_min = birth;
    row.born_max = birth;
    return row;
}

}  // namespace

RebuildPlan plan_rebuild(const RebuildSources& sources) {
    std::map<std::uint32_t, VolumeRow> known;
    for (const VolumeRow& row : sources.store) known[row.thin_id] = row;
    for (const BackupRow& row : sources.backup) known[row.thin_id] = from_backup(row);
    RebuildPlan plan;
    std::set<std::uint32_t> in_pool;
    std::set<std::string> names;
    // The highest first: of two lives of one name the later one has it.
    std::vector<SeenThin> thins = sources.thins;
    std::sort(thins.begin(), thins.end(), [](const auto& a, const auto& b) { return a.thin_id > b.thin_id; });
    for (const SeenThin& thin : thins) {
        in_pool.insert(thin.thin_id);
        const bool ours = thin.birth >> 32U == sources.tag;
        if (ours) plan.newest_birth = std::max(plan.newest_birth, thin.birth);
        if (thin.thin_id < kFirstThinId) continue;
        const auto found = known.find(thin.thin_id);
        if (sources.quarantined.contains(thin.thin_id) || !ours) {
            plan.foreign.push_back(thin.thin_id);
        } else if (found == known.end()) {
            plan.unknown.push_back(thin);
        } else {
            VolumeRow row = as_found(found->second, thin.birth);
            const std::string key = row.name ? "v" + *row.name : row.template_key ? "t" + *row.template_key : "";
            if (!key.empty() && !names.insert(key).second) {
                plan.unknown.push_back(thin);
            } else {
                plan.rows.push_back(std::move(row));
            }
        }
    }
    for (const auto& [thin_id, row] : known) {
        if (!in_pool.contains(thin_id) && row.name && !names.contains("v" + *row.name)) {
            plan.dropped.push_back(*row.name);
        }
    }
    return plan;
}

std::string recovered_name(std::uint32_t thin_id, const std::set<std::string>& taken) {
    const std::string name = fmt::format("recovered-{}", thin_id);
    std::string free = name;
    for (int i = 2; taken.contains(free); ++i) free = fmt::format("{}-{}", name, i);
    return free;
}

}  // namespace cowslip
