// ZeroMQ, as far as cowslip uses it: unix sockets, bounded queues, no call that blocks. The only
// files that include zmq.hpp are this one's .cpp and its private header. A socket belongs to the
// thread that made it.
//
// Paths: sun_path holds 108 bytes, so a socket is bound and connected through /proc/self/fd/N of
// its folder, whatever the folder's length. A second bind of an ipc path would steal it silently:
// whoever binds holds the state folder's lock first (state_folder.h).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace cowslip {

// Messages that a socket holds for one peer before it says `full`.
inline constexpr int kQueueMessages = 256;

// One per process; outlives its sockets. Destroying it never waits (linger is 0).
class BusContext {
public:
    BusContext();
    ~BusContext();
    BusContext(const BusContext&) = delete;
    BusContext& operator=(const BusContext&) = delete;

    struct Impl;
    Impl& impl() { return *impl_; }

private:
    std::unique_ptr<Impl> impl_;
};

// A socket of ours, hidden; movable.
class BusSocket {
public:
    BusSocket(BusSocket&&) noexcept;
    BusSocket& operator=(BusSocket&&) noexcept;
    ~BusSocket();

    struct Impl;
    Impl& impl() const { return *impl_; }

protected:
    explicit BusSocket(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

enum class Sent : std::uint8_t {
    done,
    no_peer,  // It went away, or never was.
    full,     // Its queue is at its bound: the message was not taken.
};

struct Frame {
    std::string peer;     // Routing id.
    std::string payload;  // Exactly one frame; messages of more or fewer parts are dropped.
    std::int64_t uid = -1;  // Of the peer process, by the kernel (SO_PEERCRED); -1 if unknown.
};

// ROUTER: the manager's doors.
class ServerSocket : public BusSocket {
public:
    // Replaces a dead socket file. `mode` is that of the socket file.
    static Result<ServerSocket> bind(BusContext& context, const std::string& path, mode_t mode);
    std::optional<Frame> receive();  // Never waits.
    Sent send(const std::string& peer, std::string_view payload);
    // Whether some peer's connection has ended since the last call (ZeroMQ does not say whose).
    bool peer_disconnected();

private:
    using BusSocket::BusSocket;
};

// DEALER: clients and actors. Reconnects by itself, silently; `disconnected` tells.
class ClientSocket : public BusSocket {
public:
    // An empty routing id lets the server choose one.
    static Result<ClientSocket> connect(BusContext& context, const std::string& path, const std::string& routing_id);
    std::optional<std::string> receive();
    Sent send(std::string_view payload);
    // Whether the connection has ended (its server died) since the last call.
    bool disconnected();
    // Whether the server's end of the connection belongs to `uid`; connects by itself to look.
    Result<uid_t> server_uid() const;

private:
    using BusSocket::BusSocket;
};

// XPUB: drops, per subscriber, what a slow one does not take.
class PublisherSocket : public BusSocket {
public:
    static Result<PublisherSocket> bind(BusContext& context, const std::string& path, mode_t mode);
    void publish(std::string_view topic, std::string_view payload);
    // Reads what subscribers sent (subscriptions), so that it cannot pile up.
    void drain();

private:
    using BusSocket::BusSocket;
};

// SUB. `topics` are prefixes; one empty string is everything.
class SubscriberSocket : public BusSocket {
public:
    struct Message {
        std::string topic;
        std::string payload;
    };
    static Result<SubscriberSocket> connect(BusContext& context, const std::string& path,
                                            const std::vector<std::string>& topics);
    std::optional<Message> receive();

private:
    using BusSocket::BusSocket;
};

// Waits until a socket may be readable or has a connection event, a plain fd is readable, or the
// time is up. Also returns early on a signal. Not for precise answers: ask each of them after.
void wait_readable(std::span<const BusSocket* const> sockets, std::span<const int> fds,
                   std::chrono::milliseconds timeout);

}  // namespace cowslip
