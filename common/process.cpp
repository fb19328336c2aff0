#include "common/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdint>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "common/files.h"

extern char** environ;

namespace cowslip {

namespace {

using Clock = std::chrono::steady_clock;

struct Pipe {
    Fd read;
    Fd write;

    static Result<Pipe> create() {
        std::array<int, 2> fds{};
        if (pipe2(fds.data(), O_CLOEXEC) != 0) return errno_error(errno, "pipe to a child process");
        return Pipe{.read = Fd(fds[0]), .write = Fd(fds[1])};
    }
};

std::string_view debian_package(std::string_view program) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 16> kPackages = {{
        {"mkfs.ext4", "e2fsprogs"},
        {"resize2fs", "e2fsprogs"},
        {"e2fsck", "e2fsprogs"},
        {"dumpe2fs", "e2fsprogs"},
        {"mkfs.xfs", "xfsprogs"},
        {"xfs_growfs", "xfsprogs"},
        {"xfs_repair", "xfsprogs"},
        {"xfs_io", "xfsprogs"},
        {"thin_ls", "thin-provisioning-tools"},
        {"thin_check", "thin-provisioning-tools"},
        {"thin_dump", "thin-provisioning-tools"},
        {"thin_delta", "thin-provisioning-tools"},
        {"thin_repair", "thin-provisioning-tools"},
        {"dmsetup", "dmsetup"},
        {"losetup", "mount"},
        {"fstrim", "util-linux"},
    }};
    for (const auto& [name, package] : kPackages) {
        if (name == program) return package;
    }
    return {};
}

// The file systems' tools lie in sbin, which the PATH of a service or a user may lack.
Result<std::string> find_program(const std::string& name) {
    if (name.find('/') != std::string::npos) return name;
    const char* variable = std::getenv("PATH");
    std::string path = variable != nullptr ? variable : "";
    path += ":/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
    for (std::size_t begin = 0; begin <= path.size();) {
        const std::size_t end = std::min(path.find(':', begin), path.size());
        const std::string folder = path.substr(begin, end - begin);
        begin = end + 1;
        if (folder.empty() || folder.front() != '/') continue;  // Never the current folder: we may be root.
        std::string file = folder + "/" + name;
        if (access(file.c_str(), X_OK) == 0) return file;
    }
    const std::string_view package = debian_package(name);
    if (package.empty()) return Error{Errc::unavailable, fmt::format("run '{}': there is no such program", name)};
    return Error{Errc::unavailable, fmt::format("run '{}': it is not installed: apt-get install {}", name, package)};
}

// What the tools say is read by us: in English.
std::vector<std::string> child_environment() {
    std::vector<std::string> variables;
    for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
        if (!std::string_view(*variable).starts_with("LC_ALL=")) variables.emplace_back(*variable);
    }
    variables.emplace_back("LC_ALL=C");
    return variables;
}

std::vector<char*> pointers_to(std::vector<std::string>& strings) {
    std::vector<char*> pointers;
    pointers.reserve(strings.size() + 1);
    for (auto& text : strings) pointers.push_back(text.data());
    pointers.push_back(nullptr);
    return pointers;
}

struct Launch {
    const char* program;
    char* const* arguments;
    char* const* environment;
    const std::vector<int>& inherited_fds;
    int input;
    int output;
    int errors;
    int exec_error;
    pid_t parent;
};

// Runs in the child, between fork and exec: only calls that are async-signal-safe, since another
// thread of ours (ZeroMQ has some) may have held any lock at the fork.
[[noreturn]] void become(const Launch& launch) {
    const auto fail = [](int exec_error) {
        const int number = errno;
        [[maybe_unused]] const auto written = write(exec_error, &number, sizeof number);
        _exit(127);
    };
    setpgid(0, 0);
    // Sent when the *thread* that forked ends; and not at all if it ended before this call.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != launch.parent) _exit(127);

    for (int number = 1; number < NSIG; ++number) {
        if (number != SIGKILL && number != SIGSTOP) signal(number, SIG_DFL);  // An ignored SIGPIPE survives exec.
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);

    // Above 2 first: a parent without stdin may have been given 0 as an end of one of the pipes.
    const int exec_error = fcntl(launch.exec_error, F_DUPFD_CLOEXEC, 3);
    const int input = fcntl(launch.input, F_DUPFD_CLOEXEC, 3);
    const int output = fcntl(launch.output, F_DUPFD_CLOEXEC, 3);
    const int errors = fcntl(launch.errors, F_DUPFD_CLOEXEC, 3);
    if (exec_error < 0 || input < 0 || output < 0 || errors < 0) fail(launch.exec_error);
    if (dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(errors, 2) < 0) fail(exec_error);

    if (syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */) != 0) fail(exec_error);
    for (const int fd : launch.inherited_fds) {
        if (fcntl(fd, F_SETFD, 0) != 0) fail(exec_error);
    }
    execve(launch.program, launch.arguments, launch.environment);
    fail(exec_error);
    _exit(127);
}

