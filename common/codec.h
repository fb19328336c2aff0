// msgpack in and out, with a bound on everything that comes from outside. The only file that
// includes msgpack.hpp. Messages are maps with string keys: unknown keys are ignored, missing ones
// keep their default, which *is* the evolution rule (schemas/bus.md).
#pragma once

#define MSGPACK_NO_BOOST
#include <msgpack.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

#include "common/result.h"

namespace cowslip {

// The largest frame any of our sockets takes. A larger one ends the connection it came by.
inline constexpr std::size_t kMaxFrameBytes = 1U << 20U;

// A decoded message; owns the memory that its objects point into.
class Document {
public:
    const msgpack::object& root() const { return handle_.get(); }

private:
    friend Result<Document> decode(std::string_view bytes);
    msgpack::object_handle handle_;
};

// Parses one whole message: bounded in size, depth and counts; trailing bytes and repeated keys
// are errors. Never throws, whatever the bytes.
Result<Document> decode(std::string_view bytes);

template <class T>
std::string encode(const T& value) {
    msgpack::sbuffer buffer;
    msgpack::pack(buffer, value);
    return {buffer.data(), buffer.size()};
}

// A value that is encoded already, such as a body inside an envelope; packed as it is, nil if empty.
struct Encoded {
    std::string bytes;
    template <class Packer>
    void msgpack_pack(Packer& packer) const {
        if (bytes.empty()) {
            packer.pack_nil();
        } else {
            packer.pack_str_body(bytes.data(), static_cast<std::uint32_t>(bytes.size()));  // Appends, no more.
        }
    }
};

// The typed message in `object`; nil counts as an empty map. Wrong types are invalid_argument.
template <class T>
Result<T> decode_as(const msgpack::object& object) {
    T value{};
    if (object.type == msgpack::type::NIL) return value;
    try {
        object.convert(value);
    } catch (const std::exception&) {
        return Error{Errc::invalid_argument, "decode message: a field has the wrong type"};
    }
    return value;
}

template <class T>
Result<T> decode_as(std::string_view bytes) {
    const Document document = TRY(decode(bytes));
    return decode_as<T>(document.root());
}

}  // namespace cowslip
