// cowslip-pool-manager: decides, and is the only one at the store. Unprivileged before it reads a
// single byte that a stranger sent.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/actor_session.h"
#include "common/files.h"
#include "common/options.h"
#include "common/signals.h"
#include "common/size.h"
#include "services/pool_manager/ballast.h"
#include "services/pool_manager/server.h"
#include "services/pool_manager/sync_counter.h"

namespace {

using namespace cowslip;

constexpr const char* kProgram = "cowslip-pool-manager";

// From here on every path is relative to DIR/store, so that no parent needs to be traversable.
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

Result<void> make_mark(const char* file) {
    const Fd fd(::open(file, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) return errno_error(errno, fmt::format("make '{}'", file));
    return {};
}

Result<void> run(const ServiceOptions& options, int stop_fd) {
    const StateFolder folder = TRY(resolve_state_folder(options.state, options.run));
    const Account account = TRY(service_account());
    const StateFolder here = TRY(enter_state_folder(folder, account));
    const Fd lock(TRY(lock_store(here)));
    ManagerOptions manager_options;
    manager_options.boot_id = TRY(read_file("/proc/sys/kernel/random/boot_id"));
    manager_options.account = account.name;
    manager_options.pid = static_cast<std::uint32_t>(::getpid());
    manager_options.mounts_folder = folder.mounts();
    manager_options.reconcile_ms = std::max<std::int64_t>(TRY(parse_duration(options.reconcile)).count(), 1000);
    manager_options.has_room = [] { return Ballast::take("ballast").there(); };
    manager_options.process_counters = [] {
        return std::map<std::string, std::uint64_t>{{"store_syncs", count_syncs()}};
    };
    Store store = TRY(Store::open("store.db"));
    // Beside it, so that one that is emptied is told from one that never was.
    const bool made_before = ::access("made", F_OK) == 0;
    manager_options.store_lost = store.made_now() && made_before;
    if (!made_before) TRY(make_mark("made"));
    BusContext context;
    PoolManager manager(store, std::move(manager_options));
    Server server = TRY(Server::open(context, here, manager));
    manager.start(TRY(list_actor_locks(here.actors())), time_now());
    try {
        return server.serve(stop_fd);
    } catch (const StoreFailure& failure) {
        // At once: to close the store would write to it again, and a failed sync is never tried a second time.
        if (failure.kind() == StoreFailure::Kind::broken) {
            spdlog::critical("{}", failure.what());
            std::abort();
        }
        throw;
    }
}

}  // namespace

int main(int argc, char** argv) {
    const ParsedOptions parsed =
        parse_options(kProgram, "Decides what becomes of a thin pool and its volumes; keeps the store.", argc, argv);
    if (parsed.ends) return parsed.exit_status;
    setup_logging(kProgram, parsed.options.log_level);
    const auto stop_fd = stop_signal_fd();
    if (!stop_fd) {
        spdlog::error("{}", stop_fd.error().message);
        return 70;
    }
    try {
        const auto served = run(parsed.options, *stop_fd);
        if (served) return 0;
        spdlog::error("{}", served.error().message);
        return served.error().code == Errc::in_use ? 5 : 70;
    } catch (const StoreFailure& failure) {
        // Nothing of the turn was sent. The next process reads what the disk has, and with the ballast's room it takes
        // all but new volumes.
        spdlog::critical("{}", failure.what());
        if (failure.kind() == StoreFailure::Kind::broken) std::abort();
        Ballast::release("ballast");
        return 75;
    }
}
