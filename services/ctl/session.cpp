#include "services/ctl/session.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "common/state_folder.h"
#include "schemas/pool_manager.h"

namespace cowslip::ctl {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kSlice{100};             // How soon a Ctrl-C is seen.
constexpr milliseconds kPatienceForFile{2000};  // A service that is starting has no socket yet.

Place place_of_socket(const std::string& socket) {
    const auto path = std::filesystem::absolute(socket);  // Also after a chdir.
    return {.state = "", .run = "", .clients_socket = path, .events_socket = path.parent_path() / "events.sock"};
}

Result<Place> place_of_state(const std::string& state, const std::string& run = "") {
    const StateFolder folder = TRY(resolve_state_folder(state, run));
    return Place{.state = folder.dir,
                 .run = folder.run,
                 .clients_socket = folder.clients_socket(),
                 .events_socket = folder.events_socket()};
}

bool changes_something(std::string_view type) {
    constexpr std::array<std::string_view, 10> kQueries = {
        schemas::PoolStatus::kType,   schemas::VolumeExists::kType, schemas::VolumeShow::kType,
        schemas::VolumeList::kType,   schemas::LeaseList::kType,    schemas::OperationList::kType,
        schemas::SystemStatus::kType, schemas::StoreList::kType,    schemas::OperationWait::kType,
        schemas::EventSince::kType,
    };
    return std::find(kQueries.begin(), kQueries.end(), type) == kQueries.end();
}

// A request whose answer never came may have been done: its id is the way to find out.
void explain_timeout(Error& error, const std::string& request_id) {
    if (!error.details.contains("operation")) {
        error.message +=
            "; it may have been done: the same command with --request-id " + request_id + " asks for its answer";
    }
    error.details["request_id"] = {request_id};
}

// Waits until somebody listens: a while for a socket that is not there yet, and until `deadline`
// for one that is there, as its service may be on its way back.
Result<void> wait_for_service(const std::string& path, steady_clock::time_point deadline, const Console& console,
                              StopSignal& stop) {
    const auto start = steady_clock::now();
    bool said = false;
    while (true) {
        auto server = ClientSocket::server(path);
        if (server) return {};
        Error error = std::move(server).error();
        if (error.code == Errc::permission_denied) {
            error.message += "; run this as root or as a member of the socket's group";
            return error;
        }
        const auto now = steady_clock::now();
        std::error_code ignored;
        const bool absent = !std::filesystem::exists(path, ignored);
        if (now >= deadline || (absent && now - start >= kPatienceForFile)) {
            error.message += "; start the service with 'cowslip up --state DIR', or name another with --state";
            return error;
        }
        if (stop.caught() != 0) return Error{Errc::timed_out, "interrupted: " + error.message};
        if (now - start >= milliseconds(1000) && !std::exchange(said, true)) {
            console.note(fmt::format("waiting for the service at '{}'", path));
        }
        std::this_thread::sleep_for(milliseconds(20));
    }
}

}  // namespace

Result<Place> find_place(const Globals& globals, const char* environment_state, const char* environment_socket,
                         const ConfigFile& file) {
    const std::string state = environment_state == nullptr ? "" : environment_state;
    const std::string socket = environment_socket == nullptr ? "" : environment_socket;
    if (!globals.socket.empty()) return place_of_socket(globals.socket);
    if (!globals.state.empty()) return place_of_state(globals.state, file.run);
    if (!socket.empty()) return place_of_socket(socket);
    if (!state.empty()) return place_of_state(state, file.run);
    if (!file.socket.empty()) return place_of_socket(file.socket);
    if (!file.state.empty()) return place_of_state(file.state, file.run);
    return place_of_state(kDefaultState, file.run.empty() ? kDefaultRun : file.run);
}

BusContext& Session::context() {
    if (!context_) context_.emplace();
    return *context_;
}

Result<Client*> Session::client() {
    if (!client_) {
        const auto deadline = steady_clock::now() + globals_.timeout;
        TRY(wait_for_service(place_.clients_socket, deadline, console_, stop_));
        client_.emplace(TRY(Client::connect(context(), place_.clients_socket)));
    }
    return &*client_;
}

std::string Session::next_request_id() {
    const bool first = !std::exchange(request_id_used_, true);
    return first && !globals_.request_id.empty() ? globals_.request_id : new_request_id();
}

Result<std::string> Session::call_raw(const std::string& type, const std::string& body, std::string_view what,
                                      std::string request_id) {
    Client& service = *TRY(client());
    if (request_id.empty()) request_id = next_request_id();
    TRY(service.send(request_id, type, body, globals_.timeout));
    while (true) {
        auto answer = service.receive(kSlice);
        if (answer && answer->request_id == request_id) {
            auto result = settle(std::move(*answer), what);
            if (!result && result.error().code == Errc::timed_out && changes_something(type)) {
                explain_timeout(result.error(), request_id);
            }
            return result;
        }
        if (must_stop()) return interrupted(what, changes_something(type) ? request_id : "");
        if (!answer && service.outstanding() == 0) {
            return Error{Errc::internal, fmt::format("{}: the request was lost", what)};
        }
    }
}

Result<std::string> Session::settle(Client::Answer answer, std::string_view what) const {
    if (!answer.body) return std::move(answer.body).error();
    auto checked = check_not_merely_accepted(*answer.body);
    if (!checked) {
        checked.error().message = fmt::format("{}: {}", what, checked.error().message);
        return std::move(checked).error();
    }
    return std::move(answer.body);
}

Error Session::interrupted(std::string_view what, const std::string& request_id) const {
    if (request_id.empty()) return Error{Errc::timed_out, fmt::format("interrupted: {}", what)};
    return Error{
        Errc::timed_out,
        fmt::format("interrupted: {} was sent and may go on; 'cowslip operations' shows it, and the same command "
                    "with --request-id {} asks for its answer",
                    what, request_id),
        {{"request_id", {request_id}}}};
}

}  // namespace cowslip::ctl
