#include "common/client.h"

#include <sys/random.h>

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "schemas/pool_manager.h"

namespace cowslip {

namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMostOutstanding = 1024;
constexpr std::size_t kRequestIdMost = 128;
constexpr std::chrono::milliseconds kPauseFirst = 20ms;
constexpr std::chrono::milliseconds kPauseMost = 500ms;
constexpr std::chrono::milliseconds kTimeoutMost{UINT32_MAX};
// A connection that lives loses nothing; this is for a manager that had no room for a reply.
constexpr std::chrono::milliseconds kSilenceMost = 5s;

// What of the time left is the manager's: it answers "accepted, goes on" when that is over, and
// this says more than our own time-out.
std::uint32_t time_for_manager(std::chrono::milliseconds left) {
    const auto way_back = std::min(left / 10, std::chrono::milliseconds(500));
    return static_cast<std::uint32_t>(std::clamp<std::int64_t>((left - way_back).count(), 1, UINT32_MAX));
}

}  // namespace

std::string new_request_id() {
    std::array<unsigned char, 16> bytes{};
    // Cannot fail: once the kernel's pool is ready, up to 256 bytes come whole and at once.
    if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) std::abort();
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto ms = static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
    for (std::size_t i = 0; i < 6; ++i) bytes.at(i) = static_cast<unsigned char>(ms >> (40 - 8 * i));
    bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0FU) | 0x70U);
    bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3FU) | 0x80U);
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
        text += kDigits[bytes.at(i) >> 4U];
        text += kDigits[bytes.at(i) & 0x0FU];
    }
    return text;
}

Result<void> check_not_merely_accepted(std::string_view body) {
    const auto answer = decode_as<schemas::Accepted>(body);
    if (!answer || !answer->accepted) return {};
    return Error{Errc::timed_out,
                 fmt::format("the time is up, but the request was accepted and goes on; try 'cowslip wait {}'",
                             answer->operation),
                 {{"operation", {std::to_string(answer->operation)}}}};
}

Result<Client> Client::connect(BusContext& context, const std::string& socket_path) {
    const auto server = ClientSocket::server_uid(socket_path);
    if (!server && server.error().code != Errc::unavailable) return server.error();
    return Client(context, socket_path);
}

Result<void> Client::send(const std::string& request_id, const std::string& type, const std::string& body,
                          std::chrono::milliseconds timeout) {
    if (request_id.empty() || request_id.size() > kRequestIdMost) {
        return Error{Errc::invalid_argument, fmt::format("request id '{}': 1 to 128 bytes are allowed", request_id)};
    }
    if (type.size() + body.size() + kRequestIdMost + 128 > kMaxFrameBytes) {
        return Error{Errc::invalid_argument, fmt::format("send '{}': {} bytes are too many", type, body.size())};
    }
    if (requests_.size() >= kMostOutstanding) {
        return Error{Errc::busy, fmt::format("send '{}': {} requests are outstanding", type, requests_.size())};
    }
    const auto now = Clock::now();
    if (!orders_.emplace(request_id, next_order_).second) {
        return Error{Errc::already_exists, fmt::format("request id '{}': it is outstanding already", request_id)};
    }
    if (requests_.empty()) heard_ = now;
    requests_.emplace(next_order_++, Outstanding{request_id, type, body, now + std::min(timeout, kTimeoutMost)});
    keep_connected(now);
    send_unsent(now);
    return {};
}

std::optional<Client::Answer> Client::receive(std::chrono::milliseconds wait) {
    const auto until = Clock::now() + wait;
    while (answers_.empty()) {
        const Woken woken = work(until);
        if (answers_.empty() && (requests_.empty() || woken == Woken::signal || Clock::now() >= until)) {
            return std::nullopt;
        }
    }
    Answer first = std::move(answers_.front());
    answers_.pop_front();
    return first;
}

Result<std::string> Client::call_raw(const std::string& type, const std::string& body,
                                     std::chrono::milliseconds timeout, const std::string& request_id) {
    TRY(send(request_id, type, body, timeout));
    for (;;) {
        const auto mine = std::find_if(answers_.begin(), answers_.end(),
                                       [&](const Answer& answer) { return answer.request_id == request_id; });
        if (mine != answers_.end()) {
            auto answered = std::move(mine->body);
            answers_.erase(mine);
            return answered;
        }
        work(Clock::now() + timeout);  // Its deadline ends this.
    }
}

