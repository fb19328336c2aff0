#include <charconv>
#include <optional>

#include <fmt/format.h>

#include "common/size.h"
#include "services/ctl/commands.h"
#include "services/ctl/device_list.h"

namespace cowslip::ctl {

namespace {

constexpr std::uint32_t kMostPercent = 1000000;

std::string share(const Console& console, const schemas::Usage& usage) {
    if (usage.total_bytes == 0) return "-";
    // In steps that cannot overflow, and never 100 % while a byte is free.
    const auto percent =
        static_cast<unsigned>(static_cast<double>(usage.used_bytes) * 100.0 / static_cast<double>(usage.total_bytes));
    return fmt::format("{} of {} ({}%)", console.size(usage.used_bytes), console.size(usage.total_bytes), percent);
}

Result<int> print_pool(const Console& console, const schemas::PoolStatus::Reply& pool) {
    if (console.json) {
        console.print(to_json(pool));
        return 0;
    }
    Table table;
    table.add({"name", pool.name});
    table.add({"uuid", pool.uuid});
    table.add({"state", pool.state});
    table.add({"verdict", pool.verdict});
    table.add({"mode", pool.mode + (pool.needs_check ? " needs_check" : "")});
    table.add({"data", share(console, pool.data)});
    table.add({"metadata", share(console, pool.metadata)});
    table.add({"block size", console.size(pool.block_size_bytes)});
    table.add({"volumes", std::to_string(pool.volumes)});
    table.add({"snapshots taken", fmt::format("{} of 16777215", pool.snapshots_taken)});
    table.add({"transaction id", std::to_string(pool.transaction_id)});
    table.add({"low water", fmt::format("{} blocks", pool.low_water)});
    if (pool.limits.max_bytes != 0) {
        table.add({"grows", fmt::format("by itself up to {}, by {} each time", console.size(pool.limits.max_bytes),
                                        console.size(pool.limits.grow_step_bytes))});
    }
    if (pool.limits.overprovision_percent != 0) {
        table.add({"promised", fmt::format("{} to all volumes, of at most {} % of the data",
                                           console.size(pool.promised_bytes), pool.limits.overprovision_percent)});
    } else {
        table.add({"promised", console.size(pool.promised_bytes) + " to all volumes"});
    }
    table.add({"kept free", fmt::format("{} of data, {} of metadata", console.size(pool.limits.min_free_bytes),
                                        console.size(pool.limits.min_free_metadata_bytes))});
    for (const auto& quota : pool.quotas) table.add({"quota " + quota.label, share(console, quota.bytes)});
    table.add({"backing", pool.backing});
    if (!pool.features.empty()) table.add({"features", fmt::format("{}", fmt::join(pool.features, ", "))});
    table.add({"data device", pool.data_device});
    table.add({"metadata device", pool.metadata_device});
    for (const auto& device : pool.devices) table.add({"device", device});
    if (pool.reserve_bytes != 0) table.add({"in reserve", console.size(pool.reserve_bytes) + " on these devices"});
    for (const auto& warning : pool.warnings) table.add({"warning", warning});
    table.print(console);
    return 0;
}

// Nothing: it was not given.
Result<std::optional<std::uint32_t>> parse_percent(const std::string& text) {
    if (text.empty()) return std::optional<std::uint32_t>();
    std::uint32_t percent = 0;
    const char* end = text.data() + text.size() - (text.ends_with('%') ? 1 : 0);
    const auto read = std::from_chars(text.data(), end, percent);
    if (read.ec == std::errc() && read.ptr == end && percent <= kMostPercent) return std::optional(percent);
    return Error{Errc::invalid_argument,
                 fmt::format("'{}' is no percentage: a whole number up to {}, or 0 for no limit", text, kMostPercent)};
}

// A pool just made or started: a word for a person, and its state as JSON.
Result<int> print_ready_pool(const Console& console, const schemas::PoolStatus::Reply& pool) {
    if (console.json) return print_pool(console, pool);
    console.note(fmt::format("pool '{}' is {}, {} of data; next: cowslip create ID", pool.name, pool.state,
                             console.size(pool.data.total_bytes)));
    return 0;
}

}  // namespace

Result<schemas::PoolCreate> make_pool_create(const Arguments& arguments) {
    const bool pair = !arguments.data_device.empty() || !arguments.metadata_device.empty();
    const int ways = (arguments.loop_size.empty() ? 0 : 1) + (pair ? 1 : 0) + (arguments.devices.empty() ? 0 : 1) +
                     (arguments.adopt.empty() ? 0 : 1);
    if (ways != 1) {
        return Error{
            Errc::invalid_argument,
            "pool create: give one of --loop SIZE, --device DEV..., --data DEV with --metadata DEV, or --adopt "
            "DMNAME"};
    }
    if (pair && (arguments.data_device.empty() || arguments.metadata_device.empty())) {
        return Error{Errc::invalid_argument, "pool create: --data and --metadata go together"};
    }
    if (!arguments.metadata_size.empty() && arguments.loop_size.empty() && arguments.devices.empty()) {
        return Error{Errc::invalid_argument, "pool create: --metadata-size belongs to --loop or --device"};
    }
    if (!arguments.data_size.empty() && arguments.devices.empty()) {
        return Error{Errc::invalid_argument, "pool create: --data-size belongs to --device"};
    }
    if (!arguments.block_size.empty() && !arguments.adopt.empty()) {
        return Error{Errc::invalid_argument, "pool create: an adopted pool has its block size already"};
    }
    schemas::PoolCreate request;
    request.name = arguments.pool_name;
    if (!arguments.loop_size.empty()) request.loop_bytes = TRY(parse_size(arguments.loop_size));
    if (!arguments.data_size.empty()) request.data_bytes = TRY(parse_size(arguments.data_size));
    if (!arguments.metadata_size.empty()) request.metadata_bytes = TRY(parse_size(arguments.metadata_size));
    if (!arguments.block_size.empty()) request.block_size_bytes = TRY(parse_size(arguments.block_size));
    const auto take = [](const std::string& text, std::uint64_t& size) -> Result<void> {
        if (!text.empty()) size = TRY(parse_size(text));
        return {};
    };
    TRY(take(arguments.max_size, request.limits.max_bytes));
    TRY(take(arguments.grow_step, request.limits.grow_step_bytes));
    TRY(take(arguments.min_free, request.limits.min_free_bytes));
    TRY(take(arguments.min_free_metadata, request.limits.min_free_metadata_bytes));
    request.limits.queue_when_full = arguments.queue_when_full;
    request.limits.overprovision_percent = TRY(parse_percent(arguments.overprovision)).value_or(0);
    request.data_device = arguments.data_device;
    request.metadata_device = arguments.metadata_device;
    request.devices = arguments.devices;
    request.adopt = arguments.adopt;
    request.force = arguments.force;
    request.accept_no_zeroing = arguments.accept_no_zeroing;
    request.preallocate = arguments.preallocate;
    request.keep_discarded = arguments.keep_discarded;
    request.no_zeroing = arguments.no_zeroing;
    return request;
}

Result<int> pool_create(Session& session, const Arguments& arguments) {
    const auto request = TRY(make_pool_create(arguments));
    // What is not ours yet is for root to give, by name, to the actors themselves.
    const std::string& state = session.place().state;
    if (!request.data_device.empty()) TRY(allow_devices(state, {request.data_device, request.metadata_device}));
    if (!request.devices.empty()) TRY(allow_devices(state, request.devices));
    if (!request.adopt.empty()) TRY(allow_devices(state, {"/dev/mapper/" + request.adopt}));
    return print_ready_pool(session.console(), TRY(session.call(request, "create the pool")));
}

Result<int> pool_status(Session& session, const Arguments& /*arguments*/) {
    return print_pool(session.console(), TRY(session.call(schemas::PoolStatus{}, "read the pool's status")));
}

Result<int> pool_grow(Session& session, const Arguments& arguments) {
    schemas::PoolGrow request;
    if (!arguments.data_size.empty()) request.data_bytes = TRY(parse_size(arguments.data_size));
    if (!arguments.metadata_size.empty()) request.metadata_bytes = TRY(parse_size(arguments.metadata_size));
    request.devices = arguments.devices;
    if (!request.devices.empty()) TRY(allow_devices(session.place().state, request.devices));
    const auto reply = TRY(session.call(request, "make the pool larger"));
    const Console& console = session.console();
    if (console.json) {
        console.print(to_json(reply));
        return 0;
    }
    console.note(fmt::format("pool '{}' has {}{} of data and {} of metadata", reply.pool.name,
                             reply.changed ? "" : "already ", console.size(reply.pool.data.total_bytes),
                             console.size(reply.pool.metadata.total_bytes)));
    for (const auto& warning : reply.pool.warnings) console.note("warning: " + warning);
    return 0;
}

Result<int> pool_limits(Session& session, const Arguments& arguments) {
    const auto size = [](const std::string& text) -> Result<std::optional<std::uint64_t>> {
        if (text.empty()) return std::optional<std::uint64_t>();
        if (text == "0") return std::optional<std::uint64_t>(0);
        return std::optional<std::uint64_t>(TRY(parse_size(text)));
    };
    schemas::PoolSetLimits request;
    request.max_bytes = TRY(size(arguments.max_size));
    request.grow_step_bytes = TRY(size(arguments.grow_step));
    request.min_free_bytes = TRY(size(arguments.min_free));
    request.min_free_metadata_bytes = TRY(size(arguments.min_free_metadata));
    request.overprovision_percent = TRY(parse_percent(arguments.overprovision));
    return print_pool(session.console(), TRY(session.call(request, "set the limits")));
}

Result<int> pool_quota(Session& session, const Arguments& arguments) {
    schemas::PoolQuota request;
    request.label = arguments.quota_label;
    if (arguments.quota != "none") {
        request.max_bytes = TRY(parse_size(arguments.quota));
        if (request.max_bytes == 0) return Error{Errc::invalid_argument, "pool quota: a SIZE above 0, or none"};
    }
    const auto reply = TRY(session.call(request, "set the quota"));
    const Console& console = session.console();
    if (console.json) {
        console.print(to_json(reply));
        return 0;
    }
    const std::string used = console.size(reply.bytes.used_bytes);
    console.note(reply.bytes.total_bytes == 0
                     ? fmt::format("volumes with the label '{}' have {}, and no quota", reply.label, used)
                     : fmt::format("volumes with the label '{}' have {} of {}", reply.label, used,
                                   console.size(reply.bytes.total_bytes)));
    return 0;
}

Result<int> pool_rewind(Session& session, const Arguments& arguments) {
    const schemas::PoolRewind request{arguments.spare};
    if (!request.spare.empty()) TRY(allow_devices(session.place().state, {request.spare}));
    const auto reply = TRY(session.call(request, "rewind the pool"));
    const Console& console = session.console();
    if (console.json) console.print(to_json(reply));
    console.note(fmt::format("{} snapshots are taken, the next thin id is {}; next: cowslip pool start",
                             reply.snapshots_taken, reply.next_thin_id));
    return 0;
}

Result<int> pool_start(Session& session, const Arguments& arguments) {
    const schemas::PoolStart request{.read_only = arguments.read_only};
    return print_ready_pool(session.console(), TRY(session.call(request, "start the pool")));
}

Result<int> pool_stop(Session& session, const Arguments& /*arguments*/) {
    const auto pool = TRY(session.call(schemas::PoolStop{}, "stop the pool"));
    const Console& console = session.console();
    if (console.json) return print_pool(console, pool);
    console.note(fmt::format("pool '{}' is {}; next: cowslip pool start", pool.name, pool.state));
    return 0;
}

Result<int> pool_check(Session& session, const Arguments& /*arguments*/) {
    const auto reply = TRY(session.call(schemas::PoolCheck{}, "check the pool"));
    const Console& console = session.console();
    if (console.json) console.print(to_json(reply));
    if (reply.sound) {
        console.note("the pool's metadata are whole");
        return 0;
    }
    if (!console.json) console.note("the pool's metadata are damaged: " + reply.report);
    console.note("they are being mended, see: cowslip pool status");
    return exit_code(Errc::needs_repair);
}

Result<int> pool_destroy(Session& session, const Arguments& /*arguments*/) {
    const auto pool = TRY(session.call(schemas::PoolStatus{}, "read the pool's status"));
    if (pool.state == "none") return Error{Errc::not_found, "there is no pool"};
    TRY(session.call(schemas::PoolDestroy{pool.name}, "destroy the pool"));
    session.console().note(fmt::format("pool '{}' is gone", pool.name));
    return 0;
}

Result<int> pool_rebuild(Session& session, const Arguments& arguments) {
    if (arguments.data_device.empty() != arguments.metadata_device.empty()) {
        return Error{Errc::invalid_argument, "pool rebuild: --data and --metadata go together"};
    }
    const std::string& state = session.place().state;
    if (!arguments.data_device.empty()) {
        TRY(allow_devices(state, {arguments.data_device, arguments.metadata_device}));
    }
    if (!arguments.adopt.empty()) TRY(allow_devices(state, {"/dev/mapper/" + arguments.adopt}));
    if (!arguments.devices.empty()) TRY(allow_devices(state, arguments.devices));
    const schemas::PoolRebuild request{.data_device = arguments.data_device,
                                       .metadata_device = arguments.metadata_device,
                                       .adopt = arguments.adopt,
                                       .devices = arguments.devices};
    const auto reply = TRY(session.call(request, "make the store anew"));
    const Console& console = session.console();
    if (console.json) {
        console.print(to_json(reply));
        return 0;
    }
    console.note(fmt::format("pool '{}' is {}, with {} volumes, as of the backup {}", reply.pool.name, reply.pool.state,
                             reply.pool.volumes, reply.backup_taken_at.empty() ? "(none)" : reply.backup_taken_at));
    for (const auto& name : reply.recovered) console.note("recovered without its name: " + name);
    for (const auto& name : reply.dropped) console.note("not in the pool: " + name);
    return 0;
}

Result<int> pool_repair(Session& session, const Arguments& arguments) {
    const schemas::PoolRepair request{arguments.evict, arguments.spare, arguments.accept_loss};
    if (!request.spare.empty()) TRY(allow_devices(session.place().state, {request.spare}));
    const auto reply = TRY(session.call(request, "repair the pool"));
    const Console& console = session.console();
    if (console.json) {
        console.print(to_json(reply));
        return 0;
    }
    if (reply.how == "nothing") console.note("nothing is wrong with the pool");
    if (reply.how == "checked") console.note("the pool's metadata are whole, and it is in service");
    if (reply.how == "repaired") {
        console.note("the pool's metadata were mended, and it is in service; the damaged ones are kept as " +
                     reply.damaged_copy);
    }
    for (const auto& name : reply.lost) console.note("lost: " + name);
    return 0;
}

}  // namespace cowslip::ctl
