#include "services/ctl/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "common/bus.h"
#include "common/size.h"

namespace cowslip::ctl {

namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;

constexpr milliseconds kLongestBackoff{5000};
// Who lives so long, or a manager that has answered for so long, has not died of its start.
constexpr milliseconds kForgiven{2000};
constexpr milliseconds kForgivenBehindDoor{500};
constexpr milliseconds kStandbyDelay{250};    // Behind the manager's door: until then its clients come first.
constexpr milliseconds kDoorInterval{20};     // Between looks at a door that is not open yet.
constexpr milliseconds kStopPatience{12000};  // A service has 10 s to end what it has in hand.
constexpr milliseconds kAnswerPatience{5000};
constexpr std::uint64_t kStuckMs = 5000;
constexpr std::size_t kMostActors = 4;  // Times what the plan has.
// The manager's own word: its store was full, it has made room, and is to be started again.
constexpr int kStartAgain = 75;

// In the child: nothing but calls that are safe after fork. Returns only if the program cannot run.
void become(char* const* arguments, pid_t parent, int input) {
    setpgid(0, 0);  // A Ctrl-C is for us: we stop them in order.
    // Not orphaned, to fight the next `up`, should we be killed.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) return;
    signal(SIGPIPE, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    if (input < 0) input = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (input >= 0) dup2(input, STDIN_FILENO);
    execv(arguments[0], arguments);
}

std::string death(int status) {
    if (WIFSIGNALED(status)) return fmt::format("was killed by signal {}", WTERMSIG(status));
    return fmt::format("ended with status {}", WEXITSTATUS(status));
}

std::string account_name(uid_t uid) {
    const passwd* entry = getpwuid(uid);
    return entry == nullptr ? fmt::format("uid {}", uid) : entry->pw_name;
}

bool is_door_of(pid_t pid, const std::string& socket) {
    const auto server = ClientSocket::server(socket);
    return server && server->pid == pid;
}

}  // namespace

milliseconds Backoff::after_death(bool of_its_start) {
    if (!of_its_start) deaths_ = 0;
    const unsigned deaths = deaths_++;
    if (deaths == 0) return milliseconds(0);
    return std::min(milliseconds(100) * (1U << std::min(deaths - 1, 10U)), kLongestBackoff);
}

std::string Supervisor::Service::name() const {
    return arguments[0].substr(arguments[0].rfind('/') + 1);
}

Supervisor::Supervisor(Plan plan, const Console& console, StopSignal& stop)
    : plan_(std::move(plan)), console_(console), stop_(stop) {
    services_.emplace_back().arguments = plan_.manager;
    standby_.arguments = plan_.standby;
    for (const auto& actors : plan_.actors) {
        for (unsigned i = 0; i < actors.count; ++i) {
            Service& service = services_.emplace_back();
            service.arguments = actors.arguments;
            service.kind = actors.kind;
        }
        actors_planned_ += actors.count;
    }
}

Supervisor::~Supervisor() {
    for (const auto& service : services_) {
        if (service.pid <= 0) continue;
        kill(service.pid, SIGKILL);
        waitpid(service.pid, nullptr, 0);
    }
    if (standby_.pid <= 0) return;
    kill(standby_.pid, SIGKILL);
    waitpid(standby_.pid, nullptr, 0);
}

Result<void> Supervisor::run() {
    services_.front().due = Clock::now();
    Result<void> result;
    while (result && stop_.caught() == 0) {
        result = start_what_is_due();
        if (!result) break;
        wait(std::min(ready_ ? plan_.look_interval : kDoorInterval, time_to_next()));
        result = take_deaths();
        if (result && !ready_) watch_doors();
        if (result && ready_) look_at_actors();
    }
    stop_all();
    return result;
}

Result<void> Supervisor::start(Service& service) {
    if (&service == &services_.front() && call_standby(service)) return {};
    return spawn(service, -1);
}

// `input`: its stdin; below 0: /dev/null.
Result<void> Supervisor::spawn(Service& service, int input) {
    std::vector<char*> arguments;
    for (auto& argument : service.arguments) arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child < 0) return errno_error(errno, fmt::format("start {}", service.name()));
    if (child == 0) {
        become(arguments.data(), parent, input);
        _exit(127);
    }
    service.pid = child;
    service.started = Clock::now();
    service.due.reset();
    // By number: glibc 2.36 declares the function for C only.
    service.handle = Fd(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
    if (!service.handle) return errno_error(errno, fmt::format("watch {}", service.name()));
    return {};
}

Result<void> Supervisor::start_what_is_due() {
    const auto now = Clock::now();
    for (auto& service : services_) {
        if (service.due && *service.due <= now) TRY(start(service));
    }
    const bool wanted =
        ready_ && !standby_.arguments.empty() && standby_.pid <= 0 && now - ready_since_ >= kStandbyDelay;
    if (wanted && standby_.due.value_or(now) <= now) return start_standby();
    return {};
}

Result<void> Supervisor::start_standby() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return errno_error(errno, "make a pipe");
    const Fd input(ends[0]);
    call_ = Fd(ends[1]);
    return spawn(standby_, input.get());
}

