// Sockets in pairs, in one process, over a real folder; garbage comes over plain unix sockets.
#include "common/bus.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "common/codec.h"
#include "tests/fakes/temporary_folder.h"

using namespace cowslip;
using namespace std::chrono_literals;

namespace {

// What `ask` answers, asked again whenever something may have come; nothing after five seconds.
template <class Ask>
auto eventually(std::initializer_list<const BusSocket*> sockets, Ask&& ask) -> decltype(ask()) {
    const auto end = std::chrono::steady_clock::now() + 5s;
    for (;;) {
        auto answer = ask();
        if (answer || std::chrono::steady_clock::now() > end) return answer;
        wait_readable({sockets.begin(), sockets.size()}, {}, 100ms);
    }
}

bool send_soon(ClientSocket& client, std::string_view payload) {
    return eventually({&client}, [&] { return client.send(payload) == Sent::done; });
}

std::optional<Frame> receive_soon(ServerSocket& server) {
    return eventually({&server}, [&] { return server.receive(); });
}

std::optional<std::string> receive_soon(ClientSocket& client) {
    return eventually({&client}, [&] { return client.receive(); });
}

class PlainConnection {
public:
    explicit PlainConnection(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof(address.sun_path) - 1);
        REQUIRE(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
        timeval limit{1, 0};
        REQUIRE(::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) == 0);
        REQUIRE(::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0);
    }
    PlainConnection(const PlainConnection&) = delete;
    PlainConnection& operator=(const PlainConnection&) = delete;
    ~PlainConnection() { ::close(fd_); }

    bool write(std::string_view bytes) {
        while (!bytes.empty()) {
            const ssize_t count = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (count <= 0) return false;
            bytes.remove_prefix(static_cast<std::size_t>(count));
        }
        return true;
    }
    std::string read(std::size_t count) {
        std::string bytes(count, '\0');
        const ssize_t got = ::recv(fd_, bytes.data(), count, MSG_WAITALL);
        bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
        return bytes;
    }

private:
    int fd_;
};

// A ZMTP 3.0 peer, spoken by hand: what another library, or a hostile one, may send.
class HandMadeDealer : public PlainConnection {
public:
    explicit HandMadeDealer(const std::string& path) : PlainConnection(path) {
        std::string greeting("\xFF\0\0\0\0\0\0\0\1\x7F\3\0NULL", 16);
        greeting.resize(64, '\0');
        REQUIRE(write(greeting));
        REQUIRE(read(64).size() == 64);
        const std::string ready = std::string("\5READY\13Socket-Type\0\0\0\6DEALER", 28);
        REQUIRE(write(std::string("\4") + static_cast<char>(ready.size()) + ready));
        const std::string head = read(2);
        REQUIRE(head.size() == 2);
        REQUIRE(read(static_cast<unsigned char>(head[1])).size() == static_cast<unsigned char>(head[1]));
    }
    // Parts of less than 256 bytes each.
    bool send_message(const std::vector<std::string>& parts) {
        std::string bytes;
        for (std::size_t i = 0; i < parts.size(); ++i) {
            bytes += i + 1 < parts.size() ? '\1' : '\0';
            bytes += static_cast<char>(parts[i].size());
            bytes += parts[i];
        }
        return write(bytes);
    }
};

std::string random_bytes(std::mt19937& random, std::size_t count) {
    std::string bytes(count, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    return bytes;
}

}  // namespace

TEST_CASE("a message reaches the server with the sender's routing id and uid, and the answer comes back", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    REQUIRE(server);
    auto client = ClientSocket::connect(context, folder / "a.sock", "device-1-abc");
    REQUIRE(client);
    REQUIRE(send_soon(*client, "ping"));
    const auto frame = receive_soon(*server);
    REQUIRE(frame);
    CHECK(frame->peer == "device-1-abc");
    CHECK(frame->payload == "ping");
    CHECK(frame->uid == static_cast<std::int64_t>(::getuid()));
    CHECK(server->send(frame->peer, "pong") == Sent::done);
    CHECK(receive_soon(*client) == "pong");
}

