#include "common/bus.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <mutex>

#include <fmt/format.h>
#include <zmq.hpp>

#include "common/codec.h"

namespace cowslip {

// The folders of all sockets, each open once and until the end: libzmq's thread resolves
// /proc/self/fd/N when it likes, and a number that is used again would lead it astray.
struct BusContext::Impl {
    struct Folder {
        dev_t device;
        ino_t inode;
        int fd;
    };

    Impl() = default;
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;
    ~Impl() {
        zmq.close();
        for (const Folder& folder : folders) ::close(folder.fd);
    }

    Result<int> open_folder(const std::string& path);

    zmq::context_t zmq{1};
    std::atomic<std::uint64_t> monitors = 0;
    std::mutex mutex;  // Guards `folders`: sockets may be made in several threads.
    std::vector<Folder> folders;
};

struct BusSocket::Impl {
    Impl() = default;
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;
    // In this order: libzmq's one thread waits for ever when it has an event for a monitor whose
    // reader is gone, and then no socket of the process works any more.
    ~Impl() {
        if (monitor) zmq_socket_monitor(socket.handle(), nullptr, 0);
        monitor.close();
        socket.close();
    }

    zmq::socket_t socket;
    zmq::socket_t monitor;  // PAIR; none for a publisher.
    // libzmq's descriptors say once that there is news, and no more until all of it is taken. So each is asked for
    // messages only when it may have some: asking costs several calls of the kernel.
    int fd = -1;
    int monitor_fd = -1;
    bool quiet = false;          // A receive has found nothing, and no wait has seen anything since.
    bool news_taken = true;      // What else than a receive has been called, and may have taken the news.
    bool monitor_unread = true;  // It was never read.
    bool connected = false;
    bool ended = false;  // A connection has ended since somebody asked.
    std::uint64_t dropped = 0;
};

namespace {

using namespace std::chrono_literals;

constexpr std::chrono::milliseconds kReconnectFirst{20};
constexpr std::chrono::milliseconds kReconnectMost{500};
constexpr std::chrono::milliseconds kHandshakeMost{10000};  // Of a machine that is slow and has many to serve.
constexpr int kBacklog = 128;
// How many bad messages one call of ours throws away before it lets its caller go on.
constexpr int kMostDropsPerCall = 64;

constexpr int kEndings = ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                         ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

struct SocketPath {
    std::string folder;
    std::string name;
};

Result<SocketPath> split(const std::string& path) {
    const std::filesystem::path whole(path);
    SocketPath parts{whole.has_parent_path() ? whole.parent_path().string() : ".", whole.filename().string()};
    if (parts.name.empty() || parts.name.size() > 64) {
        return Error{Errc::invalid_argument, fmt::format("socket '{}': its name must have 1 to 64 bytes", path)};
    }
    return parts;
}

std::string short_path(int folder_fd, const std::string& name) {
    return fmt::format("/proc/self/fd/{}/{}", folder_fd, name);
}

Error bus_error(std::string_view what, const zmq::error_t& error) {
    return Error{Errc::internal, fmt::format("{}: {}", what, error.what())};
}

// A plain unix stream socket and the address of `path`, which is short.
struct UnixSocket {
    int fd = -1;
    sockaddr_un address{};