// False: there is none that could be called.
bool Supervisor::call_standby(Service& manager) {
    if (standby_.pid <= 0) return false;
    const bool called = write(call_.get(), "\n", 1) == 1;
    call_.close();
    if (!called) return false;  // It has died, which is seen next.
    manager.pid = std::exchange(standby_.pid, -1);
    manager.handle = std::move(standby_.handle);
    manager.started = Clock::now();
    manager.due.reset();
    return true;
}

void Supervisor::take_death_of_standby() {
    int status = 0;
    if (standby_.pid <= 0 || waitpid(standby_.pid, &status, WNOHANG) != standby_.pid) return;
    const auto now = Clock::now();
    const auto delay = standby_.backoff.after_death(now - standby_.started < kForgiven);
    standby_.due = now + delay;
    say(fmt::format("{} (pid {}), which stood by, {}", standby_.name(), std::exchange(standby_.pid, -1),
                    death(status)));
    standby_.handle.close();
    call_.close();
}

// Which of the manager's doors are open, and what follows from it.
void Supervisor::watch_doors() {
    const pid_t manager = services_.front().pid;
    if (manager <= 0) return;
    if (!actors_wanted_ && is_door_of(manager, plan_.folder.actors_socket())) {
        actors_wanted_ = true;
        for (auto& service : services_) {
            if (service.pid <= 0 && !service.due) service.due = Clock::now();
        }
    }
    const auto server = ClientSocket::server(plan_.folder.clients_socket());
    if (!actors_wanted_ || !server || server->pid != manager) return;
    ready_ = true;
    ready_since_ = Clock::now();
    say_ready(server->uid);
}

Result<void> Supervisor::take_deaths() {
    for (auto& service : services_) {
        int status = 0;
        if (service.pid <= 0 || waitpid(service.pid, &status, WNOHANG) != service.pid) continue;
        TRY(take_death(service, status));
    }
    std::erase_if(services_, [](const Service& service) { return service.spare && service.pid <= 0; });
    take_death_of_standby();
    return {};
}

Result<void> Supervisor::take_death(Service& service, int status) {
    const pid_t pid = std::exchange(service.pid, -1);
    service.handle.close();
    const bool manager = &service == &services_.front();
    if (service.spare) return {};
    if (manager && !was_ready_ && WIFEXITED(status) && WEXITSTATUS(status) != kStartAgain) {
        // It has said why, and would say it again: an operator must act.
        const int code = WEXITSTATUS(status);
        if (code == exit_code(Errc::in_use)) {
            return Error{Errc::in_use,
                         fmt::format("start the service in '{}': another one serves this folder; stop that "
                                     "one, or use it with --state",
                                     plan_.folder.dir)};
        }
        Error error{Errc::unavailable,
                    fmt::format("start the service in '{}': {} {}", plan_.folder.dir, service.name(), death(status))};
        if (code == 127) error.code = Errc::not_found;
        return error;
    }
    const auto now = Clock::now();
    const auto lived = duration_cast<milliseconds>(now - service.started);
    const bool has_answered = manager && std::exchange(ready_, false) && now - ready_since_ >= kForgivenBehindDoor;
    const auto delay = service.backoff.after_death(lived < kForgiven && !has_answered);
    service.due = now + delay;
    say(fmt::format("{} (pid {}) {} after {}; starting it again{}", service.name(), pid, death(status),
                    format_duration(lived), delay.count() == 0 ? "" : " in " + format_duration(delay)));
    return {};
}

// Asks, and takes the answer to the last question; waits for nothing.
void Supervisor::look_at_actors() {
    const auto now = Clock::now();
    if (!client_) {
        auto client = Client::connect(context_ ? *context_ : context_.emplace(), plan_.folder.clients_socket());
        if (!client) return;
        client_.emplace(std::move(*client));
    }
    while (const auto answer = client_->receive(milliseconds(0))) {
        const auto status = answer->body ? decode_as<schemas::SystemStatus::Reply>(std::string_view(*answer->body))
                                         : Result<schemas::SystemStatus::Reply>(answer->body.error());
        if (!status) continue;
        for (const auto& actors : plan_.actors) {
            const auto balanced = balance(actors, status->actors);
            if (!balanced) say(balanced.error().message);
        }
    }
    if (client_->outstanding() > 0 || now < next_look_) return;
    next_look_ = now + plan_.look_interval;
    const auto sent =
        client_->send(new_request_id(), schemas::SystemStatus::kType, encode(schemas::SystemStatus{}), kAnswerPatience);
    if (!sent) say(sent.error().message);
}

