// `events --follow` against a service that loses, repeats and delays what it publishes.

#include <csignal>
#include <sstream>

#include <catch2/catch.hpp>

#include "services/ctl/command_line.h"
#include "services/ctl/json.h"
#include "tests/fakes/scripted_manager.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip::ctl {

namespace {

using namespace schemas;
using Event = EventOf<std::map<std::string, std::string>>;

Event event(std::uint64_t seq, const std::string& type = "volume.created") {
    return {seq, "2026-11-23T08:00:00.000Z", type, "v" + std::to_string(seq), {}};
}

// Keeps events `oldest` to `newest`.
struct EventsFixture {
    EventsFixture() {
        manager.on<EventSince>([this](const EventSince& request) -> Result<EventSince::Reply> {
            EventSince::Reply reply;
            reply.oldest = oldest;
            for (std::uint64_t seq = std::max(request.seq + 1, oldest.load()); seq <= newest; ++seq) {
                if (reply.events.size() == 2) {  // Small pages, so that there are several.
                    reply.more = true;
                    break;
                }
                reply.events.push_back(event(seq));
            }
            return reply;
        });
        manager.on<SystemStatus>([this](const SystemStatus&) -> Result<SystemStatus::Reply> {
            SystemStatus::Reply reply;
            reply.event_seq = newest;
            return reply;
        });
    }

    // Runs the command; a thread calls `meanwhile` and then interrupts it.
    std::vector<std::uint64_t> follow(std::vector<std::string> args, const std::function<void()>& meanwhile) {
        args.insert(args.begin(), {"events", "--json", "--socket", folder / "clients.sock"});
        std::ostringstream out;
        Console console{.out = out, .err = err};
        auto stop = StopSignal::watch();
        manager.start();
        std::thread other([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(400));
            meanwhile();
            std::this_thread::sleep_for(std::chrono::milliseconds(600));
            ::kill(::getpid(), SIGINT);
        });
        code = run(args, console, *stop);
        other.join();
        stop->caught();
        std::vector<std::uint64_t> seqs;
        std::istringstream lines(out.str());
        for (std::string line; std::getline(lines, line);) seqs.push_back(Json::parse(line)["seq"]);
        return seqs;
    }

    std::atomic<std::uint64_t> oldest = 1;
    std::atomic<std::uint64_t> newest = 0;
    TemporaryFolder folder;
    ScriptedManager manager{folder.path()};
    std::ostringstream err;
    int code = 0;
};

using Seqs = std::vector<std::uint64_t>;

}  // namespace

TEST_CASE_METHOD(EventsFixture, "events prints what is kept, page after page", "[ctl]") {
    newest = 5;
    manager.start();
    std::ostringstream out;
    Console console{.out = out, .err = err};
    auto stop = StopSignal::watch();
    CHECK(run({"events", "--since", "3", "--socket", folder / "clients.sock"}, console, *stop) == 0);
    CHECK(out.str() ==
          "4\t2026-11-23T08:00:00.000Z\tvolume.created\tv4\t\n5\t2026-11-23T08:00:00.000Z\tvolume.created\tv5\t\n");
    CHECK(run({"events", "--since", "x", "--socket", folder / "clients.sock"}, console, *stop) == 2);
}

TEST_CASE_METHOD(EventsFixture, "a follower prints each event once, in order, and ends with 130", "[ctl]") {
    newest = 3;
    CHECK(follow({"--since", "1", "--follow"}, [&] {
              newest = 5;
              for (const std::uint64_t seq : Seqs{2, 3, 4, 4, 5, 3}) manager.publish(event(seq));
          }) == Seqs{2, 3, 4, 5});
    CHECK(code == 130);
}

TEST_CASE_METHOD(EventsFixture, "a follower asks for what a gap left out", "[ctl]") {
    CHECK(follow({"--since", "0", "--follow"}, [&] {
              newest = 6;
              manager.publish(event(1));
              manager.publish(event(6));
          }) == Seqs{1, 2, 3, 4, 5, 6});
}

TEST_CASE_METHOD(EventsFixture, "a heartbeat tells a follower of events that it never saw, and is not printed",
                 "[ctl]") {
    CHECK(follow({"--since", "0", "--follow"}, [&] {
              newest = 3;
              manager.publish(event(3, "heartbeat"));
              manager.publish(event(2, "heartbeat"));
              manager.publish(event(3, "heartbeat"));
          }) == Seqs{1, 2, 3});
}

TEST_CASE_METHOD(EventsFixture, "a follower that names no start begins with what happens next", "[ctl]") {
    newest = 10;
    CHECK(follow({"--follow"}, [&] {
              newest = 11;
              manager.publish(event(11));
          }) == Seqs{11});
}

TEST_CASE_METHOD(EventsFixture, "a follower goes on where events are no longer kept", "[ctl]") {
    oldest = 8;
    newest = 9;
    CHECK(follow({"--since", "2", "--follow"}, [] {}) == Seqs{8, 9});
}

TEST_CASE_METHOD(EventsFixture, "a service whose events went backwards ends its followers", "[ctl]") {
    newest = 9;
    CHECK(follow({"--since", "7", "--follow"}, [&] {
              newest = 4;
              manager.publish(event(4, "heartbeat"));
          }) == Seqs{8, 9});
    CHECK(code == 9);
    CHECK_THAT(err.str(), Catch::Contains("restored"));
}

}  // namespace cowslip::ctl