TEST_CASE("a folder's path may be longer than a socket address", "[bus]") {
    const TemporaryFolder folder;
    const std::string deep = folder / std::string(120, 'x') + "/" + std::string(120, 'y');
    std::filesystem::create_directories(deep);
    BusContext context;
    auto server = ServerSocket::bind(context, deep + "/a.sock", 0600);
    REQUIRE(server);
    CHECK(ClientSocket::server_uid(deep + "/a.sock") == ::getuid());
    auto client = ClientSocket::connect(context, deep + "/a.sock", "");
    REQUIRE(client);
    REQUIRE(send_soon(*client, "ping"));
    CHECK(receive_soon(*server));
}

TEST_CASE("a socket file has exactly the mode asked for, whatever the umask, and replaces what was there", "[bus]") {
    const TemporaryFolder folder;
    const mode_t mode = GENERATE(mode_t{0600}, mode_t{0660});
    const mode_t mask = GENERATE(mode_t{0}, mode_t{0077});
    CAPTURE(mode, mask);
    std::ofstream(folder / "a.sock") << "stale";
    const mode_t before = ::umask(mask);
    BusContext context;
    const auto server = ServerSocket::bind(context, folder / "a.sock", mode);
    ::umask(before);
    REQUIRE(server);
    struct stat about {};
    REQUIRE(::stat((folder / "a.sock").c_str(), &about) == 0);
    CHECK(S_ISSOCK(about.st_mode));
    CHECK((about.st_mode & 07777U) == mode);
    CHECK_FALSE(std::filesystem::exists(folder / "a.sock.new"));
}

TEST_CASE("binding where that cannot be says why", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    const auto nowhere = ServerSocket::bind(context, folder / "absent/a.sock", 0600);
    REQUIRE_FALSE(nowhere);
    CHECK(nowhere.error().code == Errc::unavailable);
    CHECK_THAT(nowhere.error().message, Catch::Contains("absent") && Catch::Contains("No such file"));
    std::filesystem::create_directory(folder / "a.sock");
    const auto directory = ServerSocket::bind(context, folder / "a.sock", 0600);
    REQUIRE_FALSE(directory);
    CHECK_THAT(directory.error().message, Catch::Contains("a.sock"));
    CHECK_FALSE(ServerSocket::bind(context, folder / std::string(65, 'x'), 0600));
}

TEST_CASE("sending to nobody says so", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    REQUIRE(server);
    CHECK(server->send("nobody", "x") == Sent::no_peer);
    CHECK(server->send("", "x") == Sent::no_peer);
    auto lonely = ClientSocket::connect(context, folder / "b.sock", "");
    REQUIRE(lonely);
    CHECK(lonely->send("x") == Sent::no_peer);
    CHECK(eventually({&*lonely}, [&] { return lonely->disconnected(); }));
    CHECK(lonely->send("x") == Sent::no_peer);
}

TEST_CASE("a peer that has gone is told of, and is no peer any more", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    REQUIRE(server);
    auto client = ClientSocket::connect(context, folder / "a.sock", "one");
    REQUIRE(client);
    REQUIRE(send_soon(*client, "x"));
    REQUIRE(receive_soon(*server));
    CHECK_FALSE(server->peer_disconnected());
    { const ClientSocket end = std::move(*client); }
    CHECK(eventually({&*server}, [&] { return server->peer_disconnected(); }));
    CHECK_FALSE(server->peer_disconnected());
    CHECK(eventually({&*server}, [&] { return server->send("one", "y") == Sent::no_peer; }));
}

TEST_CASE("a client learns at once that its server has gone, and stays disconnected", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    REQUIRE(server);
    auto client = ClientSocket::connect(context, folder / "a.sock", "");
    REQUIRE(client);
    REQUIRE(send_soon(*client, "x"));
    REQUIRE(receive_soon(*server));
    { const ServerSocket end = std::move(*server); }
    const auto begin = std::chrono::steady_clock::now();
    CHECK(eventually({&*client}, [&] { return client->disconnected(); }));
    CHECK(std::chrono::steady_clock::now() - begin < 2s);
    auto next = ServerSocket::bind(context, folder / "a.sock", 0600);
    REQUIRE(next);
    wait_readable({}, {}, 200ms);
    CHECK(client->disconnected());
    CHECK(client->send("y") == Sent::no_peer);
    CHECK_FALSE(next->receive());
}

