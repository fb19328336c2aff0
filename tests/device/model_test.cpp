// Model = kernel: the same random operations are done to the fake device-mapper and to the running kernel's, errno by
// errno and state by state. The simulation is worth what the fake is: a difference here is a defect of the fake, or
// something about dm-thin that nobody here knew.
//
// Operations: devices, tables and messages; reads, writes and discards of thins, whose blocks are shared by snapshots;
// the pool has few blocks, so that it is often full, and grows; its metadata are filled and become larger, cannot be
// written for a while, so that commits fail, or cannot be read while one fails. Compared after each: what was answered
// or read, and all devices' state, tables and status. Not how many metadata blocks are used: the fake has no b-trees,
// and is told when they are full.
//
// COWSLIP_MODEL_STEPS=10000 COWSLIP_MODEL_SEED=1: how much and which; a failing seed fails again.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <random>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/process.h"
#include "common/thin_pool.h"
#include "tests/device/direct_io.h"
#include "tests/device/faulty_disk.h"
#include "tests/fakes/device_mapper_conformance.h"
#include "tests/fakes/environment.h"
#include "tests/fakes/fake_device_mapper.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kMetadataSectors = 2048;
constexpr std::uint64_t kBlockSectors = 128;
constexpr std::uint64_t kDataSectors = 32 * kBlockSectors;  // Few, so that pools are often full.
constexpr std::uint64_t kPieceSectors = 8;                  // The least that is written to a block.
constexpr int kEpisode = 250;                               // Steps after which all begins anew, with blank disks.
const std::vector<std::string> kPools = {"pool", "pool2"};
const std::vector<std::string> kThins = {"a", "b", "c", "d"};

DmDevice device(const std::string& name) {
    return {.name = "conform-" + name, .uuid = "CONFORM-" + name};
}

// Somebody writes a tag into each piece of a block from one sector to another.
struct Write {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    std::uint64_t tag = 0;
};

// One of the two device-mappers, with two disks.
struct Side {
    DeviceMapper& dm;
    std::string metadata;
    std::string data;
    std::function<void(const DmDevice&)> open;
    std::function<void(const DmDevice&)> close;
    // I/O of a thin that runs; these give an errno, or what is read: the tags in the first and the last piece of a
    // block.
    std::function<std::string(const DmDevice&, std::uint64_t block, const Write&)> write;
    std::function<std::string(const DmDevice&, std::uint64_t block)> read;
    std::function<std::string(const DmDevice&, std::uint64_t block)> discard;
    std::function<void()> grow_metadata;
    std::function<void(const DmDevice&)> fill_metadata;
    // Of the metadata's disk: no writes, nothing at all, and all is well again.
    std::function<void()> fail_writes;
    std::function<void()> fail_all;
    std::function<void()> heal;
    std::function<void()> clear_needs_check;  // While no pool is loaded.

