#include "common/state_folder.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <filesystem>

#include <fmt/format.h>

#include "common/files.h"
#include "common/names.h"

namespace cowslip {

namespace {

struct FolderRule {
    std::string path;
    uid_t uid;
    gid_t gid;
    mode_t mode;
};

// Owner and mode are put right each time: what another program changed would be found out later, and
// in worse words.
Result<void> ensure_folder(const FolderRule& rule, bool root) {
    if (::mkdir(rule.path.c_str(), rule.mode) != 0 && errno != EEXIST) {
        return errno_error(errno, fmt::format("make folder '{}'", rule.path));
    }
    const Fd folder(::open(rule.path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!folder) return errno_error(errno, fmt::format("open folder '{}'", rule.path));
    if ((root && ::fchown(folder.get(), rule.uid, rule.gid) != 0) || ::fchmod(folder.get(), rule.mode) != 0) {
        return errno_error(errno, fmt::format("owner and mode of '{}'", rule.path));
    }
    return {};
}

// Whether DIR itself is ours to change: it is not there yet, is empty, or is a state folder already.
bool is_ours(const StateFolder& folder, const Account& account) {
    std::error_code error;
    if (!std::filesystem::exists(folder.dir, error) || std::filesystem::is_empty(folder.dir, error)) return true;
    struct stat dir {};
    struct stat store {};
    return ::stat(folder.dir.c_str(), &dir) == 0 && dir.st_uid == ::geteuid() &&
           ::lstat(folder.store().c_str(), &store) == 0 && S_ISDIR(store.st_mode) && store.st_uid == account.uid;
}

// A folder of somebody else's is not opened up or closed behind his back; /tmp, for one.
Result<void> check_foreign_folder(const std::string& dir) {
    struct stat about {};
    if (::stat(dir.c_str(), &about) != 0) return errno_error(errno, fmt::format("look at state folder '{}'", dir));
    std::string why;
    std::string cure;
    if (about.st_uid != 0) {
        why = "does not belong to root";
        cure = fmt::format("chown root '{}'", dir);
    } else if ((about.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        why = "can be changed by others than root";
        cure = fmt::format("chmod go-w '{}'", dir);
    } else if ((about.st_mode & S_IXOTH) == 0) {
        why = "cannot be passed by the service's account";
        cure = fmt::format("chmod o+x '{}'", dir);
    }
    if (why.empty()) return {};
    return Error{Errc::permission_denied,
                 fmt::format("state folder '{}' holds other things and {}: {}, or name an empty one", dir, why, cure)};
}

}  // namespace

Result<StateFolder> resolve_state_folder(const std::string& dir, const std::string& run) {
    if (dir.empty()) return Error{Errc::invalid_argument, "the state folder has no name: --state DIR"};
    std::error_code error;
    const auto absolute = [&](const std::string& path) {
        std::string text = std::filesystem::absolute(path, error).lexically_normal().string();
        while (text.size() > 1 && text.ends_with('/')) text.pop_back();
        return text;
    };
    StateFolder folder;
    folder.dir = absolute(dir);
    folder.run = run.empty() ? folder.dir + "/run" : absolute(run);
    if (error) return Error{Errc::internal, fmt::format("state folder '{}': {}", dir, error.message())};
    return folder;
}

Result<std::optional<std::string>> read_pool_uuid(const std::string& file) {
    auto text = read_file(file);
    if (!text && text.error().code == Errc::not_found) return std::optional<std::string>();
    if (!text) return std::move(text).error();
    while (text->ends_with('\n')) text->pop_back();
    if (is_pool_uuid(*text)) return std::optional(std::move(*text));
    return Error{Errc::needs_repair, fmt::format("'{}' holds no pool uuid; put the right one there", file)};
}

Result<Account> service_account() {
    if (::geteuid() != 0) {
        const passwd* self = ::getpwuid(::geteuid());
        return Account{self != nullptr ? self->pw_name : std::to_string(::geteuid()), ::geteuid(), ::getegid()};
    }
    for (const char* name : {"cowslip", "nobody"}) {
        const passwd* entry = ::getpwnam(name);
        if (entry != nullptr && entry->pw_uid != 0) return Account{name, entry->pw_uid, entry->pw_gid};
    }
    return Error{Errc::not_found, "no account to run as: useradd --system cowslip"};
}

Result<void> ensure_state_folder(const StateFolder& folder, const Account& account) {
    const bool root = ::geteuid() == 0;
    const bool ours = is_ours(folder, account);
    if (root && !ours) TRY(check_foreign_folder(folder.dir));
    std::error_code error;
    for (const std::string& path : {folder.dir, folder.run}) {
        std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
        if (error) return Error{Errc::internal, fmt::format("make the folders above '{}': {}", path, error.message())};
    }
    if (ours) TRY(ensure_folder({folder.dir, 0, 0, 0711}, root));
    const std::array<FolderRule, 5> rules = {{
        {folder.store(), account.uid, account.gid, 0700},
        {folder.run, account.uid, account.gid, 0750},
        {folder.actors(), 0, 0, 0755},
        {folder.mounts(), 0, 0, 0711},
        {folder.pool(), 0, 0, 0700},
    }};
    for (const FolderRule& rule : rules) TRY(ensure_folder(rule, root));
    return {};
}

Result<int> lock_store(const StateFolder& folder) {
    const std::string path = folder.store() + "/lock";
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return errno_error(errno, fmt::format("open lock '{}'", path));
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
        std::array<char, 32> text{};
        const ssize_t size = ::pread(fd, text.data(), text.size() - 1, 0);
        ::close(fd);
        return Error{Errc::in_use, fmt::format("another pool manager (pid {}) has this state folder: stop it first",
                                               size > 0 ? std::to_string(std::atoi(text.data())) : "unknown")};
    }
    // Over what an older process wrote: on a full file system there would be no block for a file made empty.
    const std::string pid = fmt::format("{:<10}", ::getpid());
    if (::pwrite(fd, pid.data(), pid.size(), 0) < 0) {
        const int failed = errno;
        ::close(fd);
        return errno_error(failed, fmt::format("write lock '{}'", path));
    }
    return fd;
}

Result<void> drop_privileges(const Account& account) {
    if (::geteuid() != 0) return {};
    // The kernel forgets it when the uid changes.
    int parent_death_signal = 0;
    const pid_t parent = ::getppid();
    ::prctl(PR_GET_PDEATHSIG, &parent_death_signal);
    // The bounding set can only be emptied while we still may; the rest goes with the uid.
    capng_clear(CAPNG_SELECT_ALL);
    if (capng_apply(CAPNG_SELECT_BOUNDS) != 0) return Error{Errc::internal, "drop the capability bounding set"};
    if (::setgroups(0, nullptr) != 0) return errno_error(errno, "drop groups");
    if (::setresgid(account.gid, account.gid, account.gid) != 0) return errno_error(errno, "drop gid");
    if (::setresuid(account.uid, account.uid, account.uid) != 0) return errno_error(errno, "drop uid");
    capng_clear(CAPNG_SELECT_ALL);
    if (capng_apply(CAPNG_SELECT_CAPS) != 0) return Error{Errc::internal, "drop capabilities"};
    if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
        return errno_error(errno, "drop ambient capabilities");
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno_error(errno, "no_new_privs");
    if (::setuid(0) == 0) return Error{Errc::internal, "drop privileges: root could be had again"};
    if (parent_death_signal == 0) return {};
    if (::prctl(PR_SET_PDEATHSIG, parent_death_signal) != 0) return errno_error(errno, "keep the parent-death signal");
    if (::getppid() != parent) ::raise(parent_death_signal);  // It died in between.
    return {};
}

}  // namespace cowslip
