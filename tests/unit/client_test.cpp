// A client against a manager in bare sockets, which dies and comes back as the test wants.
#include "common/client.h"

#include <array>
#include <catch2/catch.hpp>
#include <filesystem>
#include <regex>
#include <set>
#include <thread>

#include "schemas/pool_manager.h"
#include "tests/fakes/temporary_folder.h"

using namespace cowslip;
using namespace std::chrono_literals;

namespace {

struct Asked {
    std::string peer;
    std::string request_id;
    std::string type;
    std::uint32_t timeout_ms = 0;
    std::string body;
};

class AnsweringManager {
public:
    explicit AnsweringManager(const TemporaryFolder& folder)
        : socket_(std::move(*ServerSocket::bind(context_, folder / "clients.sock", 0660))) {}

    std::optional<Asked> receive(std::chrono::milliseconds wait = 5s) {
        const auto end = std::chrono::steady_clock::now() + wait;
        for (;;) {
            const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
            const std::array<const BusSocket*, 1> sockets = {&socket_};
            wait_readable(sockets, {}, left);
            const auto frame = socket_.receive();
            if (frame) {
                const auto document = decode(frame->payload);
                REQUIRE(document);
                const auto request = decode_as<schemas::Request>(document->root());
                REQUIRE(request);
                REQUIRE(request->v == schemas::kProtocolVersion);
                return Asked{frame->peer, request->request_id, request->type, request->timeout_ms,
                             encode(request->body)};
            }
            if (left <= 0ms) return std::nullopt;
        }
    }
    void send(const Asked& to, std::string_view bytes) { REQUIRE(socket_.send(to.peer, bytes) == Sent::done); }
    template <class Body>
    void answer(const Asked& to, const Body& body) {
        send(to, encode(schemas::ReplyOf<Body>{1, to.request_id, body}));
    }
    void refuse(const Asked& to, const Error& error) {
        send(to, encode(schemas::ErrorReply{1, to.request_id, schemas::to_wire(error)}));
    }

private:
    BusContext context_;
    ServerSocket socket_;
};

std::string text(const std::string& value) {
    return encode(value);
}

// Work of the client while it waits for nothing that comes.
void run(Client& client, std::chrono::milliseconds time) {
    CHECK_FALSE(client.receive(time));
}

}  // namespace

TEST_CASE("request ids are UUIDs of version 7, all different, in the order of time", "[client]") {
    std::set<std::string> ids;
    std::string last;
    for (int i = 0; i < 20; ++i) {
        const std::string id = new_request_id();
        CHECK(std::regex_match(id, std::regex("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")));
        CHECK(id.substr(0, 13) > last);
        last = id.substr(0, 13);
        ids.insert(id);
        std::this_thread::sleep_for(2ms);
    }
    CHECK(ids.size() == 20);
}

TEST_CASE("a call returns the typed reply, or the manager's error with its details", "[client]") {
    const TemporaryFolder folder;
    AnsweringManager manager(folder);
    std::thread thread([&] {
        BusContext context;
        auto client = Client::connect(context, folder / "clients.sock");
        const auto reply = client->call(schemas::VolumeGet{"a", "me", true, ""}, 5s);
        if (!reply || reply->path != "/there" || !reply->changed) std::abort();
        const auto error = client->call(schemas::VolumeRemove{.id = "b"}, 5s);
        if (error || error.error().code != Errc::in_use || error.error().details.at("holders").size() != 2)
            std::abort();
    });
    const auto get = manager.receive();
    REQUIRE(get);
    CHECK(get->type == "volume.get");
    CHECK(get->timeout_ms <= 5000);
    CHECK(get->timeout_ms > 4000);
    const auto message = decode_as<schemas::VolumeGet>(std::string_view(get->body));
    REQUIRE(message);
    CHECK(message->id == "a");
    CHECK(message->read_only);
    manager.answer(*get, schemas::VolumeGet::Reply{"/there", true});
    const auto remove = manager.receive();
    REQUIRE(remove);
    manager.refuse(*remove, Error{Errc::in_use, "in use", {{"holders", {"x", "y"}}}});
    thread.join();
}

TEST_CASE("what was accepted but is not done is no reply of a call", "[client]") {
    CHECK(check_not_merely_accepted(encode(schemas::VolumeGet::Reply{"/there", true})));
    CHECK(check_not_merely_accepted(encode(schemas::Empty{})));
    const auto accepted = check_not_merely_accepted(encode(schemas::Accepted{true, 42}));
    REQUIRE_FALSE(accepted);
    CHECK(accepted.error().code == Errc::timed_out);
    CHECK(accepted.error().details.at("operation") == std::vector<std::string>{"42"});
    CHECK_THAT(accepted.error().message, Catch::Contains("cowslip wait 42"));
}

