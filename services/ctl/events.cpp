// `events`: subscribe first, then ask for what was; whatever the subscription lost (a slow reader, a
// manager that was restarted) shows as a gap in `seq`, at the latest with the next heartbeat, and is
// asked for.
#include <map>
#include <utility>

#include <fmt/format.h>

#include "services/ctl/commands.h"
#include "services/ctl/subscription.h"

namespace cowslip::ctl {

namespace {

using Event = schemas::EventOf<std::map<std::string, std::string>>;

void print_event(const Console& console, const Event& event) {
    if (console.json) {
        console.print_line(dump(to_json(event), false));
        return;
    }
    std::string body;
    for (const auto& [key, value] : event.body) body += (body.empty() ? "" : " ") + key + "=" + value;
    const char* gap = console.out_is_terminal ? "  " : "\t";
    console.print_line(fmt::format("{}{}{}{}{}{}{}{}{}", event.seq, gap, event.time, gap, event.type, gap,
                                   printable(event.subject), gap, printable(body)));
}

class EventPrinter {
public:
    EventPrinter(Session& session, std::uint64_t last) : session_(session), last_(last) {}

    // Prints all that the service keeps after the last one printed.
    Result<void> catch_up() {
        schemas::EventSince request;
        for (bool more = true; more;) {
            request.seq = last_;
            const auto page = TRY(session_.call(request, "read events"));
            if (page.oldest > last_ + 1) {
                if (last_ > 0) say(fmt::format("events {} to {} are no longer kept", last_ + 1, page.oldest - 1));
                last_ = page.oldest - 1;
            }
            for (const auto& event : page.events) {
                if (event.seq <= last_) continue;
                print_event(session_.console(), event);
                last_ = event.seq;
            }
            more = page.more && !page.events.empty();
        }
        return {};
    }

    // One message of the subscription.
    Result<void> take(const SubscriberSocket::Message& message) {
        const auto document = decode(message.payload);
        if (!document) return {};
        const auto event = decode_as<schemas::Event>(document->root());
        if (!event) return {};
        const bool heartbeat = event->type == "heartbeat";
        if (heartbeat && event->seq < last_) return check_backwards();
        if (event->seq <= last_) return {};
        if (heartbeat || event->seq > last_ + 1) return fill_gap();
        auto body = decode_as<std::map<std::string, std::string>>(event->body);
        if (!body) return fill_gap();
        print_event(session_.console(), Event{event->seq, event->time, event->type, event->subject, *body});
        last_ = event->seq;
        return {};
    }

private:
    Result<void> fill_gap() {
        auto filled = catch_up();
        // Whoever follows waits for a service that is away: the next heartbeat asks again.
        if (!filled && retryable(filled.error().code) && session_.stop().caught() == 0) return {};
        return filled;
    }

    // An old heartbeat may only be late. But a store that was restored counts from where it was.
    Result<void> check_backwards() {
        const auto status = session_.call(schemas::SystemStatus{}, "read the service's status");
        if (!status || status->event_seq >= last_) return {};
        return Error{Errc::needs_repair,
                     fmt::format("follow events: the service is at event {} and was at {}, so its store was restored; "
                                 "start again with --since",
                                 status->event_seq, last_)};
    }

    void say(const std::string& message) const {
        if (!session_.console().json) session_.console().err << message << '\n';
    }

    Session& session_;
    std::uint64_t last_;  // Everything up to this one is printed.
};

}  // namespace

Result<int> events(Session& session, const Arguments& arguments) {
    if (!arguments.follow) {
        EventPrinter printer(session, arguments.since.empty() ? 0 : TRY(parse_number("event number", arguments.since)));
        TRY(printer.catch_up());
        return 0;
    }
    std::uint64_t last = 0;
    if (!arguments.since.empty()) last = TRY(parse_number("event number", arguments.since));
    auto subscriber = TRY(subscribe(session, ""));
    if (arguments.since.empty()) {
        last = TRY(session.call(schemas::SystemStatus{}, "read the service's status")).event_seq;
    }
    EventPrinter printer(session, last);
    TRY(printer.catch_up());
    return listen(session, subscriber, [&](const auto& message) { return printer.take(message); });
}

}  // namespace cowslip::ctl
