#include "services/pool_manager/actors.h"

#include <catch2/catch.hpp>

namespace cowslip {
namespace {

// Commands of operations 1, 2, ... and what becomes of them.
class Office {
public:
    void hello(const std::string& name, const std::string& kind = "device") { actors.on_hello({kind, name, 7, ""}, 0); }
    CommandOutcome& want(std::uint64_t operation) {
        auto& [task, outcome] = wanted_[operation];
        task = wait(actors, {ActorKind::device, Urgency::awaited, {operation, 0, 1}, "a.command", "a frame"}, &outcome);
        task.handle().resume();
        return outcome;
    }
    bool ended(std::uint64_t operation) {
        while (!ready_.empty()) ready_.pop().resume();
        return wanted_.at(operation).first.done();
    }
    static schemas::CommandReply reply(std::uint64_t operation, bool more = false) {
        schemas::CommandReply message;
        message.operation = operation;
        message.attempt = 1;
        message.more = more;
        return message;
    }

private:
    static Async<void> wait(Actors& actors, Actors::Wanted wanted, CommandOutcome* outcome) {
        *outcome = co_await actors.command(std::move(wanted));
    }
    ReadyQueue ready_;

public:
    Actors actors{ready_};

private:
    std::map<std::uint64_t, std::pair<Async<void>, CommandOutcome>> wanted_;
};

}  // namespace

TEST_CASE("a command that was not taken is given again, unless what its actor does now is another", "[actors]") {
    Office office;
    office.want(1);
    office.hello("device-1");
    const auto sent = office.actors.assign(0);
    REQUIRE(sent.size() == 1);
    CHECK(office.actors.assign(0).empty());  // One at a time.
    office.actors.on_not_taken({"nobody", "a frame"});
    office.actors.on_not_taken({"device-1", "another frame"});
    CHECK(office.actors.assign(0).empty());
    office.actors.on_not_taken(sent.front());
    CHECK(office.actors.assign(0).size() == 1);
    office.actors.on_reply("device-1", Office::reply(1));
    CHECK(office.ended(1));
    office.actors.on_not_taken(sent.front());  // Too late: it has nothing in hand.
    CHECK(office.actors.assign(0).empty());
}

TEST_CASE("nothing is sent while an actor of an older manager may still work", "[actors]") {
    Office office;
    office.actors.expect({"device-1", "device-2"});
    office.want(1);
    office.hello("device-1");
    CHECK(office.actors.assign(0).empty());
    CHECK(office.actors.known().size() == 2);
    office.actors.on_gone("device-2");
    CHECK(office.actors.assign(0).size() == 1);
}

TEST_CASE("who carries out an operation's command, or goes on behind its reply, is known by name", "[actors]") {
    Office office;
    CHECK(office.actors.who_does(1).empty());
    CommandOutcome& outcome = office.want(1);
    office.hello("device-1");
    office.actors.assign(0);
    CHECK(office.actors.who_does(1) == "device-1");
    CHECK(office.actors.who_does(2).empty());
    office.actors.on_reply("device-1", Office::reply(1, true));
    CHECK(office.ended(1));
    CHECK(outcome.more);
    CHECK(office.actors.who_does(1) == "device-1");
    CHECK(office.actors.who_does(2).empty());
    CHECK(office.actors.report(0).front().doing == "what is behind its reply");
    office.actors.on_reply("device-1", Office::reply(1));  // Before anybody has asked for it.
    CHECK(office.actors.who_does(1).empty());
}

TEST_CASE("an actor of another kind than there are is none", "[actors]") {
    Office office;
    office.hello("kitchen-1", "kitchen");
    CHECK(office.actors.known().empty());
    CHECK_FALSE(office.actors.has(ActorKind::device));
}

}  // namespace cowslip