// Bug: libzmq's thread stood still for ever once it had an event for a monitor that was closed
// already, or full. The process has one such thread.
TEST_CASE("sockets that end while their peers come and go stop no other socket", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    REQUIRE(server);
    for (int i = 0; i < 3000; ++i) PlainConnection(folder / "a.sock");  // Nobody reads what is told of them.
    for (int i = 0; i < 200; ++i) {
        auto other = ServerSocket::bind(context, folder / "b.sock", 0600);
        auto client = ClientSocket::connect(context, folder / "b.sock", "");
        REQUIRE((other && client && send_soon(*client, "x")));
    }
    auto client = ClientSocket::connect(context, folder / "a.sock", "");
    REQUIRE((client && send_soon(*client, "x")));
    CHECK(receive_soon(*server));
}

TEST_CASE("a new connection with a routing id takes it over from the older one", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    REQUIRE(server);
    auto older = ClientSocket::connect(context, folder / "a.sock", "one");
    REQUIRE((older && send_soon(*older, "older") && receive_soon(*server)));
    auto newer = ClientSocket::connect(context, folder / "a.sock", "one");
    REQUIRE((newer && send_soon(*newer, "newer") && receive_soon(*server)));
    CHECK(server->send("one", "hello") == Sent::done);
    CHECK(receive_soon(*newer) == "hello");
    CHECK_FALSE(older->receive());
}

TEST_CASE("queues are bounded: a peer that does not read is full, and loses nothing that was taken", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    REQUIRE(server);
    auto client = ClientSocket::connect(context, folder / "a.sock", "one");
    REQUIRE((client && send_soon(*client, "x") && receive_soon(*server)));
    const std::string payload(10000, 'p');
    int to_client = 0;
    while (to_client < 100000 && server->send("one", payload) == Sent::done) ++to_client;
    CHECK(to_client < 3 * kQueueMessages);
    CHECK(server->send("one", payload) == Sent::full);
    int to_server = 0;
    while (to_server < 100000 && client->send(payload) == Sent::done) ++to_server;
    CHECK(to_server < 3 * kQueueMessages);
    CHECK(client->send(payload) == Sent::full);
    for (int i = 0; i < to_client; ++i) REQUIRE(receive_soon(*client) == payload);
    for (int i = 0; i < to_server; ++i) REQUIRE(receive_soon(*server));
    CHECK(eventually({&*server}, [&] { return server->send("one", "again") == Sent::done; }));
}

TEST_CASE("a frame of the largest size passes, a larger one is refused by the sender", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    auto client = ClientSocket::connect(context, folder / "a.sock", "one");
    REQUIRE((server && client));
    const std::string largest(kMaxFrameBytes, 'x');
    REQUIRE(send_soon(*client, largest));
    const auto frame = receive_soon(*server);
    REQUIRE(frame);
    CHECK(frame->payload == largest);
    CHECK(server->send("one", largest) == Sent::done);
    CHECK(receive_soon(*client) == largest);
    CHECK(client->send(largest + "x") == Sent::too_large);
    CHECK(server->send("one", largest + "x") == Sent::too_large);
}

TEST_CASE("a frame larger than allowed ends the connection it came by, and no other", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    auto client = ClientSocket::connect(context, folder / "a.sock", "one");
    REQUIRE((server && client && send_soon(*client, "x") && receive_soon(*server)));
    HandMadeDealer hostile(folder / "a.sock");
    REQUIRE(hostile.write(std::string("\2\0\0\0\0\0\x20\0\0", 9)));  // A frame of 2 MiB is to come.
    CHECK(hostile.read(1).empty());
    CHECK(eventually({&*server}, [&] { return server->peer_disconnected(); }));
    CHECK(client->send("y") == Sent::done);
    CHECK(receive_soon(*server));
}

