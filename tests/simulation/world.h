// A whole cowslip in one thread: the real PoolManager over a real store, the real actors over a fake
// kernel, clients that retry, a bus that loses, repeats and delays, and a clock that is ours. All
// chance comes from one seed, so a failing run is the same run again.
//
// What it may do to the system: drop or repeat a client's message; let an actor stall; deliver its
// reply late, twice, or after its death; break its connection; kill an actor before any effect or with its work done;
// kill the manager before or after a commit, or with half its outbox sent; fail a commit of the pool's metadata; cut
// the power. What must hold is asked at the end, when faults have stopped and all is quiet. Without faults it drives
// the manager through its own messages (manager_*_test.cpp).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "services/device_actor/device_actor.h"
#include "services/mount_actor/mount_actor.h"
#include "services/pool_manager/pool_manager.h"
#include "tests/fakes/fake_device_mapper.h"
#include "tests/fakes/fake_disk.h"
#include "tests/fakes/fake_host.h"
#include "tests/fakes/fake_kernel.h"
#include "tests/fakes/fake_mounts.h"
#include "tests/simulation/failing.h"

namespace cowslip::simulation {

// Thrown out of an effect or a turn: the process that was there is no more.
struct Death {};

struct Faults {
    double lose_message = 0;  // A client's request, or its reply.
    double repeat_message = 0;
    double actor_dies = 0;        // Before an effect, or with its work done.
    double actor_stalls = 0;      // Per command, for up to 20 s.
    double slow_reply = 0;        // An actor's reply is under way for up to 3 s: others overtake it.
    double repeat_reply = 0;      // An actor's reply comes again, up to 10 s later.
    double refuse_command = 0;    // By the bus, per command: the connection is as it was.
    double break_connection = 0;  // Of an actor, per command or reply: that is lost, and it says HELLO again.
    double manager_dies = 0;      // Per turn.
    double power_cut = 0;         // Per turn.
    double commit_fails = 0;      // Per effect: the pool's next metadata commit. An operator repairs it later.
};

struct Options {
    std::uint64_t seed = 0;
    int device_actors = 3;
    int mount_actors = 2;
    Faults faults = {};
    // Counted over all effects of all actors and all turns; that one is the process's last. -1: none.
    std::int64_t die_at = -1;
    bool power_cut_at_that = false;  // Then not only the process dies.
    ManagerOptions manager = {};     // The boot id and the folder are the world's.
    // What it begins with.
    FakeDisk::Image store = {};
    FakeKernel kernel = {};
};

struct Answer {
    std::string body;  // Encoded, if there is no error.
    std::optional<Error> error;
    std::string frame;
};

// How a request is sent that is sent once only.
struct Sending {
    std::string request_id = {};  // Empty: a new one.
    std::uint32_t timeout_ms = 600000;
    bool early = false;  // Also while the manager starts.
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

    // Sends it once, untouched by faults; gives its request id. Every answer to it is kept.
    template <class Message>
    std::string send_once(const Message& message, Sending how = {}) {
        return send_once(Message::kType, encode(message), std::move(how));
    }
    std::string send_once(const std::string& type, const std::string& body, Sending how = {});
    void send_frame(const std::string& frame, bool early = false);
    const std::vector<Answer>& answers(const std::string& request_id) { return answers_[request_id]; }
    // Runs until there are that many of them; gives the last.
    Answer answer(const std::string& request_id, std::size_t count = 1);
    // One answer, whatever it is.
    template <class Message>
    Answer ask_once(const Message& message, Sending how = {}) {
        const std::string id = send_once(message, std::move(how));
        return answer(id, answers(id).size() + 1);
    }

    // Lets things happen until `done`, or fails the test after an hour of virtual time.
    void run_until(const std::function<bool()>& done);
    void run_for(std::int64_t milliseconds);
    void tell_of_pool_event();                                              // An actor does.
    void hear(const std::string& incarnation, const std::string& payload);  // At the actors' door.
    void at(std::int64_t delay_ms, std::function<void()> action);
    void stop_faults();
    ManagerOptions& manager_options() { return options_.manager; }  // Of the next manager.
    void let_live() { options_.die_at = -1; }
    // The effect or turn that comes when so many have happened is the last of its process, or of the machine.
    void die_after(std::int64_t more, bool power_cut) {
        options_.die_at = happened_ + more;
        options_.power_cut_at_that = power_cut;
    }
    void cut_power();
    void kill_manager();
    // The store's file, while there is no manager (right after its death): a copy of it, and another in its place. An
    // empty one: it is lost.
    FakeDisk::Image take_store() const;
    void put_store(const FakeDisk::Image& image);
    // SIGTERM; and what the process does last.
    void stop_admitting() { manager_->stop_admitting(); }
    void wake_manager() { turn(); }
    bool drained() const { return manager_->drained() && !manager_->is_backing_up(); }
    void answer_all_waiting() { send(manager_->answer_all_waiting()); }
    // A container is given another boot id: the kernel lives on.
    void change_boot_id() { ++boot_; }
    // Whether its last umount may have made it inconsistent, and nobody has repaired the pool by magic since.
    bool is_cut_off(const std::string& volume);
    // Of a volume: what its file system takes, and what its device has (0: it is not active).
    std::uint64_t file_system_sectors(const std::string& volume);
    std::uint64_t device_sectors(const std::string& volume);
    bool is_device_read_only(const std::string& volume);
    // thin_check, and the pool loaded anew: it is as its last good commit left it.
    void repair_pools();