// Does what there is to do, then waits until there is more, or an answer.
Woken Client::work(Clock::time_point until) {
    const auto now = Clock::now();
    const std::size_t before = answers_.size();
    take_replies(now);
    keep_connected(now);
    send_unsent(now);
    expire(now);
    if (answers_.size() != before || requests_.empty()) return Woken::event;

    until = std::min(until, socket_ ? heard_ + kSilenceMost : next_connect_);
    for (const auto& [order, request] : requests_) until = std::min(until, request.deadline);
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(until - now);
    if (!socket_) return wait_readable({}, {}, wait);
    const std::array<const BusSocket*, 1> sockets = {&*socket_};
    return wait_readable(sockets, {}, wait);
}

// All that is outstanding is sent again, in its order, on each new connection. The manager knows
// a request id that it has seen.
void Client::keep_connected(Clock::time_point now) {
    if (socket_ && socket_->disconnected()) {
        take_replies(now);
        socket_.reset();
        next_connect_ = now + pause_;
        pause_ = std::clamp(pause_ * 2, kPauseFirst, kPauseMost);
    }
    if (!socket_ && now >= next_connect_) {
        auto fresh = ClientSocket::connect(*context_, socket_path_, "");
        if (fresh) {
            socket_.emplace(std::move(*fresh));
        } else {
            next_connect_ = now + kPauseMost;
        }
        first_unsent_ = 0;
        heard_ = now;
    }
    if (socket_ && now >= heard_ + kSilenceMost) {
        if (first_unsent_ == 0) socket_.reset();  // Nothing could be sent on it: begin with another.
        first_unsent_ = 0;
        heard_ = now;
    }
}

void Client::send_unsent(Clock::time_point now) {
    if (!socket_) return;
    for (auto next = requests_.lower_bound(first_unsent_); next != requests_.end(); ++next) {
        auto& [order, request] = *next;
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(request.deadline - now);
        const std::string bytes = encode(schemas::RequestOf<Encoded>{
            schemas::kProtocolVersion, request.request_id, request.type, time_for_manager(left), {request.body}});
        if (socket_->send(bytes) != Sent::done) return;
        request.sent = true;
        first_unsent_ = order + 1;
    }
}

void Client::take_replies(Clock::time_point now) {
    if (!socket_) return;
    while (const auto bytes = socket_->receive()) {
        heard_ = now;
        pause_ = 0ms;
        take_reply(*bytes);
    }
}

void Client::take_reply(std::string_view bytes) {
    const auto document = decode(bytes);
    const auto reply =
        document ? decode_as<schemas::Reply>(document->root()) : Result<schemas::Reply>(document.error());
    if (!reply) {
        spdlog::warn("event=reply_dropped bytes={} error='{}'", bytes.size(), reply.error().message);
        return;
    }
    const auto order = orders_.find(reply->request_id);
    if (order == orders_.end()) return;  // The second answer to what was sent twice, or one that came late.
    if (reply->error) {
        answer(order->second, schemas::from_wire(*reply->error));
    } else if (reply->v != schemas::kProtocolVersion) {
        answer(order->second, Error{Errc::unimplemented, fmt::format("the pool manager speaks protocol {}, we {}",
                                                                     reply->v, schemas::kProtocolVersion)});
    } else {
        answer(order->second, encode(reply->body));
    }
}

void Client::expire(Clock::time_point now) {
    std::vector<std::uint64_t> over;
    for (const auto& [order, request] : requests_) {
        if (now >= request.deadline) over.push_back(order);
    }
    for (const std::uint64_t order : over) answer(order, late(requests_.at(order)));
}

Error Client::late(const Outstanding& request) const {
    const auto server = ClientSocket::server_uid(socket_path_);
    const std::string_view fate = request.sent ? "the request may have been done" : "nothing was done";
    if (!server) {
        const bool absent = server.error().code == Errc::unavailable;
        return Error{server.error().code,
                     fmt::format("{}; {}{}", server.error().message, fate,
                                 absent ? "; is the service running? try 'cowslip up --state DIR'" : "")};
    }
    return Error{Errc::timed_out, fmt::format("wait for the answer to '{}': the pool manager is silent; {}; try "
                                              "'cowslip status', or the same again with --request-id {}",
                                              request.type, fate, request.request_id)};
}

void Client::answer(std::uint64_t order, Result<std::string> body) {
    const auto request = requests_.find(order);
    answers_.push_back({request->second.request_id, std::move(body)});
    orders_.erase(request->second.request_id);
    requests_.erase(request);
}

}  // namespace cowslip
