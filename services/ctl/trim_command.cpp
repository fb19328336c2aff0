// `trim`: the service trims a volume part by part, and each answer says where to go on; so an interrupt ends it at
// once.
#include <algorithm>

#include <fmt/format.h>

#include "services/ctl/commands.h"

namespace cowslip::ctl {

namespace {

Result<std::uint64_t> trim_one(Session& session, const schemas::Volume& volume) {
    ProgressLine progress(session.console());
    std::uint64_t trimmed = 0;
    schemas::VolumeTrim request{.id = volume.id, .offset_bytes = 0};
    for (;;) {
        const auto reply = TRY(session.call(request, fmt::format("trim '{}'", volume.id)));
        trimmed += reply.trimmed_bytes;
        if (reply.complete) return trimmed;
        request.offset_bytes = reply.next_offset_bytes;
        if (volume.size_bytes != 0) {
            progress.draw(
                fmt::format("trimming '{}': {} %", volume.id, request.offset_bytes * 100 / volume.size_bytes));
        }
    }
}

bool is_mounted_writable(const schemas::Volume& volume) {
    return std::any_of(volume.leases.begin(), volume.leases.end(),
                       [](const schemas::Lease& lease) { return lease.mode == "mounted_rw"; });
}

// Those that were named must be there, and be mounted: the service says what is wrong with one that is not.
Result<std::vector<schemas::Volume>> wanted(Session& session, const Arguments& arguments) {
    std::vector<schemas::Volume> volumes;
    if (arguments.all) {
        volumes = TRY(list_all(session, {}));
        const std::size_t there = volumes.size();
        std::erase_if(volumes, [](const auto& volume) { return !is_mounted_writable(volume); });
        session.console().note(fmt::format("{} of {} volumes are mounted writable", volumes.size(), there));
    }
    for (const auto& id : arguments.ids) {
        volumes.push_back(TRY(session.call(schemas::VolumeShow{.id = id}, fmt::format("show '{}'", id))));
    }
    return volumes;
}

}  // namespace

// A failure is told, and the rest goes on; the first one makes the exit status.
Result<int> volume_trim(Session& session, const Arguments& arguments) {
    if (!arguments.all && arguments.ids.empty()) {
        return Error{Errc::invalid_argument, "trim: name volumes, or give --all"};
    }
    const auto volumes = TRY(wanted(session, arguments));
    const Console& console = session.console();
    Json array = Json::array();
    Table table({"VOLUME", "TRIMMED"});
    int code = 0;
    for (const auto& volume : volumes) {
        const auto trimmed = trim_one(session, volume);
        if (!trimmed && session.stop().caught() != 0) return trimmed.error();
        if (!trimmed) {
            console.error(trimmed.error());
            if (code == 0) code = exit_code(trimmed.error().code);
            continue;
        }
        array.push_back(Json{{"id", volume.id}, {"trimmed_bytes", *trimmed}});
        table.add({volume.id, console.size(*trimmed)});
    }
    if (console.json) {
        console.print(array);
    } else {
        table.print(console);
    }
    return code;
}

}  // namespace cowslip::ctl