    std::optional<DmInfo> info(const std::string& name) { return dm.find(device(name)).value(); }
    // Tables have numbers, which differ; in a description they are names.
    std::string name_of(const std::string& number) {
        if (number == metadata) return "metadata";
        if (number == data) return "data";
        const auto devices = dm.list("CONFORM-").value();
        for (const auto& found : devices) {
            if (device_number(found.number) == number) return found.device.name;
        }
        return "nobody";
    }
    std::string number_of(const std::string& name) {
        const auto found = info(name);
        return found ? device_number(found->number) : "253:4000";
    }
    std::string describe_target(const std::string& name) {
        const auto table = dm.table(device(name)).value();
        if (!table) return "no table";
        if (table->type == "thin") {
            const auto thin = parse_thin_table(table->parameters);
            const std::string pool =
                thin ? name_of(thin->pool_device) : table->parameters;  // Below a failed one: "Fail".
            return fmt::format("thin {} {} {} mapped {}", table->sectors, pool, thin ? thin->thin_id : 0,
                               dm.status(device(name)).value()->parameters);
        }
        const auto pool = parse_thin_pool_table(table->parameters).value();
        const auto line = dm.status(device(name)).value();
        const auto status = parse_thin_pool_status(line->parameters);
        std::string text = fmt::format("{} {} {} {} {}", table->type, table->sectors, name_of(pool.metadata_device),
                                       name_of(pool.data_device), pool.block_sectors);
        if (!status) return text + " status " + line->parameters;
        return text + fmt::format(" {} id {} data {}/{} of metadata {} held {} {} {} {}", to_string(status->mode),
                                  status->transaction_id, status->used_data_blocks, status->total_data_blocks,
                                  status->total_metadata_blocks, status->held_root != 0, status->error_if_no_space,
                                  status->discard_passdown, status->needs_check);
    }
    // The kernel commits what it likes when it likes, at the latest after a second. So that both have the same to say,
    // what I/O changes is committed with it, block by block.
    void commit() {
        for (const auto& name : kPools) {
            const auto line = dm.status(device(name)).value();
            if (!line) continue;
            const auto id = parse_thin_pool_status(line->parameters).value().transaction_id;
            static_cast<void>(dm.message(device(name), set_transaction_id_message(id, id)));
        }
    }
    // All that can be seen of all devices.
    std::string describe() {
        std::string text;
        for (const auto* names : {&kPools, &kThins}) {
            for (const auto& name : *names) {
                const auto found = info(name);
                if (!found) continue;
                text += fmt::format("{}: open {}{}{}{}{}; {}\n", name, found->open_count,
                                    found->suspended ? " suspended" : "", found->read_only ? " read-only" : "",
                                    found->live_table ? " live" : "", found->inactive_table ? " waiting" : "",
                                    describe_target(name));
            }
        }
        return text;
    }
};

// A step, the same for both: gives what was answered, mostly an errno. Its text says what it is.
struct Step {
    std::string text;
    std::function<std::string(Side&)> run;
};

std::string errno_of(int answer) {
    return answer == 0 ? "0" : strerrorname_np(answer);
}

class Chooser {
public:
    explicit Chooser(std::uint64_t seed) : random_(seed) {}

    // What may hang a kernel is not chosen: to suspend or resume a thin below a suspended pool waits for the pool, and
    // so does all I/O.
    Step next(Side& fake) {
        const std::string& pool = kPools[below(8) == 0 ? 1 : 0];
        const std::string& thin = kThins[below(kThins.size())];
        const bool frozen = std::any_of(kPools.begin(), kPools.end(), [&](const std::string& name) {
            const auto found = fake.info(name);
            return found && found->suspended;
        });
        const auto main = fake.info("pool");
        if (faulty_ && below(8) == 0) return heal_metadata();
        if (main && main->live_table && !faulty_ && below(60) == 0)
            return below(4) == 0 ? lose_metadata("pool") : break_metadata();
        if (main && main->live_table && is_broken(fake) && below(12) == 0) return put_in_order();
        if (main && main->live_table && !main->inactive_table && !main->suspended && !faulty_ && below(150) == 0 &&
            is_writable(fake))
            return fill_metadata("pool");
        // Most of the time there is a pool that works, and thins with tables.
        if (!main && below(4) != 0) return create("pool");
        if (main && !main->live_table && below(4) != 0)
            return main->inactive_table ? resume("pool") : load_pool("pool", fake);
        if (main && main->suspended && below(3) != 0)
            return main->inactive_table ? resume("pool") : load_pool("pool", fake);
        const auto one = fake.info(thin);
        if (one && !one->live_table && below(3) == 0 && !frozen)
            return one->inactive_table ? resume(thin) : load_thin(thin, "pool");
        if (one && one->live_table && !one->suspended && !frozen && below(2) == 0)
            return use(thin, fake.dm.table(device(thin)).value()->sectors / kBlockSectors, !one->read_only);
        switch (below(21)) {
            case 0:
                return create(below(3) == 0 ? thin : pool);
            case 1:
                return create(thin);
            case 2:
                return load_pool(pool, fake);
            case 3:
            case 4:
                return load_thin(thin, pool);
            case 5:
                return resume(pool);
            case 6:
            case 7:
                return frozen ? resume(pool) : resume(thin);
            case 8:
                return frozen ? resume(pool) : suspend(below(4) == 0 ? pool : thin);
            case 9:
                return remove(below(10) == 0 ? pool : thin);
            case 10:
                return remove(thin);
            case 11:
                return hold(thin);
            case 12:
                return let_go(thin);
            case 13:
                return below(4) == 0 ? grow_metadata() : message(pool);
            default:
                return message(pool);
        }
    }

