#include "services/ctl/json.h"

#include <exception>

#include <fmt/format.h>

namespace cowslip::ctl {

namespace {
constexpr int kMaxDepth = 12;  // Below the bus's limit of 16, which counts the envelope too.
}

Result<Json> json_from_message(std::string_view bytes) {
    TRY(decode(bytes));
    Json value = Json::from_msgpack(bytes, true, false);
    if (value.is_discarded()) return Error{Errc::internal, "read an answer: its keys are no strings"};
    return value;
}

Result<std::string> message_from_json(std::string_view text) {
    bool too_deep = false;
    // Asked at each object and array: returning false drops it, so that nothing deep is ever built.
    const auto shallow = [&](int depth, Json::parse_event_t /*event*/, Json& /*value*/) {
        too_deep = too_deep || depth > kMaxDepth;
        return depth <= kMaxDepth;
    };
    const Json value = Json::parse(text, shallow, false);
    if (too_deep) return Error{Errc::invalid_argument, "read JSON: nested too deeply for a message"};
    if (value.is_discarded()) return Error{Errc::invalid_argument, fmt::format("read JSON: '{}' is not JSON", text)};
    if (!value.is_object()) return Error{Errc::invalid_argument, "read JSON: a message is an object, {\"key\": value}"};
    std::string message;
    Json::to_msgpack(value, message);
    if (message.size() > kMaxFrameBytes / 2) return Error{Errc::invalid_argument, "read JSON: larger than a message"};
    return message;
}

std::string dump(const Json& value, bool indented) {
    return value.dump(indented ? 2 : -1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace cowslip::ctl
