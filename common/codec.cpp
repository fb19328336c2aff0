#include "common/codec.h"

#include <algorithm>
#include <span>
#include <vector>

namespace cowslip {

namespace {

// Small enough that no message can make us allocate more than a few times its own size.
const msgpack::unpack_limit kLimits(16384, 16384, kMaxFrameBytes, kMaxFrameBytes, kMaxFrameBytes, 16);

bool has_repeated_key(const msgpack::object& object);

std::string_view text_of(const msgpack::object_kv& entry) {
    return {entry.key.via.str.ptr, entry.key.via.str.size};
}

bool map_has_repeated_key(const msgpack::object_map& map) {
    std::vector<std::string_view> keys;
    keys.reserve(map.size);
    for (const msgpack::object_kv& entry : std::span(map.ptr, map.size)) {
        if (entry.key.type == msgpack::type::STR) keys.push_back(text_of(entry));
        if (has_repeated_key(entry.val)) return true;
    }
    std::sort(keys.begin(), keys.end());
    return std::adjacent_find(keys.begin(), keys.end()) != keys.end();
}

// Recursion is bounded by the depth limit of the parse.
bool has_repeated_key(const msgpack::object& object) {
    if (object.type == msgpack::type::MAP) return map_has_repeated_key(object.via.map);
    if (object.type != msgpack::type::ARRAY) return false;
    const auto& array = object.via.array;
    return std::any_of(array.ptr, array.ptr + array.size, has_repeated_key);
}

}  // namespace

Result<Document> decode(std::string_view bytes) {
    if (bytes.size() > kMaxFrameBytes) return Error{Errc::invalid_argument, "decode message: larger than 1 MiB"};
    Document document;
    try {
        std::size_t used = 0;
        document.handle_ = msgpack::unpack(bytes.data(), bytes.size(), used, nullptr, nullptr, kLimits);
        if (used != bytes.size()) return Error{Errc::invalid_argument, "decode message: bytes after its end"};
    } catch (const std::exception&) {
        return Error{Errc::invalid_argument, "decode message: not msgpack, or past a limit"};
    }
    if (has_repeated_key(document.root())) return Error{Errc::invalid_argument, "decode message: a key is repeated"};
    return document;
}

namespace fields {

Lookup::Lookup(const msgpack::object& object) : map_(&object.via.map) {
    if (object.type != msgpack::type::MAP) throw msgpack::type_error();
    const auto is_string = [](const msgpack::object_kv& entry) { return entry.key.type == msgpack::type::STR; };
    if (!std::all_of(map_->ptr, map_->ptr + map_->size, is_string)) throw msgpack::type_error();
}

const msgpack::object* Lookup::find(std::string_view name) {
    for (std::uint32_t tried = 0; tried < map_->size; ++tried) {
        const msgpack::object_kv& entry = map_->ptr[next_];
        next_ = next_ + 1 == map_->size ? 0 : next_ + 1;
        if (text_of(entry) == name) return &entry.val;
    }
    return nullptr;
}

}  // namespace fields

}  // namespace cowslip
