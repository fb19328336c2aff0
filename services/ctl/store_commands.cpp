// `store`: backups of the service's own record of volumes. Only the pool-manager's program opens a store, so what is to
// be looked at without the service is looked at by that program, which answers as it would over the bus.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include "common/files.h"
#include "common/process.h"
#include "schemas/envelope.h"
#include "services/ctl/commands.h"

namespace cowslip::ctl {

namespace {

constexpr std::chrono::hours kToolPatience{1};
constexpr std::size_t kAnswerBytes = 1 << 20U;

std::string absolute(const std::string& file) {
    std::error_code error;
    return std::filesystem::absolute(file, error).lexically_normal().string();
}

// A temporary file that is gone unless it was given its name.
class NewFile {
public:
    static Result<NewFile> make(const std::string& file) {
        std::string name = file + ".XXXXXX";
        Fd fd(::mkostemp(name.data(), O_CLOEXEC));
        if (!fd) return errno_error(errno, fmt::format("make '{}'", name));
        return NewFile(file, std::move(name), std::move(fd));
    }
    NewFile(NewFile&& other) noexcept
        : file_(std::move(other.file_)), name_(std::exchange(other.name_, "")), fd_(std::move(other.fd_)) {}
    NewFile(const NewFile&) = delete;
    ~NewFile() {
        if (!name_.empty()) ::unlink(name_.c_str());
    }

    Result<void> copy_from(const std::string& path) {
        const Fd from(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        if (!from) return errno_error(errno, fmt::format("open '{}'", path));
        std::array<char, 1 << 16> buffer{};
        for (;;) {
            const ssize_t count = ::read(from.get(), buffer.data(), buffer.size());
            if (count < 0 && errno == EINTR) continue;
            if (count < 0) return errno_error(errno, fmt::format("read '{}'", path));
            if (count == 0) break;
            TRY(write_all(std::string_view(buffer.data(), static_cast<std::size_t>(count))));
        }
        if (::fsync(fd_.get()) != 0) return failed("sync");
        return {};
    }
    // Durable when it returns. already_exists: there is a file of that name, and it is not to be replaced.
    Result<void> name_it(bool replace) {
        const unsigned flags = replace ? 0 : RENAME_NOREPLACE;
        if (::renameat2(AT_FDCWD, name_.c_str(), AT_FDCWD, file_.c_str(), flags) != 0) return failed("name");
        name_.clear();
        const std::string folder = std::filesystem::path(file_).parent_path().string();
        const Fd opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!opened || ::fsync(opened.get()) != 0) return errno_error(errno, fmt::format("sync folder '{}'", folder));
        return {};
    }

private:
    NewFile(std::string file, std::string name, Fd fd)
        : file_(std::move(file)), name_(std::move(name)), fd_(std::move(fd)) {}
    Error failed(const char* what) const {
        Error error = errno_error(errno, fmt::format("{} '{}'", what, file_));
        if (errno == ENOSPC || errno == EDQUOT) error.code = Errc::no_space;
        if (errno == EEXIST) error.code = Errc::already_exists;
        return error;
    }
    Result<void> write_all(std::string_view bytes) {
        while (!bytes.empty()) {
            const ssize_t count = ::write(fd_.get(), bytes.data(), bytes.size());
            if (count < 0 && errno == EINTR) continue;
            if (count < 0) return failed("write");
            bytes.remove_prefix(static_cast<std::size_t>(count));
        }
        return {};
    }

