// `import`: a volume that nobody can use before it is whole. It is created in state creating with a
// lease of our own, filled through its mount, and made ready by the put that ends that lease. On any
// failure, and on a signal, the same put removes it instead.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <optional>

#include <fmt/format.h>

#include "common/files.h"
#include "common/size.h"
#include "services/ctl/commands.h"
#include "services/ctl/unpack.h"

namespace cowslip::ctl {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr const char* kHolder = "import";

Result<Fd> open_archive(const std::string& path) {
    if (path == "-") {
        Fd input(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
        // See fill_standard_fds.
        if (!input || (::fcntl(input.get(), F_GETFL) & O_ACCMODE) == O_WRONLY) {
            return Error{Errc::invalid_argument, "read stdin: it is closed; pipe a tar into it, or name one"};
        }
        return input;
    }
    Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd) return fd;
    const Error error = errno_error(errno, fmt::format("open '{}'", path));
    return Error{errno == ENOENT ? Errc::not_found : error.code, error.message};
}

// Redrawn on a terminal; elsewhere a line at each tenth of a known size, or each 100 MiB.
class ImportProgress {
public:
    ImportProgress(const Console& console, int archive_fd) : console_(console), line_(console) {
        struct stat status {};
        if (::fstat(archive_fd, &status) == 0 && S_ISREG(status.st_mode)) {
            total_ = static_cast<std::uint64_t>(status.st_size);
        }
    }

    void show(const UnpackCounts& counts) {
        if (console_.json) return;
        if (console_.err_is_terminal) {
            const auto now = steady_clock::now();
            if (now - drawn_ < milliseconds(100)) return;
            drawn_ = now;
            line_.draw(text(counts));
            return;
        }
        const std::uint64_t step =
            total_ == 0 ? counts.archive_bytes / (100U << 20U) : counts.archive_bytes * 10 / total_;
        if (step <= step_) return;
        step_ = step;
        console_.err << text(counts) << std::endl;
    }

private:
    std::string text(const UnpackCounts& counts) const {
        if (total_ == 0) return fmt::format("{}, {} files", format_size(counts.archive_bytes), counts.files);
        return fmt::format("{}% of {}, {} files", counts.archive_bytes * 100 / total_, format_size(total_),
                           counts.files);
    }

    const Console& console_;
    ProgressLine line_;
    std::uint64_t total_ = 0;
    std::uint64_t step_ = 0;
    steady_clock::time_point drawn_;
};

class Import {
public:
    Import(Session& session, const Arguments& arguments) : session_(session), arguments_(arguments) {}

    Result<UnpackCounts> run(int archive_fd, schemas::VolumeCreate request) {
        const std::string path = TRY(create(std::move(request)));
        auto counts = fill(path, archive_fd);
        // From here on a signal no longer interrupts: what follows is short and leaves nothing half done.
        session_.ignore_first_stop();
        if (!counts) return give_up(std::move(counts).error());
        auto finished = put({.id = arguments_.id, .holder = kHolder, .filled = true});
        // Whole and synced: an operation that only takes its time makes it ready.
        if (!finished && finished.error().code == Errc::timed_out) return std::move(finished).error();
        if (!finished) return give_up(std::move(finished).error());
        return counts;
    }

private:
    Result<std::string> create(schemas::VolumeCreate request) {
        const std::string what = fmt::format("import '{}'", arguments_.id);
        const std::string body = encode(request);
        const std::string request_id = new_request_id();
        auto answer = session_.call_raw(schemas::VolumeCreate::kType, body, what, request_id);
        if (answer) return TRY(decode_as<schemas::VolumeCreate::Reply>(std::string_view(*answer))).path;
        Error error = std::move(answer).error();
        if (error.code != Errc::timed_out) return error;
        session_.ignore_first_stop();
        if (error.details.contains("operation")) return give_up(std::move(error));
        // Unanswered: it may be there or be coming, and then it is ours to remove; but a volume of that name
        // may also be somebody else's. The same request again gets the first one's answer, and so tells.
        const auto again = session_.call_raw(schemas::VolumeCreate::kType, body, what, request_id);
        if (again || again.error().details.contains("operation")) return give_up(std::move(error));
        if (again.error().code == Errc::timed_out) {
            error.message += fmt::format(
                "; if 'cowslip show {}' has it later, 'cowslip put {} --rm --force --holder {}' "
                "removes it",
                arguments_.id, arguments_.id, kHolder);
        }
        return error;
    }

    Result<UnpackCounts> fill(const std::string& path, int archive_fd) {
        const Fd target(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!target) return errno_error(errno, fmt::format("open '{}'", path));
        ImportProgress progress(session_.console(), archive_fd);
        auto counts = unpack_tar({.archive_fd = archive_fd,
                                  .target_fd = target.get(),
                                  .stop_fd = session_.stop().fd(),
                                  .progress = [&](const UnpackCounts& so_far) { progress.show(so_far); }});
        if (counts && ::syncfs(target.get()) != 0) return errno_error(errno, fmt::format("write '{}' to disk", path));
        return counts;
    }

    Error give_up(Error error) {
        const auto removed = put({.id = arguments_.id, .holder = kHolder, .force = true, .remove = true});
        if (!removed) error.message += "; and giving it up: " + removed.error().message;
        return error;
    }

    Result<schemas::VolumePut::Reply> put(const schemas::VolumePut& request) {
        return session_.call(request, fmt::format("put '{}'", arguments_.id));
    }

    Session& session_;
    const Arguments& arguments_;
};

}  // namespace

Result<int> import_tar(Session& session, const Arguments& arguments) {
    if (!session.globals().request_id.empty()) {
        return Error{Errc::invalid_argument, "import: it is more than one request and takes no --request-id"};
    }
    if (::geteuid() != 0) {
        return Error{Errc::permission_denied, "import: owners and devices need root; run this as root"};
    }
    auto request = TRY(make_volume_create(arguments));
    request.get = true;
    request.filling = true;
    request.holder = kHolder;
    const Fd archive = TRY(open_archive(arguments.tar));
    ::signal(SIGPIPE, SIG_IGN);  // A progress line that nobody reads must not leave half a volume.
    const auto start = steady_clock::now();
    const auto counts = TRY(Import(session, arguments).run(archive.get(), std::move(request)));
    const std::chrono::duration<double> seconds = steady_clock::now() - start;
    const Console& console = session.console();
    if (console.json) {
        console.print(Json{{"id", arguments.id},
                           {"files", counts.files},
                           {"bytes", counts.bytes},
                           {"seconds", static_cast<double>(static_cast<std::int64_t>(seconds.count() * 1000)) / 1000}});
        return 0;
    }
    console.print_line(fmt::format("imported '{}': {} files, {}, {:.1f} s", printable(arguments.id), counts.files,
                                   console.size(counts.bytes), seconds.count()));
    return 0;
}

}  // namespace cowslip::ctl