TEST_CASE("many requests may be outstanding; they arrive in order, and answers find theirs in any order", "[client]") {
    const TemporaryFolder folder;
    AnsweringManager manager(folder);
    BusContext context;
    auto client = Client::connect(context, folder / "clients.sock");
    REQUIRE(client);
    constexpr int kMany = 1024;
    for (int i = 0; i < kMany; ++i) REQUIRE(client->send("id" + std::to_string(i), "t", text("b"), 20s));
    const auto one_more = client->send("one more", "t", text("b"), 20s);
    REQUIRE_FALSE(one_more);
    CHECK(one_more.error().code == Errc::busy);
    CHECK(client->outstanding() == kMany);
    std::vector<Asked> asked;
    for (int i = 0; i < 200 && asked.size() < kMany; ++i) {
        client->receive(1ms);
        while (const auto next = manager.receive(5ms)) {
            REQUIRE(next->request_id == "id" + std::to_string(asked.size()));
            asked.push_back(*next);
        }
    }
    REQUIRE(asked.size() == kMany);
    for (auto last = asked.rbegin(); last != asked.rend(); ++last) {
        manager.answer(*last, last->request_id);
        const auto answer = client->receive(5s);
        REQUIRE(answer);
        CHECK(answer->request_id == last->request_id);
        CHECK(answer->body == text(last->request_id));
    }
    CHECK(client->outstanding() == 0);
}

TEST_CASE("bad requests are refused before they are sent", "[client]") {
    const TemporaryFolder folder;
    BusContext context;
    auto client = Client::connect(context, folder / "clients.sock");
    REQUIRE(client);
    CHECK(client->send("", "t", text(""), 1s).error().code == Errc::invalid_argument);
    CHECK(client->send(std::string(129, 'x'), "t", text(""), 1s).error().code == Errc::invalid_argument);
    CHECK(client->send("id", "t", text(std::string(kMaxFrameBytes, 'x')), 1s).error().code == Errc::invalid_argument);
    CHECK(client->send("id", "t", text(""), 1s));
    CHECK(client->send("id", "t", text(""), 1s).error().code == Errc::already_exists);
    CHECK(client->outstanding() == 1);
}

TEST_CASE("after the manager's death everything outstanding is sent again, in order, with the same ids", "[client]") {
    const TemporaryFolder folder;
    std::optional<AnsweringManager> manager(std::in_place, folder);
    BusContext context;
    auto client = Client::connect(context, folder / "clients.sock");
    REQUIRE(client);
    for (const char* id : {"a", "b", "c"}) REQUIRE(client->send(id, "t", text(id), 20s));
    run(*client, 50ms);
    const auto first = manager->receive();
    REQUIRE((first && manager->receive() && manager->receive()));
    manager->answer(*first, 1);
    REQUIRE(client->receive(5s));
    manager.reset();
    REQUIRE(client->send("d", "t", text("d"), 20s));  // Into a connection that may not yet be known to be dead.
    run(*client, 100ms);
    REQUIRE(client->send("e", "t", text("e"), 20s));

    manager.emplace(folder);
    run(*client, 700ms);
    for (const char* id : {"b", "c", "d", "e"}) {
        const auto again = manager->receive();
        REQUIRE(again);
        CHECK(again->request_id == id);
        CHECK(again->timeout_ms < 20000);
        manager->answer(*again, 2);
    }
    CHECK_FALSE(manager->receive(50ms));
    for (int i = 0; i < 4; ++i) CHECK(client->receive(5s));
    CHECK(client->outstanding() == 0);
}

TEST_CASE("a request waits for a manager, and a socket's folder, that are not there yet", "[client]") {
    const TemporaryFolder folder;
    const std::string run_folder = folder / "run";
    BusContext context;
    auto client = Client::connect(context, run_folder + "/clients.sock");
    REQUIRE(client);
    REQUIRE(client->send("id", "t", text("b"), 20s));
    run(*client, 100ms);
    std::filesystem::create_directory(run_folder);
    BusContext server_context;
    auto server = ServerSocket::bind(server_context, run_folder + "/clients.sock", 0660);
    REQUIRE(server);
    run(*client, 1500ms);
    CHECK(server->receive());
}

// A folder that systemd makes anew is another one, though it has the same path.
TEST_CASE("a manager is found again in a folder made anew", "[client]") {
    const TemporaryFolder folder;
    const std::string run_folder = folder / "run";
    BusContext context;
    std::optional<Client> client;
    for (int life = 0; life < 2; ++life) {
        std::filesystem::create_directory(run_folder);
        BusContext server_context;
        auto server = ServerSocket::bind(server_context, run_folder + "/clients.sock", 0660);
        REQUIRE(server);
        if (!client) client.emplace(std::move(*Client::connect(context, run_folder + "/clients.sock")));
        REQUIRE(client->send("id" + std::to_string(life), "t", text("b"), 20s));
        run(*client, 700ms);
        CHECK(server->receive());
        std::filesystem::remove_all(run_folder);
    }
}

