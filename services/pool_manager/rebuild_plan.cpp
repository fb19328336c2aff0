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
    if (half_formatted || row.state == "removing") {
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

// A warm clone may have been given a name since the backup, and been written to.
bool may_have_a_name_now(const VolumeRow& row) {
    return !row.name && !row.template_key && row.state != "removing";
}

// Thin ids are counted anew by a rewind, so a row from before one may say something of another volume.
bool is_its_life(const VolumeRow& row, std::uint64_t birth) {
    return birth >= row.born_min && (row.born_max == 0 || birth <= row.born_max);
}

}  // namespace

RebuildPlan plan_rebuild(const RebuildSources& sources) {
    RebuildPlan plan;
    std::map<std::uint32_t, std::uint64_t> births;
    for (const SeenThin& thin : sources.thins) births[thin.thin_id] = thin.birth;
    std::map<std::uint32_t, VolumeRow> known;
    std::vector<std::string> other_lives;
    for (const VolumeRow& row : sources.store) {
        const auto found = births.find(row.thin_id);
        if (found == births.end() || is_its_life(row, found->second)) {
            known[row.thin_id] = row;
        } else if (row.name) {
            other_lives.push_back(*row.name);
        }
    }
    for (const BackupRow& row : sources.backup) known[row.thin_id] = from_backup(row);
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
        } else if (found == known.end() || may_have_a_name_now(found->second)) {
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
    for (const std::string& name : other_lives) {
        const bool told = std::find(plan.dropped.begin(), plan.dropped.end(), name) != plan.dropped.end();
        if (!told && !names.contains("v" + name)) plan.dropped.push_back(name);
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