TEST_CASE("messages of any other number of frames are dropped and counted, and the next one arrives", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    REQUIRE(server);
    HandMadeDealer peer(folder / "a.sock");
    REQUIRE(peer.send_message({"", "as REQ does"}));
    REQUIRE(peer.send_message({"a", "b", "c"}));
    REQUIRE(peer.send_message(std::vector<std::string>(5000, "many")));
    REQUIRE(peer.send_message({"good"}));
    const auto frame = receive_soon(*server);
    REQUIRE(frame);
    CHECK(frame->payload == "good");
    CHECK(server->dropped() == 3);
}

TEST_CASE("ten megabytes of random bytes change nothing, on either kind of server", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    auto client = ClientSocket::connect(context, folder / "a.sock", "one");
    REQUIRE((server && client && send_soon(*client, "x") && receive_soon(*server)));
    auto publisher = PublisherSocket::bind(context, folder / "e.sock", 0600);
    auto subscriber = SubscriberSocket::connect(context, folder / "e.sock", {""});
    REQUIRE((publisher && subscriber));

    std::mt19937 random(42);
    std::atomic<bool> done = false;
    std::thread attacker([&] {
        for (std::size_t sent = 0; sent < 10'000'000;) {
            for (const char* name : {"a.sock", "e.sock"}) {
                const std::size_t size = 1 + random() % 400'000;
                PlainConnection connection(folder / name);
                if (random() % 2 == 0) connection.write(std::string("\xFF\0\0\0\0\0\0\0\1\x7F\3\0NULL", 16));
                connection.write(random_bytes(random, size));
                sent += size;
            }
        }
        HandMadeDealer dealer(folder / "a.sock");
        for (int i = 0; i < 2000; ++i) dealer.send_message({random_bytes(random, 200)});
        done = true;
    });
    std::size_t garbage = 0;
    while (!done) {
        const std::array<const BusSocket*, 2> sockets = {&*server, &*publisher};
        wait_readable(sockets, {}, 10ms);
        while (server->receive()) ++garbage;
        publisher->drain();
    }
    attacker.join();
    while (garbage < 2000 && receive_soon(*server)) ++garbage;
    CHECK(garbage >= 2000);

    CHECK(client->send("still here") == Sent::done);
    const auto frame = eventually({&*server}, [&]() -> std::optional<Frame> {
        auto next = server->receive();
        return next && next->peer == "one" ? next : std::nullopt;
    });
    REQUIRE(frame);
    CHECK(frame->payload == "still here");
    CHECK(server->send("one", "yes") == Sent::done);
    CHECK(receive_soon(*client) == "yes");
    const auto event = eventually({&*subscriber}, [&] {
        publisher->drain();
        publisher->publish("t", "event");
        return subscriber->receive();
    });
    REQUIRE(event);
    CHECK(event->payload == "event");
}

TEST_CASE("a subscriber gets the topics it asked for, and comes back by itself after a restart", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto subscriber = SubscriberSocket::connect(context, folder / "e.sock", {"volume."});
    REQUIRE(subscriber);
    for (const char* life : {"first", "second"}) {
        auto publisher = PublisherSocket::bind(context, folder / "e.sock", 0660);
        REQUIRE(publisher);
        const auto message = eventually({&*subscriber, &*publisher}, [&] {
            publisher->drain();
            publisher->publish("pool.full", "not asked for");
            publisher->publish("volume.created", life);
            return subscriber->receive();
        });
        REQUIRE(message);
        CHECK(message->topic == "volume.created");
        CHECK(message->payload == life);
        while (subscriber->receive()) {
        }
        subscriber->disconnected();
        { const PublisherSocket end = std::move(*publisher); }
        CHECK(eventually({&*subscriber}, [&] { return subscriber->disconnected(); }));
        while (subscriber->receive()) {
        }
    }
}

TEST_CASE("a subscriber that does not read never stops the publisher", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto publisher = PublisherSocket::bind(context, folder / "e.sock", 0660);
    auto slow = SubscriberSocket::connect(context, folder / "e.sock", {""});
    REQUIRE((publisher && slow));
    REQUIRE(eventually({&*slow, &*publisher}, [&] {
        publisher->drain();
        publisher->publish("t", "first");
        return slow->receive();
    }));
    const std::string payload(10000, 'p');
    for (int i = 0; i < 20000; ++i) publisher->publish("t", payload);
    std::size_t got = 0;
    while (eventually({&*slow}, [&] { return got > 100 || slow->receive(); }) && got <= 100) ++got;
    CHECK(got > 100);
}

