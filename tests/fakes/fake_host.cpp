#include "tests/fakes/fake_host.h"

#include <sys/sysmacros.h>

#include <algorithm>

namespace cowslip {

namespace {

constexpr const char* kDataFile = "file:data";
constexpr const char* kMetadataFile = "file:metadata";
constexpr const char* kRepairedFile = "file:metadata.repaired";
// What is put together of whole devices: the fake has it as two media that are as large.
constexpr const char* kDevicesData = "devices:data";
constexpr const char* kDevicesMetadata = "devices:metadata";
constexpr std::uint64_t kDevicesMetadataSectors = 32768;
constexpr const char* kDamagedFile = "file:metadata.damaged-";

bool may_format(const FakeMetadata& metadata, const Overwrite& overwrite) {
    const bool unused = metadata.transaction_id == 0 && metadata.time == 0 && metadata.used_data_blocks() == 0;
    const bool own = overwrite.owns(metadata.transaction_id);
    return overwrite.anything || (!metadata.damaged && (!metadata.formatted || unused || own));
}

std::uint64_t exclusive_blocks(const std::map<std::uint32_t, FakeThin>& thins, std::uint32_t thin_id) {
    std::vector<const FakeMapping*> others;
    for (const auto& [id, thin] : thins) {
        if (id != thin_id) others.push_back(&thin.blocks);
    }
    std::vector<const FakeMapping*> all = others;
    all.push_back(&thins.at(thin_id).blocks);
    return count_data_blocks(all) - count_data_blocks(others);
}

}  // namespace

bool FakeHost::claimed(dev_t number) const {
    return kernel_.table_users().contains(device_number(number));
}

Result<void> FakeHost::check_unused(const std::string& path) {
    const FakeBlockDevice* device = kernel_.block(path);
    if (device == nullptr) return Error{Errc::internal, "open block device '" + path + "': no such file"};
    if (!device->in_use && !claimed(device->number)) return {};
    return Error{Errc::in_use, "block device '" + path + "' is in use", {{"holders", {"somebody"}}}};
}

Result<std::string> FakeHost::attach(const std::string& medium, std::uint64_t sectors) {
    const auto found = kernel_.media.find(medium);
    if (found == kernel_.media.end()) return Error{Errc::needs_repair, medium + " is gone"};
    if (found->second.sectors < sectors) return Error{Errc::needs_repair, medium + " was cut short"};
    for (const auto& [path, device] : kernel_.blocks) {
        if (device.medium == medium) return path;
    }
    kernel_.effect("attach " + medium);
    unsigned minor = 0;
    while (kernel_.blocks.contains("/dev/loop" + std::to_string(minor))) minor++;
    const std::string path = "/dev/loop" + std::to_string(minor);
    kernel_.blocks[path] = {.medium = medium, .number = makedev(7, minor), .loop = true};
    return path;
}

Result<Backing> FakeHost::make_backing(const schemas::PoolSpec& spec, const Overwrite& overwrite) {
    if (spec.backing == "pair") {
        auto backing = TRY(find_backing(spec));
        for (const auto& path : {spec.data_path, spec.metadata_path}) {
            const FakeMedium& medium = kernel_.media.at(kernel_.block(path)->medium);
            if (!medium.signature.empty() && !overwrite.anything) {
                return Error{Errc::in_use, "'" + path + "' holds " + medium.signature};
            }
            if (!may_format(medium.metadata, overwrite)) return Error{Errc::in_use, "'" + path + "' holds a pool"};
        }
        return backing;
    }
    if (spec.backing == "devices") {
        std::uint64_t sectors = 0;
        for (const auto& device : spec.devices) {
            if (kernel_.media.contains(device.path)) sectors += kernel_.media.at(device.path).sectors;
        }
        if (spec.data_sectors + kDevicesMetadataSectors > sectors) {
            return Error{Errc::invalid_argument, "the devices have less"};
        }
        TRY(take_devices(spec, overwrite));
        kernel_.media.erase(kDevicesMetadata);
        return find_backing(spec);
    }
    if (kernel_.media.contains(kMetadataFile) && !may_format(kernel_.media.at(kMetadataFile).metadata, overwrite)) {
        return Error{Errc::in_use, "the files hold a pool"};
    }
    kernel_.effect("make data");
    kernel_.media[kDataFile] = {.sectors = spec.data_sectors};
    kernel_.effect("make metadata");
    kernel_.media[kMetadataFile] = {.sectors = spec.metadata_sectors};
    return find_backing(spec);
}

// All that may be refused is refused before.
Result<void> FakeHost::take_devices(const schemas::PoolSpec& spec, const Overwrite& overwrite) {
    for (const auto& device : spec.devices) {
        TRY(check_listed(device.path));
        TRY(check_unused(device.path));
        const FakeMedium& medium = kernel_.media.at(device.path);
        const bool own = medium.device_pool == spec.pool.uuid;
        if (!own && !overwrite.anything && !(medium.signature + medium.device_id).empty()) {
            return Error{Errc::in_use, "'" + device.path + "' holds something"};
        }
    }
    for (const auto& device : spec.devices) {
        FakeMedium& medium = kernel_.media.at(device.path);
        if (medium.device_id == device.id) continue;
        kernel_.effect("head " + device.path);
        medium.device_id = device.id;
        medium.device_pool = spec.pool.uuid;
        medium.device_sectors = medium.sectors;
        medium.signature.clear();
    }
    return {};
}

Result<Backing> FakeHost::find_backing(const schemas::PoolSpec& spec) {
    Backing backing{.data_path = spec.data_path, .metadata_path = spec.metadata_path};
    if (spec.backing == "devices") return find_devices(spec);
    if (spec.backing == "loop") {
        backing.data_path = TRY(attach(kDataFile, spec.data_sectors));
        backing.metadata_path = TRY(attach(kMetadataFile, spec.metadata_sectors));
    }
    for (const auto& path : {backing.data_path, backing.metadata_path}) {
        if (spec.backing == "pair") TRY(check_listed(path));
        TRY(check_unused(path));
    }
    backing.data_sectors = TRY(device_sectors(backing.data_path));
    backing.metadata_sectors = TRY(device_sectors(backing.metadata_path));
    return backing;
}

// The metadata that are in use lie in a medium of their own, as large as they are; at first as is asked.
Result<Backing> FakeHost::find_devices(const schemas::PoolSpec& spec) {
    Backing backing;
    std::uint64_t sectors = 0;
    for (const auto& device : spec.devices) {
        const auto medium = kernel_.media.find(device.path);
        if (medium == kernel_.media.end() || medium->second.device_id.empty()) continue;
        if (!device.id.empty() && medium->second.device_id != device.id) continue;
        sectors += medium->second.device_sectors - kDevicesMetadataSectors;
        backing.devices.push_back({device.path, medium->second.device_id});
    }
    const FakeMetadata& core = kernel_.media[kDevicesMetadata].metadata;
    const std::uint64_t taken_up = core.data_blocks * core.block_sectors;
    // Those that the pool's metadata have taken up, though nobody has written them down.
    for (const auto& [path, medium] : kernel_.media) {
        const bool known = std::any_of(backing.devices.begin(), backing.devices.end(),
                                       [&](const auto& device) { return device.id == medium.device_id; });
        if (medium.device_pool != spec.pool.uuid || known || taken_up <= sectors) continue;
        sectors += medium.device_sectors - kDevicesMetadataSectors;
        backing.devices.push_back({path, medium.device_id});
    }
    if (sectors == 0 || sectors < spec.data_sectors) return Error{Errc::unavailable, "a device is not there"};
    kernel_.effect("put together");
    kernel_.media[kDevicesData].sectors = sectors;
    std::uint64_t& metadata = kernel_.media[kDevicesMetadata].sectors;
    metadata = std::max(metadata,
                        spec.metadata_sectors == 0 && metadata == 0 ? kDevicesMetadataSectors : spec.metadata_sectors);
    backing.data_path = TRY(attach(kDevicesData, 0));
    backing.metadata_path = TRY(attach(kDevicesMetadata, 0));
    backing.data_sectors = std::max(spec.data_sectors, taken_up);
    if (backing.data_sectors == 0) backing.data_sectors = sectors;
    backing.metadata_sectors = metadata;
    backing.most_data_sectors = sectors;
    backing.most_metadata_sectors = kDevicesMetadataSectors;
    return backing;
}

Result<void> FakeHost::grow_devices(const schemas::PoolSpec& spec) {
    schemas::PoolSpec fresh = spec;
    std::erase_if(fresh.devices,
                  [&](const auto& device) { return kernel_.media.at(device.path).device_id == device.id; });
    std::uint64_t most = 0;
    for (const auto& device : spec.devices) most += kernel_.media.at(device.path).sectors - kDevicesMetadataSectors;
    if (spec.data_sectors > most || spec.metadata_sectors > kDevicesMetadataSectors) {
        return Error{Errc::no_space, "the devices have less"};
    }
    for (const auto& device : spec.devices) {
        FakeMedium& medium = kernel_.media.at(device.path);
        if (medium.device_id != device.id || medium.device_sectors == medium.sectors) continue;
        kernel_.effect("head " + device.path);
        medium.device_sectors = medium.sectors;
    }
    TRY(take_devices(fresh, {}));
    schemas::PoolSpec grown = spec;
    grown.data_sectors = 0;
    if (grown.metadata_sectors == 0) grown.metadata_sectors = kDevicesMetadataSectors;
    TRY(find_devices(grown));
    return {};
}

Result<void> FakeHost::grow_backing(const schemas::PoolSpec& spec) {
    if (spec.backing == "devices") return grow_devices(spec);
    if (spec.backing != "loop") return {};
    FakeMedium& data = kernel_.media.at(kDataFile);
    FakeMedium& metadata = kernel_.media.at(kMetadataFile);
    const std::uint64_t wanted =
        std::max(data.sectors, spec.data_sectors) + std::max(metadata.sectors, spec.metadata_sectors);
    if (wanted > data.sectors + metadata.sectors && wanted > kernel_.file_system_sectors) {
        return Error{Errc::no_space, "the file system has no room"};
    }
    kernel_.effect("extend metadata");
    metadata.sectors = std::max(metadata.sectors, spec.metadata_sectors);
    kernel_.effect("extend data");
    data.sectors = std::max(data.sectors, spec.data_sectors);
    return {};
}

Result<void> FakeHost::release_backing(const schemas::PoolSpec& spec) {
    if (spec.backing != "loop" && spec.backing != "devices") return {};
    kernel_.effect("detach");
    std::erase_if(kernel_.blocks, [](const auto& entry) {
        return entry.second.medium == kDataFile || entry.second.medium == kMetadataFile ||
               entry.second.medium == kRepairedFile || entry.second.medium == kDevicesData ||
               entry.second.medium == kDevicesMetadata;
    });
    return {};
}

Result<void> FakeHost::discard_backing(const schemas::PoolSpec& spec, const Overwrite& own) {
    const bool recorded = kernel_.own_pool == spec.pool.uuid;
    const std::string medium = spec.backing == "loop"      ? kMetadataFile
                               : spec.backing == "devices" ? kDevicesMetadata
                                                           : spec.metadata_path;
    const auto found = kernel_.media.find(medium);
    if (found != kernel_.media.end()) {
        const FakeMetadata& metadata = found->second.metadata;
        const bool blank = !metadata.formatted && !metadata.damaged;
        const bool ours = blank || (recorded && may_format(metadata, own));
        if (!ours && own.is_whole()) return Error{Errc::needs_repair, "destroy: the metadata are not this pool's"};
        if (!ours) return {};
    }
    if (spec.backing == "loop") {
        kernel_.effect("delete data");
        kernel_.media.erase(kDataFile);
        kernel_.effect("delete metadata");
        kernel_.media.erase(kMetadataFile);
    } else if (spec.backing == "devices") {
        for (auto device = spec.devices.rbegin(); device != spec.devices.rend(); ++device) {
            kernel_.effect("wipe " + device->path);
            FakeMedium& device_medium = kernel_.media.at(device->path);
            if (device_medium.device_pool == spec.pool.uuid) device_medium.device_id = device_medium.device_pool = "";
        }
        kernel_.media.erase(kDevicesData);
        kernel_.media.erase(kDevicesMetadata);
    } else if (recorded) {
        if (own.is_whole()) {
            kernel_.effect("wipe " + spec.data_path);
            kernel_.media.at(spec.data_path).contents.clear();
        }
        kernel_.effect("zero " + medium);
        kernel_.media.at(medium).metadata = {};
        if (own.is_whole()) kernel_.media.at(medium).deleted.clear();  // Another pool's ids are its own.
    }
    return recorded ? forget_own_pool(spec.pool.uuid) : Result<void>();
}

FakeMedium& FakeHost::medium_of(const std::string& device) {
    return kernel_.media.at(kernel_.block(device)->medium);
}

Result<std::string> FakeHost::check_metadata(const std::string& device, ClearNeedsCheck clear) {
    kernel_.effect((clear == ClearNeedsCheck::yes ? "thin_check_clear " : "thin_check ") + device);
    FakeMetadata& metadata = medium_of(device).metadata;
    if (!metadata.formatted || metadata.damaged || metadata.leaf_damaged || metadata.load_error != 0)
        return std::string("bad checksum");
    if (clear == ClearNeedsCheck::no) return std::string();
    if (kernel_.fail_commits > 0) {
        kernel_.fail_commits--;
        return std::string("write failed");
    }
    metadata.needs_check = false;
    return std::string();
}

Result<std::string> FakeHost::mend_metadata(const std::string& from, const std::string& to,
                                            const MetadataFacts& facts) {
    kernel_.effect("thin_repair " + to);
    FakeMetadata mended = medium_of(from).metadata;
    if ((mended.damaged || !mended.formatted) && facts.transaction_id == 0) return std::string("no transaction id");
    if (facts.transaction_id != 0) mended.transaction_id = facts.transaction_id;
    for (const std::uint32_t thin_id : mended.unmendable) mended.thins.erase(thin_id);
    for (const auto& [thin_id, blocks] : mended.torn) mended.remap(thin_id, blocks);
    mended.unmendable.clear();
    mended.torn.clear();
    mended.formatted = true;
    mended.damaged = false;
    mended.leaf_damaged = false;
    mended.load_error = 0;
    mended.held_root = 0;
    mended.metadata_blocks = 0;
    medium_of(to).metadata = mended;
    return std::string();
}

Result<void> FakeHost::read_through(const std::string& device) {
    if (!medium_of(device).unreadable) return {};
    return Error{Errc::unavailable, "read '" + device + "': Input/output error"};
}

Result<std::string> FakeHost::copy_place(const schemas::PoolSpec& spec, const std::string& spare,
                                         std::uint64_t /*transaction_id*/, Place place) {
    if (spec.backing == "pair") {
        TRY(check_listed(spare));
        TRY(check_unused(spare));
        return spare;
    }
    if (place == Place::make) {
        kernel_.effect("make metadata.repaired");
        kernel_.media[kRepairedFile] = {.sectors = kernel_.media.at(kMetadataFile).sectors};
    }
    return attach(kRepairedFile, 0);
}

Result<std::string> FakeHost::replace_metadata(const schemas::PoolSpec& /*spec*/) {
    int number = 1;
    const auto name = [&] { return kDamagedFile + std::to_string(number); };
    if (!kernel_.media.contains(kRepairedFile)) {
        while (kernel_.media.contains(kDamagedFile + std::to_string(number + 1))) ++number;
        return name();
    }
    kernel_.effect("detach");
    std::erase_if(kernel_.blocks, [](const auto& entry) {
        return entry.second.medium == kMetadataFile || entry.second.medium == kRepairedFile;
    });
    // A second name for the same file; whoever repeats this finds it.
    while (kernel_.media.contains(name()) && !kernel_.media.at(name()).metadata.leaf_damaged &&
           !kernel_.media.at(name()).metadata.damaged) {
        ++number;
    }
    kernel_.effect("link " + name());
    kernel_.media[name()] = kernel_.media.at(kMetadataFile);
    kernel_.effect("rename metadata.repaired");
    kernel_.media[kMetadataFile] = kernel_.media.at(kRepairedFile);
    kernel_.media.erase(kRepairedFile);
    return name();
}

Result<std::optional<std::string>> FakeHost::own_pool() {
    return kernel_.own_pool;
}

Result<void> FakeHost::record_own_pool(const std::string& uuid) {
    kernel_.effect("record " + uuid);
    kernel_.own_pool = uuid;
    return {};
}

Result<void> FakeHost::forget_own_pool(const std::string& uuid) {
    if (kernel_.own_pool != uuid) return {};
    kernel_.effect("forget " + uuid);
    kernel_.own_pool.reset();
    return {};
}

Result<void> FakeHost::check_listed(const std::string& path) {
    if (kernel_.allowed_devices.contains(path)) return {};
    return Error{Errc::permission_denied, "'" + path + "' is not listed"};
}

Result<ThinPoolSuperblock> FakeHost::read_superblock(const std::string& device) {
    const FakeMedium& medium = kernel_.media.at(kernel_.block(device)->medium);
    if (medium.unreadable) return Error{Errc::internal, "read '" + device + "': Input/output error"};
    const FakeMetadata& disk = medium.metadata;
    ThinPoolSuperblock superblock;
    superblock.zeroed = !disk.formatted && !disk.damaged;
    superblock.damaged = disk.damaged;
    superblock.valid = disk.formatted && !disk.damaged;
    if (!superblock.valid) return superblock;
    superblock.needs_check = disk.needs_check;
    superblock.transaction_id = disk.transaction_id;
    superblock.time = disk.time;
    superblock.data_block_sectors = disk.block_sectors;
    superblock.held_root = disk.held_root;
    superblock.total_data_blocks = disk.data_blocks;
    superblock.used_data_blocks = disk.used_data_blocks();
    return superblock;
}

Result<void> FakeHost::zero_superblock(const std::string& device) {
    kernel_.effect("zero " + device);
    kernel_.media.at(kernel_.block(device)->medium).metadata = {};
    return {};
}

Result<std::vector<ThinListEntry>> FakeHost::list_thins(const std::string& metadata_device, Sharing sharing) {
    if (kernel_.list_thins_fails) return Error{Errc::internal, "thin_ls exited with 1"};
    const std::string medium = kernel_.block(metadata_device)->medium;
    for (const auto& [number, pool] : kernel_.pools) {
        if (pool.medium != medium || pool.core.held_root == 0) continue;
        std::vector<ThinListEntry> list;
        for (const auto& [id, thin] : pool.core.held_thins) {
            list.push_back({.thin_id = id, .mapped_blocks = thin.blocks.size(), .transaction_id = thin.transaction_id});
            if (sharing == Sharing::counted) list.back().exclusive_blocks = exclusive_blocks(pool.core.held_thins, id);
        }
        return list;
    }
    return Error{Errc::internal, "no metadata snapshot is held"};
}

Result<void> FakeHost::recount_metadata(const schemas::PoolSpec& spec, const Recount& wanted) {
    const Backing backing = TRY(find_backing(spec));
    const bool pair = spec.backing == "pair";
    const std::string place = pair ? TRY(copy_place(spec, wanted.spare, wanted.transaction_id, Place::make)) : "";
    kernel_.effect("recount into a copy");
    FakeMetadata copy = kernel_.media.at(kernel_.block(backing.metadata_path)->medium).metadata;
    std::map<std::uint32_t, FakeThin> thins;
    std::uint32_t next = 2;
    for (const auto& [id, thin] : copy.thins) thins[id < 2 ? id : next++] = thin;
    if (thins.contains(schemas::kBackupsThinId)) thins[schemas::kBackupsThinId].transaction_id = wanted.transaction_id;
    if (next - 2 != wanted.volumes) return Error{Errc::needs_repair, "the pool has other volumes than the store"};
    copy.thins = std::move(thins);
    copy.time = static_cast<std::uint32_t>(copy.thins.size());
    for (auto& [id, thin] : copy.thins) {
        thin.blocks.forget_times();
        thin.snapshotted_time = copy.time;
    }
    copy.transaction_id = wanted.transaction_id;
    copy.metadata_blocks = 0;
    kernel_.effect("use the copy");
    const std::string medium = pair ? kernel_.block(place)->medium : std::string(kMetadataFile);
    kernel_.media.at(medium).metadata = std::move(copy);
    return {};
}

Result<std::uint64_t> FakeHost::dump_metadata(const std::string& metadata_device, const Dump& wanted) {
    const auto list = TRY(list_thins(metadata_device, Sharing::ignored));
    kernel_.effect("dump metadata " + wanted.name);
    std::vector<std::uint32_t> thins;
    for (const ThinListEntry& entry : list) thins.push_back(entry.thin_id);
    kernel_.dumps[wanted.name] = thins;
    std::erase_if(kernel_.dumps, [&](const auto& dump) {
        return dump.first != wanted.name &&
               std::find(wanted.keep.begin(), wanted.keep.end(), dump.first) == wanted.keep.end();
    });
    return thins.size();
}

Result<std::vector<ThinListEntry>> FakeHost::list_unloaded_thins(const std::string& metadata_device) {
    const FakeMetadata& disk = kernel_.media.at(kernel_.block(metadata_device)->medium).metadata;
    if (kernel_.list_thins_fails || !disk.formatted || disk.damaged) {
        return Error{Errc::internal, "thin_ls exited with 1"};
    }
    std::vector<ThinListEntry> list;
    for (const auto& [id, thin] : disk.thins) {
        list.push_back({.thin_id = id, .mapped_blocks = thin.blocks.size(), .transaction_id = thin.transaction_id});
    }
    return list;
}

// Where the thin's blocks lie: its id, and the data medium of its pool.
FakePool* FakeHost::thin_at(const std::string& device, std::uint32_t& thin_id) {
    const auto node = kernel_.nodes.find(device.substr(device.rfind('/') + 1));
    if (node == kernel_.nodes.end() || !kernel_.devices.contains(node->second)) return nullptr;
    const FakeDmDevice& found = kernel_.devices.at(node->second);
    if (!found.live || found.live->target.type != "thin") return nullptr;
    thin_id = parse_thin_table(found.live->target.parameters)->thin_id;
    return kernel_.pool_of(found.device);
}

int FakeHost::discard_range(const std::string& device, std::uint64_t offset, std::uint64_t length) {
    kernel_.effect("discard " + device);
    std::uint32_t thin_id = 0;
    FakePool* pool = thin_at(device, thin_id);
    if (pool == nullptr) return ENXIO;
    const std::uint64_t block = std::uint64_t{pool->core.block_sectors} * kSectorBytes;
    const FakeDmDevice& found = kernel_.devices.at(kernel_.nodes.at(device.substr(device.rfind('/') + 1)));
    return kernel_.discard(found.device, (offset + block - 1) / block, (offset + length) / block);
}

int FakeHost::read_range(const std::string& device, std::uint64_t offset, std::string& data) {
    std::uint32_t thin_id = 0;
    const FakePool* pool = thin_at(device, thin_id);
    if (pool == nullptr) return ENXIO;
    const auto& contents = kernel_.media.at(pool->data_medium).contents;
    for (std::size_t at = 0; at < data.size(); at += kSuperblockBytes) {
        const auto block = contents.find({thin_id, offset + at});
        data.replace(at, kSuperblockBytes,
                     block != contents.end() ? block->second : std::string(kSuperblockBytes, '\0'));
    }
    return 0;
}

int FakeHost::write_range(const std::string& device, std::uint64_t offset, const std::string& data) {
    kernel_.effect("write " + device);
    std::uint32_t thin_id = 0;
    FakePool* pool = thin_at(device, thin_id);
    if (pool == nullptr) return ENXIO;
    if (pool->mode != PoolMode::rw) return EIO;
    if (kernel_.writes_fail > 0) {
        kernel_.writes_fail--;
        return EIO;
    }
    auto& contents = kernel_.media.at(pool->data_medium).contents;
    for (std::size_t at = 0; at < data.size(); at += kSuperblockBytes) {
        // A power cut may come between any two blocks.
        if (at > 0) kernel_.effect("write on " + device);
        contents[{thin_id, offset + at}] = data.substr(at, kSuperblockBytes);
    }
    kernel_.commit(*pool);  // The flush.
    return pool->mode == PoolMode::rw ? 0 : EIO;
}

Result<std::string> FakeHost::device_path(const std::string& number) {
    for (const auto& [path, device] : kernel_.blocks) {
        if (device_number(device.number) == number) return path;
    }
    return Error{Errc::internal, "no block device " + number};
}

Result<std::uint64_t> FakeHost::device_sectors(const std::string& path) {
    return kernel_.media.at(kernel_.block(path)->medium).sectors;
}

std::vector<schemas::Holder> FakeHost::holders(dev_t device) {
    const auto found = kernel_.devices.find(device);
    if (found != kernel_.devices.end() && found->second.openers > 0) return {{4242, "postgres", "has it open"}};
    if (kernel_.short_openers > 0) return {{17, "(udev-worker)", "has it open"}};
    return {};
}

void FakeHost::pause(std::chrono::milliseconds duration) {
    kernel_.paused += duration;
}

}  // namespace cowslip
