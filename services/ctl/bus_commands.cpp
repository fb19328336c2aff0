// `bus`: the service's messages themselves, for those who write clients or must do what no command
// does. `describe` shows the structs of schemas/pool_manager.h, so it cannot be out of date.
#include <fnmatch.h>

#include <algorithm>

#include <fmt/format.h>

#include "services/ctl/commands.h"
#include "services/ctl/subscription.h"

namespace cowslip::ctl {

namespace {

struct Described {
    std::string type;
    Json request;
    Json reply;
};

// Lists are shown with one element, so that its fields are seen.
template <class Reply>
void show_elements(Reply& /*reply*/) {}
void show_elements(schemas::Volume& volume) {
    volume.leases.emplace_back();
    volume.labels["key"] = "value";
}
void show_elements(schemas::VolumeCreate::Reply& reply) {
    show_elements(reply.volume);
}
void show_elements(schemas::VolumeResize::Reply& reply) {
    show_elements(reply.volume);
}
void show_elements(schemas::VolumeFreeze::Reply& reply) {
    show_elements(reply.volume);
}
void show_elements(schemas::VolumeRename::Reply& reply) {
    show_elements(reply.volume);
}
void show_elements(schemas::VolumeList::Reply& reply) {
    show_elements(reply.volumes.emplace_back());
}
void show_elements(schemas::LeaseList::Reply& reply) {
    reply.leases.emplace_back();
}
void show_elements(schemas::OperationList::Reply& reply) {
    reply.operations.emplace_back();
}
void show_elements(schemas::SystemStatus::Reply& reply) {
    reply.actors.emplace_back();
    reply.findings.emplace_back();
}
void show_elements(schemas::StoreList::Reply& reply) {
    reply.backups.emplace_back();
}
void show_elements(schemas::EventSince::Reply& reply) {
    reply.events.emplace_back();
}

template <class... Messages>
std::vector<Described> describe_all() {
    std::vector<Described> all;
    const auto add = [&]<class Message>(const Message& message) {
        typename Message::Reply reply;
        show_elements(reply);
        all.push_back({Message::kType, to_json(message), to_json(reply)});
    };
    (add(Messages{}), ...);
    return all;
}

std::vector<Described> describe_bus() {
    using namespace schemas;
    return describe_all<PoolStatus, PoolCreate, PoolStart, PoolStop, PoolGrow, PoolSetLimits, PoolQuota, PoolCheck,
                        PoolDestroy, PoolRepair, PoolRewind, PoolMeasure, VolumeCreate, VolumeRemove, VolumeResize,
                        VolumeFreeze, VolumeRename, VolumeLabel, VolumeTrim, VolumeGet, VolumePut, VolumeAttach,
                        VolumeDetach, VolumeExists, VolumeShow, VolumeList, LeaseList, OperationList, OperationWait,
                        SystemStatus, SystemCleanup, SystemFsck, StoreBackup, StoreList, EventSince>();
}

Json json_of(const Described& described) {
    return Json{{"type", described.type}, {"request", described.request}, {"reply", described.reply}};
}

std::string keys_of(const Json& object) {
    std::string keys;
    for (const auto& [key, value] : object.items()) keys += (keys.empty() ? "" : " ") + key;
    return keys;
}

}  // namespace

Result<int> bus_call(Session& session, const Arguments& arguments) {
    const std::string body = TRY(message_from_json(arguments.message_body.empty() ? "{}" : arguments.message_body));
    const std::string& type = arguments.message_type;
    const std::string answer = TRY(session.call_raw(type, body, fmt::format("call '{}'", type)));
    session.console().print(TRY(json_from_message(answer)));
    return 0;
}

Result<int> bus_describe(Session& session, const Arguments& arguments) {
    const auto all = describe_bus();
    const Console& console = session.console();
    if (!arguments.message_type.empty()) {
        const auto found = std::find_if(all.begin(), all.end(),
                                        [&](const Described& one) { return one.type == arguments.message_type; });
        if (found == all.end()) {
            return Error{Errc::not_found,
                         fmt::format("describe '{}': no such request; 'cowslip bus describe' lists them",
                                     arguments.message_type)};
        }
        console.print(json_of(*found));
        return 0;
    }
    if (console.json) {
        Json array = Json::array();
        for (const auto& one : all) array.push_back(json_of(one));
        console.print(array);
        return 0;
    }
    Table table({"TYPE", "REQUEST", "REPLY"});
    for (const auto& one : all) table.add({one.type, keys_of(one.request), keys_of(one.reply)});
    table.print(console);
    return 0;
}

Result<int> bus_monitor(Session& session, const Arguments& arguments) {
    const std::string& pattern = arguments.pattern;
    auto subscriber = TRY(subscribe(session, pattern.substr(0, pattern.find_first_of("*?[\\"))));
    return listen(session, subscriber, [&](const SubscriberSocket::Message& message) -> Result<void> {
        if (!pattern.empty() && fnmatch(pattern.c_str(), message.topic.c_str(), 0) != 0) return {};
        const auto event = json_from_message(message.payload);
        if (event) session.console().print_line(dump(*event, false));
        return {};
    });
}

}  // namespace cowslip::ctl
