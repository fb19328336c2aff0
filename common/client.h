// A client of the pool manager's door: typed calls with a deadline, sent again under the same
// request id when the manager dies in between, so that a restart of it costs time and nothing else.
// Many requests may be outstanding; those about one name are carried out in the order of `send`.
// Not thread safe: one Client a thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "common/bus.h"
#include "common/codec.h"
#include "common/result.h"
#include "schemas/envelope.h"

namespace cowslip {

// A new UUIDv7 in text form.
std::string new_request_id();

class Client {
public:
    // The socket need not exist yet: requests wait for it until their deadline (unavailable then).
    static Result<Client> connect(BusContext& context, const std::string& socket_path);

    struct Answer {
        std::string request_id;
        Result<std::string> body;  // msgpack bytes of the reply's body; or the manager's error, or timed_out.
    };

    // Returns at once. `body` is an encoded message. At most 1024 may be outstanding (busy).
    Result<void> send(const std::string& request_id, const std::string& type, const std::string& body,
                      std::chrono::milliseconds timeout);
    // The next answer to anything outstanding, or nothing when `wait` is over or a signal came.
    std::optional<Answer> receive(std::chrono::milliseconds wait);
    std::size_t outstanding() const { return requests_.size(); }

    // Sends one request and waits for its answer (others' answers stay for `receive`).
    Result<std::string> call_raw(const std::string& type, const std::string& body, std::chrono::milliseconds timeout,
                                 const std::string& request_id = new_request_id());

    template <class Message>
    Result<typename Message::Reply> call(const Message& message, std::chrono::milliseconds timeout,
                                         const std::string& request_id = new_request_id()) {
        const std::string body = TRY(call_raw(Message::kType, encode(message), timeout, request_id));
        return decode_as<typename Message::Reply>(std::string_view(body));
    }

private:
    struct Outstanding {
        std::uint64_t order = 0;
        std::string type;
        std::string body;
        std::chrono::steady_clock::time_point deadline;
        bool sent = false;
    };
    explicit Client(ClientSocket socket) : socket_(std::move(socket)) {}

    ClientSocket socket_;
    std::map<std::string, Outstanding> requests_;  // By request id.
    std::map<std::string, Result<std::string>> answers_;
    std::uint64_t next_order_ = 0;
};

}  // namespace cowslip