    explicit UnixSocket(const std::string& path)
        : fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    }
    UnixSocket(const UnixSocket&) = delete;
    UnixSocket& operator=(const UnixSocket&) = delete;
    ~UnixSocket() {
        if (fd >= 0) ::close(fd);
    }
    const sockaddr* raw() const { return reinterpret_cast<const sockaddr*>(&address); }
    int release() { return std::exchange(fd, -1); }
};

// Bound under another name, and renamed once it listens and has its mode: nobody ever finds it
// closed or open too wide, and libzmq, which is only lent the descriptor, never removes the file
// of whoever binds next.
Result<int> listening_socket(int folder_fd, const std::string& name, mode_t mode, const std::string& path) {
    const std::string fresh = name + ".new";
    const std::string what = fmt::format("bind '{}'", path);
    if (::unlinkat(folder_fd, fresh.c_str(), 0) != 0 && errno != ENOENT) return errno_error(errno, what);
    UnixSocket socket(short_path(folder_fd, fresh));
    if (socket.fd < 0 || ::bind(socket.fd, socket.raw(), sizeof(socket.address)) != 0 ||
        ::fchmodat(folder_fd, fresh.c_str(), mode, 0) != 0 || ::listen(socket.fd, kBacklog) != 0 ||
        ::renameat(folder_fd, fresh.c_str(), folder_fd, name.c_str()) != 0) {
        return errno_error(errno, what);
    }
    return socket.release();
}

void set_bounds(zmq::socket_t& socket) {
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::sndhwm, kQueueMessages);
    socket.set(zmq::sockopt::rcvhwm, kQueueMessages);
    socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(kMaxFrameBytes));
    socket.set(zmq::sockopt::handshake_ivl, static_cast<int>(kHandshakeMost.count()));
}

// libzmq's thread *waits* when a monitor's queue is full, and with it every connection: so this one
// has no bound. It is read at every wait, and an event has a few bytes.
void start_monitor(BusContext::Impl& context, BusSocket::Impl& impl) {
    const std::string address = fmt::format("inproc://monitor-{}", ++context.monitors);
    if (zmq_socket_monitor(impl.socket.handle(), address.c_str(), kEndings | ZMQ_EVENT_HANDSHAKE_SUCCEEDED) != 0) {
        throw zmq::error_t();
    }
    impl.monitor = zmq::socket_t(context.zmq, zmq::socket_type::pair);
    impl.monitor.set(zmq::sockopt::linger, 0);
    impl.monitor.set(zmq::sockopt::rcvhwm, 0);
    impl.monitor.connect(address);
    impl.monitor_fd = impl.monitor.get(zmq::sockopt::fd);
}

// Nothing: no message is there. The parts of one message arrive together.
std::optional<zmq::message_t> receive_part(zmq::socket_t& socket) {
    for (;;) {
        try {
            zmq::message_t part;
            if (socket.recv(part, zmq::recv_flags::dontwait)) return part;
            return std::nullopt;
        } catch (const zmq::error_t& error) {
            if (error.num() != EINTR) return std::nullopt;  // ETERM cannot be: the context outlives us.
        }
    }
}

// The first part of the next message, if there may be one.
std::optional<zmq::message_t> receive_first(BusSocket::Impl& impl) {
    if (impl.quiet) return std::nullopt;
    auto part = receive_part(impl.socket);
    impl.quiet = !part;
    return part;
}

// The rest of a message whose last part is `part`.
void skip_rest(zmq::socket_t& socket, const zmq::message_t& part) {
    bool more = part.more();
    while (more) {
        const auto next = receive_part(socket);
        more = next && next->more();
    }
}

// The two parts of a message that has exactly two; others are dropped, up to a bound.
std::optional<std::pair<zmq::message_t, zmq::message_t>> receive_pair(BusSocket::Impl& impl) {
    for (int i = 0; i < kMostDropsPerCall; ++i) {
        auto first = receive_first(impl);
        if (!first) return std::nullopt;
        if (first->more()) {
            auto second = receive_part(impl.socket);
            if (second && !second->more()) return std::pair(std::move(*first), std::move(*second));
            if (second) skip_rest(impl.socket, *second);
        }
        ++impl.dropped;
    }
    return std::nullopt;
}

Sent send_part(BusSocket::Impl& impl, std::string_view bytes, zmq::send_flags flags) {
    impl.news_taken = true;
    for (;;) {
        try {
            const auto sent = impl.socket.send(zmq::buffer(bytes), flags | zmq::send_flags::dontwait);
            return sent ? Sent::done : Sent::full;
        } catch (const zmq::error_t& error) {
            if (error.num() != EINTR) return Sent::no_peer;  // EHOSTUNREACH.
        }
    }
}

