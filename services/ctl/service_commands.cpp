#include <algorithm>
#include <charconv>
#include <system_error>

#include <fmt/format.h>

#include "common/size.h"
#include "services/ctl/commands.h"

namespace cowslip::ctl {

namespace {

using std::chrono::milliseconds;

std::string age(std::uint64_t ms) {
    return format_duration(milliseconds(ms));
}

std::string describe(const schemas::Actor& actor) {
    std::string text = fmt::format("{} (pid {})", actor.incarnation, actor.pid);
    if (actor.watcher) text += ", the watcher";
    return text + (actor.doing.empty() ? ": idle" : fmt::format(": {} for {}", actor.doing, age(actor.busy_ms)));
}

std::string bar(const schemas::Usage& usage) {
    constexpr std::uint64_t kCells = 20;
    if (usage.total_bytes == 0) return "";
    const double share = static_cast<double>(usage.used_bytes) / static_cast<double>(usage.total_bytes);
    const auto full = std::min(static_cast<std::uint64_t>(share * kCells), kCells);
    std::string cells;
    for (std::uint64_t i = 0; i < kCells; ++i) cells += i < full ? "█" : "░";
    return fmt::format(" [{}] {}%", cells, static_cast<unsigned>(share * 100));
}

std::string space(const Console& console, const schemas::Usage& usage) {
    const std::string text = fmt::format("{} of {}", console.size(usage.used_bytes), console.size(usage.total_bytes));
    return console.out_is_terminal ? text + bar(usage) : text;
}

void add_pool(Table& table, const Console& console, const schemas::PoolStatus::Reply& pool) {
    if (pool.state.empty() || pool.state == "none") {
        table.add({"pool", "none; next: cowslip pool create --loop SIZE"});
        return;
    }
    table.add({"pool", fmt::format("{}, {}{}{}", pool.name, pool.state, pool.mode.empty() ? "" : ", " + pool.mode,
                                   pool.needs_check ? ", needs a check" : "")});
    table.add({"data", space(console, pool.data)});
    table.add({"metadata", space(console, pool.metadata)});
    table.add({"volumes", std::to_string(pool.volumes)});
}

}  // namespace

Result<int> service_status(Session& session, const Arguments& /*arguments*/) {
    const auto status = TRY(session.call(schemas::SystemStatus{}, "read the service's status"));
    const Console& console = session.console();
    if (console.json) {
        console.print(to_json(status));
        return 0;
    }
    Table table;
    table.add({"service", fmt::format("cowslip {}, pid {}, as {}, up {}", status.version, status.pid, status.account,
                                      age(status.uptime_ms))});
    add_pool(table, console, status.pool);
    table.add({"leases", std::to_string(status.leases)});
    table.add({"operations", fmt::format("{}, and {} behind replies", status.operations, status.behind_reply)});
    table.add({"events", fmt::format("{} so far", status.event_seq)});
    for (const auto& actor : status.actors) table.add({"actor", describe(actor)});
    for (const auto& warning : status.pool.warnings) table.add({"warning", warning});
    for (const auto& finding : status.findings) {
        table.add({"finding", fmt::format("{} {}: {}", finding.kind, finding.subject, finding.detail)});
    }
    table.print(console);
    return 0;
}

Result<int> service_cleanup(Session& session, const Arguments& /*arguments*/) {
    const auto reply = TRY(session.call(schemas::SystemCleanup{}, "clean up"));
    const Console& console = session.console();
    if (console.json) console.print(to_json(reply));
    console.note(fmt::format("ended {} leases", reply.leases_ended));
    if (reply.left.empty()) return 0;
    return Error{
        Errc::in_use,
        fmt::format("clean up: {} volumes are busy and were left; end what uses them and repeat", reply.left.size()),
        {{"left", reply.left}}};
}

// What is left is data, so the exit code alone says that it needs a repair.
Result<int> service_fsck(Session& session, const Arguments& arguments) {
    const auto reply = TRY(session.call(schemas::SystemFsck{.repair = arguments.repair}, "compare"));
    const Console& console = session.console();
    const int exit = reply.ok ? 0 : exit_code(Errc::needs_repair);
    if (console.json) {
        console.print(to_json(reply));
        return exit;
    }
    for (const auto& finding : reply.repaired)
        console.note(fmt::format("put right: {} {}", finding.kind, finding.subject));
    Table table({"KIND", "SUBJECT", "DETAIL"});
    for (const auto& finding : reply.findings) table.add({finding.kind, finding.subject, finding.detail});
    if (!reply.ok) table.print(console);
    if (reply.total > reply.findings.size()) {
        console.note(fmt::format("{} of {}", reply.findings.size(), reply.total));
    }
    if (!reply.pool_compared) console.note("the pool's own list of thin ids was not compared");
    if (reply.ok) console.note("store, pool, devices and mounts agree");
    return exit;
}

Result<int> operation_list(Session& session, const Arguments& /*arguments*/) {
    const auto reply = TRY(session.call(schemas::OperationList{}, "list operations"));
    const auto status = TRY(session.call(schemas::SystemStatus{}, "read the service's status"));
    const Console& console = session.console();
    if (console.json) {
        Json shown = to_json(reply);
        shown["actors"] = to_json(status)["actors"];
        console.print(shown);
        return 0;
    }
    Table table({"OPERATION", "TYPE", "SUBJECT", "AGE", "ATTEMPT", "WAITS FOR"});
    for (const auto& operation : reply.operations) {
        table.add({std::to_string(operation.number), operation.type + (operation.behind_reply ? " (behind)" : ""),
                   operation.subject, age(operation.age_ms), std::to_string(operation.attempt), operation.waiting_for});
    }
    table.print(console);
    if (reply.total > reply.operations.size()) {
        console.note(fmt::format("the oldest {} of {}", reply.operations.size(), reply.total));
    }
    if (!console.out_is_terminal) return 0;  // A pipe gets one kind of line.
    Table actors;
    for (const auto& actor : status.actors) actors.add({"actor", describe(actor)});
    actors.print(console);
    return 0;
}

Result<std::uint64_t> parse_number(std::string_view what, const std::string& text) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size()) return number;
    return Error{Errc::invalid_argument, fmt::format("{} '{}': it is no number", what, text)};
}

Result<int> operation_wait(Session& session, const Arguments& arguments) {
    const auto number = TRY(parse_number("operation", arguments.operation));
    TRY(session.call(schemas::OperationWait{.operation = number}, fmt::format("wait for operation {}", number)));
    if (session.console().json) session.console().print(Json::object());
    return 0;
}

}  // namespace cowslip::ctl
