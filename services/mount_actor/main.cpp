// cowslip-mount-actor: makes, mounts and unmounts the file systems of one pool's volumes.
#include <cstdlib>

#include <spdlog/spdlog.h>

#include "common/actor_session.h"
#include "common/options.h"
#include "common/signals.h"
#include "common/state_folder.h"
#include "services/mount_actor/kernel_filesystems.h"
#include "services/mount_actor/mount_actor.h"

namespace cowslip {
namespace {

Result<void> serve(const ServiceOptions& options, int stop_fd) {
    const StateFolder folder = TRY(resolve_state_folder(options.state, options.run));
    const Account manager = TRY(service_account());
    TRY(ensure_state_folder(folder, manager));
    // Before HELLO, and inherited by every mkfs: while it is held, a command of ours may be running.
    const ActorLock lock = TRY(ActorLock::take(folder.actors(), "mount"));
    KernelFilesystems filesystems = TRY(KernelFilesystems::open(folder.mounts(), folder.pool_uuid(), {lock.fd()}));
    MountActor actor(filesystems);
    BusContext context;
    return serve_manager(context, lock,
                         {.socket_path = folder.actors_socket(),
                          .manager_uid = manager.uid,
                          .kind = "mount",
                          .version = COWSLIP_VERSION,
                          .stop_fd = stop_fd},
                         [&](std::string_view type, const msgpack::object& body) { return actor.handle(type, body); });
}

}  // namespace
}  // namespace cowslip

int main(int argc, char** argv) {
    const std::string program = "cowslip-mount-actor";
    const auto parsed =
        cowslip::parse_options(program, "mounts the volumes of a pool, told by its manager", argc, argv);
    if (parsed.ends) return parsed.exit_status;
    cowslip::setup_logging(program, parsed.options.log_level);
    const auto stop_fd = cowslip::stop_signal_fd();  // Before any thread exists.
    if (!stop_fd) {
        spdlog::error("{}", stop_fd.error().message);
        return EXIT_FAILURE;
    }
    if (const auto served = cowslip::serve(parsed.options, *stop_fd); !served) {
        spdlog::error("{}", served.error().message);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
