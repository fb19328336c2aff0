#include "services/pool_manager/views.h"

#include <algorithm>
#include <array>
#include <tuple>

#include <fmt/format.h>

#include "common/names.h"
#include "services/pool_manager/keys.h"

namespace cowslip {

namespace {

// Kinds that the comparison finds, and finds again as long as they are true.
bool is_difference(FindingKind kind) {
    constexpr std::array kKinds = {FindingKind::broken_lease,  FindingKind::foreign_mount, FindingKind::foreign_thin,
                                   FindingKind::held_snapshot, FindingKind::lost,          FindingKind::stray_device,
                                   FindingKind::stray_mount,   FindingKind::suspended,     FindingKind::wrong_birth,
                                   FindingKind::wrong_size};
    return std::find(kKinds.begin(), kKinds.end(), kind) != kKinds.end();
}

bool needs_thins(FindingKind kind) {
    return kind == FindingKind::foreign_thin || kind == FindingKind::held_snapshot || kind == FindingKind::lost ||
           kind == FindingKind::wrong_birth;
}

class Comparison {
public:
    explicit Comparison(const Views& views) : views_(views), store_(views.before), kernel_(views.kernel) {}

    std::vector<Difference> run() {
        for (const auto& found : kernel_.mounts) {
            if (const auto thin_id = thin_id_of(found)) mounted_.insert(*thin_id);
        }
        if (kernel_.thins) compare_thins();
        if (!kernel_.live_read) return std::move(differences_);
        for (const auto& [thin_id, device] : kernel_.devices) compare_device(thin_id, device);
        for (const auto& [thin_id, lease] : store_.leases) compare_lease(thin_id, lease);
        for (const auto& found : kernel_.mounts) compare_mount(found);
        return std::move(differences_);
    }

private:
    void add(FindingKind kind, std::uint32_t thin_id, std::string detail) {
        differences_.push_back({kind, subject_of(store_, thin_id), std::move(detail), thin_id});
    }

    std::optional<std::uint32_t> thin_id_of(const schemas::MountedVolume& found) const {
        return parse_thin_dm_uuid(views_.pool_uuid, found.dm_uuid);
    }

    void compare_thins() {
        for (const auto& [thin_id, row] : store_.rows) {
            if (row.state != "ready" || !views_.steady(thin_id)) continue;
            const auto thin = kernel_.thins->find(thin_id);
            if (thin == kernel_.thins->end()) {
                add(FindingKind::lost, thin_id, fmt::format("the pool does not have its thin id {}", thin_id));
            } else if (thin->second.transaction_id < row.born_min || thin->second.transaction_id > row.born_max) {
                add(FindingKind::wrong_birth, thin_id,
                    fmt::format("the pool's thin id {} was made under transaction id {}, and it under one of {} to {}: "
                                "it may be another's",
                                thin_id, thin->second.transaction_id, row.born_min, row.born_max));
            }
        }
        for (const auto& [thin_id, thin] : *kernel_.thins) {
            const bool known = store_.rows.contains(thin_id) || views_.after.rows.contains(thin_id);
            if (known || thin_id < kFirstThinId || thin_id >= store_.next_thin_id) continue;
            const auto noted = views_.after.quarantined.find(thin_id);
            differences_.push_back(
                {FindingKind::foreign_thin, std::to_string(thin_id),
                 "a thin id in the pool that is not ours; it is left alone: " +
                     (noted != views_.after.quarantined.end() ? noted->second : "the store does not know it"),
                 thin_id});
        }
    }

    void compare_device(std::uint32_t thin_id, const schemas::ActiveDevice& device) {
        if (!views_.steady(thin_id)) return;
        if (device.suspended && device.live_table) {
            differences_.push_back({FindingKind::suspended, std::to_string(thin_id),
                                    "its device is suspended, and nobody works on it: who uses it hangs", thin_id});
        }
        if (!store_.leases.contains(thin_id)) {
            if (views_.kept.contains(thin_id) || mounted_.contains(thin_id)) return;
            add(FindingKind::stray_device, thin_id,
                fmt::format("{} is active without a lease{}", device.path,
                            !device.live_table       ? ", and has no table"
                            : device.open_count != 0 ? ", and open"
                                                     : ""));
            return;
        }
        const std::uint64_t sectors = store_.rows.at(thin_id).size_sectors;
        if (device.live_table && device.size_sectors != sectors) {
            add(FindingKind::wrong_size, thin_id,
                fmt::format("{} has {} sectors, and the volume {}", device.path, device.size_sectors, sectors));
        }
    }

