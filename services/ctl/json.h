// Messages as JSON: what the bus calls a map is an object with its keys in the order of the
// message's definition, so the structs in schemas/ are also the contract of --json.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "common/codec.h"
#include "common/result.h"

namespace cowslip::ctl {

using Json = nlohmann::ordered_json;

// Any msgpack message; checked against the limits of codec.h first. An absent optional is null.
Result<Json> json_from_message(std::string_view bytes);

// The message that a JSON object stands for. Refuses text that is no object, or is nested deeper
// than the bus allows.
Result<std::string> message_from_json(std::string_view text);

// One line, or indented for a person. Bytes that are no UTF-8 are shown as U+FFFD.
std::string dump(const Json& value, bool indented);

template <class Message>
Json to_json(const Message& message) {
    const std::string bytes = encode(message);
    return Json::from_msgpack(bytes, true, false);
}

}  // namespace cowslip::ctl