    void begin_episode() { faulty_ = false; }

private:
    static bool is_broken(Side& fake) {
        const auto status = parse_thin_pool_status(fake.dm.status(device("pool")).value()->parameters).value();
        return status.needs_check || status.mode == PoolMode::fail;
    }
    static bool is_writable(Side& fake) {
        const auto status = parse_thin_pool_status(fake.dm.status(device("pool")).value()->parameters).value();
        return status.mode == PoolMode::rw;
    }
    std::size_t below(std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_); }
    bool flip() { return below(2) == 0; }
    std::uint32_t thin_id() { return static_cast<std::uint32_t>(below(12) == 0 ? 0xffffff : below(6)); }

    static Step create(const std::string& name) {
        return {"create " + name, [name](Side& side) { return errno_of(side.dm.create(device(name))); }};
    }
    static Step resume(const std::string& name) {
        return {"resume " + name, [name](Side& side) { return errno_of(side.dm.resume(device(name))); }};
    }
    static Step remove(const std::string& name) {
        return {"remove " + name, [name](Side& side) { return errno_of(side.dm.remove(device(name))); }};
    }
    Step suspend(const std::string& name) {
        const SuspendMode mode = flip() ? SuspendMode::freeze : SuspendMode::no_flush;
        return {fmt::format("suspend {} {}", name, mode == SuspendMode::freeze ? "freeze" : "no_flush"),
                [name, mode](Side& side) { return errno_of(side.dm.suspend(device(name), mode)); }};
    }
    // Mostly as long as the pool is, or longer: a shorter one leaves it suspended.
    Step load_pool(const std::string& name, Side& fake) {
        const std::uint32_t block = below(8) == 0 ? 256 : below(12) == 0 ? 64 : kBlockSectors;
        std::uint64_t sectors = below(16) == 0 ? 2 * kDataSectors : kDataSectors / 4 * (1 + below(4));
        const auto line = fake.dm.status(device(name)).value();
        const auto status = parse_thin_pool_status(line ? line->parameters : "");
        if (status && below(8) != 0) sectors = std::max(sectors, status->total_data_blocks * kBlockSectors);
        const bool same = below(12) == 0;
        return {
            fmt::format("load thin-pool {} block {} sectors {} same {}", name, block, sectors, same), [=](Side& side) {
                ThinPoolTable table{.metadata_device = side.metadata, .data_device = same ? side.metadata : side.data};
                table.block_sectors = block;
                table.error_if_no_space = true;
                return errno_of(side.dm.load(device(name), {"thin-pool", sectors, make_thin_pool_table(table)}, false));
            }};
    }
    Step load_thin(const std::string& name, const std::string& pool) {
        const std::uint32_t id = thin_id();
        const bool read_only = below(5) == 0;
        const std::uint64_t sectors = kDataSectors / 4 * (1 + below(2));
        return {fmt::format("load thin {} of {} id {} sectors {} read-only {}", name, pool, id, sectors, read_only),
                [=](Side& side) {
                    const ThinTable table{.pool_device = side.number_of(pool), .thin_id = id};
                    return errno_of(side.dm.load(device(name), {"thin", sectors, make_thin_table(table)}, read_only));
                }};
    }
    Step message(const std::string& pool) {
        std::string text;
        switch (below(10)) {
            case 0:
            case 1:
                text = create_thin_message(thin_id());
                break;
            case 2:
            case 3:
            case 4:
                text = create_snap_message(thin_id(), thin_id());
                break;
            case 5:
            case 6:
                text = delete_message(thin_id());
                break;
            case 7:
                text = set_transaction_id_message(below(3), below(3));
                break;
            case 8:
                text = flip() ? kReserveMetadataSnapMessage : kReleaseMetadataSnapMessage;
                break;
            default:
                text = std::array{"",       "create_thin",     "create_snap 1", "delete 16777216",
                                  "brew 1", "create_thin 1 2", "create_thin x", "set_transaction_id 0"}[below(8)];
        }
        // To a device of another kind, now and then.
        const std::string target = below(12) == 0 ? kThins[below(kThins.size())] : pool;
        return {fmt::format("message {} {}", target, text),
                [target, text](Side& side) { return errno_of(side.dm.message(device(target), text)); }};
    }
    Step use(const std::string& name, std::uint64_t blocks, bool writable) {
        const std::uint64_t begin = below(blocks);
        const std::uint64_t end = begin + 1 + below(std::min<std::uint64_t>(blocks - begin, 4));
        const std::size_t what = writable ? below(8) : 0;
        if (what < 2) {
            return {fmt::format("read {} block {}", name, begin),
                    [name, begin](Side& side) { return side.read(device(name), begin); }};
        }
        if (what == 2) {
            return {fmt::format("discard {} blocks {} to {}", name, begin, end), [=](Side& side) {
                        std::string text;
                        for (std::uint64_t block = begin; block < end; ++block) {
                            text += side.discard(device(name), block) + " ";
                            side.commit();
                        }
                        return text;
                    }};
        }
        Write piece{0, kBlockSectors, ++tag_};
        if (what == 3) piece.end = kPieceSectors;
        if (what == 4) piece.begin = kBlockSectors - kPieceSectors;
        return {
            fmt::format("write {} blocks {} to {}, sectors {} to {} of each", name, begin, end, piece.begin, piece.end),
            [=](Side& side) {
                std::string text;
                for (std::uint64_t block = begin; block < end; ++block) {
                    text += side.write(device(name), block, piece) + " ";
                    side.commit();
                }
                return text;
            }};
    }
    // What fits is not known to the fake, which has no b-trees.
    static Step fill_metadata(const std::string& pool) {
        return {"fill the metadata of " + pool, [pool](Side& side) {
                    // A larger device is taken up before.
                    const DmTarget table = side.dm.table(device(pool)).value().value();
                    const std::string loaded = errno_of(side.dm.load(device(pool), table, false));
                    const std::string resumed = errno_of(side.dm.resume(device(pool)));
                    side.fill_metadata(device(pool));
                    return loaded + " " + resumed;
                }};
    }
    Step break_metadata() {
        faulty_ = true;
        return {"metadata cannot be written", [](Side& side) {
                    side.fail_writes();
                    return std::string();
                }};
    }
    Step heal_metadata() {
        faulty_ = false;
        return {"metadata can be written", [](Side& side) {
                    side.heal();
                    return std::string();
                }};
    }
    // What needs a metadata block may get an error, or find it in memory. So nothing but a commit needs one.
    Step lose_metadata(const std::string& pool) {
        faulty_ = false;
        return {"metadata cannot be read while commits " + pool, [pool](Side& side) {
                    side.fail_all();
                    const std::string suspended = errno_of(side.dm.suspend(device(pool), SuspendMode::no_flush));
                    side.heal();
                    return suspended + " " + errno_of(side.dm.resume(device(pool)));
                }};
    }
    // All is taken away, and the metadata's flag cleared.
    Step put_in_order() {
        faulty_ = false;
        return {"put in order", [](Side& side) {
                    side.heal();
                    std::string text;
                    for (const auto* names : {&kThins, &kPools}) {
                        for (const auto& name : *names) {
                            if (side.info(name)) side.close(device(name));
                            text += errno_of(side.dm.remove(device(name))) + " ";
                        }
                    }
                    side.clear_needs_check();
                    return text;
                }};
    }
    // A pool sees it at its next resume.
    static Step grow_metadata() {
        return {"grow metadata", [](Side& side) {
                    side.grow_metadata();
                    return std::string();
                }};
    }
    // A device that is held is let go with the next step of the kind, or at the end.
    Step hold(const std::string& name) {
        return {"open " + name, [name](Side& side) {
                    const auto found = side.info(name);
                    if (found && found->live_table && !found->suspended && found->open_count == 0)
                        side.open(device(name));
                    return std::string();
                }};
    }
    static Step let_go(const std::string& name) {
        return {"close " + name, [name](Side& side) {
                    if (side.info(name)) side.close(device(name));
                    return std::string();
                }};
    }

    std::mt19937_64 random_;
    std::uint64_t tag_ = 0;
    bool faulty_ = false;
};

