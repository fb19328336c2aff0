#include "tests/fakes/fake_device_mapper.h"

#include <fmt/format.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <sstream>
#include <utility>

namespace cowslip {

namespace {

std::vector<std::string> split(const std::string& text) {
    std::istringstream stream(text);
    std::vector<std::string> words;
    for (std::string word; stream >> word;) words.push_back(word);
    return words;
}

std::optional<std::uint64_t> number(const std::string& word, std::uint64_t limit) {
    if (word.empty() || word.size() > 20 || word.find_first_not_of("0123456789") != std::string::npos) return {};
    const std::uint64_t value = std::stoull(word);
    if (value > limit) return {};
    return value;
}

bool writable(const FakePool& pool) {
    return pool.mode == PoolMode::rw || pool.mode == PoolMode::out_of_data_space;
}

std::string status_text(const FakeKernel& kernel, const FakePool& pool, const ThinPoolTable& table) {
    if (pool.mode == PoolMode::fail || pool.mode == PoolMode::error) return std::string(to_string(pool.mode));
    const auto& core = pool.core;
    return fmt::format(
        "{} {}/{} {}/{} {} {} {} {} {} 1024", core.transaction_id, kernel.used_metadata_blocks + core.thins.size(),
        pool.core.metadata_blocks, core.used_data_blocks(), core.data_blocks,
        core.held_root != 0 ? std::to_string(core.held_root) : "-", to_string(pool.mode),
        table.ignore_discard     ? "ignore_discard"
        : table.discard_passdown ? "discard_passdown"
                                 : "no_discard_passdown",
        pool.error_if_no_space ? "error_if_no_space" : "queue_if_no_space", core.needs_check ? "needs_check" : "-");
}

}  // namespace

DmInfo FakeDeviceMapper::info(dev_t number, std::uint32_t open_count) const {
    const FakeDmDevice& found = kernel_.devices.at(number);
    return {.device = found.device,
            .number = number,
            .open_count = open_count,
            .suspended = found.suspended,
            .read_only = found.live && found.live->read_only,
            .live_table = found.live.has_value(),
            .inactive_table = found.inactive.has_value()};
}

Result<std::optional<DmInfo>> FakeDeviceMapper::find(const DmDevice& device) {
    const dev_t number = kernel_.number_of(device);
    if (number == 0) return std::optional<DmInfo>{};
    return std::optional<DmInfo>{info(number, kernel_.open_count(number))};
}

Result<std::vector<DmInfo>> FakeDeviceMapper::list(std::string_view uuid_prefix) {
    std::vector<DmInfo> found;
    auto users = kernel_.table_users();
    for (const auto& [number, device] : kernel_.devices) {
        if (!device.device.uuid.starts_with(uuid_prefix)) continue;
        found.push_back(info(number, device.openers + users[device_number(number)]));
    }
    return found;
}

Result<DmTable> FakeDeviceMapper::targets(const DmDevice& device) {
    const dev_t number = kernel_.number_of(device);
    if (number == 0 || !kernel_.devices.at(number).live) return DmTable{};
    DmTarget target = kernel_.devices.at(number).live->target;
    const FakePool* pool = kernel_.pool_of(device);
    if (pool != nullptr && pool->mode == PoolMode::fail)
        target.parameters = "Fail";  // Of a thin; a pool tells its own.
    return DmTable{target};
}

Result<std::optional<DmTarget>> FakeDeviceMapper::status(const DmDevice& device) {
    auto target = TRY(table(device));
    if (!target) return target;
    if (target->type == "thin-pool") {
        const auto pool_table = TRY(parse_thin_pool_table(target->parameters));
        target->parameters = status_text(kernel_, kernel_.pools.at(kernel_.number_of(device)), pool_table);
    } else {
        target->parameters = thin_status_text(device, target->parameters);
    }
    return target;
}

std::string FakeDeviceMapper::thin_status_text(const DmDevice& device, const std::string& table) const {
    const FakePool* pool = kernel_.pool_of(device);
    if (pool == nullptr || pool->mode == PoolMode::fail) return "Fail";
    const std::uint32_t thin_id = parse_thin_table(table)->thin_id;
    const auto thin = pool->core.thins.find(thin_id);
    if (thin == pool->core.thins.end()) return "Error";
    const auto counted = pool->counted_blocks.find(thin_id);
    const std::uint64_t blocks = counted == pool->counted_blocks.end() ? thin->second.blocks.size() : counted->second;
    const std::uint64_t end = thin->second.blocks.end() * pool->core.block_sectors;
    return fmt::format("{} {}", blocks * pool->core.block_sectors, end == 0 ? "-" : std::to_string(end - 1));
}

int FakeDeviceMapper::create(const DmDevice& device, dev_t* number) {
    kernel_.effect("create " + device.name);
    for (const auto& [other, found] : kernel_.devices) {
        if (found.device.name == device.name) return EBUSY;
        if (!device.uuid.empty() && found.device.uuid == device.uuid) return EBUSY;
    }
    unsigned minor = 0;  // The lowest free one: numbers are used again.
    while (kernel_.devices.contains(makedev(253, minor))) minor++;
    kernel_.devices[makedev(253, minor)] = {.device = device};
    if (number != nullptr) *number = makedev(253, minor);
    return 0;
}

// Of a pool or a thin: they have one target.
int FakeDeviceMapper::load(const DmDevice& device, const DmTable& table, bool read_only) {
    const DmTarget& target = table.at(0);
    kernel_.effect("load " + target.type + " " + target.parameters);
    const dev_t number = kernel_.number_of(device);
    if (number == 0) return ENXIO;
    DmTarget loaded = target;
    int answer = EINVAL;
    if (target.type == "thin-pool") answer = load_pool(number, loaded);
    if (target.type == "thin") answer = load_thin(loaded);
    if (answer != 0) return answer;
    kernel_.devices.at(number).inactive = {.target = loaded, .read_only = read_only};
    kernel_.devices.at(number).added = true;
    return 0;
}

// The kernel reads (or formats) the metadata when the table is loaded, not when it is resumed.
int FakeDeviceMapper::load_pool(dev_t number, DmTarget& target) {
    auto table = parse_thin_pool_table(target.parameters);
    if (!table || table->metadata_device == table->data_device) return EINVAL;
    if (table->block_sectors < 128 || table->block_sectors % 128 != 0) return EINVAL;
    const FakeBlockDevice* metadata = kernel_.block(table->metadata_device);
    const FakeBlockDevice* data = kernel_.block(table->data_device);
    if (metadata == nullptr || data == nullptr) return ENXIO;
    if (metadata->in_use || data->in_use) return EBUSY;
    for (const auto& [other, pool] : kernel_.pools) {
        if (other != number && pool.medium == metadata->medium) return EBUSY;
    }
    FakeMetadata& disk = kernel_.media.at(metadata->medium).metadata;
    const bool loaded = kernel_.pools.contains(number);
    if (loaded && kernel_.pools.at(number).mode == PoolMode::fail) return EINVAL;
    if (!loaded && disk.damaged) return EILSEQ;
    if (!loaded && disk.load_error != 0) return disk.load_error;
    // A pool that is there already does not compare the size of its blocks with a new table's.
    if (!loaded && disk.formatted && disk.block_sectors != table->block_sectors) return EINVAL;
    // Once the device is there, that is found out at its resume.
    if (!kernel_.devices.at(number).added && target.sectors > kernel_.media.at(data->medium).sectors) return EINVAL;
    if (!disk.formatted) disk = {.formatted = true, .block_sectors = table->block_sectors};
    if (disk.metadata_blocks == 0) disk.metadata_blocks = kernel_.media.at(metadata->medium).sectors / 8;
    if (!loaded) {
        kernel_.pools[number] = {.medium = metadata->medium,
                                 .data_medium = data->medium,
                                 .core = disk,
                                 .mode = disk.needs_check || table->read_only ? PoolMode::ro : PoolMode::rw};
    }
    table->metadata_device = device_number(metadata->number);
    table->data_device = device_number(data->number);
    target.parameters = make_thin_pool_table(*table) + " ";
    return 0;
}

int FakeDeviceMapper::load_thin(DmTarget& target) {
    const auto table = parse_thin_table(target.parameters);
    if (!table || table->thin_id > 0xffffff) return EINVAL;
    for (const auto& [pool_number, pool] : kernel_.pools) {
        if (device_number(pool_number) != table->pool_device) continue;
        if (pool.mode == PoolMode::fail) return EINVAL;
        if (!pool.core.thins.contains(table->thin_id)) return ENODATA;
        return pool_suspended(pool_number) ? EINVAL : 0;
    }
    for (const auto& [other, device] : kernel_.devices) {
        if (device_number(other) == table->pool_device) return device.added ? EINVAL : ENXIO;  // No pool.
    }
    return ENXIO;
}

bool FakeDeviceMapper::pool_suspended(dev_t pool) const {
    return kernel_.devices.at(pool).suspended || !kernel_.devices.at(pool).live;
}

int FakeDeviceMapper::suspend(const DmDevice& device, SuspendMode mode) {
    kernel_.effect(std::string(mode == SuspendMode::freeze ? "suspend " : "suspend_no_flush ") + device.name);
    const dev_t number = kernel_.number_of(device);
    if (number == 0) return ENXIO;
    suspend(number);
    return 0;
}

// There is no count. A pool commits.
void FakeDeviceMapper::suspend(dev_t number) {
    FakeDmDevice& found = kernel_.devices.at(number);
    const auto pool = kernel_.pools.find(number);
    if (!found.suspended && found.live && pool != kernel_.pools.end()) kernel_.commit(pool->second);
    found.suspended = true;
}

bool FakeDeviceMapper::fits(const FakeDmDevice::Table& table) const {
    if (table.target.type != "thin-pool") return true;
    const FakeBlockDevice* data = kernel_.block(parse_thin_pool_table(table.target.parameters)->data_device);
    return data == nullptr || table.target.sectors <= kernel_.media.at(data->medium).sectors;
}

int FakeDeviceMapper::resume(const DmDevice& device) {
    kernel_.effect("resume " + device.name);
    const dev_t number = kernel_.number_of(device);
    if (number == 0) return ENXIO;
    FakeDmDevice& found = kernel_.devices.at(number);
    if (kernel_.resume_fails.contains(found.device.uuid)) return EIO;
    if (found.inactive) {
        suspend(number);  // For its new table; and it is left so if that is refused.
        const FakeDmDevice::Table table = *std::exchange(found.inactive, std::nullopt);
        if (!fits(table)) return EINVAL;
        found.live = table;
        if (const auto pool = kernel_.pools.find(number); pool != kernel_.pools.end()) {
            // Whatever the new table says of its blocks: they are what they were.
            auto pool_table = parse_thin_pool_table(found.live->target.parameters).value();
            pool_table.block_sectors = pool->second.core.block_sectors;
            found.live->target.parameters = make_thin_pool_table(pool_table) + " ";
            bind(pool->second, pool_table);
        }
    }
    if (!found.suspended) return 0;
    if (!found.live) return EINVAL;
    if (const auto pool = kernel_.pools.find(number); pool != kernel_.pools.end()) {
        if (!grow(pool->second, found.live->target.sectors / pool->second.core.block_sectors)) return EINVAL;
    }
    found.suspended = false;
    return 0;
}

// A new table lets a pool try anew, unless its metadata are to be checked first.
void FakeDeviceMapper::bind(FakePool& pool, const ThinPoolTable& table) {
    pool.error_if_no_space = table.error_if_no_space;
    if (pool.mode == PoolMode::fail) return;
    if (table.read_only || (pool.core.needs_check && pool.mode == PoolMode::rw)) pool.mode = PoolMode::ro;
    if (!table.read_only && !pool.core.needs_check) pool.mode = PoolMode::rw;
}

// At each resume the kernel looks how long the table is, and how large the metadata's device. A table that is shorter
// than the metadata's data is refused ("pool target too small"). With needs_check, or loaded read-only, nothing is
// taken up.
bool FakeDeviceMapper::grow(FakePool& pool, std::uint64_t data_blocks) {
    if (pool.mode == PoolMode::fail) return true;
    if (data_blocks < pool.core.data_blocks) return false;
    const std::uint64_t metadata_blocks = kernel_.media.at(pool.medium).sectors / 8;
    const bool more_metadata = metadata_blocks > pool.core.metadata_blocks;
    if (more_metadata && pool.mode == PoolMode::ro && !pool.core.needs_check) pool.mode = PoolMode::rw;
    if (writable(pool) && (more_metadata || data_blocks > pool.core.data_blocks)) {
        pool.core.data_blocks = data_blocks;
        pool.core.metadata_blocks = metadata_blocks;
        pool.in_service = true;
        kernel_.commit(pool);
    }
    kernel_.write_waiting(pool);
    return true;
}

int FakeDeviceMapper::remove(const DmDevice& device) {
    kernel_.effect("remove " + device.name);
    const dev_t number = kernel_.number_of(device);
    if (number == 0) return ENXIO;
    if (kernel_.short_openers > 0) {
        kernel_.short_openers--;
        return EBUSY;
    }
    if (kernel_.open_count(number) > 0) return EBUSY;
    if (const auto pool = kernel_.pools.find(number); pool != kernel_.pools.end()) {
        suspend(number);
        FakeMetadata& disk = kernel_.media.at(pool->second.medium).metadata;
        if (kernel_.fail_commits == 0) disk.needs_check |= pool->second.core.needs_check;
        kernel_.pools.erase(pool);
    }
    kernel_.devices.erase(number);
    remove_node(device.name);
    return 0;
}

int FakeDeviceMapper::message(const DmDevice& device, const std::string& text) {
    kernel_.effect("message " + text);
    const dev_t number = kernel_.number_of(device);
    if (number == 0) return ENXIO;
    const auto pool = kernel_.pools.find(number);
    if (pool == kernel_.pools.end() || !kernel_.devices.at(number).live) return EINVAL;
    const auto words = split(text);
    if (words.empty()) return EINVAL;
    if (!writable(pool->second)) return EOPNOTSUPP;
    const int answer = pool_message(number, pool->second, words);
    if (answer == 0) kernel_.commit(pool->second);
    return answer;
}

bool FakeDeviceMapper::runs(dev_t pool, std::uint32_t thin_id) const {
    return std::any_of(kernel_.devices.begin(), kernel_.devices.end(), [&](const auto& entry) {
        const FakeDmDevice& device = entry.second;
        if (!device.live || device.live->target.type != "thin" || device.suspended) return false;
        const auto thin = parse_thin_table(device.live->target.parameters);
        return thin && thin->pool_device == device_number(pool) && thin->thin_id == thin_id;
    });
}

int FakeDeviceMapper::pool_message(dev_t number, FakePool& pool, const std::vector<std::string>& words) {
    FakeMetadata& core = pool.core;
    std::set<std::uint32_t>& deleted = kernel_.media.at(pool.medium).deleted;
    const auto argument = [&](std::size_t i, std::uint64_t limit = 0xffffff) {
        return i < words.size() ? cowslip::number(words[i], limit) : std::nullopt;
    };
    const auto thin_id = static_cast<std::uint32_t>(argument(1).value_or(0));
    if (core.leaf_damaged && words[0].starts_with("create_")) return EILSEQ;
    if (words[0] == "create_thin") {
        if (words.size() != 2 || !argument(1)) return EINVAL;
        pool.in_service = true;
        if (core.thins.contains(thin_id)) return EEXIST;
        core.thins[thin_id] = {
            .changed = true, .transaction_id = core.transaction_id, .used_before = deleted.contains(thin_id)};
        return 0;
    }
    if (words[0] == "create_snap") {
        if (words.size() != 3 || !argument(1) || !argument(2)) return EINVAL;
        pool.in_service = true;
        if (core.thins.contains(thin_id)) return EEXIST;  // Before the origin is looked at.
        const auto origin = core.thins.find(static_cast<std::uint32_t>(*argument(2)));
        if (origin == core.thins.end()) return ENODATA;
        core.time++;
        origin->second.snapshotted_time = core.time;
        origin->second.changed = true;
        core.thins[thin_id] = {.blocks = origin->second.blocks,
                               .snapshotted_time = core.time,
                               .changed = true,
                               .transaction_id = core.transaction_id,
                               .torn = origin->second.torn || runs(number, origin->first),
                               .used_before = deleted.contains(thin_id)};
        return 0;
    }
    if (words[0] == "delete") {
        if (words.size() != 2 || !argument(1)) return EINVAL;
        pool.in_service = true;
        if (!core.thins.contains(thin_id)) return ENODATA;
        if (kernel_.is_open(number, thin_id)) return EBUSY;
        core.thins.erase(thin_id);
        std::erase_if(kernel_.media.at(pool.data_medium).contents,
                      [&](const auto& entry) { return entry.first.first == thin_id; });
        deleted.insert(thin_id);
        return 0;
    }
    if (words[0] == "set_transaction_id") {
        const auto from = argument(1, ~std::uint64_t{0});
        const auto to = argument(2, ~std::uint64_t{0});
        if (words.size() != 3 || !from || !to) return EINVAL;
        pool.in_service = true;
        if (core.transaction_id != *from) return EINVAL;
        core.transaction_id = *to;
        return 0;
    }
    if (words.size() != 1) return EINVAL;
    if (words[0] == "reserve_metadata_snap") {
        // It commits twice; only the first one takes the pool out of service, and only if there was something before.
        kernel_.commit(pool);
        if (pool.mode == PoolMode::fail) return EINVAL;
        if (core.held_root != 0) return EBUSY;
        if (!writable(pool)) return EPERM;
        pool.in_service = true;
        if (kernel_.fail_commits > 0) {
            kernel_.fail_commits--;
            return EIO;
        }
        core.held_root = 7;
        core.held_thins = core.thins;
        return 0;
    }
    if (words[0] == "release_metadata_snap") {
        pool.in_service = true;
        if (core.held_root == 0) return EINVAL;
        core.held_root = 0;
        core.held_thins.clear();
        return 0;
    }
    return EINVAL;
}

Result<std::string> FakeDeviceMapper::ensure_node(const DmInfo& info) {
    const auto found = kernel_.nodes.find(info.device.name);
    if (found == kernel_.nodes.end() || found->second != info.number) {
        kernel_.effect("node " + info.device.name);
        kernel_.nodes[info.device.name] = info.number;
    }
    return node_path(info.device.name);
}

void FakeDeviceMapper::remove_node(const std::string& name) {
    kernel_.nodes.erase(name);
}

}  // namespace cowslip
