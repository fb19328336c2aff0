#include "services/device_actor/device_set.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>

#include "common/block_frame.h"
#include "common/files.h"
#include "common/names.h"
#include "services/device_actor/block_device.h"
#include "services/device_actor/overwrite.h"

namespace cowslip {

namespace {

constexpr const char* kData = "data";
constexpr const char* kMetadata = "metadata";
constexpr const char* kSpare = "spare";

Result<std::optional<DeviceHeader>> read_header(const std::string& path) {
    std::string first(kFrameBlockBytes, '\0');
    std::string second(kFrameBlockBytes, '\0');
    const int first_failed = read_blocks(path, 0, first);
    const int second_failed = read_blocks(path, kSecondHeaderOffset, second);
    if (first_failed != 0 && second_failed != 0) {
        return errno_error(first_failed, "read the header of '" + path + "'");
    }
    return newest_header(first, second);
}

// The second copy first: at each moment one of them is whole.
Result<void> write_header(const std::string& path, const std::string& block) {
    for (const std::uint64_t offset : {kSecondHeaderOffset, std::uint64_t{0}}) {
        const int number = write_blocks(path, offset, block);
        if (number != 0) return errno_error(number, "write the header of '" + path + "'");
    }
    return {};
}

// Volumes of ours are no candidates: what is in them is their users'.
bool is_own_dm_device(const std::filesystem::path& device) {
    const auto uuid = read_file((device / "dm/uuid").string());
    return uuid && uuid->starts_with("COWSLIP-");
}

std::vector<std::string> block_devices() {
    std::vector<std::string> paths;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator("/sys/class/block", error)) {
        if (is_own_dm_device(entry.path())) continue;
        std::string name = entry.path().filename().string();
        std::replace(name.begin(), name.end(), '!', '/');  // "cciss!c0d0"
        paths.push_back("/dev/" + name);
    }
    std::sort(paths.begin(), paths.end());
    return paths;
}

bool is_of(const DeviceHeader& header, const schemas::PoolSpec& spec) {
    if (header.pool_uuid != spec.pool.uuid) return false;
    if (header.number >= spec.devices.size()) return true;
    const std::string& id = spec.devices[header.number].id;
    return id.empty() || id == header.device_id;  // Empty: of a store that is made anew.
}

DmDevice part_device(const schemas::PoolSpec& spec, const char* part) {
    return {pool_part_dm_name(spec.pool.uuid, part), pool_part_dm_uuid(spec.pool.uuid, part)};
}

}  // namespace

// One of each device's.
struct DeviceSet::Areas {
    const char* part;
    std::uint64_t DeviceAreas::*start;
    std::uint64_t DeviceAreas::*sectors;

    static Areas data() { return {kData, &DeviceAreas::data_start, &DeviceAreas::data_sectors}; }
    static Areas metadata(bool swapped) {
        return {kMetadata, swapped ? &DeviceAreas::spare_start : &DeviceAreas::metadata_start,
                &DeviceAreas::metadata_sectors};
    }
    static Areas spare(bool swapped) { return {kSpare, metadata(!swapped).start, &DeviceAreas::metadata_sectors}; }
};

// Where they were last time; and if they are not all there, wherever they are now. All: as many as the store knows, and
// as the pool's own metadata have taken up, which may be more where somebody died.
Result<DeviceSet::Members> DeviceSet::members(const schemas::PoolSpec& spec) const {
    Members found;
    const auto take = [&](const std::string& path) -> Result<void> {
        const auto header = read_header(path);
        if (!header || !*header || !is_of(**header, spec)) return {};
        const auto [other, fresh] = found.try_emplace((*header)->number, Member{path, **header});
        if (fresh || TRY(block_device_number(other->second.path)) == TRY(block_device_number(path))) return {};
        return Error{Errc::needs_repair,
                     fmt::format("'{}' and '{}' both say that they are device {} of the pool: one is a copy, detach it",
                                 other->second.path, path, (*header)->number)};
    };
    for (const auto& device : spec.devices) TRY(take(device.path));
    if (found.size() < spec.devices.size() || !suffice(spec, found)) {
        for (const auto& path : block_devices()) TRY(take(path));
    }
    return found;
}