void read_monitor(BusSocket::Impl& impl) {
    impl.monitor_unread = false;
    while (const auto event = receive_part(impl.monitor)) {
        skip_rest(impl.monitor, *event);  // The endpoint: always the same.
        std::uint16_t number = 0;
        if (event->size() < sizeof(number)) continue;
        std::memcpy(&number, event->data(), sizeof(number));
        if ((number & kEndings) != 0) {
            impl.connected = false;
            impl.ended = true;
        } else if (number == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
            impl.connected = true;
        }
    }
}

bool has_message(BusSocket::Impl& impl) {
    try {
        return (impl.socket.get(zmq::sockopt::events) & ZMQ_POLLIN) != 0;
    } catch (const zmq::error_t&) {
        return true;  // EINTR: not known.
    }
}

// "localhost:uid:gid:pid", as the kernel tells libzmq when it accepts.
std::int64_t peer_uid(zmq::message_t& message) {
    const char* const address = zmq_msg_gets(message.handle(), "Peer-Address");
    if (address == nullptr) return -1;
    const std::string_view text(address);
    const std::size_t begin = text.find(':');
    const std::size_t end = text.find(':', begin == std::string_view::npos ? begin : begin + 1);
    if (end == std::string_view::npos) return -1;
    std::uint32_t uid = 0;
    const auto [stop, status] = std::from_chars(text.data() + begin + 1, text.data() + end, uid);
    return status == std::errc{} && stop == text.data() + end ? static_cast<std::int64_t>(uid) : -1;
}

std::string text_of(const zmq::message_t& message) {
    return {static_cast<const char*>(message.data()), message.size()};
}

using Impls = std::unique_ptr<BusSocket::Impl>;

Result<Impls> bind_socket(BusContext& context, zmq::socket_type type, const std::string& path, mode_t mode) {
    const SocketPath parts = TRY(split(path));
    const int folder = TRY(context.impl().open_folder(parts.folder));
    const int fd = TRY(listening_socket(folder, parts.name, mode, path));
    bool taken = false;
    try {
        auto impl = std::make_unique<BusSocket::Impl>();
        impl->socket = zmq::socket_t(context.impl().zmq, type);
        set_bounds(impl->socket);
        if (type == zmq::socket_type::router) {
            impl->socket.set(zmq::sockopt::router_mandatory, true);
            impl->socket.set(zmq::sockopt::router_handover, true);
            start_monitor(context.impl(), *impl);
        }
        impl->socket.set(zmq::sockopt::use_fd, fd);
        impl->socket.bind("ipc://" + short_path(folder, parts.name));
        taken = true;
        impl->fd = impl->socket.get(zmq::sockopt::fd);
        return impl;
    } catch (const zmq::error_t& error) {
        if (!taken) ::close(fd);
        return bus_error(fmt::format("bind '{}'", path), error);
    }
}

// `prepare` sets the options of the type before the connect.
template <class Prepare>
Result<Impls> connect_socket(BusContext& context, zmq::socket_type type, const std::string& path, Prepare&& prepare) {
    const SocketPath parts = TRY(split(path));
    const int folder = TRY(context.impl().open_folder(parts.folder));
    try {
        auto impl = std::make_unique<BusSocket::Impl>();
        impl->socket = zmq::socket_t(context.impl().zmq, type);
        set_bounds(impl->socket);
        prepare(impl->socket);
        start_monitor(context.impl(), *impl);
        impl->socket.connect("ipc://" + short_path(folder, parts.name));
        impl->fd = impl->socket.get(zmq::sockopt::fd);
        return impl;
    } catch (const zmq::error_t& error) {
        return bus_error(fmt::format("connect '{}'", path), error);
    }
}

}  // namespace

