// The manager's loop: sockets, actors' locks and the clock on one side, the turn on the other.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/bus.h"
#include "common/state_folder.h"
#include "services/pool_manager/pool_manager.h"

namespace cowslip {

class Server {
public:
    // Binds the doors of clients and actors, and the events. The manager has been started.
    static Result<Server> open(BusContext& context, const StateFolder& folder, PoolManager& manager);

    // Until stop_fd is readable and what was accepted is done, or 10 s later.
    Result<void> serve(int stop_fd);

private:
    Server(StateFolder folder, PoolManager& manager, ServerSocket actors, PublisherSocket events, ServerSocket clients)
        : folder_(std::move(folder)),
          manager_(manager),
          actors_(std::move(actors)),
          events_(std::move(events)),
          clients_(std::move(clients)) {}

    std::vector<Input> gather();
    void take_clients(std::vector<Input>& inbox);
    void look_for_dead_actors(std::vector<Input>& inbox);
    void send(Outbox outbox);
    void publish();
    void heartbeat();
    std::chrono::milliseconds patience(std::int64_t now_ms) const;

    StateFolder folder_;
    PoolManager& manager_;
    ServerSocket actors_;
    PublisherSocket events_;
    ServerSocket clients_;
    std::vector<Actors::Outgoing> not_taken_;  // Since the last look.
    std::vector<Outbox::Published> held_;      // Events that are published together with the next ones.
    std::int64_t next_publish_ms_ = 0;
    std::int64_t next_heartbeat_ms_ = 0;
    std::int64_t next_look_ms_ = 0;
    bool clients_alone_ = false;  // Had the last turn for themselves.
    std::int64_t look_closely_until_ms_ = 0;
};

Time time_now();

}  // namespace cowslip