// Those from device 0 on, and none cut short.
Result<DeviceSet::Members> DeviceSet::all_members(const schemas::PoolSpec& spec) const {
    Members found = TRY(members(spec));
    std::uint32_t next = 0;
    for (const auto& [number, member] : found) {
        if (number != next) break;
        ++next;
        const DeviceAreas& areas = member.header.areas;
        const std::uint64_t sectors = TRY(block_device_sectors(member.path));
        if (sectors < areas.data_start + areas.data_sectors) {
            return Error{Errc::needs_repair, fmt::format("block device '{}' has {} sectors, the pool has {} there",
                                                         member.path, sectors, areas.data_start + areas.data_sectors)};
        }
    }
    found.erase(found.lower_bound(next), found.end());
    if (suffice(spec, found)) return found;
    const std::string was = next < spec.devices.size() ? fmt::format(" (it was '{}')", spec.devices[next].path) : "";
    return Error{Errc::unavailable,
                 fmt::format("device {} of the pool{} is not there: attach it, then `cowslip pool start`", next, was)};
}

bool DeviceSet::suffice(const schemas::PoolSpec& spec, const Members& found) {
    const auto first = found.find(0);
    if (first == found.end()) return false;
    const auto superblock = read_superblock(first->second);
    std::uint64_t data_sectors = spec.data_sectors;
    std::uint64_t metadata_sectors = 0;
    if (superblock && superblock->valid) {
        data_sectors = std::max(data_sectors, superblock->total_data_blocks * superblock->data_block_sectors);
        metadata_sectors = superblock->total_metadata_blocks * 8;
    }
    std::uint64_t data = 0;
    std::uint64_t metadata = 0;
    for (const auto& [number, member] : found) {
        data += member.header.areas.data_sectors;
        metadata += member.header.areas.metadata_sectors;
    }
    return data >= data_sectors && metadata >= metadata_sectors;
}

// Of the pool, on its device 0.
Result<ThinPoolSuperblock> DeviceSet::read_superblock(const Member& first) {
    const Areas areas = Areas::metadata(first.header.swapped);
    std::string block(kSuperblockBytes, '\0');
    const int number = read_blocks(first.path, first.header.areas.*areas.start * kSectorBytes, block);
    if (number != 0) return errno_error(number, "read the metadata on '" + first.path + "'");
    return parse_superblock(block);
}

Result<Backing> DeviceSet::find(const schemas::PoolSpec& spec) const {
    return assemble(spec, TRY(all_members(spec)));
}

Result<void> DeviceSet::check_may_take(const schemas::PoolSpec& spec, std::uint32_t number,
                                       const Overwrite& overwrite) const {
    const std::string& path = spec.devices[number].path;
    TRY(check_listed(list_, path));
    TRY(check_unused(path));
    const auto header = TRY(read_header(path));
    if (overwrite.anything) return {};
    // By an earlier copy of the command, or a growth that was given up: it has none of the pool's data.
    if (header && header->pool_uuid == spec.pool.uuid) return {};
    if (header) return refuse(path, fmt::format("part of the cowslip pool {}", header->pool_uuid));
    return check_blank_device(path);
}

