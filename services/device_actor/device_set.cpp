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
#include "common/size.h"
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

// Whether the live one has all of it, and maybe more.
bool covers(const DmTable& live, const DmTable& table) {
    if (table.empty() || live.size() < table.size()) return false;
    DmTarget end = live[table.size() - 1];
    if (end.sectors < table.back().sectors) return false;
    end.sectors = table.back().sectors;
    return end == table.back() && std::equal(table.begin(), table.end() - 1, live.begin());
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
        const std::uint64_t sectors = TRY(block_device_sectors(member.path));
        if (sectors < member.header.end_sector()) {
            return Error{Errc::needs_repair, fmt::format("block device '{}' has {} sectors, the pool has {} there",
                                                         member.path, sectors, member.header.end_sector())};
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
    const Sizes all = sizes_of(found);
    return all.data >= data_sectors && all.metadata >= metadata_sectors;
}

std::vector<DeviceSet::Part> DeviceSet::in_order(const Members& members) {
    std::vector<Part> parts;
    for (const auto& [number, member] : members) {
        parts.push_back({&member, &member.header.areas});
        for (const DeviceAreas& areas : member.header.later) parts.push_back({&member, &areas});
    }
    std::stable_sort(parts.begin(), parts.end(),
                     [](const Part& a, const Part& b) { return a.areas->place < b.areas->place; });
    return parts;
}

DeviceSet::Sizes DeviceSet::sizes_of(const Members& members) {
    Sizes all;
    for (const Part& part : in_order(members)) {
        all.data += part.areas->data_sectors;
        all.metadata += part.areas->metadata_sectors;
    }
    return all;
}

// What the pool has of them: as much as is said, or as its metadata have taken up, which is more where somebody died
// before it was written down. Where these are damaged it may be all.
DeviceSet::Sizes DeviceSet::used_sizes(const schemas::PoolSpec& spec, const Members& members) {
    const Sizes all = sizes_of(members);
    const auto superblock = read_superblock(members.at(0));
    if (!superblock || !superblock->valid) return all;
    const std::uint64_t data = superblock->total_data_blocks * superblock->data_block_sectors;
    const std::uint64_t metadata = superblock->total_metadata_blocks * 8;
    return {std::min(std::max(spec.data_sectors, data), all.data),
            std::min(std::max(spec.metadata_sectors, metadata), all.metadata)};
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
    const Members found = TRY(all_members(spec));
    return assemble(spec, found, used_sizes(spec, found));
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

// What they have become larger by becomes areas of their own, and where the larger pool wants more metadata, these have
// some; or what lies at the very end of the pool goes on there. Only planned: gives the numbers of those whose headers
// are to be written.
Result<std::vector<std::uint32_t>> DeviceSet::lengthen(Members& members) {
    std::vector<std::uint32_t> changed;
    for (auto& [number, member] : members) {
        DeviceHeader& header = member.header;
        const std::uint64_t sectors = TRY(block_device_sectors(member.path));
        const std::uint64_t added = sectors - header.end_sector();
        const Sizes all = sizes_of(members);
        const std::uint64_t wanted = default_metadata_sectors(all.data + added, header.block_sectors);
        const std::uint64_t metadata = std::min(wanted - std::min(wanted, all.metadata), added / 8) / 8 * 8;
        auto areas = share_out({header.end_sector(), sectors}, metadata, header.block_sectors);
        if (!areas) continue;
        const DeviceAreas* end = in_order(members).back().areas;
        if (metadata == 0 && end == &header.last()) {
            DeviceAreas& last = header.later.empty() ? header.areas : header.later.back();
            last.data_sectors = (sectors - last.data_start) / header.block_sectors * header.block_sectors;
        } else if (header.later.size() < kMostLaterAreas) {
            areas->place = end->place + 1;
            header.later.push_back(*areas);
        } else {
            spdlog::warn("device={} has become larger more often than its header can tell", member.path);
            continue;
        }
        changed.push_back(number);
    }
    return changed;
}

// Those of the pool's devices that have no header yet, with the one that they are to have. A pool that is to begin with
// less than they have keeps metadata in reserve for all of it. What an earlier copy of the command has made of one
// stays: what is said by then is what the pool has become.
Result<DeviceSet::Members> DeviceSet::plan_members(const schemas::PoolSpec& spec, const Members& found) {
    const bool making = found.empty();
    std::uint32_t place = making ? 0 : in_order(found).back().areas->place + 1;
    std::uint64_t metadata_left = kMaxMetadataSectors - std::min(kMaxMetadataSectors, sizes_of(found).metadata);
    Members planned;
    for (auto number = static_cast<std::uint32_t>(found.size()); number < spec.devices.size(); ++number) {
        const schemas::PoolDevice& device = spec.devices[number];
        const auto older = TRY(read_header(device.path));
        const bool repeated = older && older->pool_uuid == spec.pool.uuid && older->device_id == device.id;
        if (making && repeated && older->number == number) {
            planned[number] = {device.path, *older};
            metadata_left -= std::min(metadata_left, older->areas.metadata_sectors);
            continue;
        }
        const std::uint64_t sectors = TRY(block_device_sectors(device.path));
        std::uint64_t metadata_sectors = default_metadata_sectors(sectors, spec.block_sectors);
        if (making && spec.metadata_sectors != 0) {
            if (spec.data_sectors == 0) metadata_sectors = 0;
            if (number == 0) metadata_sectors = std::max(metadata_sectors, spec.metadata_sectors);
        }
        metadata_sectors = std::min(metadata_sectors, metadata_left);
        metadata_left -= metadata_sectors;
        auto areas = share_out({0, sectors}, metadata_sectors, spec.block_sectors);
        if (!areas) {
            return Error{areas.error().code, fmt::format("'{}' is too small: {}", device.path, areas.error().message)};
        }
        areas->place = making ? 0 : place++;
        planned[number] = {device.path, DeviceHeader{.pool_uuid = spec.pool.uuid,
                                                     .device_id = device.id,
                                                     .number = number,
                                                     .block_sectors = spec.block_sectors,
                                                     .areas = *areas,
                                                     .sequence = 1}};
    }
    return planned;
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
    const Members planned = TRY(plan_members(spec, {}));
    const Sizes all = sizes_of(planned);
    if (spec.data_sectors > all.data) {
        return Error{Errc::invalid_argument,
                     fmt::format("the devices have {} for data, and the pool is to have {}",
                                 format_size(all.data * kSectorBytes), format_size(spec.data_sectors * kSectorBytes))};
    }
    if (overwrite.anything) {
        for (const auto& device : spec.devices) TRY(wipe_device(device.path));
    }
    // An older pool's, which nobody wiped, would say how large this one is.
    const Member& first = planned.at(0);
    const std::uint64_t superblock_at = first.header.areas.metadata_start * kSectorBytes;
    if (const int failed = write_blocks(first.path, superblock_at, std::string(kSuperblockBytes, '\0')); failed != 0) {
        return errno_error(failed, "zero the metadata on '" + first.path + "'");
    }
    for (const auto& [number, member] : planned) TRY(write_header(member.path, encode_header(member.header)));
    const Sizes used{spec.data_sectors == 0 ? all.data : spec.data_sectors,
                     spec.metadata_sectors == 0 ? all.metadata : spec.metadata_sectors};
    return assemble(spec, TRY(all_members(spec)), used);
}

// Each header is one commit. Whoever dies between two of them has made the pool's reserve larger, or a device the
// pool's that its next try names again.
Result<void> DeviceSet::grow(const schemas::PoolSpec& spec) const {
    schemas::PoolSpec known = spec;
    known.data_sectors = 0;  // What is wanted need not be there yet.
    Members found = TRY(all_members(known));
    for (const auto& [number, member] : found) {
        if (number < known.devices.size()) known.devices[number].path = member.path;
    }
    for (auto number = static_cast<std::uint32_t>(found.size()); number < known.devices.size(); ++number) {
        TRY(check_may_take(known, number, {}));
        for (std::uint32_t other = 0; other < number; ++other) {
            const dev_t taken = TRY(block_device_number(known.devices[other].path));
            if (taken != TRY(block_device_number(known.devices[number].path))) continue;
            return Error{Errc::invalid_argument,
                         fmt::format("'{}' is a device of the pool already", known.devices[number].path)};
        }
    }
    const auto longer = TRY(lengthen(found));
    Members all = found;
    all.merge(TRY(plan_members(known, found)));
    const Sizes most = sizes_of(all);
    if (spec.data_sectors > most.data || spec.metadata_sectors > most.metadata) {
        return Error{Errc::no_space,
                     fmt::format("the pool's devices have {} for data and {} for metadata: make one of them larger, "
                                 "or add one (`cowslip pool grow --device DEV`)",
                                 format_size(most.data * kSectorBytes), format_size(most.metadata * kSectorBytes))};
    }
    for (const std::uint32_t number : longer) TRY(rewrite(all.at(number)));
    for (auto member = all.find(static_cast<std::uint32_t>(found.size())); member != all.end(); ++member) {
        TRY(write_header(member->second.path, encode_header(member->second.header)));
    }
    if (known.metadata_sectors == 0) known.metadata_sectors = most.metadata;
    TRY(find(known));
    return {};
}

Result<Backing> DeviceSet::assemble(const schemas::PoolSpec& spec, const Members& members, const Sizes& used) const {
    const bool swapped = members.at(0).header.swapped;
    const Sizes all = sizes_of(members);
    Backing backing;
    backing.metadata_path = TRY(put_together(spec, Areas::metadata(swapped), members, used.metadata));
    backing.data_path = TRY(put_together(spec, Areas::data(), members, all.data));
    backing.data_sectors = used.data;
    backing.metadata_sectors = used.metadata;
    backing.most_data_sectors = all.data;
    backing.most_metadata_sectors = all.metadata;
    for (const auto& [number, member] : members) backing.devices.push_back({member.path, member.header.device_id});
    return backing;
}

// A longer table takes the place of the live one in one call: whoever dies leaves nothing suspended. A shorter one
// never does: the pool may have taken up what has been added.
Result<std::string> DeviceSet::put_together(const schemas::PoolSpec& spec, const Areas& areas, const Members& members,
                                            std::uint64_t sectors) const {
    const DmDevice device = part_device(spec, areas.part);
    DmTable table;
    for (const Part& part : in_order(members)) {
        const std::uint64_t taken = std::min(part.areas->*areas.sectors, sectors);
        if (taken == 0) continue;
        sectors -= taken;
        const std::string below = device_number(TRY(block_device_number(part.member->path)));
        table.push_back({"linear", taken, fmt::format("{} {}", below, part.areas->*areas.start)});
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
    const bool same = covers(live, table);
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

Result<void> DeviceSet::rewrite(Member& member) {
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
    return put_together(spec, Areas::spare(first.header.swapped), found, used_sizes(spec, found).metadata);
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