// I/O on the kernel's devices.
class RealIo {
public:
    explicit RealIo(DeviceMapper& dm) : dm_(dm) {}

    DirectIo open(const DmDevice& thin, int flags) {
        DirectIo opened(dm_, thin, flags);
        REQUIRE(opened.is_open());
        return opened;
    }
    std::string write(const DmDevice& thin, std::uint64_t block, const Write& piece) {
        const std::uint64_t begin = block * kBlockSectors;
        DirectIo opened = open(thin, O_RDWR);
        const int answer = opened.write(begin + piece.begin, begin + piece.end, piece.tag);
        let_worker_commit(opened);
        return errno_of(answer);
    }
    std::string read(const DmDevice& thin, std::uint64_t block) {
        DirectIo opened = open(thin, O_RDONLY);
        const auto read_piece = [&](std::uint64_t begin) {
            std::uint64_t tag = 0;
            const int answer = opened.read_tag(begin, tag);
            return answer == 0 ? std::to_string(tag) : errno_of(answer);
        };
        const std::uint64_t begin = block * kBlockSectors;
        return read_piece(begin) + " " + read_piece(begin + kBlockSectors - kPieceSectors);
    }
    std::string discard(const DmDevice& thin, std::uint64_t block) {
        DirectIo opened = open(thin, O_RDWR);
        const int answer = opened.discard(block * kBlockSectors, (block + 1) * kBlockSectors);
        let_worker_commit(opened);
        return errno_of(answer);
    }

private:
    // Else it may do so while a message commits, see below. What comes of it is seen in the pool's status.
    static void let_worker_commit(DirectIo& opened) { static_cast<void>(opened.flush()); }

