// What every actor process does but its work: the lock that proves whether it and its children
// still live, HELLO, one command at a time, and a new session when the manager has gone.
//
// protocol.md A15/A16 in short: a command is sent again only after its reply, or when this lock is
// free. So the lock is taken before HELLO and inherited by every child; and a HELLO is only sent
// with nothing in hand and nothing queued.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/bus.h"
#include "common/codec.h"
#include "common/files.h"
#include "common/result.h"
#include "schemas/envelope.h"

namespace cowslip {

// DIR/run/actors/<incarnation>, flock(LOCK_EX), mode 0644, held until the process and all its
// children (the descriptor is inherited: not close-on-exec) are gone. Removes files of dead ones.
// Nothing ever removes its own: while a child lives, the file has to be there to show it.
class ActorLock {
public:
    static Result<ActorLock> take(const std::string& actors_folder, std::string_view kind);
    const std::string& incarnation() const { return incarnation_; }
    int fd() const { return fd_.get(); }

private:
    ActorLock(std::string incarnation, Fd fd) : incarnation_(std::move(incarnation)), fd_(std::move(fd)) {}
    std::string incarnation_;
    Fd fd_;
};

// <kind>-<pid>-<8 hex digits>. A name that is none is not to be looked for in the file system.
bool is_incarnation(std::string_view name);

// The manager's side: is it proven that nobody is left who could carry out a command of this
// incarnation? False for a name that is none, or when the file cannot be opened.
bool actor_is_gone(const std::string& actors_folder, const std::string& incarnation);
// Names of all lock files there.
Result<std::vector<std::string>> list_actor_locks(const std::string& actors_folder);

// What became of one command: the encoded reply body, or an error. `rest`, if there, is done once that is
// on its way, and its result is the second reply.
struct CommandAnswer {
    using Rest = std::function<Result<std::string>()>;
    CommandAnswer(Result<std::string> first, Rest second = {}) : body(std::move(first)), rest(std::move(second)) {}
    Result<std::string> body;
    Rest rest;
};
using CommandHandler = std::function<CommandAnswer(std::string_view type, const msgpack::object& body)>;

// The handler for one message type, typed: `on<CreateThin>(type, body, [&](const CreateThin& m) -> Result<Verdict>
// {...})` returns nothing when `type` is another.
template <class Message, class Function>
std::optional<Result<std::string>> on(std::string_view type, const msgpack::object& body, Function&& function) {
    if (type != Message::kType) return std::nullopt;
    auto message = decode_as<Message>(body);
    if (!message) return Result<std::string>(message.error());
    Result<typename Message::Reply> reply = function(*message);
    if (!reply) return Result<std::string>(reply.error());
    return Result<std::string>(encode(*reply));
}

struct ActorSession {
    std::string socket_path;  // DIR/run/actors.sock
    uid_t manager_uid;        // Commands are accepted only over a socket whose server has this uid.
    std::string kind;         // "device", "mount".
    std::string version;
    int stop_fd;  // Readable: finish the command in hand, reply, return.
    // Readable between two commands, at most every 50 ms: if `on_event` says so, the manager is told to look. -1: there
    // is none now.
    std::function<int()> event_fd = {};
    std::function<bool()> on_event = {};
};

// Serves until stop_fd is readable; as long as there is no manager, it tries to connect. The reply
// to the command in hand is on its way when the context has ended. Error: the lock's file has been
// removed, so that this process must end and begin anew.
Result<void> serve_manager(BusContext& context, const ActorLock& lock, const ActorSession& session,
                           const CommandHandler& handler);

}  // namespace cowslip