Result<int> BusContext::Impl::open_folder(const std::string& path) {
    const int fd = ::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct stat about {};
    if (fd < 0 || ::fstat(fd, &about) != 0) {
        Error error = errno_error(errno, fmt::format("open the sockets' folder '{}'", path));
        if (errno == ENOENT) error.code = Errc::unavailable;
        return error;
    }
    const std::lock_guard guard(mutex);
    for (const Folder& folder : folders) {
        if (folder.device != about.st_dev || folder.inode != about.st_ino) continue;
        ::close(fd);
        return folder.fd;
    }
    folders.push_back({about.st_dev, about.st_ino, fd});
    return fd;
}

// ZeroMQ starts its threads with the first socket: here, where nobody waits for them yet.
BusContext::BusContext() : impl_(std::make_unique<Impl>()) {
    try {
        const zmq::socket_t first(impl_->zmq, zmq::socket_type::pair);
    } catch (const zmq::error_t&) {  // The next one is told why.
    }
}
BusContext::~BusContext() = default;

BusSocket::BusSocket(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BusSocket::BusSocket(BusSocket&&) noexcept = default;
BusSocket& BusSocket::operator=(BusSocket&&) noexcept = default;
BusSocket::~BusSocket() = default;

void BusSocket::linger(std::chrono::milliseconds most) {
    try {
        impl_->socket.set(zmq::sockopt::linger, static_cast<int>(most.count()));
    } catch (const zmq::error_t&) {  // Then it does not linger.
    }
}

Result<ServerSocket> ServerSocket::bind(BusContext& context, const std::string& path, mode_t mode) {
    return ServerSocket(TRY(bind_socket(context, zmq::socket_type::router, path, mode)));
}

std::optional<Frame> ServerSocket::receive() {
    auto parts = receive_pair(*impl_);
    if (!parts) return std::nullopt;
    return Frame{text_of(parts->first), text_of(parts->second), peer_uid(parts->second)};
}

Sent ServerSocket::send(const std::string& peer, std::string_view payload) {
    if (payload.size() > kMaxFrameBytes) return Sent::too_large;
    const Sent addressed = send_part(*impl_, peer, zmq::send_flags::sndmore);
    return addressed == Sent::done ? send_part(*impl_, payload, zmq::send_flags::none) : addressed;
}

bool ServerSocket::peer_disconnected() {
    return std::exchange(impl_->ended, false);
}

std::uint64_t ServerSocket::dropped() const {
    return impl_->dropped;
}

Result<ClientSocket> ClientSocket::connect(BusContext& context, const std::string& path,
                                           const std::string& routing_id) {
    return ClientSocket(TRY(connect_socket(context, zmq::socket_type::dealer, path, [&](zmq::socket_t& socket) {
        socket.set(zmq::sockopt::reconnect_ivl, -1);
        if (!routing_id.empty()) socket.set(zmq::sockopt::routing_id, routing_id);
    })));
}

std::optional<std::string> ClientSocket::receive() {
    for (int i = 0; i < kMostDropsPerCall; ++i) {
        const auto part = receive_first(*impl_);
        if (!part) return std::nullopt;
        if (!part->more()) return text_of(*part);
        skip_rest(impl_->socket, *part);
        ++impl_->dropped;
    }
    return std::nullopt;
}

Sent ClientSocket::send(std::string_view payload) {
    if (payload.size() > kMaxFrameBytes) return Sent::too_large;
    if (!impl_->connected) read_monitor(*impl_);
    if (!impl_->connected) return Sent::no_peer;
    return send_part(*impl_, payload, zmq::send_flags::none);
}

bool ClientSocket::disconnected() {
    return impl_->ended;
}

Result<uid_t> ClientSocket::server_uid(const std::string& path) {
    return TRY(server(path)).uid;
}

Result<ClientSocket::Server> ClientSocket::server(const std::string& path) {
    const SocketPath parts = TRY(split(path));
    const std::string what = fmt::format("connect '{}'", path);
    const auto failure = [&](int number) {
        Error error = errno_error(number, what);
        if (error.code == Errc::internal) error.code = Errc::unavailable;
        return error;
    };
    const int folder = ::open(parts.folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return failure(errno);
    const UnixSocket socket(short_path(folder, parts.name));
    const int status = socket.fd < 0 ? -1 : ::connect(socket.fd, socket.raw(), sizeof(socket.address));
    const int number = errno;
    ::close(folder);
    if (status != 0) return failure(number);
    ucred credentials{};
    socklen_t size = sizeof(credentials);
    if (::getsockopt(socket.fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return failure(errno);
    return Server{.pid = credentials.pid, .uid = credentials.uid};
}

Result<PublisherSocket> PublisherSocket::bind(BusContext& context, const std::string& path, mode_t mode) {
    return PublisherSocket(TRY(bind_socket(context, zmq::socket_type::xpub, path, mode)));
}

void PublisherSocket::publish(std::string_view topic, std::string_view payload) {
    // XPUB is never full: who does not keep up misses the message, both parts of it.
    if (send_part(*impl_, topic, zmq::send_flags::sndmore) != Sent::done) return;
    send_part(*impl_, payload, zmq::send_flags::none);
}

void PublisherSocket::drain() {
    for (int i = 0; i < kQueueMessages; ++i) {
        if (!receive_first(*impl_)) return;
    }
}

Result<SubscriberSocket> SubscriberSocket::connect(BusContext& context, const std::string& path,
                                                   const std::vector<std::string>& topics) {
    return SubscriberSocket(TRY(connect_socket(context, zmq::socket_type::sub, path, [&](zmq::socket_t& socket) {
        socket.set(zmq::sockopt::reconnect_ivl, static_cast<int>(kReconnectFirst.count()));
        socket.set(zmq::sockopt::reconnect_ivl_max, static_cast<int>(kReconnectMost.count()));
        for (const std::string& topic : topics) socket.set(zmq::sockopt::subscribe, topic);
    })));
}

std::optional<SubscriberSocket::Message> SubscriberSocket::receive() {
    const auto parts = receive_pair(*impl_);
    if (!parts) return std::nullopt;
    return Message{text_of(parts->first), text_of(parts->second)};
}

bool SubscriberSocket::disconnected() {
    return std::exchange(impl_->ended, false);
}

Woken wait_readable(std::span<const BusSocket* const> sockets, std::span<const int> fds,
                    std::chrono::milliseconds timeout) {
    std::vector<pollfd> entries;
    bool ready = false;
    for (const BusSocket* socket : sockets) {
        BusSocket::Impl& impl = socket->impl();
        if (std::exchange(impl.news_taken, false) && has_message(impl)) impl.quiet = false;
        ready = ready || !impl.quiet || (impl.monitor && impl.monitor_unread);
        entries.push_back({impl.fd, POLLIN, 0});
        entries.push_back({impl.monitor_fd, POLLIN, 0});  // -1, none, is passed over.
    }
    for (const int fd : fds) entries.push_back({fd, POLLIN, 0});
    const auto most = std::clamp<std::chrono::milliseconds>(timeout, 0ms, std::chrono::hours(24));
    const int count = ::poll(entries.data(), entries.size(), ready ? 0 : static_cast<int>(most.count()));
    if (count < 0 && errno == EINTR && !ready) return Woken::signal;
    for (std::size_t i = 0; i < sockets.size(); ++i) {
        BusSocket::Impl& impl = sockets[i]->impl();
        if ((entries.at(2 * i).revents & POLLIN) != 0) impl.quiet = false;
        const bool told = (entries.at(2 * i + 1).revents & POLLIN) != 0;
        // Taken in here, so that an event nobody asks about does not wake us for ever.
        if (impl.monitor && (told || impl.monitor_unread)) read_monitor(impl);
    }
    return ready || count > 0 ? Woken::event : Woken::time;
}

}  // namespace cowslip
