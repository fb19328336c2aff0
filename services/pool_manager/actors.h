// The actor processes, as the manager sees them: who has said HELLO, what each was told and has not
// answered, and the commands that wait for one to be idle.
//
// One command outstanding per actor, and at most one copy of a command able to run: a command comes
// back to its operation only with its reply, when its actor (and every child of it) is proven gone,
// or when its actor has said HELLO again, which means that it holds nothing. Time proves nothing.
#pragma once

#include <coroutine>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "schemas/envelope.h"
#include "schemas/pool_manager.h"
#include "services/pool_manager/task.h"

namespace cowslip {

enum class ActorKind : std::uint8_t { device, mount };

enum class Urgency : std::uint8_t {
    awaited,   // Somebody waits for it.
    behind,    // Behind a reply: when nothing awaited is left, and now and then.
    watching,  // Never blocks: for the watcher, if there is more than one device actor.
};

// Which command; comes back in the reply, and tells a current answer from a stale one.
struct CommandKey {
    std::uint64_t operation = 0;
    std::uint32_t step = 0;
    std::uint32_t attempt = 0;
    // The linter takes the comparison of its result with 0, which the compiler writes, for ours.
    friend auto operator<=>(const CommandKey&, const CommandKey&) = default;  // NOLINT(modernize-use-nullptr)
};

struct CommandOutcome {
    enum class Kind : std::uint8_t {
        answered,
        lost,        // Its actor says that it holds nothing: it was carried out once, or not at all.
        actor_died,  // Likewise, and its actor is gone.
    };
    Kind kind = Kind::answered;
    Result<std::string> body = std::string();  // When answered: the reply's body, or the actor's error.
    bool more = false;                         // Its actor has gone on: Actors::rest() has what becomes of that.
};

class Actors {
public:
    explicit Actors(ReadyQueue& ready) : ready_(ready) {}

    struct Wanted {
        ActorKind kind;
        Urgency urgency;
        CommandKey key;
        std::string type;
        std::string frame;  // The whole encoded command.
    };

    // `const CommandOutcome outcome = co_await actors.command(wanted);`
    auto command(Wanted wanted) {
        struct Await : Pending {
            Actors& actors;
            Await(Actors& owner, Wanted what) : Pending{std::move(what), {}, {}}, actors(owner) {}
            Await(const Await&) = delete;
            bool await_ready() const { return false; }
            void await_suspend(std::coroutine_handle<> handle) {
                this->waiter = handle;
                actors.enqueue(*this);
            }
            CommandOutcome await_resume() { return std::move(this->outcome); }
        };
        return Await(*this, std::move(wanted));
    }

    // The second answer to a command whose outcome said `more`; to be taken once for each such.
    auto rest(const CommandKey& key) {
        struct Await {
            Actors& actors;
            CommandKey key;
            bool await_ready() const { return actors.rests_.at(key).outcome.has_value(); }
            void await_suspend(std::coroutine_handle<> handle) const { actors.rests_.at(key).waiter = handle; }
            CommandOutcome await_resume() const { return std::move(*actors.rests_.extract(key).mapped().outcome); }
        };
        return Await{*this, key};
    }

    // Lock files that were there when we started: nothing is sent until each is accounted for.
    void expect(const std::vector<std::string>& incarnations);
    bool all_accounted_for() const { return unaccounted_.empty(); }

    // What has arrived or been found out. Unknown or stale input is ignored.
    void on_hello(const schemas::Hello& hello, std::int64_t now_ms);
    void on_reply(const std::string& incarnation, const schemas::CommandReply& reply);
    void on_gone(const std::string& incarnation);
    struct Outgoing {
        std::string incarnation;
        std::string frame;
    };
    // It was not sent: it is the next one that an idle actor gets.
    void on_not_taken(const Outgoing& command);

    // Everyone whose lock is worth a look.
    std::vector<std::string> known() const;
    bool has(ActorKind kind) const;

    // Gives waiting commands to idle actors; to be called once a turn, after all else.
    std::vector<Outgoing> assign(std::int64_t now_ms);

    std::vector<schemas::Actor> report(std::int64_t now_ms) const;
    // Who carries out the command with this operation number, or empty.
    std::string who_does(std::uint64_t operation) const;

private:
    struct Pending {
        Wanted wanted;
        std::coroutine_handle<> waiter;
        CommandOutcome outcome;
    };
    struct Actor {
        ActorKind kind;
        std::uint32_t pid;
        Pending* doing = nullptr;
        std::int64_t since_ms = 0;
        std::optional<CommandKey> rest = {};  // It goes on with what is behind its reply to this.
        bool idle() const { return doing == nullptr && !rest; }
    };
    struct Rest {
        std::optional<CommandOutcome> outcome;
        std::coroutine_handle<> waiter;
    };
    void enqueue(Pending& pending);
    void finish(Pending& pending, CommandOutcome outcome);
    void finish_all(Actor& actor, CommandOutcome::Kind kind);
    void finish_rest(Actor& actor, CommandOutcome outcome);
    Pending* take_for(const std::string& incarnation, const Actor& actor);
    void choose_watcher();

    ReadyQueue& ready_;
    std::map<std::string, Actor> actors_;
    std::set<std::string> unaccounted_;
    std::string watcher_;  // Empty while there is at most one device actor.
    std::map<std::pair<ActorKind, Urgency>, std::deque<Pending*>> queues_;
    std::map<ActorKind, std::uint32_t> awaited_in_a_row_;
    std::map<CommandKey, Rest> rests_;
};

}  // namespace cowslip
