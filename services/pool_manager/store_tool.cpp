#include "services/pool_manager/store_tool.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include <fmt/format.h>

#include "common/files.h"
#include "common/state_folder.h"
#include "common/store_files.h"
#include "services/pool_manager/restore.h"
#include "services/pool_manager/server.h"
#include "services/pool_manager/store_image.h"

namespace cowslip {

namespace {

std::string absolute(const std::string& file) {
    std::error_code error;
    return std::filesystem::absolute(file, error).lexically_normal().string();
}

// Does a pool manager have the folder? Asked so that it leaves no trace.
Result<bool> is_served(const StateFolder& folder, Fd* lock) {
    const std::string path = folder.store() + "/lock";
    *lock = Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!*lock && errno == ENOENT) return false;
    if (!*lock) return errno_error(errno, fmt::format("open lock '{}'", path));
    return ::flock(lock->get(), LOCK_SH | LOCK_NB) != 0;
}

Result<std::string> newest_backup(const StateFolder& folder) {
    const std::string backups = fmt::format("{}/{}", folder.store(), kBackupsFolder);
    std::optional<BackupName> newest;
    std::string path;
    for (const StoreFile& file : kernel_store_files().list(backups)) {
        const auto name = parse_backup_file(file.name);
        if (!name || (newest && newest->sequence > name->sequence)) continue;
        newest = name;
        path = fmt::format("{}/{}", backups, file.name);
    }
    if (newest) return path;
    return Error{Errc::in_use,
                 "verify the store: the service has it open, and has made no backup of it yet: `cowslip store backup` "
                 "makes one, and checks it"};
}

}  // namespace

Result<StateFolder> enter_state_folder(const StateFolder& folder, const Account& account) {
    TRY(ensure_state_folder(folder, account));
    if (::chdir(folder.store().c_str()) != 0) return errno_error(errno, "enter '" + folder.store() + "'");
    const bool inside = folder.run == folder.dir + "/run";
    TRY(drop_privileges(account));
    StateFolder here = folder;
    here.dir = "..";
    if (inside) here.run = "../run";
    return here;
}

Result<void> mark_store_made() {
    const Fd fd(::open(kStoreMade, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) return errno_error(errno, fmt::format("make '{}'", kStoreMade));
    return {};
}

Result<schemas::StoreLook> verify_store_file(const ServiceOptions& options, const std::string& file) {
    const StateFolder folder = TRY(resolve_state_folder(options.state, options.run));
    std::string path = absolute(file);
    Fd lock;  // Held until the store is read.
    if (path == folder.store() + "/store.db" && TRY(is_served(folder, &lock))) path = TRY(newest_backup(folder));
    StoreImage image = TRY(read_store_image(path));
    lock.close();
    const Account account = TRY(service_account());
    TRY(drop_privileges(account));
    auto verified = verify_store(std::move(image));
    if (!verified) return Error{verified.error().code, fmt::format("verify '{}': {}", path, verified.error().message)};
    schemas::StoreLook look{.store = std::move(*verified), .replaced = ""};
    look.store.path = path;
    if (const auto name = parse_backup_file(std::filesystem::path(path).filename().string())) {
        look.store.sequence = name->sequence;
        look.store.taken_at = name->taken_at;
    }
    return look;
}

Result<schemas::StoreLook> restore_store_file(const ServiceOptions& options, const std::string& file) {
    const StateFolder folder = TRY(resolve_state_folder(options.state, options.run));
    StoreImage image = TRY(read_store_image(absolute(file)));
    const Account account = TRY(service_account());
    const StateFolder here = TRY(enter_state_folder(folder, account));
    auto bytes = make_restored(std::move(image), time_now().wall_ms);
    if (!bytes) return Error{bytes.error().code, fmt::format("restore '{}': {}", file, bytes.error().message)};
    const Fd lock(TRY(lock_store(here)));
    TRY(finish_restore("."));  // An earlier one that was interrupted.
    TRY(mark_store_made());
    TRY(stage_store(".", *bytes));
    const std::string replaced = TRY(finish_restore("."));
    schemas::StoreLook look{.store = TRY(verify_store({.database = std::move(*bytes), .log = ""})), .replaced = ""};
    look.store.path = folder.store() + "/store.db";
    if (!replaced.empty()) {
        look.replaced = fmt::format("{}/{}", folder.store(), std::filesystem::path(replaced).filename().string());
    }
    return look;
}

}  // namespace cowslip
