#include "services/device_actor/metadata_xml.h"

#include <charconv>
#include <functional>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "common/names.h"
#include "schemas/device_actor.h"

namespace cowslip {

namespace {

struct Element {
    std::string_view name;
    std::vector<std::string_view> times;  // Attributes.
};

const std::vector<Element>& known_elements() {
    static const std::vector<Element> kElements = {{"superblock", {"time"}},
                                                   {"device", {"creation_time", "snap_time"}},
                                                   {"single_mapping", {"time"}},
                                                   {"range_mapping", {"time"}},
                                                   {"/device", {}},
                                                   {"/superblock", {}}};
    return kElements;
}

Error unreadable(std::string_view line, std::string_view why) {
    return Error{Errc::internal, fmt::format("what thin_dump wrote: {}: '{}'", why, line.substr(0, 200))};
}

// Nothing for an empty line.
Result<std::optional<Element>> element_of(std::string_view line) {
    const std::size_t begin = line.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return std::optional<Element>();
    const std::string_view rest = line.substr(begin);
    for (const Element& element : known_elements()) {
        if (!rest.starts_with("<") || !rest.substr(1).starts_with(element.name)) continue;
        const std::string_view after = rest.substr(1 + element.name.size());
        if (after.starts_with(" ") || after.starts_with(">")) return std::optional<Element>(element);
    }
    return unreadable(line, "an element that is not known");
}

struct Attribute {
    std::size_t at = 0;  // Of its digits.
    std::size_t length = 0;
    std::uint64_t value = 0;
};

Result<Attribute> attribute_of(std::string_view line, std::string_view name) {
    const std::string before = fmt::format(" {}=\"", name);
    Attribute found;
    found.at = line.find(before);
    if (found.at == std::string_view::npos) return unreadable(line, fmt::format("no attribute '{}'", name));
    found.at += before.size();
    const std::string_view text = line.substr(found.at, line.find('"', found.at) - found.at);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), found.value);
    if (error != std::errc() || end != text.data() + text.size() || text.empty()) {
        return unreadable(line, fmt::format("attribute '{}' is no number", name));
    }
    found.length = text.size();
    return found;
}

Result<void> replace(std::string& line, std::string_view name, const std::function<std::uint64_t(std::uint64_t)>& by) {
    const Attribute attribute = TRY(attribute_of(line, name));
    line.replace(attribute.at, attribute.length, std::to_string(by(attribute.value)));
    return {};
}

}  // namespace

Result<void> MetadataRecount::look(std::string_view line) {
    const auto element = TRY(element_of(line));
    if (!element) return {};
    for (const std::string_view name : element->times) times_[TRY(attribute_of(line, name)).value] = 0;
    if (element->name != "device") return {};
    const std::uint64_t thin_id = TRY(attribute_of(line, "dev_id")).value;
    if (thin_id >= kFirstThinId) thin_ids_[thin_id] = 0;
    return {};
}

void MetadataRecount::no_more() {
    std::uint64_t next = 0;
    for (auto& [old, recounted] : times_) recounted = next++;
    next = kFirstThinId;
    for (auto& [old, recounted] : thin_ids_) recounted = next++;
}

Result<std::string> MetadataRecount::rewrite(std::string_view line) const {
    const auto element = TRY(element_of(line));
    std::string text(line);
    if (!element) return text;
    for (const std::string_view name : element->times) {
        TRY(replace(text, name, [&](std::uint64_t time) { return times_.at(time); }));
    }
    if (element->name == "superblock") TRY(replace(text, "transaction", [&](auto) { return transaction_id_; }));
    if (element->name != "device") return text;
    // The backups in it are of volumes under their old thin ids: born now, it says that those before are none.
    if (TRY(attribute_of(line, "dev_id")).value == schemas::kBackupsThinId) {
        TRY(replace(text, "transaction", [&](auto) { return transaction_id_; }));
    }
    TRY(replace(text, "dev_id", [&](std::uint64_t id) { return id < kFirstThinId ? id : thin_ids_.at(id); }));
    return text;
}

}  // namespace cowslip