    std::string file_;
    std::string name_;  // Empty: it has its own.
    Fd fd_;
};

Result<void> refuse_existing(const std::string& file, bool force) {
    struct stat there {};
    if (force || ::lstat(file.c_str(), &there) != 0) return {};
    return Error{Errc::already_exists, fmt::format("back up the store to '{}': it exists; --force replaces it", file)};
}

// What the pool-manager's program answers that is started with `option`.
Result<schemas::StoreLook> ask_program(Session& session, const std::string& option, const std::string& file) {
    ProcessOptions process;
    process.timeout = kToolPatience;
    process.output_limit_bytes = kAnswerBytes;
    process.arguments = {TRY(find_program("cowslip-pool-manager")), option, file, "--log-level", "error"};
    if (!session.place().state.empty()) {
        process.arguments.insert(process.arguments.end(), {"--state", session.place().state});
        process.arguments.insert(process.arguments.end(), {"--run", session.place().run});
    }
    const ProcessResult ended = TRY(run_process(process));
    const auto refused = decode_as<schemas::ErrorReply>(std::string_view(ended.output));
    if (refused && !refused->error.code.empty()) {
        return Error{parse_errc(refused->error.code), refused->error.message, refused->error.details};
    }
    const auto answer = decode_as<schemas::ReplyOf<schemas::StoreLook>>(std::string_view(ended.output));
    if (ended.exit_status == 0 && answer) return answer->body;
    return Error{Errc::internal,
                 fmt::format("{}: it ended with status {}: {}", process.arguments[0], ended.exit_status, ended.errors)};
}

int print_copy(const Console& console, const schemas::StoreCopy& copy) {
    if (console.json) {
        console.print(to_json(copy));
        return 0;
    }
    Table table;
    table.add({"path", copy.path});
    if (copy.sequence != 0) table.add({"sequence", std::to_string(copy.sequence)});
    if (copy.sequence != 0) table.add({"taken at", copy.taken_at});
    table.add({"size", console.size(copy.bytes)});
    table.add({"store uuid", copy.store_uuid});
    table.add({"pool", copy.pool.empty() ? "-" : copy.pool});
    table.add({"pool uuid", copy.pool_uuid});
    table.add({"transaction id", std::to_string(copy.transaction_id)});
    table.add({"volumes", std::to_string(copy.volumes)});
    table.print(console);
    return 0;
}

}  // namespace

Result<int> store_backup(Session& session, const Arguments& arguments) {
    const std::string file = arguments.file.empty() ? "" : absolute(arguments.file);
    if (!file.empty()) TRY(refuse_existing(file, arguments.force));
    auto copy = TRY(session.call(schemas::StoreBackup{}, "back up the store"));
    if (!file.empty()) {
        NewFile made = TRY(NewFile::make(file));
        TRY(made.copy_from(copy.path));
        TRY(made.name_it(arguments.force));
        copy.path = file;
    }
    const Console& console = session.console();
    if (console.json) return print_copy(console, copy);
    console.print_line(printable(copy.path));
    console.note(
        fmt::format("backup {} of the store: {} volumes, {}", copy.sequence, copy.volumes, console.size(copy.bytes)));
    if (!copy.dump) console.note("without a dump of the pool's metadata: " + copy.no_dump);
    return 0;
}

Result<int> store_list(Session& session, const Arguments& /*arguments*/) {
    const auto reply = TRY(session.call(schemas::StoreList{}, "list the backups of the store"));
    const Console& console = session.console();
    if (console.json) {
        console.print(to_json(reply)["backups"]);
        return 0;
    }
    Table table({"SEQUENCE", "TAKEN AT", "SIZE", "TRANSACTION ID", "VOLUMES", "DUMP", "PATH"});
    for (const auto& copy : reply.backups) {
        table.add({std::to_string(copy.sequence), copy.taken_at, console.size(copy.bytes),
                   std::to_string(copy.transaction_id), std::to_string(copy.volumes), copy.dump ? "yes" : "no",
                   copy.damage.empty() ? copy.path : fmt::format("{}: {}", copy.path, copy.damage)});
    }
    table.print(console);
    return 0;
}

Result<int> store_verify(Session& session, const Arguments& arguments) {
    std::string file = arguments.file.empty() ? session.place().state : absolute(arguments.file);
    if (file.empty())
        return Error{Errc::invalid_argument, "store verify: give a FILE, or the state folder with --state"};
    if (arguments.file.empty()) file = absolute(file) + "/store/store.db";
    const auto look = TRY(ask_program(session, "--verify", file));
    const Console& console = session.console();
    if (console.json) {
        console.print(to_json(look));
        return 0;
    }
    console.note("it is whole");
    return print_copy(console, look.store);
}

Result<int> store_restore(Session& session, const Arguments& arguments) {
    if (session.place().state.empty()) {
        return Error{Errc::invalid_argument, "store restore: name the state folder with --state DIR"};
    }
    const auto look = TRY(ask_program(session, "--restore", absolute(arguments.file)));
    const Console& console = session.console();
    if (console.json) {
        console.print(to_json(look));
        return 0;
    }
    if (!look.replaced.empty()) console.print_line(printable(look.replaced));
    console.note(
        fmt::format("the store is in place{}; next: start the service, then `cowslip pool rebuild`",
                    look.replaced.empty() ? "" : ", and the one before is kept as " + printable(look.replaced)));
    return 0;
}

}  // namespace cowslip::ctl
