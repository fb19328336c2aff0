// A whole cowslip in one thread: the real PoolManager over a real store, the real actors over a fake
// kernel, clients that retry, a bus that loses, repeats and delays, and a clock that is ours. All
// chance comes from one seed, so a failing run is the same run again.
//
// What it may do to the system: drop or repeat a client's message; let an actor stall; kill an actor
// before any effect; kill the manager before or after a commit, or with half its outbox sent; cut
// the power. What must hold is asked at the end, when faults have stopped and all is quiet.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "services/device_actor/device_actor.h"
#include "services/mount_actor/mount_actor.h"
#include "services/pool_manager/pool_manager.h"
#include "tests/fakes/fake_device_mapper.h"
#include "tests/fakes/fake_host.h"
#include "tests/fakes/fake_kernel.h"
#include "tests/fakes/fake_mounts.h"
#include "tests/fakes/hooked_filesystems.h"

namespace cowslip::simulation {

// Thrown out of an effect or a turn: the process that was there is no more.
struct Death {};

struct Faults {
    double lose_message = 0;  // A client's request, or its reply.
    double repeat_message = 0;
    double actor_dies = 0;    // Before an effect.
    double actor_stalls = 0;  // Per command, for up to 20 s.
    double manager_dies = 0;  // Per turn.
    double power_cut = 0;     // Per turn.
    double commit_fails = 0;  // Per effect: the pool's next metadata commit.
};

struct Options {
    std::uint64_t seed = 0;
    int device_actors = 3;
    int mount_actors = 2;
    Faults faults;
    // Counted over all effects of all actors and all turns; that one is the process's last. -1: none.
    std::int64_t die_at = -1;
};

struct Answer {
    std::string body;  // Encoded, if there is no error.
    std::optional<Error> error;
    std::string frame;
};

class World {
public:
    explicit World(Options options);
    ~World();
    World(const World&) = delete;

    // Sends a request; its answer, when it comes, goes to `done`. Asked again until it is answered.
    template <class Message>
    void ask(const Message& message, std::function<void(const Answer&)> done) {
        ask_raw(Message::kType, encode(message), std::move(done));
    }
    // Asks and runs until it is answered.
    template <class Message>
    Result<typename Message::Reply> call(const Message& message) {
        std::optional<Answer> answer;
        ask(message, [&](const Answer& got) { answer = got; });
        run_until([&] { return answer.has_value(); });
        if (answer->error) return *answer->error;
        return decode_as<typename Message::Reply>(std::string_view(answer->body));
    }

    // Lets things happen until `done`, or fails the test after an hour of virtual time.
    void run_until(const std::function<bool()>& done);
    void run_for(std::int64_t milliseconds);
    void stop_faults();
    void cut_power();
    void kill_manager();

    // What must hold when nobody wants anything any more. Empty: it does.
    std::string complaint();

    std::int64_t now_ms() const { return now_ms_; }
    std::int64_t happened() const { return happened_; }  // Effects and turns so far, for die_at.
    const std::deque<std::string>& history() const { return history_; }
    std::mt19937_64& random() { return random_; }
    bool chance(double probability) { return std::uniform_real_distribution<>(0, 1)(random_) < probability; }
    std::int64_t between(std::int64_t least, std::int64_t most) {
        return std::uniform_int_distribution<std::int64_t>(least, most)(random_);
    }

    FakeKernel kernel;
    FakeMountState mounts;

private:
    struct Request {
        std::string type;
        std::string body;
        std::function<void(const Answer&)> done;
        std::string frame;  // Of the first answer: a later one must be the same.
        bool answered = false;
    };
    struct Actor {
        ActorKind kind;
        std::uint64_t session = 0;  // Which manager it has said HELLO to.
        std::deque<std::string> queued;
        bool busy = false;
    };
    void at(std::int64_t delay_ms, std::function<void()> action);
    void note(const std::string& text);
    void something_happens();
    void ask_raw(const std::string& type, const std::string& body, std::function<void(const Answer&)> done);
    void send_request(const std::string& id);
    void on_reply(const std::string& payload);
    void start_manager();
    void deliver(Input input);
    void turn();
    void send(const Outbox& outbox);
    void start_actor(ActorKind kind);
    void hello(const std::string& name);
    void begin_command(const std::string& name);
    void carry_out(const std::string& name, const std::string& frame, std::uint64_t session);
    Result<std::string> run_command(ActorKind kind, const schemas::Command& command);
    void actor_died(std::string name);
    FakeFilesystem& content(const std::string& dm_uuid);
    std::string complain_about_store();
    std::string complain_about_kernel();

    Options options_;
    std::mt19937_64 random_;
    std::string folder_;
    std::multimap<std::int64_t, std::function<void()>> events_;
    std::int64_t now_ms_ = 1000000;
    std::int64_t happened_ = 0;
    std::deque<std::string> history_;

    std::optional<Store> store_;
    std::unique_ptr<PoolManager> manager_;
    std::uint64_t manager_number_ = 0;
    std::uint64_t boot_ = 1;
    std::vector<Input> inbox_;
    bool turn_planned_ = false;

    std::map<std::string, Actor> actors_;
    int next_actor_ = 1;
    std::map<std::uint64_t, int> deaths_;  // Of actors, by the operation they worked for.
    std::uint64_t carried_out_for_ = 0;
    std::map<std::string, Request> requests_;
    std::uint64_t next_request_ = 1;
    std::map<std::string, FakeFilesystem> file_systems_;  // By dm uuid.
    std::map<std::uint32_t, std::uint32_t> origins_;      // Of thin ids.
};

}  // namespace cowslip::simulation