// A header on each from the first one on that has none: all that may be refused is refused before.
Result<void> DeviceSet::take(const schemas::PoolSpec& spec, std::uint32_t first) const {
    std::uint64_t metadata_left = kMaxMetadataSectors;
    std::vector<DeviceHeader> headers;
    for (std::uint32_t number = 0; number < spec.devices.size(); ++number) {
        const schemas::PoolDevice& device = spec.devices[number];
        if (number < first) {
            const auto header = TRY(read_header(device.path));
            if (header) metadata_left -= std::min(metadata_left, header->areas.metadata_sectors);
            continue;
        }
        const std::uint64_t sectors = TRY(block_device_sectors(device.path));
        std::uint64_t metadata_sectors = default_metadata_sectors(sectors, spec.block_sectors);
        if (first == 0 && spec.metadata_sectors != 0) metadata_sectors = number == 0 ? spec.metadata_sectors : 0;
        metadata_sectors = std::min(metadata_sectors, metadata_left);
        metadata_left -= metadata_sectors;
        auto areas = share_out(sectors, metadata_sectors, spec.block_sectors);
        if (!areas) {
            return Error{areas.error().code, fmt::format("'{}' is too small: {}", device.path, areas.error().message)};
        }
        headers.push_back({.pool_uuid = spec.pool.uuid,
                           .device_id = device.id,
                           .number = number,
                           .block_sectors = spec.block_sectors,
                           .areas = *areas,
                           .sequence = 1});
    }
    for (const DeviceHeader& header : headers) {
        TRY(write_header(spec.devices[header.number].path, encode_header(header)));
    }
    return {};
}

Result<Backing> DeviceSet::make(const schemas::PoolSpec& spec, const Overwrite& overwrite) const {
    TRY(release(spec));  // Of a try that died.
    std::set<dev_t> distinct;
    for (std::uint32_t number = 0; number < spec.devices.size(); ++number) {
        TRY(check_may_take(spec, number, overwrite));
        distinct.insert(TRY(block_device_number(spec.devices[number].path)));
    }
    if (distinct.size() < spec.devices.size()) {
        return Error{Errc::invalid_argument, "two of the names are one device's"};
    }
    if (overwrite.anything) {
        for (const auto& device : spec.devices) TRY(wipe_device(device.path));
    }
    TRY(take(spec, 0));
    return find(spec);
}

Result<void> DeviceSet::grow(const schemas::PoolSpec& spec) const {
    schemas::PoolSpec known = spec;
    const Members found = TRY(all_members(spec));
    for (const auto& [number, member] : found) {
        if (number < known.devices.size()) known.devices[number].path = member.path;
    }
    const auto first = static_cast<std::uint32_t>(found.size());
    for (std::uint32_t number = first; number < known.devices.size(); ++number) {
        TRY(check_may_take(known, number, {}));
        for (std::uint32_t other = 0; other < number; ++other) {
            const dev_t taken = TRY(block_device_number(known.devices[other].path));
            if (taken != TRY(block_device_number(known.devices[number].path))) continue;
            return Error{Errc::invalid_argument,
                         fmt::format("'{}' is a device of the pool already", known.devices[number].path)};
        }
    }
    TRY(take(known, first));
    TRY(find(known));
    return {};
}

Result<Backing> DeviceSet::assemble(const schemas::PoolSpec& spec, const Members& members) const {
    const bool swapped = members.at(0).header.swapped;
    Backing backing;
    backing.metadata_path = TRY(put_together(spec, Areas::metadata(swapped), members));
    backing.data_path = TRY(put_together(spec, Areas::data(), members));
    for (const auto& [number, member] : members) {
        backing.data_sectors += member.header.areas.data_sectors;
        backing.metadata_sectors += member.header.areas.metadata_sectors;
        backing.devices.push_back({member.path, member.header.device_id});
    }
    return backing;
}

