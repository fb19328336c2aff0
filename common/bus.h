// ZeroMQ, as far as cowslip uses it: unix sockets, bounded queues, no call that blocks or throws.
// zmq.hpp is included by this one's .cpp only. A socket belongs to the thread that made it.
//
// Paths: sun_path holds 108 bytes, so a socket is bound and connected through /proc/self/fd/N of
// its folder, whatever the folder's length. A second bind of a path takes it from the first one
// silently: whoever binds holds the state folder's lock first (state_folder.h).
//
// A message is one frame (events: two). What has another number of frames is dropped and counted;
// so a client in another language is a DEALER, not a REQ, whose empty delimiter makes it two.
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

    // Lets what was sent before this socket's end still be delivered: the context's end waits for
    // that, but no longer than this. Without it the unsent is dropped.
    void linger(std::chrono::milliseconds most);

    struct Impl;
    Impl& impl() const { return *impl_; }

protected:
    explicit BusSocket(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

enum class Sent : std::uint8_t {
    done,       // Queued for it, which is no proof of arrival.
    no_peer,    // It went away, never was, or (a client's) is not connected yet.
    full,       // Its queue is at its bound: the message was not taken.
    too_large,  // More than kMaxFrameBytes.
};

struct Frame {
    std::string peer;  // Routing id.
    std::string payload;
    std::int64_t uid = -1;  // Of the peer process, by the kernel (SO_PEERCRED); -1 if unknown.
};

// ROUTER: the manager's doors.
class ServerSocket : public BusSocket {
public:
    // Replaces a dead socket file, and leaves one behind. `mode` is that of the socket file, from
    // the moment that it appears.
    static Result<ServerSocket> bind(BusContext& context, const std::string& path, mode_t mode);
    // Never waits. Once it has found nothing, it finds nothing before wait_readable was called.
    std::optional<Frame> receive();
    Sent send(const std::string& peer, std::string_view payload);
    // Whether a wait has seen some peer's connection end since the last call (ZeroMQ does not say whose).
    bool peer_disconnected();
    // Messages that were not one frame, since the bind.
    std::uint64_t dropped() const;

private:
    using BusSocket::BusSocket;
};

// DEALER: clients and actors. One connection: it never reconnects by itself, as what is sent in
// between would then overtake what was lost. When `disconnected`, make a new one and send again.
class ClientSocket : public BusSocket {
public:
    // Begins to connect; `send` says no_peer until that is done, and wait_readable wakes then. An
    // empty routing id lets the server choose one.
    static Result<ClientSocket> connect(BusContext& context, const std::string& path, const std::string& routing_id);
    std::optional<std::string> receive();  // As a server's.
    Sent send(std::string_view payload);
    // Whether a wait has seen that the connection has ended or could not be made. For good.
    bool disconnected();
    // Whom the process that listens at `path` belongs to; connects for a moment to look. Errors:
    // permission_denied, or unavailable: nobody listens there.
    static Result<uid_t> server_uid(const std::string& path);
    // The same, with its pid.
    struct Server {
        pid_t pid = 0;
        uid_t uid = 0;
    };
    static Result<Server> server(const std::string& path);

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

// SUB. `topics` are prefixes; one empty string is everything. Reconnects by itself; whoever must not
// miss an event watches `seq` (schemas/envelope.h).
class SubscriberSocket : public BusSocket {
public:
    struct Message {
        std::string topic;
        std::string payload;
    };
    static Result<SubscriberSocket> connect(BusContext& context, const std::string& path,
                                            const std::vector<std::string>& topics);
    std::optional<Message> receive();  // As a server's.
    // Whether a wait has seen the connection end, or be refused, since the last call.
    bool disconnected();

private:
    using BusSocket::BusSocket;
};

enum class Woken : std::uint8_t {
    event,
    time,
    signal,
};

// Waits until a socket may be readable or has a connection event, a plain fd is readable, or the
// time is up (a day at most). The only place where news of messages and connections comes in. Not for precise answers:
// ask each of them after. A publisher's subscriptions wake it, too, until they are drained.
Woken wait_readable(std::span<const BusSocket* const> sockets, std::span<const int> fds,
                    std::chrono::milliseconds timeout);

}  // namespace cowslip
