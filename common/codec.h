// msgpack in and out, with a bound on everything that comes from outside. The only file that
// includes msgpack.hpp. Messages are maps with string keys: unknown keys are ignored, missing ones
// keep their default, which *is* the evolution rule (schemas/bus.md).
#pragma once

#define MSGPACK_NO_BOOST
#include <msgpack.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

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

// What a packer writes to.
class Bytes {
public:
    void write(const char* data, std::size_t size) { bytes_.append(data, size); }
    std::string take() { return std::move(bytes_); }

private:
    std::string bytes_;
};

template <class T>
std::string encode(const T& value) {
    Bytes bytes;
    msgpack::pack(bytes, value);
    return bytes.take();
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

namespace fields {

template <std::size_t kCount>
using Names = std::array<std::string_view, kCount>;

// How many there are in "a, b".
consteval std::size_t count(std::string_view list) {
    return static_cast<std::size_t>(std::ranges::count(list, ',')) + 1;
}

template <std::size_t kCount>
consteval Names<kCount> split(std::string_view list) {
    Names<kCount> names;
    for (auto& name : names) {
        list.remove_prefix(std::min(list.find_first_not_of(' '), list.size()));
        const std::size_t end = std::min(list.find(','), list.size());
        name = list.substr(0, end);
        list.remove_prefix(std::min(end + 1, list.size()));
    }
    return names;
}

template <class Packer, class T>
void pack_one(Packer& packer, std::string_view name, const T& value) {
    packer.pack_str(static_cast<std::uint32_t>(name.size()));
    packer.pack_str_body(name.data(), static_cast<std::uint32_t>(name.size()));
    packer.pack(value);
}

template <class Packer, class... T>
void pack(Packer& packer, const Names<sizeof...(T)>& names, const T&... values) {
    packer.pack_map(sizeof...(T));
    const auto* name = names.data();
    (pack_one(packer, *name++, values), ...);
}

// Looks fields up in a map. Throws msgpack::type_error if `object` is no map, or has a key that is no string.
class Lookup {
public:
    explicit Lookup(const msgpack::object& object);
    const msgpack::object* find(std::string_view name);

private:
    const msgpack::object_map* map_;
    std::uint32_t next_ = 0;  // Most are in order: it is the one behind the last.
};

template <class T>
void unpack_one(Lookup& lookup, std::string_view name, T& value) {
    if (const msgpack::object* found = lookup.find(name)) found->convert(value);
}

template <class... T>
void unpack(const msgpack::object& object, const Names<sizeof...(T)>& names, T&... values) {
    Lookup lookup(object);
    const auto* name = names.data();
    (unpack_one(lookup, *name++, values), ...);
}

}  // namespace fields

}  // namespace cowslip

// In a struct: its fields, each a key of its map. It means what MSGPACK_DEFINE_MAP does, whose templates are as deep as
// there are fields (a third of all compilation), and which copies each map that it decodes into a std::map.
#define COWSLIP_FIELDS(...)                                                                                         \
    static constexpr auto kFieldNames = cowslip::fields::split<cowslip::fields::count(#__VA_ARGS__)>(#__VA_ARGS__); \
    template <class Packer>                                                                                         \
    void msgpack_pack(Packer& packer) const {                                                                       \
        cowslip::fields::pack(packer, kFieldNames, __VA_ARGS__);                                                    \
    }                                                                                                               \
    void msgpack_unpack(const msgpack::object& object) {                                                            \
        cowslip::fields::unpack(object, kFieldNames, __VA_ARGS__);                                                  \
    }
