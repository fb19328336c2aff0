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

std::optional<FakeMapping::Block> FakeMapping::find(std::uint64_t block) const {
    auto run = runs_.upper_bound(block);
    if (run == runs_.begin()) return std::nullopt;
    --run;
    const std::uint64_t at = block - run->first;
    if (at >= run->second.length) return std::nullopt;
    return Block{run->second.first.data_block + at, run->second.first.time};
}

void FakeMapping::map(std::uint64_t block, const Run& run) {
    unmap(block, block + run.length);
    const auto next = runs_.lower_bound(block);
    if (next != runs_.begin()) {
        auto& [begin, before] = *std::prev(next);
        const bool follows = begin + before.length == block && before.first.time == run.first.time &&
                             before.first.data_block + before.length == run.first.data_block;
        if (follows) {
            before.length += run.length;
            return;
        }
    }
    runs_[block] = run;
}

void FakeMapping::unmap(std::uint64_t begin, std::uint64_t end) {
    const auto split = [&](std::uint64_t at) {
        auto found = runs_.lower_bound(at);
        if (found == runs_.begin()) return;
        auto& [first, run] = *std::prev(found);
        if (first + run.length <= at) return;
        const std::uint64_t left = at - first;
        runs_[at] = {run.length - left, {run.first.data_block + left, run.first.time}};
        run.length = left;
    };
    split(begin);
    split(end);
    runs_.erase(runs_.lower_bound(begin), runs_.lower_bound(end));
}

void FakeMapping::forget_times() {
    for (auto& [begin, run] : runs_) run.first.time = 0;
}

std::uint64_t FakeMapping::size() const {
    std::uint64_t blocks = 0;
    for (const auto& [begin, run] : runs_) blocks += run.length;
    return blocks;
}

std::uint64_t FakeMapping::end() const {
    return runs_.empty() ? 0 : runs_.rbegin()->first + runs_.rbegin()->second.length;
}

std::uint64_t count_data_blocks(const std::vector<const FakeMapping*>& mappings) {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
    for (const FakeMapping* mapping : mappings) {
        for (const auto& [begin, run] : mapping->runs()) {
            ranges.emplace_back(run.first.data_block, run.first.data_block + run.length);
        }
    }
    std::sort(ranges.begin(), ranges.end());
    std::uint64_t count = 0;
    std::uint64_t counted_to = 0;
    for (const auto& [begin, end] : ranges) {
        if (end <= counted_to) continue;
        count += end - std::max(begin, counted_to);
        counted_to = end;
    }
    return count;
}

namespace {

void add_mappings(const FakeMetadata& metadata, std::vector<const FakeMapping*>& mappings) {
    for (const auto* thins : {&metadata.thins, &metadata.held_thins}) {
        for (const auto& [id, thin] : *thins) mappings.push_back(&thin.blocks);
    }
}

bool is_writable(const FakePool& pool) {
    return pool.mode == PoolMode::rw || pool.mode == PoolMode::out_of_data_space;
}

}  // namespace

std::uint64_t FakeMetadata::used_data_blocks() const {
    std::vector<const FakeMapping*> mappings;
    add_mappings(*this, mappings);
    return count_data_blocks(mappings) + leaked_blocks;
}