TEST_CASE("without a manager a request ends at its deadline as unavailable, with the next step", "[client]") {
    const TemporaryFolder folder;
    if (GENERATE(false, true)) {  // There was one.
        BusContext dead;
        REQUIRE(ServerSocket::bind(dead, folder / "clients.sock", 0660));
    }
    BusContext context;
    auto client = Client::connect(context, folder / "clients.sock");
    REQUIRE(client);
    const auto begin = std::chrono::steady_clock::now();
    const auto answer = client->call_raw("t", text("b"), 300ms);
    const auto took = std::chrono::steady_clock::now() - begin;
    CHECK(took >= 300ms);
    CHECK(took < 2s);
    REQUIRE_FALSE(answer);
    CHECK(answer.error().code == Errc::unavailable);
    CHECK_THAT(answer.error().message, Catch::Contains("clients.sock") && Catch::Contains("nothing was done") &&
                                           Catch::Contains("cowslip up --state DIR"));
}

TEST_CASE("a silent manager is a time-out, and says that the request may have been done", "[client]") {
    const TemporaryFolder folder;
    AnsweringManager manager(folder);
    BusContext context;
    auto client = Client::connect(context, folder / "clients.sock");
    REQUIRE(client);
    const auto answer = client->call_raw("t", text("b"), 300ms, "my-id");
    REQUIRE_FALSE(answer);
    CHECK(answer.error().code == Errc::timed_out);
    CHECK_THAT(answer.error().message, Catch::Contains("may have been done") && Catch::Contains("my-id"));
    const auto asked = manager.receive();
    REQUIRE(asked);
    CHECK(asked->timeout_ms < 300);
    manager.answer(*asked, std::string("too late"));
    REQUIRE(client->send("next", "t", text("b"), 5s));
    run(*client, 50ms);
    const auto next = manager.receive();
    REQUIRE(next);
    manager.answer(*next, std::string("in time"));
    const auto good = client->receive(5s);
    REQUIRE(good);
    CHECK(good->request_id == "next");
}

TEST_CASE("a request whose reply got lost is sent again after five seconds, and a second answer is ignored",
          "[client]") {
    const TemporaryFolder folder;
    AnsweringManager manager(folder);
    BusContext context;
    auto client = Client::connect(context, folder / "clients.sock");
    REQUIRE(client);
    REQUIRE(client->send("id", "t", text("b"), 20s));
    run(*client, 4500ms);
    const auto first = manager.receive();
    REQUIRE(first);
    CHECK_FALSE(manager.receive(0ms));
    run(*client, 1s);
    const auto second = manager.receive(0ms);
    REQUIRE(second);
    CHECK(second->request_id == "id");
    manager.answer(*first, std::string("one"));
    manager.answer(*second, std::string("two"));
    const auto answer = client->receive(5s);
    REQUIRE(answer);
    CHECK(answer->body == text("one"));
    CHECK_FALSE(client->receive(100ms));
}

TEST_CASE("replies that make no sense are ignored, and those of another protocol are errors", "[client]") {
    const TemporaryFolder folder;
    AnsweringManager manager(folder);
    BusContext context;
    auto client = Client::connect(context, folder / "clients.sock");
    REQUIRE(client);
    REQUIRE(client->send("id", "t", text("b"), 20s));
    run(*client, 1s);
    const auto asked = manager.receive();
    REQUIRE(asked);
    manager.send(*asked, "");
    manager.send(*asked, "\xff garbage");
    manager.send(*asked, encode(5));
    manager.answer({asked->peer, "somebody else's", "", 0, ""}, 1);
    run(*client, 100ms);
    CHECK(client->outstanding() == 1);
    manager.send(*asked, encode(schemas::ReplyOf<int>{2, "id", 1}));
    const auto answer = client->receive(5s);
    REQUIRE(answer);
    REQUIRE_FALSE(answer->body);
    CHECK(answer->body.error().code == Errc::unimplemented);
}

TEST_CASE("an answer to another request stays for whoever asks for it", "[client]") {
    const TemporaryFolder folder;
    AnsweringManager manager(folder);
    std::thread server([&] {
        for (int i = 0; i < 2; ++i) {
            const auto asked = manager.receive();
            if (!asked) std::abort();
            manager.answer(*asked, asked->request_id);
        }
    });
    BusContext context;
    auto client = Client::connect(context, folder / "clients.sock");
    REQUIRE(client);
    REQUIRE(client->send("first", "t", text("b"), 5s));
    CHECK(client->call_raw("t", text("b"), 5s, "second") == text("second"));
    const auto other = client->receive(0ms);
    REQUIRE(other);
    CHECK(other->request_id == "first");
    server.join();
}
