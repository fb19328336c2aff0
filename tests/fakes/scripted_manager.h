// The other end of a client's wire: answers requests by type as a test has scripted, remembers what
// it was asked, and publishes what it is given. Speaks the real protocol over real sockets.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/bus.h"
#include "common/codec.h"
#include "schemas/pool_manager.h"

namespace cowslip {

class ScriptedManager {
public:
    // The encoded reply body, an error, or nothing: no answer at all.
    using Handler = std::function<std::optional<Result<std::string>>(const schemas::Request&)>;

    // `folder` becomes a state folder's run.
    explicit ScriptedManager(const std::string& folder)
        : clients_(ServerSocket::bind(context_, folder + "/clients.sock", 0600).value()),
          events_(PublisherSocket::bind(context_, folder + "/events.sock", 0600).value()) {}
    ScriptedManager(const ScriptedManager&) = delete;
    ScriptedManager& operator=(const ScriptedManager&) = delete;
    ~ScriptedManager() {
        stop_ = true;
        if (thread_.joinable()) thread_.join();
    }

    template <class Message>
    void on(std::function<Result<typename Message::Reply>(const Message&)> function) {
        handlers_[Message::kType] = [function](const schemas::Request& request) -> std::optional<Result<std::string>> {
            const auto message = decode_as<Message>(request.body);
            if (!message) return Result<std::string>(message.error());
            const Result<typename Message::Reply> reply = function(*message);
            if (!reply) return Result<std::string>(reply.error());
            return Result<std::string>(encode(*reply));
        };
    }
    void on_raw(const std::string& type, Handler handler) { handlers_[type] = std::move(handler); }

    // After all on().
    void start() {
        thread_ = std::thread([this] { serve(); });
    }

    // From any thread; sent by the serving one.
    void publish(const schemas::EventOf<std::map<std::string, std::string>>& event) {
        const std::lock_guard lock(mutex_);
        to_publish_.emplace_back(event.type, encode(event));
    }
    std::vector<std::string> types_asked() {
        const std::lock_guard lock(mutex_);
        return asked_;
    }

private:
    void serve() {
        const std::vector<const BusSocket*> sockets{&clients_, &events_};
        while (!stop_) {
            wait_readable(sockets, {}, std::chrono::milliseconds(5));
            events_.drain();
            publish_all();
            while (const auto frame = clients_.receive()) answer(*frame);
        }
    }

    void publish_all() {
        const std::lock_guard lock(mutex_);
        for (const auto& [topic, payload] : to_publish_) events_.publish(topic, payload);
        to_publish_.clear();
    }

    void answer(const Frame& frame) {
        const auto document = decode(frame.payload);
        const auto request = document ? decode_as<schemas::Request>(document->root()) : document.error();
        if (!request) return;
        {
            const std::lock_guard lock(mutex_);
            asked_.push_back(request->type);
        }
        const auto handler = handlers_.find(request->type);
        std::optional<Result<std::string>> body = Error{Errc::unimplemented, "unknown type '" + request->type + "'"};
        if (handler != handlers_.end()) body = handler->second(*request);
        if (body) clients_.send(frame.peer, reply(request->request_id, *body));
    }

    static std::string reply(const std::string& request_id, const Result<std::string>& body) {
        if (!body) {
            const Error& error = body.error();
            return encode(schemas::ErrorReply{
                .request_id = request_id,
                .error = {std::string(to_string(error.code)), error.message, error.details, retryable(error.code)}});
        }
        const auto document = decode(*body);
        return encode(schemas::ReplyOf<msgpack::object>{.request_id = request_id, .body = document->root()});
    }

    BusContext context_;
    ServerSocket clients_;
    PublisherSocket events_;
    std::map<std::string, Handler> handlers_;
    std::mutex mutex_;  // Guards the two below.
    std::vector<std::string> asked_;
    std::vector<std::pair<std::string, std::string>> to_publish_;
    std::atomic<bool> stop_ = false;
    std::thread thread_;
};

}  // namespace cowslip
