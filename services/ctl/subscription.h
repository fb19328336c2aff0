// Listening to the service's events until the user has enough. A subscription comes back by itself
// after a restart of the manager; what it missed meanwhile is for the caller to notice by `seq`.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/bus.h"
#include "common/result.h"
#include "services/ctl/session.h"

namespace cowslip::ctl {

// `topic` is a prefix of the wanted types. Waits for the service first, which names what is wrong.
inline Result<SubscriberSocket> subscribe(Session& session, const std::string& topic) {
    TRY(session.client());
    return SubscriberSocket::connect(session.context(), session.place().events_socket, {topic});
}

// Gives every message to `take`, a function from SubscriberSocket::Message to Result<void>, until
// it fails or a signal comes; returns the exit code for that signal.
template <class Take>
Result<int> listen(Session& session, SubscriberSocket& subscriber, Take take) {
    const std::vector<const BusSocket*> sockets{&subscriber};
    const std::vector<int> fds{session.stop().fd()};
    while (session.stop().caught() == 0) {
        wait_readable(sockets, fds, std::chrono::milliseconds(1000));
        while (const auto message = subscriber.receive()) {
            TRY(take(*message));
            if (session.stop().caught() != 0) break;
        }
        if (subscriber.disconnected()) session.console().note("the service went away; waiting for it");
        if (!session.console().out.good()) return Error{Errc::internal, "write events: stdout cannot be written"};
    }
    return 128 + session.stop().caught();
}

}  // namespace cowslip::ctl
