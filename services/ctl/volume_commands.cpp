#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "common/names.h"
#include "common/size.h"
#include "services/ctl/commands.h"

namespace cowslip::ctl {

namespace {

using std::chrono::milliseconds;

// Requests about one name are carried out in their order; these are all in flight together.
constexpr std::size_t kRemovalsInFlight = 128;
constexpr std::size_t kRemovalsWorthProgress = 20;

// Of those that were listed the thin id, too: another one of that name is not meant.
struct Removed {
    std::string id;
    std::uint32_t thin_id = 0;
};

// Many removals over one connection. Failures are told as they come; the exit code is that of the
// first in the order given.
class Removals {
public:
    Removals(Session& session, const Arguments& arguments, std::vector<Removed> volumes, Client& client)
        : session_(session),
          arguments_(arguments),
          volumes_(std::move(volumes)),
          client_(client),
          progress_(session.console()) {}

    Result<int> run() {
        std::size_t next = 0;
        while (next < volumes_.size() || !in_flight_.empty()) {
            while (next < volumes_.size() && in_flight_.size() < kRemovalsInFlight) TRY(send(next++));
            auto answer = client_.receive(milliseconds(100));
            if (answer) TRY(take(std::move(*answer)));
            if (session_.stop().caught() != 0) return interrupted(next);
            if (!answer && client_.outstanding() == 0)
                return Error{Errc::internal, "remove volumes: an answer was lost"};
        }
        return failures_.empty() ? 0 : failures_.begin()->second;
    }

private:
    Result<void> send(std::size_t index) {
        const schemas::VolumeRemove request{.id = volumes_[index].id,
                                            .wait = arguments_.wait,
                                            .must_exist = arguments_.must_exist,
                                            .thin_id = volumes_[index].thin_id};
        const std::string request_id = session_.next_request_id();
        TRY(client_.send(request_id, schemas::VolumeRemove::kType, encode(request), session_.globals().timeout));
        in_flight_[request_id] = index;
        return {};
    }

    Result<void> take(Client::Answer answer) {
        const auto found = in_flight_.find(answer.request_id);
        if (found == in_flight_.end()) return {};
        const std::size_t index = found->second;
        in_flight_.erase(found);
        const std::string& id = volumes_[index].id;
        const auto body = session_.settle(std::move(answer), fmt::format("remove '{}'", id));
        if (body) {
            const auto reply = TRY(decode_as<schemas::VolumeRemove::Reply>(std::string_view(*body)));
            const auto& console = session_.console();
            if (console.json) console.print_line(dump(Json{{"id", id}, {"existed", reply.existed}}, false));
        } else {
            progress_.clear();
            session_.console().error(body.error());
            failures_[index] = exit_code(body.error().code);
        }
        ++done_;
        if (volumes_.size() >= kRemovalsWorthProgress) {
            progress_.draw(fmt::format("removed {} of {}", done_ - failures_.size(), volumes_.size()));
        }
        return {};
    }

    Error interrupted(std::size_t sent) const {
        return Error{
            Errc::timed_out,
            fmt::format("interrupted: {} of {} removals were answered, {} were sent and may go on, {} were not sent",
                        done_, volumes_.size(), in_flight_.size(), volumes_.size() - sent)};
    }

