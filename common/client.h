// A client of the pool manager's door: typed calls with a deadline, sent again under the same
// request id when the manager dies in between, so that a restart of it costs time and nothing else.
// Many requests may be outstanding; those about one name are carried out in the order of `send`.
// Not thread safe: one Client a thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "common/bus.h"
#include "common/codec.h"
#include "common/result.h"
#include "schemas/envelope.h"

namespace cowslip {

// A new UUIDv7 in text form.
std::string new_request_id();

// Refuses the one body that is no answer yet: "accepted, goes on as operation N" (timed_out, with
// N in details["operation"]).
Result<void> check_not_merely_accepted(std::string_view body);

class Client {
public:
    // The socket need not exist yet: requests wait for it until their deadline (unavailable then).
    // permission_denied if it does and is not for us.
    static Result<Client> connect(BusContext& context, const std::string& socket_path);

    struct Answer {
        std::string request_id;
        // msgpack bytes of the reply's body; or the manager's error; or ours: timed_out (it may have
        // been done), unavailable (no manager).
        Result<std::string> body;
    };

    // Returns at once. `body` is an encoded message. At most 1024 may be outstanding (busy). The
    // manager is told a little less than `timeout`, so that its own word on it comes in time.
    Result<void> send(const std::string& request_id, const std::string& type, const std::string& body,
                      std::chrono::milliseconds timeout);
    // The next answer to anything outstanding; or nothing when `wait` is over, a signal came, or
    // nothing is outstanding.
    std::optional<Answer> receive(std::chrono::milliseconds wait);
    std::size_t outstanding() const { return requests_.size(); }

    // Sends one request and waits for its answer (others' answers stay for `receive`).
    Result<std::string> call_raw(const std::string& type, const std::string& body, std::chrono::milliseconds timeout,
                                 const std::string& request_id = new_request_id());

    template <class Message>
    Result<typename Message::Reply> call(const Message& message, std::chrono::milliseconds timeout,
                                         const std::string& request_id = new_request_id()) {
        const std::string body = TRY(call_raw(Message::kType, encode(message), timeout, request_id));
        TRY(check_not_merely_accepted(body));
        return decode_as<typename Message::Reply>(std::string_view(body));
    }

private:
    using Clock = std::chrono::steady_clock;
    struct Outstanding {
        std::string request_id;
        std::string type;
        std::string body;
        Clock::time_point deadline;
        bool sent = false;  // At least once, so it may have been done.
    };
    Client(BusContext& context, std::string socket_path) : context_(&context), socket_path_(std::move(socket_path)) {}

    Woken work(Clock::time_point until);
    void keep_connected(Clock::time_point now);
    void send_unsent(Clock::time_point now);
    void take_replies(Clock::time_point now);
    void take_reply(std::string_view bytes);
    void expire(Clock::time_point now);
    Error late(const Outstanding& request) const;
    void answer(std::uint64_t order, Result<std::string> body);

    BusContext* context_;
    std::string socket_path_;
    std::optional<ClientSocket> socket_;
    Clock::time_point next_connect_{};  // While there is no socket.
    Clock::time_point heard_{};         // When a reply last came, or all was sent again.
    std::chrono::milliseconds pause_{};
    std::map<std::uint64_t, Outstanding> requests_;  // In the order of `send`.
    std::map<std::string, std::uint64_t> orders_;    // By request id.
    std::deque<Answer> answers_;
    std::uint64_t next_order_ = 0;
    std::uint64_t first_unsent_ = 0;  // On this connection.
};

}  // namespace cowslip
