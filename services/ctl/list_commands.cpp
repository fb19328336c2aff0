#include <algorithm>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "services/ctl/commands.h"

namespace cowslip::ctl {

namespace {

Json json_of(const std::vector<schemas::Volume>& volumes) {
    Json array = Json::array();
    for (const auto& volume : volumes) array.push_back(to_json(volume));
    return array;
}

// Dashes for a person where there is nothing; nothing in a pipe.
std::string or_dash(const Console& console, const std::string& text) {
    return text.empty() && console.out_is_terminal ? "-" : text;
}

std::string size_or_dash(const Console& console, const std::optional<std::uint64_t>& bytes) {
    return or_dash(console, bytes ? console.size(*bytes) : "");
}

std::string warm_text(const schemas::WarmClones& warm) {
    return fmt::format("{} of {} clones{} ready", warm.ready, warm.wanted, warm.mounted ? ", mounted," : "");
}

Result<void> measure(Session& session, bool exact) {
    TRY(session.call(schemas::PoolMeasure{.exact = exact}, "count the pool's blocks"));
    return {};
}

}  // namespace

Result<std::vector<schemas::Volume>> list_all(Session& session, const schemas::Labels& labels) {
    std::vector<schemas::Volume> volumes;
    schemas::VolumeList request;
    request.labels = labels;
    while (true) {
        auto page = TRY(session.call(request, "list volumes"));
        for (auto& volume : page.volumes) volumes.push_back(std::move(volume));
        if (!page.more || page.volumes.empty()) return volumes;
        request.after = volumes.back().id;
    }
}

void sort_by_space(std::vector<schemas::Volume>& volumes) {
    const auto key = [](const schemas::Volume& volume) {
        return std::tuple(volume.exclusive_bytes.has_value(), volume.exclusive_bytes.value_or(0),
                          volume.mapped_bytes.value_or(0));
    };
    std::stable_sort(volumes.begin(), volumes.end(), [&](const auto& a, const auto& b) { return key(a) > key(b); });
}

Result<int> volume_space(Session& session, const Arguments& arguments) {
    TRY(measure(session, arguments.exact));
    const auto pool = TRY(session.call(schemas::PoolStatus{}, "read the pool's status"));
    auto volumes = TRY(list_all(session, {}));
    sort_by_space(volumes);
    const Console& console = session.console();
    if (console.json) {
        Json array = Json::array();
        for (const auto& volume : volumes) {
            const Json all = to_json(volume);
            Json shown{{"id", all["id"]}, {"size_bytes", all["size_bytes"]}};
            for (const char* key : {"mapped_bytes", "exclusive_bytes", "shared_bytes", "as_of"}) shown[key] = all[key];
            array.push_back(std::move(shown));
        }
        console.print(Json{{"pool", pool.name},
                           {"data", to_json(pool.data)},
                           {"metadata", to_json(pool.metadata)},
                           {"volumes", std::move(array)}});
        return 0;
    }
    console.note(fmt::format("pool {}: {} of {} used; metadata: {} of {}", pool.name,
                             console.size(pool.data.used_bytes), console.size(pool.data.total_bytes),
                             console.size(pool.metadata.used_bytes), console.size(pool.metadata.total_bytes)));
    Table table({"VOLUME", "SIZE", "MAPPED", "EXCLUSIVE", "SHARED", "AS OF"});
    for (const auto& volume : volumes) {
        table.add({volume.id, console.size(volume.size_bytes), size_or_dash(console, volume.mapped_bytes),
                   size_or_dash(console, volume.exclusive_bytes), size_or_dash(console, volume.shared_bytes),
                   or_dash(console, volume.as_of.value_or(""))});
    }
    table.print(console);
    return 0;
}

Result<int> volume_list(Session& session, const Arguments& arguments) {
    const auto labels = TRY(parse_labels(arguments.labels));
    const auto volumes = TRY(list_all(session, labels));
    const Console& console = session.console();
    if (console.json) {
        console.print(json_of(volumes));
        return 0;
    }
    Table table({"ID", "PARENT", "STATE", "SIZE", "FS", "LEASES", "CREATED"});
    for (const auto& volume : volumes) {
        table.add({volume.id, or_dash(console, volume.parent), volume.state, console.size(volume.size_bytes), volume.fs,
                   std::to_string(volume.leases.size()), volume.created_at});
    }
    table.print(console);
    return 0;
}

Result<int> volume_show(Session& session, const Arguments& arguments) {
    if (arguments.space) TRY(measure(session, false));
    const auto volume =
        TRY(session.call(schemas::VolumeShow{.id = arguments.id}, fmt::format("show '{}'", arguments.id)));
    const Console& console = session.console();
    if (console.json) {
        console.print(to_json(volume));
        return 0;
    }
    Table table;
    table.add({"id", volume.id});
    table.add({"parent", or_dash(console, volume.parent)});
    table.add({"kind", volume.kind});
    table.add({"state", volume.state});
    table.add({"thin id", std::to_string(volume.thin_id)});
    table.add({"transaction id", std::to_string(volume.transaction_id)});
    table.add({"size", console.size(volume.size_bytes)});
    table.add({"fs", volume.fs});
    if (!volume.mkfs_options.empty()) table.add({"mkfs options", volume.mkfs_options});
    if (!volume.mount_options.empty()) table.add({"mount options", volume.mount_options});
    table.add({"created", volume.created_at});
    for (const auto& [key, value] : volume.labels) table.add({"label", key + "=" + value});
    for (const auto& lease : volume.leases) table.add({"lease", lease.holder + " " + lease.mode});
    if (volume.warm) table.add({"warm", warm_text(*volume.warm)});
    table.add({"device", or_dash(console, volume.device.value_or(""))});
    table.add({"mount", or_dash(console, volume.mount.value_or(""))});
    if (volume.mapped_bytes) table.add({"mapped", console.size(*volume.mapped_bytes)});
    if (volume.exclusive_bytes) table.add({"exclusive", console.size(*volume.exclusive_bytes)});
    if (volume.shared_bytes) table.add({"shared", console.size(*volume.shared_bytes)});
    if (volume.as_of) table.add({"as of", *volume.as_of});
    table.print(console);
    return 0;
}

Result<int> volume_tree(Session& session, const Arguments& arguments) {
    if (arguments.space) TRY(measure(session, false));
    const auto volumes = TRY(list_all(session, {}));
    const Console& console = session.console();
    if (console.json) {
        console.print(json_of(volumes));
        return 0;
    }
    std::vector<std::string> headings = {"VOLUME", "SIZE", "STATE", "LEASES", "MOUNT"};
    if (arguments.space) headings = {"VOLUME", "SIZE", "MAPPED", "EXCLUSIVE", "SHARED", "AS OF"};
    Table table(std::move(headings));
    for (const auto& line : tree_lines(volumes)) {
        const auto& volume = *line.volume;
        const std::string name = line.branch + volume.id;
        if (arguments.space) {
            table.add({name, console.size(volume.size_bytes), size_or_dash(console, volume.mapped_bytes),
                       size_or_dash(console, volume.exclusive_bytes), size_or_dash(console, volume.shared_bytes),
                       or_dash(console, volume.as_of.value_or(""))});
        } else {
            table.add({name, console.size(volume.size_bytes), volume.state, std::to_string(volume.leases.size()),
                       or_dash(console, volume.mount.value_or(""))});
        }
    }
    table.print(console);
    return 0;
}

Result<int> lease_list(Session& session, const Arguments& /*arguments*/) {
    const Console& console = session.console();
    Json array = Json::array();
    Table table({"ID", "HOLDER", "MODE", "PATH", "TAKEN"});
    schemas::LeaseList request;
    for (bool more = true; more;) {
        const auto page = TRY(session.call(request, "list leases"));
        for (const auto& lease : page.leases) {
            array.push_back(to_json(lease));
            table.add({lease.id, lease.holder, lease.mode, lease.path, lease.taken_at});
        }
        more = page.more && !page.leases.empty();
        if (!more) break;
        request.after_id = page.leases.back().id;
        request.after_holder = page.leases.back().holder;
    }
    if (console.json) {
        console.print(array);
    } else {
        table.print(console);
    }
    return 0;
}

}  // namespace cowslip::ctl
