#include "tests/fakes/fake_kernel.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <sstream>

namespace cowslip {

namespace {

// The "253:0" in its tables. A live and a waiting one share what they are made of, but not a read-only and a writable
// one.
std::set<std::pair<std::string, bool>> device_numbers(const FakeDmDevice& device) {
    std::set<std::pair<std::string, bool>> numbers;
    for (const auto* table : {&device.live, &device.inactive}) {
        if (!*table) continue;
        std::istringstream stream((*table)->target.parameters);
        for (std::string word; stream >> word;) {
            if (word.find(':') != std::string::npos) numbers.emplace(word, (*table)->read_only);
        }
    }
    return numbers;
}

}  // namespace

std::uint64_t FakeMetadata::used_data_blocks() const {
    std::uint64_t used = 0;
    for (const auto& [id, thin] : thins) used += thin.mapped_blocks;
    return used;
}

void FakeKernel::add_disk(const std::string& path, std::uint64_t sectors) {
    media[path].sectors = sectors;
    blocks[path] = {.medium = path, .number = makedev(254, static_cast<unsigned>(16 * blocks.size()))};
}

void FakeKernel::open(const DmDevice& device) {
    devices.at(number_of(device)).openers++;
}

void FakeKernel::close(const DmDevice& device) {
    devices.at(number_of(device)).openers--;
}

int FakeKernel::write(const DmDevice& device, std::uint64_t count) {
    FakePool* pool = pool_of(device);
    if (pool == nullptr) return ENXIO;
    const bool full = pool->mode == PoolMode::out_of_data_space;
    const auto pool_device =
        std::find_if(pools.begin(), pools.end(), [&](const auto& entry) { return &entry.second == pool; });
    const auto live = parse_thin_pool_table(devices.at(pool_device->first).live->target.parameters);
    if (pool->mode != PoolMode::rw && (!full || live->error_if_no_space)) return full ? ENOSPC : EIO;
    auto& found = devices.at(number_of(device));
    const std::uint32_t thin_id = parse_thin_table(found.live->target.parameters)->thin_id;
    const std::uint64_t free = pool->core.data_blocks - pool->core.used_data_blocks();
    pool->core.thins.at(thin_id).mapped_blocks += std::min(free, count);
    if (count >= free) pool->mode = PoolMode::out_of_data_space;
    if (count > free && !live->error_if_no_space) {
        pool->waiting[thin_id] += count - free;
        return 0;
    }
    return count > free ? ENOSPC : 0;
}

void FakeKernel::reboot() {
    devices.clear();
    pools.clear();
    nodes.clear();
    std::erase_if(blocks, [](const auto& entry) { return entry.second.loop; });
    for (auto& [path, device] : blocks) device.in_use = false;
}

void FakeKernel::effect(const std::string& name) {
    if (before_effect) before_effect(name);
    effects[name.substr(0, name.find(' '))]++;
}

dev_t FakeKernel::number_of(const DmDevice& device) const {
    for (const auto& [number, found] : devices) {
        if (device.uuid.empty() ? found.device.name == device.name : found.device.uuid == device.uuid) return number;
    }
    return 0;
}

// A table holds what it is made of open once for each device, whether it is live or waiting.
std::map<std::string, std::uint32_t> FakeKernel::table_users() const {
    std::map<std::string, std::uint32_t> users;
    for (const auto& [number, device] : devices) {
        for (const auto& used : device_numbers(device)) users[used.first]++;
    }
    return users;
}

std::uint32_t FakeKernel::open_count(dev_t number) const {
    const auto users = table_users();
    const auto found = users.find(device_number(number));
    return devices.at(number).openers + (found == users.end() ? 0 : found->second);
}

const FakeBlockDevice* FakeKernel::block(const std::string& path_or_number) const {
    for (const auto& [path, device] : blocks) {
        if (path == path_or_number || device_number(device.number) == path_or_number) return &device;
    }
    return nullptr;
}

// The result is dropped, as pool_message() does. A failed one takes the trees back to the last
// commit; the id and the clock in memory stay as they are (6.1 does not read them again).
void FakeKernel::commit(FakePool& pool) {
    FakeMetadata& disk = media.at(pool.medium).metadata;
    if (fail_commits > 0) {
        fail_commits--;
        disk.needs_check = true;
        const FakeMetadata failed = pool.core;
        pool.core = disk;
        pool.core.transaction_id = failed.transaction_id;
        pool.core.time = failed.time;
        pool.mode = PoolMode::ro;
        return;
    }
    disk = pool.core;
    if (!has_metadata_space(pool)) pool.mode = PoolMode::ro;
    const bool space = pool.core.used_data_blocks() < pool.core.data_blocks;
    if (pool.mode == PoolMode::out_of_data_space && space) pool.mode = PoolMode::rw;
}

bool FakeKernel::has_metadata_space(const FakePool& pool) const {
    return used_metadata_blocks + pool.core.thins.size() < pool.total_metadata_blocks;
}

FakePool* FakeKernel::pool_of(const DmDevice& thin) {
    const dev_t number = number_of(thin);
    if (number == 0 || !devices.at(number).live || devices.at(number).live->target.type != "thin") return nullptr;
    const auto table = parse_thin_table(devices.at(number).live->target.parameters);
    for (auto& [pool_number, pool] : pools) {
        if (table && table->pool_device == device_number(pool_number)) return &pool;
    }
    return nullptr;
}

}  // namespace cowslip
