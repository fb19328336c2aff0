// What surrounds every message on the bus. One msgpack map per frame, string keys.
//
//   client  -> manager   Request{v, request_id, type, timeout_ms, body}      DEALER -> ROUTER
//   manager -> client    Reply{v, request_id, body | error}
//   actor   -> manager   FromActor{v, hello | reply | look}                  DEALER -> ROUTER
//   manager -> actor     Command{v, operation, step, attempt, type, body}
//   manager -> everybody [type][Event{seq, time, type, subject, body}]       XPUB, two frames
//
// `v` is the protocol's major version; another one is refused. schemas/bus.md is the document.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/codec.h"

namespace cowslip::schemas {

inline constexpr std::uint32_t kProtocolVersion = 1;

// The base of a message without fields, as COWSLIP_FIELDS wants at least one.
struct NoFields {
    template <class Packer>
    void msgpack_pack(Packer& packer) const {
        packer.pack_map(0);
    }
    static void msgpack_unpack(const msgpack::object& object) {
        if (object.type != msgpack::type::MAP) throw msgpack::type_error();
    }
};

// `Body` is a message struct when encoding and msgpack::object when decoding.
template <class Body>
struct RequestOf {
    std::uint32_t v = kProtocolVersion;
    std::string request_id;  // 1-128 bytes, chosen by the client; the key of a repeat.
    std::string type;
    std::uint32_t timeout_ms = 30000;  // From arrival at the manager to its answer.
    Body body{};
    COWSLIP_FIELDS(v, request_id, type, timeout_ms, body)
};
using Request = RequestOf<msgpack::object>;

struct WireError {
    std::string code;
    std::string message;
    std::map<std::string, std::vector<std::string>> details;
    bool retryable = false;
    COWSLIP_FIELDS(code, message, details, retryable)
};

inline WireError to_wire(const Error& error) {
    return {std::string(to_string(error.code)), error.message, error.details, cowslip::retryable(error.code)};
}
inline Error from_wire(const WireError& error) {
    return {parse_errc(error.code), error.message, error.details};
}

template <class Body>
struct ReplyOf {
    std::uint32_t v = kProtocolVersion;
    std::string request_id;
    Body body{};
    COWSLIP_FIELDS(v, request_id, body)
};

struct ErrorReply {
    std::uint32_t v = kProtocolVersion;
    std::string request_id;
    WireError error;
    COWSLIP_FIELDS(v, request_id, error)
};

// Either of the two above, as a client reads it.
struct Reply {
    std::uint32_t v = 0;
    std::string request_id;
    msgpack::object body;
    std::optional<WireError> error;
    COWSLIP_FIELDS(v, request_id, body, error)
};

// Told to one actor at a time; (operation, step, attempt) comes back in its reply and tells a
// current answer from a stale one.
template <class Body>
struct CommandOf {
    std::uint32_t v = kProtocolVersion;
    std::uint64_t operation = 0;
    std::uint32_t step = 0;
    std::uint32_t attempt = 0;
    std::string type;
    Body body{};
    COWSLIP_FIELDS(v, operation, step, attempt, type, body)
};
using Command = CommandOf<msgpack::object>;

// An actor's first message on each connection. It says: "I hold this lock, I am carrying out
// nothing, and what an older connection may still deliver I shall not run."
struct Hello {
    std::string kind;         // "device" or "mount".
    std::string incarnation;  // The name of its lock file in DIR/run/actors, and its routing id.
    std::uint32_t pid = 0;
    std::string version;
    COWSLIP_FIELDS(kind, incarnation, pid, version)
};

template <class Body>
struct CommandReplyOf {
    std::uint64_t operation = 0;
    std::uint32_t step = 0;
    std::uint32_t attempt = 0;
    Body body{};
    std::optional<WireError> error;  // The command was not carried out at all, or failed outside the kernel.
    bool more = false;               // A second reply to this command follows: the actor has gone on.
    COWSLIP_FIELDS(operation, step, attempt, body, error, more)
};
using CommandReply = CommandReplyOf<msgpack::object>;

template <class Body>
struct FromActorOf {
    std::uint32_t v = kProtocolVersion;
    std::optional<Hello> hello;
    std::optional<CommandReplyOf<Body>> reply;
    bool look = false;  // The kernel tells of something that has happened to the pool.
    COWSLIP_FIELDS(v, hello, reply, look)
};
using FromActor = FromActorOf<msgpack::object>;

// A fact, written in the same commit as the change it tells of. `seq` has no gaps; a subscriber
// that sees one asks for event.since.
template <class Body>
struct EventOf {
    std::uint64_t seq = 0;
    std::string time;     // RFC 3339, UTC, milliseconds.
    std::string type;     // "volume.created"; also the first frame of the published message.
    std::string subject;  // The volume's id, mostly.
    Body body{};
    COWSLIP_FIELDS(seq, time, type, subject, body)
};
using Event = EventOf<msgpack::object>;

}  // namespace cowslip::schemas