void FakeMetadata::remap(std::uint32_t thin_id, std::uint64_t blocks) {
    thins.at(thin_id).blocks = {};
    if (blocks > 0) thins.at(thin_id).blocks.map(0, {blocks, {next_block, time}});
    next_block += blocks;
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

int FakeKernel::write(const DmDevice& device, std::uint64_t begin, std::uint64_t end) {
    FakePool* pool = pool_of(device);
    if (pool == nullptr) return ENXIO;
    FakeWrite write{thin_id_of(device), begin, end};
    const int answer = write_blocks(*pool, write);
    if (answer != ENOSPC || pool->error_if_no_space) return answer;
    pool->waiting.push_back(write);
    return 0;
}

int FakeKernel::write(const DmDevice& device, std::uint64_t count) {
    FakePool* pool = pool_of(device);
    if (pool == nullptr) return ENXIO;
    const std::uint64_t begin = pool->core.thins.at(thin_id_of(device)).blocks.end();
    return write(device, begin, begin + count);
}

// Takes from `write` what is done. A pool is full once a block is wanted and there is none, also after a commit. Where
// there are only some that wait for the next commit, 6.1 does not make one, and calls it full until then.
int FakeKernel::write_blocks(FakePool& pool, FakeWrite& write) {
    if (pool.mode == PoolMode::fail) return EIO;
    const auto all_but = [&](std::uint64_t used) {
        return pool.core.data_blocks - std::min(pool.core.data_blocks, used);
    };
    std::uint64_t free = all_but(pool.core.used_data_blocks());
    std::uint64_t to_give = all_but(taken_data_blocks(pool));
    for (; write.begin < write.end; ++write.begin) {
        const auto thin = pool.core.thins.find(write.thin_id);
        if (thin == pool.core.thins.end()) return EIO;
        const auto block = thin->second.blocks.find(write.begin);
        if (block && block->time >= thin->second.snapshotted_time) continue;
        if (pool.mode == PoolMode::out_of_data_space) return ENOSPC;
        if (pool.mode != PoolMode::rw) return EIO;
        if (free == 0) {
            if (!commit(pool)) return EIO;
            free = to_give = all_but(pool.core.used_data_blocks());
        }
        if (to_give == 0) {
            pool.mode = PoolMode::out_of_data_space;
            return ENOSPC;
        }
        if (!has_metadata_space(pool)) {
            pool.core.leaked_blocks++;
            static_cast<void>(commit(pool));
            return EIO;
        }
        thin->second.blocks.map(write.begin, {1, {pool.core.next_block++, pool.core.time}});
        thin->second.changed = true;
        pool.in_service = true;
        --to_give;
        // It may have been the last to have the old one.
        free = block ? all_but(pool.core.used_data_blocks()) : free - 1;
    }
    return 0;
}

// Those who waited for room write now; or get an error, if they may wait no longer.
void FakeKernel::write_waiting(FakePool& pool) {
    for (FakeWrite write : std::exchange(pool.waiting, {})) {
        const int answer = write_blocks(pool, write);
        if (answer == ENOSPC && !pool.error_if_no_space) pool.waiting.push_back(write);
        if (answer != 0 && (answer != ENOSPC || pool.error_if_no_space)) refused_writes += write.end - write.begin;
    }
}

// A pool that cannot write says yes, and does nothing.
int FakeKernel::discard(const DmDevice& device, std::uint64_t begin, std::uint64_t end) {
    FakePool* pool = pool_of(device);
    if (pool == nullptr) return ENXIO;
    if (pool->mode == PoolMode::fail) return EIO;
    const auto thin = pool->core.thins.find(thin_id_of(device));
    if (thin == pool->core.thins.end() || !is_writable(*pool)) return 0;
    const std::uint64_t before = thin->second.blocks.size();
    thin->second.blocks.unmap(begin, end);
    if (thin->second.blocks.size() == before) return 0;
    thin->second.changed = true;
    pool->in_service = true;
    return 0;
}

std::optional<FakeMapping::Block> FakeKernel::find_block(const DmDevice& device, std::uint64_t block) {
    const FakePool* pool = pool_of(device);
    if (pool == nullptr) return std::nullopt;
    const auto thin = pool->core.thins.find(thin_id_of(device));
    return thin == pool->core.thins.end() ? std::nullopt : thin->second.blocks.find(block);
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

bool FakeKernel::commit(FakePool& pool) {
    if (!is_writable(pool)) return false;
    FakeMedium& medium = media.at(pool.medium);
    if (fail_commits > 0 && pool.in_service) {
        fail_commits--;
        abort(pool);
        return false;
    }
    for (auto& [id, thin] : pool.core.thins) thin.changed = false;
    medium.metadata = pool.core;
    if (!has_metadata_space(pool)) pool.mode = PoolMode::ro;
    if (pool.mode != PoolMode::out_of_data_space || pool.core.used_data_blocks() >= pool.core.data_blocks) return true;
    pool.mode = PoolMode::rw;
    write_waiting(pool);
    return true;
}

// A commit that failed takes the trees back to the last one; the id and the clock in memory stay as they are (6.1 does
// not read them again). needs_check is written when the pool is removed.
void FakeKernel::abort(FakePool& pool) {
    const FakeMetadata failed = std::move(pool.core);
    pool.core = media.at(pool.medium).metadata;
    pool.core.transaction_id = failed.transaction_id;
    pool.core.time = failed.time;
    const auto device =
        std::find_if(pools.begin(), pools.end(), [&](const auto& entry) { return &entry.second == &pool; });
    for (const auto& [id, thin] : failed.thins) {
        if (!thin.changed || !pool.core.thins.contains(id) || !is_open(device->first, id)) continue;
        pool.counted_blocks[id] = thin.blocks.size();
        pool.core.thins.at(id).snapshotted_time = thin.snapshotted_time;
    }
    pool.core.needs_check = !media.at(pool.medium).unreadable;
    pool.mode = pool.core.needs_check ? PoolMode::ro : PoolMode::fail;
    write_waiting(pool);
}

bool FakeKernel::has_metadata_space(const FakePool& pool) const {
    return used_metadata_blocks + pool.core.thins.size() < pool.core.metadata_blocks;
}

std::uint64_t FakeKernel::taken_data_blocks(const FakePool& pool) const {
    std::vector<const FakeMapping*> mappings;
    add_mappings(pool.core, mappings);
    add_mappings(media.at(pool.medium).metadata, mappings);
    return count_data_blocks(mappings) + pool.core.leaked_blocks;
}

std::uint32_t FakeKernel::thin_id_of(const DmDevice& thin) const {
    return parse_thin_table(devices.at(number_of(thin)).live->target.parameters)->thin_id;
}

bool FakeKernel::is_open(dev_t pool, std::uint32_t thin_id) const {
    for (const auto& [number, device] : devices) {
        for (const auto* table : {&device.live, &device.inactive}) {
            if (!*table || (*table)->target.type != "thin") continue;
            const auto thin = parse_thin_table((*table)->target.parameters);
            if (thin && thin->pool_device == device_number(pool) && thin->thin_id == thin_id) return true;
        }
    }
    return false;
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