Result<void> Supervisor::balance(const Actors& actors, const std::vector<schemas::Actor>& seen) {
    bool idle = false;
    bool stuck = false;
    std::map<pid_t, const schemas::Actor*> known;
    for (const auto& actor : seen) {
        if (actor.kind != actors.kind) continue;
        known[static_cast<pid_t>(actor.pid)] = &actor;
        if (actor.watcher) continue;  // Never told what may block.
        idle = idle || actor.doing.empty();
        stuck = stuck || actor.busy_ms > kStuckMs;
    }
    if (stuck || !idle) needed_[actors.kind] = Clock::now();
    std::size_t ours = 0;
    bool all_known = true;
    const schemas::Actor* idle_spare = nullptr;
    for (const auto& service : services_) {
        if (service.kind != actors.kind) continue;
        ++ours;
        const auto found = known.find(service.pid);
        if (found == known.end()) {
            all_known = false;
        } else if (service.spare && found->second->doing.empty() && !found->second->watcher) {
            idle_spare = found->second;
        }
    }
    if (stuck && !idle && all_known && ours < kMostActors * actors.count) return start_spare(actors);
    if (idle_spare == nullptr || Clock::now() - needed_[actors.kind] < plan_.spare_time) return {};
    needed_[actors.kind] = Clock::now();  // One at a time.
    kill(static_cast<pid_t>(idle_spare->pid), SIGTERM);
    return {};
}

Result<void> Supervisor::start_spare(const Actors& actors) {
    Service spare;
    spare.arguments = actors.arguments;
    spare.kind = actors.kind;
    spare.spare = true;
    TRY(start(spare));
    say(
        fmt::format("all {} actors are busy and one is stuck: {} (pid {}) started; 'cowslip operations' tells what "
                    "they wait for",
                    actors.kind, spare.name(), spare.pid));
    services_.push_back(std::move(spare));
    return {};
}

void Supervisor::wait(milliseconds most) {
    std::vector<pollfd> handles{{.fd = stop_.fd(), .events = POLLIN, .revents = 0}};
    for (const auto& service : services_) {
        if (service.handle) handles.push_back({.fd = service.handle.get(), .events = POLLIN, .revents = 0});
    }
    if (standby_.handle) handles.push_back({.fd = standby_.handle.get(), .events = POLLIN, .revents = 0});
    poll(handles.data(), handles.size(), static_cast<int>(most.count()));
}

milliseconds Supervisor::time_to_next() const {
    auto most = milliseconds(60000);
    for (const auto& service : services_) {
        if (!service.due) continue;
        const auto left = std::chrono::ceil<milliseconds>(*service.due - Clock::now());
        most = std::clamp(left, milliseconds(0), most);
    }
    return most;
}

// The manager first: it takes no new work, ends what is in the actors' hands, and answers its clients.
void Supervisor::stop_all() {
    for (auto& service : services_) service.due.reset();
    call_.close();  // Who stands by ends.
    stop_some(0, 1);
    stop_some(1, services_.size());
    for (auto& service : services_) {
        if (service.pid <= 0) continue;
        say(fmt::format("{} (pid {}) does not stop: killed", service.name(), service.pid));
        kill(service.pid, SIGKILL);
        waitpid(service.pid, nullptr, 0);
        service.pid = -1;
        service.handle.close();
    }
}

void Supervisor::stop_some(std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i) {
        if (services_[i].pid > 0) kill(services_[i].pid, SIGTERM);
    }
    const auto deadline = Clock::now() + kStopPatience;
    const auto some_run = [&] {
        return std::any_of(services_.begin() + static_cast<std::ptrdiff_t>(first),
                           services_.begin() + static_cast<std::ptrdiff_t>(last),
                           [](const Service& service) { return service.pid > 0; });
    };
    while (some_run() && Clock::now() < deadline && !stop_.caught_again()) {
        wait(std::chrono::ceil<milliseconds>(deadline - Clock::now()));
        for (auto& service : services_) {
            if (service.pid <= 0 || waitpid(service.pid, nullptr, WNOHANG) != service.pid) continue;
            service.pid = -1;
            service.handle.close();
        }
    }
}

void Supervisor::say(const std::string& message) const {
    if (!console_.json) console_.err << "cowslip up: " << printable(message) << std::endl;
}

void Supervisor::say_ready(uid_t account) {
    const std::string name = account_name(account);
    if (std::exchange(was_ready_, true)) {
        say(fmt::format("{} (pid {}) answers again", services_.front().name(), services_.front().pid));
        return;
    }
    if (console_.json) {
        console_.print_line(dump(Json{{"ready", true},
                                      {"state", plan_.folder.dir},
                                      {"socket", plan_.folder.clients_socket()},
                                      {"pid", services_.front().pid},
                                      {"account", name},
                                      {"actors", actors_planned_}},
                                 false));
        return;
    }
    console_.print_line(fmt::format("ready: the service in '{}' answers; {} (pid {}) runs as {}{}; {} actors",
                                    printable(plan_.folder.dir), services_.front().name(), services_.front().pid, name,
                                    account == 0 ? ", which is not safe" : "", actors_planned_));
}

}  // namespace cowslip::ctl