// A started child that nobody has waited for yet. Never leaves a zombie, nor a process of its group.
class Child {
public:
    Child(pid_t pid, Fd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
    Child(const Child&) = delete;
    ~Child() {
        if (pid_ > 0) reap();
    }
    int pidfd() const { return pidfd_.get(); }
    // While the leader is not waited for, its number cannot belong to another group.
    void kill_group() const { ::kill(-pid_, SIGKILL); }

    // Kills what is left of the group and waits for the leader, without a limit: somebody who takes
    // our return for its end (mkfs!) must not be wrong, and one in an uninterruptible wait dies late.
    int reap() {
        kill_group();
        int status = 0;
        while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
        }
        pid_ = -1;
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }

private:
    pid_t pid_;
    Fd pidfd_;
};

// One of the child's streams. Reads what is there; keeps up to the limit.
struct Stream {
    Fd fd;
    std::string& text;
    std::size_t limit;
    bool& cut;
    const std::function<void(std::string_view)>& take;

    void read_available() {
        std::array<char, 16384> buffer{};
        for (int rounds = 0; rounds < 64 && fd; ++rounds) {
            const ssize_t count = read(fd.get(), buffer.data(), buffer.size());
            if (count < 0 && errno == EINTR) continue;
            if (count < 0 && errno == EAGAIN) return;
            if (count <= 0) return fd.close();
            const auto size = static_cast<std::size_t>(count);
            if (take) {
                take(std::string_view(buffer.data(), size));
                continue;
            }
            const std::size_t room = std::min(size, limit - text.size());
            text.append(buffer.data(), room);
            if (room < size) cut = true;
        }
    }
};

// Collects output until the child has ended. False: the time was up first.
bool follow(const Child& child, Stream& output, Stream& errors, std::chrono::milliseconds timeout) {
    // A day is for ever, and the sum cannot overflow.
    const auto deadline = Clock::now() + std::min(timeout, std::chrono::milliseconds(std::chrono::hours(24)));
    while (true) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
        if (left <= 0) return false;
        std::array<pollfd, 3> waits = {
            {{child.pidfd(), POLLIN, 0}, {output.fd.get(), POLLIN, 0}, {errors.fd.get(), POLLIN, 0}}};
        if (poll(waits.data(), waits.size(), static_cast<int>(left)) < 0) continue;
        if (waits[1].revents != 0) output.read_available();
        if (waits[2].revents != 0) errors.read_available();
        if (waits[0].revents == 0) continue;
        // What it wrote last. Not to the end of file: a process that it left behind may hold the pipe.
        output.read_available();
        errors.read_available();
        return true;
    }
}

}  // namespace

Result<ProcessResult> run_process(const ProcessOptions& options) {
    if (options.arguments.empty()) return Error{Errc::invalid_argument, "run a process: it has no name"};
    const std::string& name = options.arguments.front();
    const std::string program = TRY(find_program(name));
    const std::string what = fmt::format("run '{}'", name);

    Pipe output = TRY(Pipe::create());
    Pipe errors = TRY(Pipe::create());
    Pipe exec_error = TRY(Pipe::create());
    const Fd input(open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!input) return errno_error(errno, "open '/dev/null'");
    fcntl(output.read.get(), F_SETFL, O_NONBLOCK);
    fcntl(errors.read.get(), F_SETFL, O_NONBLOCK);

    std::vector<std::string> arguments = options.arguments;
    std::vector<std::string> environment = child_environment();
    const std::vector<char*> argument_pointers = pointers_to(arguments);
    const std::vector<char*> environment_pointers = pointers_to(environment);
    const Launch launch{.program = program.c_str(),
                        .arguments = argument_pointers.data(),
                        .environment = environment_pointers.data(),
                        .inherited_fds = options.inherited_fds,
                        .input = input.get(),
                        .output = output.write.get(),
                        .errors = errors.write.get(),
                        .exec_error = exec_error.write.get(),
                        .parent = getpid()};
    const pid_t pid = fork();
    if (pid < 0) return errno_error(errno, what);
    if (pid == 0) become(launch);
    setpgid(pid, pid);  // Also here: the group must exist before anybody kills it. Fails harmlessly after the exec.
    Child child(pid, Fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))));
    if (child.pidfd() < 0) return errno_error(errno, what);
    output.write.close();
    errors.write.close();
    exec_error.write.close();

    int number = 0;
    ssize_t count = 0;
    do {
        count = read(exec_error.read.get(), &number, sizeof number);
    } while (count < 0 && errno == EINTR);
    if (count == sizeof number) {
        if (number == ENOENT) return Error{Errc::unavailable, fmt::format("{}: there is no such program", what)};
        return errno_error(number, what);
    }

    ProcessResult result;
    const std::function<void(std::string_view)> nobody;
    Stream output_stream{std::move(output.read), result.output, options.output_limit_bytes, result.output_cut,
                         options.take_output};
    Stream errors_stream{std::move(errors.read), result.errors, options.output_limit_bytes, result.output_cut, nobody};
    if (!follow(child, output_stream, errors_stream, options.timeout)) {
        child.reap();
        return Error{Errc::timed_out, fmt::format("{}: killed after {} ms", what, options.timeout.count())};
    }
    result.exit_status = child.reap();
    return result;
}

}  // namespace cowslip