// A longer table takes the place of the live one in one call: whoever dies leaves nothing suspended. A shorter one
// never does: the pool may have taken up what has been added.
Result<std::string> DeviceSet::put_together(const schemas::PoolSpec& spec, const Areas& areas,
                                            const Members& members) const {
    const DmDevice device = part_device(spec, areas.part);
    DmTable table;
    for (const auto& [number, member] : members) {
        const std::uint64_t sectors = member.header.areas.*areas.sectors;
        if (sectors == 0) continue;
        const std::string below = device_number(TRY(block_device_number(member.path)));
        table.push_back({"linear", sectors, fmt::format("{} {}", below, member.header.areas.*areas.start)});
    }
    const auto failed = [&](int number) -> Result<std::string> {
        if (number == EBUSY) {
            for (const auto& [index, member] : members) TRY(check_unused(member.path));  // It says by whom.
        }
        Error error = errno_error(number, fmt::format("put '{}' together", device.name));
        if (number == EBUSY) error.code = Errc::in_use;
        return error;
    };
    auto info = TRY(dm_.find(device));
    const bool created = !info;
    if (created) {
        if (const int number = dm_.create(device); number != 0) return failed(number);
    }
    const DmTable live = TRY(dm_.targets(device));
    const bool same = live.size() >= table.size() &&
                      std::equal(table.begin(), table.end(), live.begin(), [](const auto& a, const auto& b) {
                          return a.type == b.type && a.sectors == b.sectors && a.parameters == b.parameters;
                      });
    if (created || !same || info->suspended) {
        int number = same ? 0 : dm_.load(device, table, false);
        if (number == 0) number = dm_.resume(device);
        if (number != 0) {
            if (created && dm_.remove(device) != 0) spdlog::warn("remove '{}' after its load failed", device.name);
            return failed(number);
        }
    }
    info = TRY(dm_.find(device));
    if (!info) return Error{Errc::unavailable, fmt::format("'{}' has been taken away", device.name)};
    return dm_.ensure_node(*info);
}

Result<void> DeviceSet::release(const schemas::PoolSpec& spec) const {
    for (const char* part : {kData, kMetadata, kSpare}) {
        const DmDevice device = part_device(spec, part);
        const int number = dm_.remove(device);
        if (number == ENXIO) dm_.remove_node(device.name);
        if (number == 0 || number == ENXIO) continue;
        Error error = errno_error(number, fmt::format("take '{}' apart", device.name));
        if (number == EBUSY) error.code = Errc::in_use;
        return error;
    }
    return {};
}

// Device 0 last: as long as its header is there, it says where the metadata are that prove whose all this is.
Result<void> DeviceSet::discard(const schemas::PoolSpec& spec, const Overwrite& own) const {
    const Members found = TRY(members(spec));
    if (const auto first = found.find(0); own.is_whole() && first != found.end()) {
        if (!may_format(TRY(read_superblock(first->second)), own)) return not_destroyed(first->second.path);
    }
    for (auto member = found.rbegin(); member != found.rend(); ++member) {
        if (own.is_whole()) {
            TRY(wipe_device(member->second.path));
        } else {
            TRY(write_header(member->second.path, std::string(kFrameBlockBytes, '\0')));
        }
    }
    return {};
}

// ---- a mended copy of the metadata -----------------------------------------------------------

Result<void> DeviceSet::rewrite(Member& member) const {
    ++member.header.sequence;
    return write_header(member.path, encode_header(member.header));
}

Result<std::string> DeviceSet::copy_place(const schemas::PoolSpec& spec, Place place) const {
    Members found = TRY(all_members(spec));
    Member& first = found.at(0);
    if (place == Place::make) {
        first.header.mended = true;
        TRY(rewrite(first));
    }
    return put_together(spec, Areas::spare(first.header.swapped), found);
}

// One block is written, and with it the two areas change places. Gives words for where the damaged ones are kept.
Result<std::string> DeviceSet::use_copy(const schemas::PoolSpec& spec) const {
    TRY(release(spec));
    Members found = TRY(all_members(spec));
    Member& first = found.at(0);
    if (first.header.mended) {
        first.header.swapped = !first.header.swapped;
        first.header.mended = false;
        TRY(rewrite(first));
    }
    const Areas kept = Areas::spare(first.header.swapped);
    return fmt::format("the other metadata area of '{}' (from sector {})", first.path, first.header.areas.*kept.start);
}

}  // namespace cowslip
