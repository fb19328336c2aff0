// cowslip-pool-manager: decides, and is the only one at the store. Unprivileged before it reads a
// single byte that a stranger sent.
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <iostream>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/actor_session.h"
#include "common/files.h"
#include "common/memory_disk.h"
#include "common/options.h"
#include "common/signals.h"
#include "common/size.h"
#include "services/pool_manager/ballast.h"
#include "services/pool_manager/restore.h"
#include "services/pool_manager/server.h"
#include "services/pool_manager/store_tool.h"
#include "services/pool_manager/sync_counter.h"

namespace {

using namespace cowslip;

constexpr const char* kProgram = "cowslip-pool-manager";
// While it starts everybody waits for it, and all actors come at once: where processors are few it goes before them.
// Not longer: an actor may have an origin suspended.
constexpr int kNiceAtStart = -10;

// Until a byte comes from stdin. False: it is closed, or we are to stop.
bool is_called(int stop_fd) {
    std::array<pollfd, 2> both = {pollfd{STDIN_FILENO, POLLIN, 0}, pollfd{stop_fd, POLLIN, 0}};
    while (::poll(both.data(), both.size(), -1) < 0 && errno == EINTR) {
    }
    char byte = 0;
    return both[1].revents == 0 && ::read(STDIN_FILENO, &byte, 1) == 1;
}

// A store is made in memory, opened, and asked: what program and libraries need for that is in place then, and the
// start to come takes that much less. Not PoolManager::start(): it looks into the folder, which another one serves.
void rehearse() {
    MemoryDisk memory({});
    for (int time = 0; time < 2; ++time) {
        Result<Store> store = Store::open("store", memory.disk());
        if (!store) return;
        store->append_event("rehearsal", "", {});
        PoolManager manager(*store, {});
        schemas::RequestOf<schemas::VolumeShow> show;
        show.request_id = "rehearsal";
        show.type = schemas::VolumeShow::kType;
        manager.turn({FromClient{"", encode(show)}}, time_now());
    }
}

// Of all threads that there are. To go before others only root may; to let them go first, everybody.
void set_nice(int nice) {
    std::error_code none;
    for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", none)) {
        ::setpriority(PRIO_PROCESS, static_cast<id_t>(std::stoul(thread.path().filename())), nice);
    }
}

Result<void> run(const ServiceOptions& options, bool stands_by, int stop_fd) {
    const StateFolder folder = TRY(resolve_state_folder(options.state, options.run));
    const Account account = TRY(service_account());
    if (stands_by) rehearse();
    const int usual_nice = ::getpriority(PRIO_PROCESS, 0);
    set_nice(kNiceAtStart);
    const StateFolder here = TRY(enter_state_folder(folder, account));
    BusContext context;
    if (stands_by && !is_called(stop_fd)) return {};
    const Fd lock(TRY(lock_store(here)));
    ManagerOptions manager_options;
    manager_options.boot_id = TRY(read_file("/proc/sys/kernel/random/boot_id"));
    manager_options.account = account.name;
    manager_options.pid = static_cast<std::uint32_t>(::getpid());
    manager_options.mounts_folder = folder.mounts();
    manager_options.store_folder = folder.store();
    manager_options.reconcile_ms = std::max<std::int64_t>(TRY(parse_duration(options.reconcile)).count(), 1000);
    if (options.store_backup == "0") manager_options.store_backup_ms = 0;
    if (options.store_backup != "0")
        manager_options.store_backup_ms = TRY(parse_duration(options.store_backup)).count();
    if (options.trim != "0") manager_options.trim_ms = TRY(parse_duration(options.trim)).count();
    manager_options.filesystems = options.filesystems;
    manager_options.has_room = [] { return Ballast::take("ballast").there(); };
    manager_options.free_below_pool = [files = folder.pool()]() -> std::optional<std::uint64_t> {
        struct statvfs space {};
        if (::statvfs(files.c_str(), &space) != 0) return std::nullopt;
        return std::uint64_t{space.f_bavail} * space.f_frsize;
    };
    manager_options.process_counters = [] {
        return std::map<std::string, std::uint64_t>{{"store_syncs", count_syncs()}};
    };
    manager_options.start_ended = [usual_nice] { set_nice(usual_nice); };
    TRY(finish_restore("."));
    Store store = TRY(Store::open("store.db"));
    const bool made_before = ::access(kStoreMade, F_OK) == 0;
    manager_options.store_lost = store.made_now() && made_before;
    if (!made_before) TRY(mark_store_made());
    PoolManager manager(store, std::move(manager_options));
    try {
        manager.start(TRY(list_actor_locks(here.actors())), time_now());
        Server server = TRY(Server::open(context, here, manager));
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

int answer(Result<schemas::StoreLook> look) {
    schemas::ReplyOf<schemas::StoreLook> reply;
    if (look) reply.body = std::move(*look);
    std::cout << (look ? encode(reply) : error_frame("", look.error())) << std::flush;
    return look ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    std::string verify;
    std::string restore;
    bool stands_by = false;
    const ParsedOptions parsed = parse_options(
        kProgram, "Decides what becomes of a thin pool and its volumes; keeps the store.", argc, argv, {},
        {{"verify", "only look at this store; for `cowslip store verify`, answers with a frame of the bus", &verify},
         {"restore", "only put this store in place; for `cowslip store restore`, likewise", &restore}},
        {{"standby", "wait for a byte at stdin before anything is opened; end where that is closed", &stands_by}});
    if (parsed.ends) return parsed.exit_status;
    setup_logging(kProgram, parsed.options.log_level);
    if (!verify.empty()) return answer(verify_store_file(parsed.options, verify));
    if (!restore.empty()) return answer(restore_store_file(parsed.options, restore));
    const auto stop_fd = stop_signal_fd();
    if (!stop_fd) {
        spdlog::error("{}", stop_fd.error().message);
        return 70;
    }
    try {
        const auto served = run(parsed.options, stands_by, *stop_fd);
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
