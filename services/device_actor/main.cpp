// cowslip-device-actor: the only process that talks to device-mapper. Run as root; any number of them
// may serve one pool manager, each carrying out one command at a time.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/actor_session.h"
#include "common/device_mapper.h"
#include "common/options.h"
#include "common/signals.h"
#include "common/state_folder.h"
#include "services/device_actor/device_actor.h"
#include "services/device_actor/linux_host.h"
#include "services/device_actor/pool_events.h"

namespace {

cowslip::Result<void> serve(const cowslip::ServiceOptions& options) {
    const int stop_fd = TRY(cowslip::stop_signal_fd());  // Before any thread exists.
    const auto folder = TRY(cowslip::resolve_state_folder(options.state, options.run));
    const auto account = TRY(cowslip::service_account());
    const auto lock = TRY(cowslip::ActorLock::take(folder.actors(), "device"));
    auto device_mapper = TRY(cowslip::KernelDeviceMapper::open());
    cowslip::LinuxHost host(folder.pool(), device_mapper, lock.fd());
    cowslip::PoolEvents events(device_mapper);
    cowslip::DeviceActor actor(device_mapper, host, &events);
    cowslip::BusContext context;
    const cowslip::ActorSession session{.socket_path = folder.actors_socket(),
                                        .manager_uid = account.uid,
                                        .kind = "device",
                                        .version = COWSLIP_VERSION,
                                        .stop_fd = stop_fd,
                                        .event_fd = [&] { return events.fd(); },
                                        .on_event = [&] { return events.happened(); }};
    return cowslip::serve_manager(context, lock, session, [&](std::string_view type, const msgpack::object& body) {
        return actor.handle(type, body);
    });
}

}  // namespace

int main(int argc, char** argv) {
    const auto parsed =
        cowslip::parse_options("cowslip-device-actor", "carries out what concerns device-mapper", argc, argv);
    if (parsed.ends) return parsed.exit_status;
    cowslip::setup_logging("cowslip-device-actor", parsed.options.log_level);
    const auto served = serve(parsed.options);
    if (served) return 0;
    spdlog::error("{}", served.error().message);
    return 1;
}