    // Commands of that type are taken and not carried out (SIGSTOP), or carried out and their replies
    // are held back, until they are let go.
    void hold_commands(const std::string& type) { held_commands_.insert(type); }
    std::set<std::string> deadly;  // Whoever takes a command of these types dies of it.
    void hold_replies(const std::string& type) { held_replies_.insert(type); }
    void let_go();
    std::size_t held() const { return waiting_.size(); }
    void kill_held_actors();

    // What must hold when nobody wants anything any more. Empty: it does.
    std::string complaint();

    std::int64_t now_ms() const { return now_ms_; }
    std::int64_t happened() const { return happened_; }  // Effects and turns so far, for die_at.
    bool ready() const { return manager_ && manager_->ready(); }
    Store& store() { return *store_; }
    std::uint64_t commits_failed() const { return commits_failed_; }
    const std::deque<std::string>& history() const { return history_; }
    FakeFilesystem& content(const std::string& dm_uuid);  // Of a device; as its origin has it, if it is new.
    std::mt19937_64& random() { return random_; }
    bool chance(double probability) { return std::uniform_real_distribution<>(0, 1)(random_) < probability; }
    std::int64_t between(std::int64_t least, std::int64_t most) {
        return std::uniform_int_distribution<std::int64_t>(least, most)(random_);
    }

    FakeDisk disk;  // Of the store.
    FakeKernel kernel;
    FakeMountState mounts;
    std::set<std::string> opened;  // dm uuids of devices that somebody has open.
    CallFaults call_faults;
    // What an actor answers instead of carrying out a command; nothing: it carries it out.
    std::function<std::optional<Result<std::string>>(const schemas::Command&)> answer_instead;
    // What is made of the answer to a command that was carried out.
    std::function<Result<std::string>(const schemas::Command&, Result<std::string>)> change_answer;
    std::function<void()> on_power_cut;
    std::map<std::string, int> commands;  // Carried out, by type.

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
        int connection = 0;         // What is under way on an older one is not carried out.
        std::deque<std::string> queued = {};
        bool busy = false;
        bool broken = false;        // Its connection: what it says is lost until it says HELLO again.
        std::int64_t heard_at = 0;  // When its last reply arrives: none overtakes one of the same actor.
    };
    struct Waiting {
        std::string actor;
        std::function<void()> go_on;
    };
    void note(const std::string& text);
    void something_happens();
    void ask_raw(const std::string& type, const std::string& body, std::function<void(const Answer&)> done);
    void send_request(const std::string& id);
    void on_reply(const std::string& payload);
    void start_manager();
    void start_manager_later(std::int64_t delay_ms);
    void deliver(Input input);
    void turn();
    void send(const Outbox& outbox);
    void start_actor(ActorKind kind);
    void hello(const std::string& name);
    void say_hello(const std::string& name);
    void reconnect(const std::string& name);
    void begin_command(const std::string& name);
    void carry_out(const std::string& name, const std::string& frame, std::uint64_t session);
    std::string reply_frame(const CommandKey& key, const Result<std::string>& body, bool more);
    void go_on(const std::string& name, const CommandKey& key, const std::function<Result<std::string>()>& rest,
               std::uint64_t session);
    void end_command(const std::string& name, const std::string& payload, std::uint64_t session);
    void reply(const std::string& name, const std::string& payload, std::uint64_t session);
    bool chance_of_death();
    void maybe_fail_a_commit();
    void count_openers();
    CommandAnswer run_command(ActorKind kind, const schemas::Command& command);
    void actor_died(std::string name, std::string last_reply = {});
    std::uint64_t sectors_of(const std::string& dm_uuid) const;
    bool refuses_writes(const std::string& dm_uuid) const;
    std::string complain_about_store();
    std::string complain_about_sizes();
    std::string complain_about_warm(std::set<std::string>* warm_uuids);
    std::string complain_about_kernel();

    Options options_;
    std::mt19937_64 random_;
    std::multimap<std::int64_t, std::function<void()>> events_;
    std::int64_t now_ms_ = 1000000;
    std::int64_t happened_ = 0;
    std::deque<std::string> history_;

    std::optional<Store> store_;
    std::unique_ptr<PoolManager> manager_;
    std::uint64_t manager_number_ = 0;
    std::uint64_t boot_ = 1;
    bool power_fails_ = false;  // At the effect or turn that is going on.
    std::vector<Input> inbox_;
    bool turn_planned_ = false;

    std::map<std::string, Actor> actors_;
    int next_actor_ = 1;
    std::map<std::uint64_t, int> deaths_;  // Of actors, by the operation they worked for.
    std::uint64_t carried_out_for_ = 0;
    std::uint64_t commits_failed_ = 0;
    std::set<std::string> held_commands_;
    std::set<std::string> held_replies_;
    std::vector<Waiting> waiting_;
    std::map<std::string, Request> requests_;
    std::map<std::string, std::vector<Answer>> answers_;  // To what was sent once, by request id.
    std::uint64_t next_request_ = 1;
    std::map<std::string, FakeFilesystem> file_systems_;  // By dm uuid.
    std::map<std::uint32_t, std::uint32_t> origins_;      // Of thin ids.
};

}  // namespace cowslip::simulation