TEST_CASE("waiting ends with a plain descriptor, with the time, and with a signal", "[bus]") {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const std::array<int, 1> fds = {ends[0]};
    CHECK(wait_readable({}, fds, 20ms) == Woken::time);
    CHECK(wait_readable({}, fds, -5ms) == Woken::time);
    REQUIRE(::write(ends[1], "x", 1) == 1);
    CHECK(wait_readable({}, fds, 5s) == Woken::event);

    struct sigaction quiet {};
    struct sigaction before {};
    quiet.sa_handler = [](int) {};
    REQUIRE(::sigaction(SIGUSR1, &quiet, &before) == 0);
    const pthread_t self = ::pthread_self();
    std::thread sender([&] {
        std::this_thread::sleep_for(50ms);
        ::pthread_kill(self, SIGUSR1);
    });
    CHECK(wait_readable({}, {}, 10s) == Woken::signal);
    sender.join();
    ::sigaction(SIGUSR1, &before, nullptr);
    ::close(ends[0]);
    ::close(ends[1]);
}

// ZeroMQ's own descriptor is edge-triggered: whoever waits on that one alone sleeps over a message.
TEST_CASE("no message lies unnoticed while somebody waits for it", "[bus]") {
    const TemporaryFolder folder;
    BusContext context;
    auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
    REQUIRE(server);
    constexpr int kRounds = 3000;
    std::thread echo([&] {
        for (int i = 0; i < kRounds;) {
            const std::array<const BusSocket*, 1> sockets = {&*server};
            wait_readable(sockets, {}, 5s);
            while (const auto frame = server->receive()) {
                server->send(frame->peer, frame->payload);
                ++i;
            }
        }
    });
    auto client = ClientSocket::connect(context, folder / "a.sock", "");
    REQUIRE(client);
    int answered = 0;
    auto slowest = 0ms;
    for (int i = 0; i < kRounds; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        send_soon(*client, "ping");
        if (eventually({&*client}, [&] { return client->receive(); })) ++answered;
        const auto end = std::chrono::steady_clock::now();
        slowest = std::max(slowest, std::chrono::duration_cast<std::chrono::milliseconds>(end - begin));
    }
    echo.join();
    CHECK(answered == kRounds);
    CHECK(slowest < 4s);  // An unnoticed one takes the 5 s of the other side.
}

TEST_CASE("what was sent just before the end is delivered if the socket lingers", "[bus]") {
    const TemporaryFolder folder;
    BusContext servers;
    auto server = ServerSocket::bind(servers, folder / "a.sock", 0600);
    REQUIRE(server);
    for (int i = 0; i < 50; ++i) {
        {
            BusContext context;
            auto client = ClientSocket::connect(context, folder / "a.sock", "");
            REQUIRE(client);
            REQUIRE(send_soon(*client, "first"));
            for (int k = 0; k < 20; ++k) REQUIRE(client->send("last words") == Sent::done);
            client->linger(1s);
        }
        for (int k = 0; k < 21; ++k) REQUIRE(receive_soon(*server));
    }
}

TEST_CASE("who listens is known, or why nobody does", "[bus]") {
    const TemporaryFolder folder;
    const auto absent = ClientSocket::server_uid(folder / "a.sock");
    REQUIRE_FALSE(absent);
    CHECK(absent.error().code == Errc::unavailable);
    {
        BusContext context;
        const auto server = ServerSocket::bind(context, folder / "a.sock", 0600);
        REQUIRE(server);
        CHECK(ClientSocket::server_uid(folder / "a.sock") == ::getuid());
        CHECK(ClientSocket::server(folder / "a.sock").value().pid == ::getpid());
    }
    const auto dead = ClientSocket::server_uid(folder / "a.sock");
    REQUIRE_FALSE(dead);
    CHECK(dead.error().code == Errc::unavailable);
    CHECK_THAT(dead.error().message, Catch::Contains("refused"));
}