    Session& session_;
    const Arguments& arguments_;
    const std::vector<Removed> volumes_;
    Client& client_;
    ProgressLine progress_;
    std::map<std::string, std::size_t> in_flight_;  // By request id.
    std::map<std::size_t, int> failures_;           // Exit codes, by position.
    std::size_t done_ = 0;
};

std::string holder_or_default(const std::string& holder) {
    return holder.empty() ? "default" : holder;
}

Result<int> print_put(const Session& session, const Arguments& arguments, const schemas::VolumePut::Reply& reply) {
    const Console& console = session.console();
    if (console.json) console.print(to_json(reply));
    if (!reply.changed) {
        console.note(arguments.all_holders ? fmt::format("nobody holds '{}'", arguments.id)
                                           : fmt::format("'{}' holds no lease of '{}'",
                                                         holder_or_default(arguments.holder), arguments.id));
    }
    return 0;
}

}  // namespace

Result<schemas::Labels> parse_labels(const std::vector<std::string>& labels) {
    schemas::Labels result;
    for (const auto& label : labels) {
        const std::size_t equals = label.find('=');
        if (equals == std::string::npos) {
            return Error{Errc::invalid_argument, fmt::format("label '{}': write it as KEY=VALUE", label)};
        }
        const std::string key = label.substr(0, equals);
        const std::string value = label.substr(equals + 1);
        TRY(check_label(key, value));
        if (!result.emplace(key, value).second) {
            return Error{Errc::invalid_argument, fmt::format("label '{}' is given twice", key)};
        }
    }
    return result;
}

Result<schemas::VolumeCreate> make_volume_create(const Arguments& arguments) {
    if (!arguments.get && (!arguments.holder.empty() || !arguments.mount_label.empty())) {
        return Error{Errc::invalid_argument, "create: --holder and --mount-label belong to --get"};
    }
    schemas::VolumeCreate request;
    request.id = arguments.id;
    request.parent = arguments.parent;
    if (!arguments.size.empty()) request.size_bytes = TRY(parse_size(arguments.size));
    request.fs = arguments.fs;
    request.mkfs_options = arguments.mkfs_options;
    request.mount_options = arguments.mount_options;
    request.labels = TRY(parse_labels(arguments.labels));
    request.get = arguments.get;
    request.holder = arguments.holder;
    request.mount_label = arguments.mount_label;
    return request;
}

Result<int> volume_create(Session& session, const Arguments& arguments) {
    const auto request = TRY(make_volume_create(arguments));
    const auto reply = TRY(session.call(request, fmt::format("create '{}'", arguments.id)));
    const Console& console = session.console();
    if (console.json) {
        Json shown = to_json(reply.volume);
        if (arguments.get) shown["path"] = reply.path;
        console.print(shown);
    } else if (arguments.get) {
        console.print_line(reply.path);
    } else {
        console.note(fmt::format("created '{}', {} of {}; next: cowslip get '{}'", reply.volume.id,
                                 console.size(reply.volume.size_bytes), reply.volume.fs, reply.volume.id));
    }
    return 0;
}

Result<int> volume_remove(Session& session, const Arguments& arguments) {
    if (arguments.ids.empty() && arguments.labels.empty()) {
        return Error{Errc::invalid_argument, "rm: which volumes? ID..., or --filter K=V"};
    }
    if (!session.globals().request_id.empty() && arguments.ids.size() != 1) {
        return Error{Errc::invalid_argument, "rm: --request-id is for one volume"};
    }
    std::vector<Removed> volumes;
    for (const std::string& id : arguments.ids) volumes.push_back({id});
    if (!arguments.labels.empty()) {
        const auto labels = TRY(parse_labels(arguments.labels));
        for (const auto& volume : TRY(list_all(session, labels))) volumes.push_back({volume.id, volume.thin_id});
        if (volumes.empty()) session.console().note("there is no such volume");
    }
    return Removals(session, arguments, std::move(volumes), *TRY(session.client())).run();
}

Result<int> volume_resize(Session& session, const Arguments& arguments) {
    const schemas::VolumeResize request{.id = arguments.id, .size_bytes = TRY(parse_size(arguments.size))};
    const auto reply = TRY(session.call(request, fmt::format("resize '{}'", arguments.id)));
    const Console& console = session.console();
    if (console.json) console.print(to_json(reply.volume));
    console.note(fmt::format("'{}' {} {}", reply.volume.id, reply.changed ? "now has" : "has",
                             console.size(reply.volume.size_bytes)));
    return 0;
}

Result<schemas::VolumeFreeze> make_volume_freeze(const Arguments& arguments) {
    schemas::VolumeFreeze request;
    request.id = arguments.id;
    request.warm_mounted = arguments.warm_mounted;
    if (arguments.warm.empty()) return request;
    const std::uint64_t warm = TRY(parse_number("number of warm clones", arguments.warm));
    request.warm = static_cast<std::uint32_t>(std::min<std::uint64_t>(warm, schemas::kMostWarmOfOne + 1));
    return request;
}

Result<int> volume_freeze(Session& session, const Arguments& arguments) {
    const auto request = TRY(make_volume_freeze(arguments));
    const auto reply = TRY(session.call(request, fmt::format("freeze '{}'", arguments.id)));
    const Console& console = session.console();
    if (console.json) console.print(to_json(reply.volume));
    if (reply.volume.warm) {
        console.note(fmt::format("{} clones of '{}' are kept ready; next: cowslip create NEW --parent '{}' --get",
                                 reply.volume.warm->wanted, reply.volume.id, reply.volume.id));
        return 0;
    }
    console.note(fmt::format("'{}' {} an image; next: cowslip create NEW --parent '{}'", reply.volume.id,
                             reply.changed ? "is now" : "was already", reply.volume.id));
    return 0;
}

Result<int> volume_rename(Session& session, const Arguments& arguments) {
    const schemas::VolumeRename request{.id = arguments.id, .new_id = arguments.new_id};
    const auto reply = TRY(session.call(request, fmt::format("rename '{}'", arguments.id)));
    const Console& console = session.console();
    if (console.json) console.print(to_json(reply.volume));
    console.note(fmt::format("'{}' is now '{}'", arguments.id, reply.volume.id));
    return 0;
}

// "team=blue" sets, "team-" takes away.
Result<schemas::VolumeLabel> make_volume_label(const Arguments& arguments) {
    schemas::VolumeLabel request;
    request.id = arguments.id;
    std::vector<std::string> set;
    for (const auto& label : arguments.labels) {
        if (label.find('=') != std::string::npos) {
            set.push_back(label);
        } else if (label.ends_with('-')) {
            request.remove.push_back(label.substr(0, label.size() - 1));
        } else {
            return Error{Errc::invalid_argument,
                         fmt::format("label '{}': write it as KEY=VALUE to set it, as KEY- to take it away", label)};
        }
    }
    request.set = TRY(parse_labels(set));
    for (const auto& key : request.remove) {
        TRY(check_label(key, ""));
        if (request.set.contains(key)) {
            return Error{Errc::invalid_argument, fmt::format("label '{}' is both set and taken away", key)};
        }
    }
    return request;
}

Result<int> volume_label(Session& session, const Arguments& arguments) {
    const auto request = TRY(make_volume_label(arguments));
    const auto volume = TRY(session.call(request, fmt::format("label '{}'", arguments.id)));
    if (session.console().json) session.console().print(to_json(volume));
    return 0;
}

Result<int> volume_get(Session& session, const Arguments& arguments) {
    const schemas::VolumeGet request{.id = arguments.id,
                                     .holder = arguments.holder,
                                     .read_only = arguments.read_only,
                                     .mount_label = arguments.mount_label};
    const auto reply = TRY(session.call(request, fmt::format("get '{}'", arguments.id)));
    if (session.console().json) {
        session.console().print(to_json(reply));
    } else {
        session.console().print_line(reply.path);
    }
    return 0;
}

Result<int> volume_put(Session& session, const Arguments& arguments) {
    const schemas::VolumePut request{.id = arguments.id,
                                     .holder = arguments.holder,
                                     .all_holders = arguments.all_holders,
                                     .force = arguments.force,
                                     .remove = arguments.remove,
                                     .filled = false};
    const auto reply = TRY(session.call(request, fmt::format("put '{}'", arguments.id)));
    return print_put(session, arguments, reply);
}

Result<int> volume_exists(Session& session, const Arguments& arguments) {
    const auto reply =
        TRY(session.call(schemas::VolumeExists{.id = arguments.id}, fmt::format("look for '{}'", arguments.id)));
    if (session.console().json) session.console().print(to_json(reply));
    return reply.exists ? 0 : 1;
}

Result<int> volume_attach(Session& session, const Arguments& arguments) {
    const schemas::VolumeAttach request{
        .id = arguments.id, .holder = arguments.holder, .read_only = arguments.read_only};
    const auto reply = TRY(session.call(request, fmt::format("attach '{}'", arguments.id)));
    if (session.console().json) {
        session.console().print(to_json(reply));
    } else {
        session.console().print_line(reply.device);
    }
    return 0;
}

Result<int> volume_detach(Session& session, const Arguments& arguments) {
    const schemas::VolumeDetach request{
        .id = arguments.id, .holder = arguments.holder, .all_holders = arguments.all_holders};
    const auto reply = TRY(session.call(request, fmt::format("detach '{}'", arguments.id)));
    return print_put(session, arguments, reply);
}

}  // namespace cowslip::ctl
