// One run of the command line: what was asked of every command, the connection to the service, and
// the calls over it. A call ends with the answer, a named error, or the user's Ctrl-C; an operation
// that was accepted and goes on is an error of kind timed_out that says how to wait for it.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "common/client.h"
#include "common/options.h"
#include "common/result.h"
#include "services/ctl/output.h"
#include "services/ctl/stop_signal.h"

namespace cowslip::ctl {

struct Globals {
    std::string state = {};
    std::string socket = {};
    std::string request_id = {};
    std::string config = {};
    std::chrono::milliseconds timeout{30000};
    bool timeout_given = false;
    bool json = false;
    bool exact_bytes = false;
    bool no_color = false;
};

// Where a service is found. `state` and `run` are empty when only a socket was named.
struct Place {
    std::string state;
    std::string run;
    std::string clients_socket;
    std::string events_socket;
};

// A flag goes before the environment (COWSLIP_SOCKET, COWSLIP_STATE), that before the file, a socket
// before a state folder, and with none of them it is the host's default pool.
Result<Place> find_place(const Globals& globals, const char* environment_state, const char* environment_socket,
                         const ConfigFile& file = {});

class Session {
public:
    Session(Globals globals, Place place, const Console& console, StopSignal& stop)
        : globals_(std::move(globals)), place_(std::move(place)), console_(console), stop_(stop) {}

    const Globals& globals() const { return globals_; }
    const Place& place() const { return place_; }
    const Console& console() const { return console_; }
    StopSignal& stop() { return stop_; }

    // Connected; waits for a service that is only starting, and says that it does.
    Result<Client*> client();
    BusContext& context();

    // `what` names the request in messages: "create 'x'".
    template <class Message>
    Result<typename Message::Reply> call(const Message& message, std::string_view what) {
        const std::string body = TRY(call_raw(Message::kType, encode(message), what));
        return decode_as<typename Message::Reply>(std::string_view(body));
    }
    // An empty request id: the next one.
    Result<std::string> call_raw(const std::string& type, const std::string& body, std::string_view what,
                                 std::string request_id = "");

    // From now on only a second Ctrl-C ends a call: for the few that must not be left undone.
    void ignore_first_stop() { ignores_first_stop_ = true; }

    // An answer as its caller should see it. For those who use the client themselves.
    Result<std::string> settle(Client::Answer answer, std::string_view what) const;
    // What an interrupted request is told as.
    Error interrupted(std::string_view what, const std::string& request_id) const;

    // --request-id at its first use, then new ones.
    std::string next_request_id();

private:
    bool must_stop() { return ignores_first_stop_ ? stop_.caught_again() : stop_.caught() != 0; }

    Globals globals_;
    Place place_;
    const Console& console_;
    StopSignal& stop_;
    std::optional<BusContext> context_;
    std::optional<Client> client_;  // After the context: its socket goes first.
    bool request_id_used_ = false;
    bool ignores_first_stop_ = false;
};

}  // namespace cowslip::ctl