    DeviceMapper& dm_;
};

// The same on the fake, which knows where blocks lie, but not what is in them.
class FakeIo {
public:
    explicit FakeIo(FakeKernel& kernel) : kernel_(kernel) {}

    std::string write(const DmDevice& thin, std::uint64_t block, const Write& piece) {
        const auto before = kernel_.find_block(thin, block);
        const int answer = kernel_.write(thin, block, block + 1);
        if (answer != 0) return errno_of(answer);
        const std::uint64_t found = kernel_.find_block(thin, block)->data_block;
        Tags tags = before ? tags_[before->data_block] : Tags{};
        if (piece.begin == 0) tags[0] = piece.tag;
        if (piece.end == kBlockSectors) tags[1] = piece.tag;
        tags_[found] = tags;
        return errno_of(0);
    }
    std::string read(const DmDevice& thin, std::uint64_t block) {
        if (kernel_.pool_of(thin)->mode == PoolMode::fail) return "EIO EIO";
        const auto found = kernel_.find_block(thin, block);
        const Tags tags = found ? tags_[found->data_block] : Tags{};
        return fmt::format("{} {}", tags[0], tags[1]);
    }
    std::string discard(const DmDevice& thin, std::uint64_t block) {
        return errno_of(kernel_.discard(thin, block, block + 1));
    }

private:
    using Tags = std::array<std::uint64_t, 2>;  // In its first and its last piece.
    FakeKernel& kernel_;
    std::map<std::uint64_t, Tags> tags_;  // By block of the data.
};

