#include "tests/cut/audit.h"

#include <map>
#include <set>
#include <string_view>
#include <thread>

#include <fmt/format.h>

#include "common/client.h"
#include "common/files.h"
#include "common/state_folder.h"
#include "tests/cut/workload.h"

namespace cowslip::cut {

namespace {

constexpr std::size_t kMostBytes = 1U << 20U;

class Auditor {
public:
    Auditor(Client client, const History& history) : client_(std::move(client)), history_(history) {}

    Result<std::string> look() {
        if (std::string text = ask_for_pool_again(); !text.empty()) return text;
        const auto pool = TRY(client_.call(schemas::PoolStatus{}, kTimeout));
        if (pool.state == "none" && !asked_for_pool_) return std::string();
        if (pool.state != "ready") return fmt::format("the pool is '{}'", pool.state);
        if (pool.mode != "rw" || pool.needs_check) return "the pool is " + pool.mode;
        names_ = TRY(list());
        if (std::string text = history_.complain_about(names_); !text.empty()) return text;
        if (std::string text = TRY(look_into(names_)); !text.empty()) return text;
        if (std::string text = TRY(ask_again()); !text.empty()) return text;
        if (std::string text = TRY(go_on()); !text.empty()) return text;
        return settled();
    }

private:
    // Whoever was not answered asks again: a service that has just come back may still be making it.
    std::string ask_for_pool_again() {
        asked_for_pool_ = history_.pool();
        for (const auto& [number, request] : history_.unanswered()) {
            if (request.verb != "pool") continue;
            const auto made = client_.call(pool_request(), kTimeout, request_id_of(number));
            if (!made) return "pool create again: " + made.error().message;
            asked_for_pool_ = true;
        }
        return {};
    }

    Result<std::set<std::string>> list() {
        const auto reply = TRY(client_.call(schemas::VolumeList{}, kTimeout));
        std::set<std::string> names;
        for (const auto& volume : reply.volumes) names.insert(volume.id);
        return names;
    }

    // Mounted at once, and put back at once.
    Result<std::string> look_into(const std::set<std::string>& names) {
        std::string text;
        std::map<std::string, std::string> bodies;
        for (const std::string& name : names) {
            schemas::VolumeGet get;
            get.id = name;
            get.read_only = name == kImage;
            TRY(client_.send("get-" + name, get.kType, encode(get), kTimeout));
        }
        while (const auto answer = client_.receive(kTimeout)) {
            if (!answer->body) return fmt::format("{}: {}", answer->request_id, answer->body.error().message);
            bodies[answer->request_id] = *answer->body;
        }
        for (const std::string& name : names) {
            const auto got = TRY(decode_as<schemas::VolumeGet::Reply>(std::string_view(bodies["get-" + name])));
            for (const auto& [file_name, file] : history_.files_of(name)) {
                const auto bytes = read_file(got.path + "/" + file_name, kMostBytes);
                if (!bytes) text = fmt::format("'{}' of '{}': {}", file_name, name, bytes.error().message);
                if (bytes && *bytes != content_of(file))
                    text = fmt::format("'{}' of '{}' has other bytes", file_name, name);
            }
        }
        for (const std::string& name : names) {
            schemas::VolumePut put;
            put.id = name;
            TRY(client_.send("put-" + name, put.kType, encode(put), kTimeout));
        }
        while (const auto answer = client_.receive(kTimeout)) {
            if (!answer->body) return fmt::format("{}: {}", answer->request_id, answer->body.error().message);
        }
        return text;
    }

    Result<std::string> ask_again() {
        for (const auto& [number, request] : history_.unanswered()) {
            if (request.verb == "create") {
                const auto made =
                    client_.call(create_request(request.name, request.parent), kTimeout, request_id_of(number));
                if (!made) return fmt::format("create '{}' again: {}", request.name, made.error().message);
                names_.insert(request.name);
            } else if (request.verb == "rm") {
                const auto removed = client_.call(remove_request(request.name), kTimeout, request_id_of(number));
                if (!removed) return fmt::format("rm '{}' again: {}", request.name, removed.error().message);
                names_.erase(request.name);
            }
        }
        if (TRY(list()) != names_) return std::string("volumes after requests were repeated are others");
        return std::string();
    }

    Result<std::string> go_on() {
        if (!names_.contains("base")) return std::string();
        const auto made = client_.call(create_request("new", "base"), kTimeout);
        if (!made) return "create: " + made.error().message;
        if (std::string text = TRY(look_into({"new"})); !text.empty()) return text;
        schemas::VolumeRemove remove = remove_request("new");
        remove.wait = true;
        const auto removed = client_.call(remove, kTimeout);
        if (!removed) return "rm: " + removed.error().message;
        return std::string();
    }

    // Nothing is left to be done, and nothing strange was found.
    Result<std::string> settled() {
        for (int tries = 0; tries < 400; ++tries) {
            const auto status = TRY(client_.call(schemas::SystemStatus{}, kTimeout));
            if (!status.findings.empty()) {
                const auto& finding = status.findings.front();
                return fmt::format("finding {} '{}': {}", finding.kind, finding.subject, finding.detail);
            }
            if (status.behind_reply == 0) return std::string();
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        return std::string("work behind the replies does not end");
    }

    Client client_;
    const History& history_;
    std::set<std::string> names_;
    bool asked_for_pool_ = false;
};

}  // namespace

Result<std::string> audit(const std::string& state, const History& history) {
    const StateFolder folder = TRY(resolve_state_folder(state));
    BusContext context;
    return Auditor(TRY(Client::connect(context, folder.clients_socket())), history).look();
}

}  // namespace cowslip::cut
