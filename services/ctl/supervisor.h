// The services of one state folder as children in the foreground: started in order, started again
// when they die, stopped in order. One thread, one poll loop.
//
// Order matters at the start: actors say HELLO to whoever listens at actors.sock, so none is started
// before that is our own manager. A manager that finds the folder taken gives up, and we with it,
// without having lent our actors to the other service.
//
// Beside the manager another one may wait, its program begun and nothing opened: when the manager dies it takes its
// place at once.
//
// Where all actors of a kind are busy and one is stuck, spares are started, up to four times what the
// plan has: else that many stuck volumes would stop the service (protocol.md A15).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/client.h"
#include "common/files.h"
#include "common/result.h"
#include "common/state_folder.h"
#include "schemas/pool_manager.h"
#include "services/ctl/output.h"
#include "services/ctl/stop_signal.h"

namespace cowslip::ctl {

// How long a service that died waits for its next start: not at all, then 100 ms, doubling to 5 s.
// One that did not die of its start is forgiven: it lived for 2 s, or, a manager, had answered for half a second.
class Backoff {
public:
    std::chrono::milliseconds after_death(bool of_its_start);

private:
    unsigned deaths_ = 0;
};

class Supervisor {
public:
    struct Actors {
        std::string kind;                    // "device", "mount": as they say HELLO.
        std::vector<std::string> arguments;  // Program and arguments.
        unsigned count = 1;
    };
    struct Plan {
        StateFolder folder;
        std::vector<std::string> manager;  // Program and arguments.
        // Of one that waits for a byte at its stdin to be the manager, and ends where that is closed. Empty: none.
        std::vector<std::string> standby;
        std::vector<Actors> actors;
        std::chrono::milliseconds look_interval{1000};  // Between two looks at what the actors do.
        std::chrono::milliseconds spare_time{60000};    // A spare that was not needed for so long ends.
    };

    Supervisor(Plan plan, const Console& console, StopSignal& stop);
    Supervisor(const Supervisor&) = delete;
    Supervisor& operator=(const Supervisor&) = delete;
    ~Supervisor();  // Kills what still runs; nothing does after run().

    // Until a stop signal; then all are stopped, and it is a success. Fails if the manager gives up
    // before it was ever ready.
    Result<void> run();

private:
    using Clock = std::chrono::steady_clock;
    struct Service {
        std::vector<std::string> arguments;
        std::string kind = {};  // Of an actor.
        bool spare = false;     // Not in the plan: not started again.
        pid_t pid = -1;
        Fd handle;  // pidfd: readable when it has died.
        Clock::time_point started;
        std::optional<Clock::time_point> due;  // Of its next start.
        Backoff backoff;
        std::string name() const;
    };

    Result<void> start(Service& service);
    Result<void> spawn(Service& service, int input);
    Result<void> start_standby();
    bool call_standby(Service& manager);
    void take_death_of_standby();
    Result<void> start_what_is_due();
    void watch_doors();
    Result<void> take_deaths();
    Result<void> take_death(Service& service, int status);
    void look_at_actors();
    Result<void> balance(const Actors& actors, const std::vector<schemas::Actor>& seen);
    Result<void> start_spare(const Actors& actors);
    void wait(std::chrono::milliseconds most);
    std::chrono::milliseconds time_to_next() const;
    void stop_all();
    void stop_some(std::size_t first, std::size_t last);
    void say(const std::string& message) const;
    void say_ready(uid_t account);

    Plan plan_;
    const Console& console_;
    StopSignal& stop_;
    std::vector<Service> services_;  // The manager first.
    Service standby_;
    Fd call_;  // What it waits for is written here.
    std::size_t actors_planned_ = 0;
    std::optional<BusContext> context_;
    std::optional<Client> client_;  // After the context: its socket goes first.
    Clock::time_point next_look_;
    std::map<std::string, Clock::time_point> needed_;  // By kind: when its spares last were.
    bool actors_wanted_ = false;
    bool ready_ = false;
    Clock::time_point ready_since_;
    bool was_ready_ = false;
};

}  // namespace cowslip::ctl