// Makes thins, from one id on, until there is no room in the metadata, and some more in the kernel's reserve: what
// others free does not change it then. Gives the next id.
std::uint32_t fill(DeviceMapper& dm, const DmDevice& pool, std::uint32_t thin_id) {
    constexpr int kInReserve = 14;
    const DmTarget table = dm.table(pool).value().value();
    for (int refused = 0; refused < kInReserve;) {
        const int answer = dm.message(pool, create_thin_message(thin_id));
        if (answer == 0) {
            ++thin_id;
            continue;
        }
        REQUIRE(answer == EOPNOTSUPP);
        ++refused;
        if (refused == kInReserve) break;
        REQUIRE(dm.load(pool, table, false) == 0);
        REQUIRE(dm.resume(pool) == 0);
    }
    return thin_id;
}

// An episode: blank disks, at most so many steps; gives the steps done.
void run_episode(DeviceMapper& dm, Chooser& chooser, int steps) {
    std::uint64_t metadata_sectors = kMetadataSectors;
    std::uint32_t next_filler = 1000;
    FaultyDisk metadata(dm, metadata_sectors);
    const LoopDisk data(kDataSectors);
    FakeKernel kernel;
    kernel.add_disk("/dev/vda", kMetadataSectors);
    kernel.add_disk("/dev/vdb", kDataSectors);
    FakeDeviceMapper fake_dm(kernel);
    RealIo real_io(dm);
    FakeIo fake_io(kernel);
    std::map<std::string, DirectIo> opened;
    std::set<std::string> fake_opened;
    Side real{
        .dm = dm,
        .metadata = metadata.number(),
        .data = data.number(),
        .open = [&](const DmDevice& wanted) { opened.emplace(wanted.name, real_io.open(wanted, O_RDONLY)); },
        .close = [&](const DmDevice& wanted) { opened.erase(wanted.name); },
        .write = [&](const DmDevice& thin, std::uint64_t block,
                     const Write& piece) { return real_io.write(thin, block, piece); },
        .read = [&](const DmDevice& thin, std::uint64_t block) { return real_io.read(thin, block); },
        .discard = [&](const DmDevice& thin, std::uint64_t block) { return real_io.discard(thin, block); },
        .grow_metadata = [&] { metadata.grow(metadata_sectors += kMetadataSectors); },
        .fill_metadata = [&](const DmDevice& pool) { next_filler = fill(dm, pool, next_filler); },
        .fail_writes = [&] { metadata.fail_writes(); },
        .fail_all = [&] { metadata.fail_all(); },
        .heal = [&] { metadata.heal(); },
        .clear_needs_check =
            [&] {
                const auto done =
                    run_process({.arguments = {"thin_check", "--clear-needs-check-flag", metadata.path()}}).value();
                INFO(done.output << done.errors);
                REQUIRE(done.exit_status == 0);
            }};
    FakeMedium& fake_metadata = kernel.media.at("/dev/vda");
    Side fake{.dm = fake_dm,
              .metadata = device_number(kernel.blocks.at("/dev/vda").number),
              .data = device_number(kernel.blocks.at("/dev/vdb").number),
              .open =
                  [&](const DmDevice& wanted) {
                      fake_opened.insert(wanted.name);
                      kernel.open(wanted);
                  },
              .close =
                  [&](const DmDevice& wanted) {
                      if (fake_opened.erase(wanted.name) > 0) kernel.close(wanted);
                  },
              .write = [&](const DmDevice& thin, std::uint64_t block,
                           const Write& piece) { return fake_io.write(thin, block, piece); },
              .read = [&](const DmDevice& thin, std::uint64_t block) { return fake_io.read(thin, block); },
              .discard = [&](const DmDevice& thin, std::uint64_t block) { return fake_io.discard(thin, block); },
              .grow_metadata = [&] { fake_metadata.sectors += kMetadataSectors; },
              .fill_metadata =
                  [&](const DmDevice& pool) {
                      const auto status = parse_thin_pool_status(fake_dm.status(pool).value()->parameters).value();
                      kernel.used_metadata_blocks = status.total_metadata_blocks;
                      static_cast<void>(fake_dm.message(
                          pool, set_transaction_id_message(status.transaction_id, status.transaction_id)));
                  },
              .fail_writes = [&] { kernel.fail_commits = ~0U; },
              .fail_all =
                  [&] {
                      kernel.fail_commits = ~0U;
                      fake_metadata.unreadable = true;
                  },
              .heal =
                  [&] {
                      kernel.fail_commits = 0;
                      fake_metadata.unreadable = false;
                  },
              .clear_needs_check = [&] { fake_metadata.metadata.needs_check = false; }};
    struct Cleanup {
        DeviceMapper& dm;
        ~Cleanup() { remove_conformance_devices(dm); }
    } cleanup{dm};
    struct Closer {
        std::map<std::string, DirectIo>& opened;
        ~Closer() { opened.clear(); }
    } closer{opened};
    // Most of an episode is about a pool that works.
    chooser.begin_episode();
    std::string history;
    const auto both = [&](const Step& step) {
        const std::string expected = step.run(fake);
        const std::string got = step.run(real);
        history += fmt::format("{} = {}\n", step.text, got);
        // Two commits that fail at once, a message's and one by the pool's worker, which makes one every second when
        // there is something to commit: the second finds metadata that are read-only already, and the kernel fails the
        // pool. That is a matter of microseconds, and accepted.
        for (auto& [number, pool] : kernel.pools) {
            const DmDevice& found = kernel.devices.at(number).device;
            const auto line = dm.status(found).value();
            if (kernel.fail_commits == 0 || !pool.core.needs_check || !line || line->parameters != "Fail") continue;
            pool.mode = PoolMode::fail;
            pool.core.needs_check = false;  // It could not be set.
        }
        if (got != expected || real.describe() != fake.describe()) {
            FAIL(history << "the kernel: " << got << "\n"
                         << real.describe() << "the fake: " << expected << "\n"
                         << fake.describe());
        }
    };
    both({"create pool", [](Side& side) { return errno_of(side.dm.create(device("pool"))); }});
    both({"load pool", [](Side& side) {
              ThinPoolTable table{.metadata_device = side.metadata, .data_device = side.data};
              table.error_if_no_space = true;
              return errno_of(
                  side.dm.load(device("pool"), {"thin-pool", kDataSectors / 2, make_thin_pool_table(table)}, false));
          }});
    both({"resume pool", [](Side& side) { return errno_of(side.dm.resume(device("pool"))); }});
    for (int i = 0; i < steps; ++i) both(chooser.next(fake));
}

}  // namespace

TEST_CASE("random operations: the fake device-mapper and the kernel do the same", "[.][model]") {
    auto dm = KernelDeviceMapper::open();
    REQUIRE(dm);
    const std::uint64_t seed = number_from_environment("COWSLIP_MODEL_SEED", 1);
    const int steps = static_cast<int>(number_from_environment("COWSLIP_MODEL_STEPS", 10000));
    Chooser chooser(seed);
    int done = 0;
    for (; done < steps; done += kEpisode) {
        INFO("seed " << seed << ", after " << done << " steps");
        run_episode(*dm, chooser, kEpisode);
    }
    std::printf("model = kernel: %d operations, 0 differences\n", done);
}

}  // namespace cowslip