    void compare_lease(std::uint32_t thin_id, const LeaseRow& lease) {
        if (!views_.steady(thin_id) || !views_.after.leases.contains(thin_id)) return;
        const auto device = kernel_.devices.find(thin_id);
        const bool active = device != kernel_.devices.end() && device->second.live_table;
        if (!active) {
            add(FindingKind::broken_lease, thin_id, fmt::format("it is {}, and its device is not there", lease.mode));
        } else if (lease.mode.starts_with("mounted") && !mounted_.contains(thin_id)) {
            add(FindingKind::broken_lease, thin_id, fmt::format("it is {}, and its mount is not there", lease.mode));
        }
    }

    void compare_mount(const schemas::MountedVolume& found) {
        if (!views_.steady(found)) return;
        const std::string name = found.id.empty() ? found.directory : found.id;
        const auto report = [&](FindingKind kind, std::string detail) {
            differences_.push_back({kind, name, std::move(detail), 0, found});
        };
        const auto thin_id = thin_id_of(found);
        if (!found.dm_uuid.empty() && !thin_id) {
            return report(FindingKind::foreign_mount,
                          fmt::format("what is mounted there is not ours: {}", found.dm_uuid));
        }
        if (thin_id) {
            const auto lease = store_.leases.find(*thin_id);
            if (lease != store_.leases.end() && lease->second.mode.starts_with("mounted")) return;
            const auto row = store_.rows.find(*thin_id);
            const bool named = row != store_.rows.end() && row->second.name;
            const std::string place = named ? volume_directory(*row->second.name) : warm_directory(found.dm_uuid);
            if (views_.kept.contains(*thin_id) && found.directory == place) return;
            return report(FindingKind::stray_mount, fmt::format("thin {} is mounted without a lease", *thin_id));
        }
        // Of a volume whose lease is broken: the mount that is to be made again will use it.
        for (const auto& [leased, lease] : store_.leases) {
            const auto row = store_.rows.find(leased);
            if (row != store_.rows.end() && row->second.name == name) return;
        }
        report(FindingKind::stray_mount, "a directory is left over, without a mount");
    }

    const Views& views_;
    const StoreView& store_;
    const KernelView& kernel_;
    std::set<std::uint32_t> mounted_;
    std::vector<Difference> differences_;
};

}  // namespace

bool Views::steady(std::uint32_t thin_id) const {
    if (worked_on.contains(thin_key(thin_id)) || unfinished.contains(thin_id)) return false;
    const auto was = before.rows.find(thin_id);
    const auto is = after.rows.find(thin_id);
    if ((was == before.rows.end()) != (is == after.rows.end())) return false;
    if (was == before.rows.end()) return true;
    if (was->second.state != is->second.state || was->second.name != is->second.name) return false;
    return !was->second.name || !worked_on.contains(volume_key(*was->second.name));
}

bool Views::steady(const schemas::MountedVolume& found) const {
    if (const auto thin_id = parse_thin_dm_uuid(pool_uuid, found.dm_uuid); thin_id && !steady(*thin_id)) return false;
    if (worked_on.contains(volume_key(found.id))) return false;
    for (const std::string& key : worked_on) {
        const auto name = name_of_volume_key(key);
        if (name && volume_directory(*name) == found.directory) return false;
    }
    return true;
}

bool Views::can_tell(FindingKind kind, const std::string& subject) const {
    if (!is_difference(kind)) return false;
    if (needs_thins(kind) ? !kernel.thins : !kernel.live_read) return false;
    if (subject.starts_with("thin ")) return !worked_on.contains("t:" + subject.substr(5));
    if (worked_on.contains(volume_key(subject)) || worked_on.contains("t:" + subject)) return false;
    const auto row = std::find_if(before.rows.begin(), before.rows.end(),
                                  [&](const auto& entry) { return entry.second.name == subject; });
    return row == before.rows.end() || steady(row->first);
}

std::vector<Difference> compare(const Views& views) {
    std::vector<Difference> differences = Comparison(views).run();
    sort(differences);
    return differences;
}

void sort(std::vector<Difference>& differences) {
    std::sort(differences.begin(), differences.end(), [](const Difference& a, const Difference& b) {
        return std::tie(a.kind, a.subject) < std::tie(b.kind, b.subject);
    });
}

std::string subject_of(const StoreView& store, std::uint32_t thin_id) {
    const auto row = store.rows.find(thin_id);
    return row != store.rows.end() && row->second.name ? *row->second.name : fmt::format("thin {}", thin_id);
}

}  // namespace cowslip
