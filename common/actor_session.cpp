#include "common/actor_session.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <memory>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

namespace cowslip {

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Between two looks for a manager: where its door is watched, and where it cannot be.
constexpr std::chrono::milliseconds kRetryBesideWatch = 1000ms;
constexpr std::chrono::milliseconds kRetry = 100ms;
constexpr std::chrono::milliseconds kConnectMost = 10s;
constexpr std::chrono::milliseconds kIdleWait = 60s;
constexpr std::chrono::milliseconds kLastReplyMost = 1s;
// From one event to the next: others' work may make hundreds a second, of which none is for us.
constexpr std::chrono::milliseconds kBetweenEvents = 50ms;

// O_NOFOLLOW: the folder lies in one that the unprivileged account can write to.
int open_folder(const std::string& path) {
    return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

Result<std::vector<std::string>> names_in(const std::string& folder) {
    const int fd = open_folder(folder);
    const std::unique_ptr<DIR, int (*)(DIR*)> entries(fd < 0 ? nullptr : ::fdopendir(fd), &::closedir);
    if (!entries) {
        const int number = errno;
        if (fd >= 0) ::close(fd);
        return errno_error(number, fmt::format("list the actors' locks '{}'", folder));
    }
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(entries.get())) names.emplace_back(entry->d_name);
    return names;
}

// A lock file has this name until it is locked.
std::string unready(const std::string& incarnation) {
    return "." + incarnation;
}

void remove_dead_locks(int folder_fd, const std::vector<std::string>& names) {
    for (const std::string& name : names) {
        if (!is_incarnation(name) && !(name.starts_with('.') && is_incarnation(name.substr(1)))) continue;
        const Fd file(::openat(folder_fd, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
        // With the lock in hand nobody else can have it; an actor at its start that loses it tries again.
        if (file && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0) ::unlinkat(folder_fd, name.c_str(), 0);
    }
}

// A new, locked file, or none and errno. EAGAIN: somebody took it for a dead one.
Fd make_lock(int folder_fd, const std::string& incarnation) {
    const std::string fresh = unready(incarnation);
    Fd file(::openat(folder_fd, fresh.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0644));
    if (!file || ::fchmod(file.get(), 0644) != 0 || ::flock(file.get(), LOCK_EX | LOCK_NB) != 0) return Fd();
    if (::renameat(folder_fd, fresh.c_str(), folder_fd, incarnation.c_str()) == 0) return file;
    if (errno == ENOENT) errno = EAGAIN;
    return Fd();
}

Result<std::string> new_incarnation(std::string_view kind) {
    std::uint32_t random = 0;
    if (::getrandom(&random, sizeof(random), 0) != sizeof(random)) return errno_error(errno, "read random bytes");
    std::string name = fmt::format("{}-{}-{:08x}", kind, ::getpid(), random);
    if (!is_incarnation(name)) return Error{Errc::invalid_argument, fmt::format("actor kind '{}'", kind)};
    return name;
}

// What a reply needs of a command, for when the rest of it is not to be understood.
struct CommandNumber {
    std::uint64_t operation = 0;
    std::uint32_t step = 0;
    std::uint32_t attempt = 0;
    COWSLIP_FIELDS(operation, step, attempt)
};

// What `work` for a command of that type returns, or the exception that it ended with.
template <class Work>
auto guarded(std::string_view type, const Work& work) -> decltype(work()) {
    try {
        return work();
    } catch (const std::exception& error) {
        return {Error{Errc::internal, fmt::format("carry out '{}': {}", type, error.what())}};
    } catch (...) {
        return {Error{Errc::internal, fmt::format("carry out '{}': an unknown exception", type)}};
    }
}

CommandAnswer carry_out(const msgpack::object& root, const CommandHandler& handler) {
    const auto command = decode_as<schemas::Command>(root);
    if (!command) return {command.error()};
    if (command->v != schemas::kProtocolVersion) {
        return {Error{Errc::unimplemented, fmt::format("command '{}': protocol version {} instead of {}", command->type,
                                                       command->v, schemas::kProtocolVersion)}};
    }
    CommandAnswer answer = guarded(command->type, [&] { return handler(command->type, command->body); });
    if (answer.rest) {
        answer.rest = [type = command->type, rest = std::move(answer.rest)] { return guarded(type, rest); };
    }
    return answer;
}

std::string encode_frame(const CommandNumber& number, const Result<std::string>& body, bool more) {
    schemas::CommandReplyOf<Encoded> reply{number.operation, number.step, number.attempt, {}, {}, more};
    if (body) {
        reply.body.bytes = *body;
    } else {
        reply.error = schemas::to_wire(body.error());
    }
    return encode(schemas::FromActorOf<Encoded>{schemas::kProtocolVersion, {}, std::move(reply)});
}

std::string encode_reply(const CommandNumber& number, const Result<std::string>& body, bool more) {
    if (!body) {
        spdlog::warn("event=command_failed operation={} step={} attempt={} error='{}'", number.operation, number.step,
                     number.attempt, body.error().message);
    }
    std::string frame = encode_frame(number, body, more);
    if (frame.size() <= kMaxFrameBytes) return frame;
    return encode_frame(number, Error{Errc::internal, fmt::format("reply: {} bytes are too many", frame.size())}, more);
}

// Carries out one command. False: a reply could not be sent, as the manager has gone.
bool serve_command(ClientSocket& socket, std::string_view bytes, const CommandHandler& handler) {
    const auto document = decode(bytes);
    const auto number = document && document->root().type == msgpack::type::MAP
                            ? decode_as<CommandNumber>(document->root())
                            : Result<CommandNumber>(Error{Errc::invalid_argument, "not a map"});
    if (!number) {
        spdlog::warn("event=command_dropped bytes={} error='{}'", bytes.size(),
                     document ? number.error().message : document.error().message);
        return true;  // Nobody can tell what a reply would be to.
    }
    const CommandAnswer answer = carry_out(document->root(), handler);
    const bool more = static_cast<bool>(answer.rest);
    if (socket.send(encode_reply(*number, answer.body, more)) != Sent::done) return false;
    if (!more) return true;
    return socket.send(encode_reply(*number, answer.rest(), false)) == Sent::done;
}

bool readable(int fd) {
    return wait_readable({}, {&fd, 1}, 0ms) == Woken::event;
}

// Tells when a door is made: an open one takes the place of a dead manager's, whose file then loses its name (bus.cpp);
// where there is none, something gets a name in its folder. So a manager that is started again is met at once, and
// while it starts nobody takes its processor by looking for it.
class DoorWatch {
public:
    explicit DoorWatch(std::string socket_path) : path_(std::move(socket_path)) {}
    // From now on, whatever there was before. False: it cannot be watched.
    bool begin() {
        fd_ = Fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
        if (!fd_) return false;
        if (::inotify_add_watch(fd_.get(), path_.c_str(), IN_ATTRIB | IN_DELETE_SELF | IN_DONT_FOLLOW) >= 0)
            return true;
        const std::string folder = std::filesystem::path(path_).parent_path();
        return ::inotify_add_watch(fd_.get(), folder.c_str(), IN_MOVED_TO | IN_ONLYDIR) >= 0;
    }
    int fd() const { return fd_.get(); }

private:
    std::string path_;
    Fd fd_;
};

// Without its name in the folder the lock shows nothing to anybody, and the manager would take us
// for dead.
Result<void> check_lock_is_seen(const ActorLock& lock) {
    struct stat about {};
    if (::fstat(lock.fd(), &about) == 0 && about.st_nlink > 0) return {};
    return Error{Errc::internal, fmt::format("actor's lock '{}': somebody has removed its file", lock.incarnation())};
}

// A connection on which HELLO has been sent; nothing else is on it yet.
Result<ClientSocket> open_session(BusContext& context, const ActorLock& lock, const ActorSession& session) {
    const uid_t uid = TRY(ClientSocket::server_uid(session.socket_path));
    if (uid != session.manager_uid) {
        return Error{Errc::permission_denied, fmt::format("connect '{}': its server has uid {} instead of {}",
                                                          session.socket_path, uid, session.manager_uid)};
    }
    auto socket = TRY(ClientSocket::connect(context, session.socket_path, lock.incarnation()));
    const schemas::Hello hello{session.kind, lock.incarnation(), static_cast<std::uint32_t>(::getpid()),
                               session.version};
    const std::string bytes = encode(schemas::FromActorOf<Encoded>{schemas::kProtocolVersion, hello, std::nullopt});
    const auto end = Clock::now() + kConnectMost;
    while (Clock::now() < end && !socket.disconnected() && !readable(session.stop_fd)) {
        if (socket.send(bytes) == Sent::done) return socket;
        const std::array<const BusSocket*, 1> sockets = {&socket};
        wait_readable(sockets, {&session.stop_fd, 1}, std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()));
    }
    return Error{Errc::unavailable, fmt::format("say hello at '{}': no connection", session.socket_path)};
}

enum class SessionEnd : std::uint8_t {
    stopped,
    disconnected,
};

// Whatever the older manager still had queued for us ends with the socket, unread: that is what
// the next HELLO promises.
SessionEnd serve_session(ClientSocket socket, const ActorSession& session, const CommandHandler& handler) {
    const std::array<const BusSocket*, 1> sockets = {&socket};
    auto next_event = Clock::now();
    for (;;) {
        const auto command = socket.receive();
        if (command && !serve_command(socket, *command, handler)) {
            spdlog::warn("event=reply_dropped reason='the manager has gone'");
            return SessionEnd::disconnected;
        }
        const auto rest = std::chrono::ceil<std::chrono::milliseconds>(next_event - Clock::now());
        const int event_fd = session.event_fd && rest <= 0ms ? session.event_fd() : -1;
        const std::array<int, 2> fds = {session.stop_fd, event_fd};
        wait_readable(sockets, std::span(fds).first(event_fd < 0 ? 1 : 2), rest > 0ms ? rest : kIdleWait);
        if (readable(session.stop_fd)) {
            socket.linger(kLastReplyMost);
            return SessionEnd::stopped;
        }
        if (socket.disconnected()) return SessionEnd::disconnected;
        if (event_fd < 0 || !readable(event_fd)) continue;
        next_event = Clock::now() + kBetweenEvents;
        if (session.on_event()) {
            const schemas::FromActorOf<Encoded> look{schemas::kProtocolVersion, {}, {}, true};
            if (socket.send(encode(look)) != Sent::done) return SessionEnd::disconnected;
        }
    }
}

}  // namespace

bool is_incarnation(std::string_view name) {
    const auto all = [](std::string_view text, std::string_view allowed) {
        return !text.empty() && text.find_first_not_of(allowed) == std::string_view::npos;
    };
    const std::size_t first = name.find('-');
    const std::size_t last = name.rfind('-');
    if (first == last || name.size() > 64) return false;
    return all(name.substr(0, first), "abcdefghijklmnopqrstuvwxyz_") &&
           all(name.substr(first + 1, last - first - 1), "0123456789") && name.size() - last - 1 == 8 &&
           all(name.substr(last + 1), "0123456789abcdef");
}

Result<ActorLock> ActorLock::take(const std::string& actors_folder, std::string_view kind) {
    const auto names = TRY(names_in(actors_folder));
    const Fd folder(open_folder(actors_folder));
    if (!folder) return errno_error(errno, fmt::format("open the actors' locks '{}'", actors_folder));
    remove_dead_locks(folder.get(), names);
    for (int i = 0; i < 16; ++i) {
        std::string incarnation = TRY(new_incarnation(kind));
        Fd fd = make_lock(folder.get(), incarnation);
        if (fd) return ActorLock(std::move(incarnation), std::move(fd));
        if (errno != EEXIST && errno != EWOULDBLOCK) break;
    }
    return errno_error(errno, fmt::format("make an actor's lock in '{}'", actors_folder));
}

bool actor_is_gone(const std::string& actors_folder, const std::string& incarnation) {
    if (!is_incarnation(incarnation)) return false;
    const std::string path = actors_folder + "/" + incarnation;
    const Fd file(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!file) return errno == ENOENT;
    return ::flock(file.get(), LOCK_SH | LOCK_NB) == 0;
}

Result<std::vector<std::string>> list_actor_locks(const std::string& actors_folder) {
    auto names = TRY(names_in(actors_folder));
    std::erase_if(names, [](const std::string& name) { return !is_incarnation(name); });
    std::sort(names.begin(), names.end());
    return names;
}

Result<void> serve_manager(BusContext& context, const ActorLock& lock, const ActorSession& session,
                           const CommandHandler& handler) {
    std::string complaint;  // Said once, not at every try.
    DoorWatch door(session.socket_path);
    while (!readable(session.stop_fd)) {
        TRY(check_lock_is_seen(lock));
        const bool watched = door.begin();
        const auto begun = Clock::now();
        auto socket = open_session(context, lock, session);
        if (!socket) {
            if (socket.error().message != complaint) {
                spdlog::warn("event=no_manager incarnation={} error='{}'", lock.incarnation(), socket.error().message);
            }
            complaint = socket.error().message;
            // A manager that is slow to let us in has others to let in, too: those who soon come again make it slower.
            const auto took = std::chrono::ceil<std::chrono::milliseconds>(Clock::now() - begun);
            const std::array<int, 2> fds = {session.stop_fd, door.fd()};
            wait_readable({}, std::span(fds).first(watched ? 2 : 1),
                          std::max(watched ? kRetryBesideWatch : kRetry, took));
            continue;
        }
        spdlog::info("event=session_began incarnation={} manager={}", lock.incarnation(), session.socket_path);
        complaint.clear();
        if (serve_session(std::move(*socket), session, handler) == SessionEnd::stopped) break;
        spdlog::info("event=session_ended incarnation={}", lock.incarnation());
    }
    spdlog::info("event=stopped incarnation={}", lock.incarnation());
    return {};
}

}  // namespace cowslip
