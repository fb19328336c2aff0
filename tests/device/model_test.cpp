// Model = kernel: the same random operations are done to the fake device-mapper and to the running kernel's, errno by
// errno and state by state. The simulation is worth what the fake is: a difference here is a defect of the fake, or
// something about dm-thin that nobody here knew.
//
// COWSLIP_MODEL_STEPS=10000 COWSLIP_MODEL_SEED=1: how much and which; a failing seed fails again.
#include <cerrno>
#include <map>
#include <random>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/thin_pool.h"
#include "tests/device/loop_disk.h"
#include "tests/fakes/device_mapper_conformance.h"
#include "tests/fakes/environment.h"
#include "tests/fakes/fake_device_mapper.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kMetadataSectors = 8192;
constexpr std::uint64_t kDataSectors = 131072;
constexpr int kEpisode = 250;  // Steps after which all begins anew, with blank disks.
const std::vector<std::string> kPools = {"pool", "pool2"};
const std::vector<std::string> kThins = {"a", "b", "c", "d"};

DmDevice device(const std::string& name) {
    return {.name = "conform-" + name, .uuid = "CONFORM-" + name};
}

// One of the two device-mappers, with two disks.
struct Side {
    DeviceMapper& dm;
    std::string metadata;
    std::string data;
    std::function<void(const DmDevice&)> open;
    std::function<void(const DmDevice&)> close;

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
            const auto thin = parse_thin_table(table->parameters).value();
            return fmt::format("thin {} {} {}", table->sectors, name_of(thin.pool_device), thin.thin_id);
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

// A step, the same for both: gives the errno. Its text says what it is.
struct Step {
    std::string text;
    std::function<int(Side&)> run;
};

class Chooser {
public:
    explicit Chooser(std::uint64_t seed) : random_(seed) {}

    // What may hang a kernel is not chosen: to suspend or resume a thin below a suspended pool waits for the pool.
    Step next(Side& fake) {
        const std::string& pool = kPools[below(8) == 0 ? 1 : 0];
        const std::string& thin = kThins[below(kThins.size())];
        const bool frozen = std::any_of(kPools.begin(), kPools.end(), [&](const std::string& name) {
            const auto found = fake.info(name);
            return found && found->suspended;
        });
        // Most of the time there is a pool that works, and thins with tables.
        const auto main = fake.info("pool");
        if (!main && below(4) != 0) return create("pool");
        if (main && !main->live_table && below(4) != 0)
            return main->inactive_table ? resume("pool") : load_pool("pool");
        const auto one = fake.info(thin);
        if (one && !one->live_table && below(3) == 0 && !frozen)
            return one->inactive_table ? resume(thin) : load_thin(thin, "pool");
        switch (below(20)) {
            case 0:
                return create(below(3) == 0 ? thin : pool);
            case 1:
                return create(thin);
            case 2:
                return load_pool(pool);
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
            default:
                return message(pool);
        }
    }

private:
    std::size_t below(std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_); }
    bool flip() { return below(2) == 0; }
    std::uint32_t thin_id() { return static_cast<std::uint32_t>(below(12) == 0 ? 0xffffff : below(6)); }

    static Step create(const std::string& name) {
        return {"create " + name, [name](Side& side) { return side.dm.create(device(name)); }};
    }
    static Step resume(const std::string& name) {
        return {"resume " + name, [name](Side& side) { return side.dm.resume(device(name)); }};
    }
    static Step remove(const std::string& name) {
        return {"remove " + name, [name](Side& side) { return side.dm.remove(device(name)); }};
    }
    Step suspend(const std::string& name) {
        const SuspendMode mode = flip() ? SuspendMode::freeze : SuspendMode::no_flush;
        return {fmt::format("suspend {} {}", name, mode == SuspendMode::freeze ? "freeze" : "no_flush"),
                [name, mode](Side& side) { return side.dm.suspend(device(name), mode); }};
    }
    Step load_pool(const std::string& name) {
        const std::uint32_t block = below(8) == 0 ? 256 : below(12) == 0 ? 64 : 128;
        const std::uint64_t sectors = below(8) == 0 ? 2 * kDataSectors : kDataSectors;
        const bool same = below(12) == 0;
        return {
            fmt::format("load thin-pool {} block {} sectors {} same {}", name, block, sectors, same), [=](Side& side) {
                ThinPoolTable table{.metadata_device = side.metadata, .data_device = same ? side.metadata : side.data};
                table.block_sectors = block;
                table.error_if_no_space = true;
                return side.dm.load(device(name), {"thin-pool", sectors, make_thin_pool_table(table)}, false);
            }};
    }
    Step load_thin(const std::string& name, const std::string& pool) {
        const std::uint32_t id = thin_id();
        const bool read_only = below(5) == 0;
        const std::uint64_t sectors = 32768 * (1 + below(2));
        return {fmt::format("load thin {} of {} id {} sectors {} read-only {}", name, pool, id, sectors, read_only),
                [=](Side& side) {
                    const ThinTable table{.pool_device = side.number_of(pool), .thin_id = id};
                    return side.dm.load(device(name), {"thin", sectors, make_thin_table(table)}, read_only);
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
                [target, text](Side& side) { return side.dm.message(device(target), text); }};
    }
    // A device that is held is let go with the next step of the kind, or at the end.
    Step hold(const std::string& name) {
        return {"open " + name, [name](Side& side) {
                    const auto found = side.info(name);
                    if (found && found->live_table && !found->suspended && found->open_count == 0)
                        side.open(device(name));
                    return 0;
                }};
    }
    static Step let_go(const std::string& name) {
        return {"close " + name, [name](Side& side) {
                    if (side.info(name)) side.close(device(name));
                    return 0;
                }};
    }

    std::mt19937_64 random_;
};

// An episode: blank disks, at most so many steps; gives the steps done.
void run_episode(DeviceMapper& dm, Chooser& chooser, int steps) {
    const LoopDisk metadata(kMetadataSectors);
    const LoopDisk data(kDataSectors);
    FakeKernel kernel;
    kernel.add_disk("/dev/vda", kMetadataSectors);
    kernel.add_disk("/dev/vdb", kDataSectors);
    FakeDeviceMapper fake_dm(kernel);
    std::map<std::string, Fd> opened;
    std::set<std::string> fake_opened;
    Side real{.dm = dm,
              .metadata = metadata.number(),
              .data = data.number(),
              .open =
                  [&](const DmDevice& wanted) {
                      const auto node = dm.ensure_node(dm.find(wanted).value().value());
                      Fd descriptor(::open(node.value().c_str(), O_RDONLY | O_CLOEXEC));
                      REQUIRE(descriptor);
                      opened[wanted.name] = std::move(descriptor);
                  },
              .close = [&](const DmDevice& wanted) { opened.erase(wanted.name); }};
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
                  }};
    struct Cleanup {
        DeviceMapper& dm;
        ~Cleanup() { remove_conformance_devices(dm); }
    } cleanup{dm};
    struct Closer {
        std::map<std::string, Fd>& opened;
        ~Closer() { opened.clear(); }
    } closer{opened};
    // Most of an episode is about a pool that works.
    std::string history;
    const auto both = [&](const Step& step) {
        const int expected = step.run(fake);
        const int got = step.run(real);
        history += fmt::format("{} = {}\n", step.text, got);
        if (got != expected || real.describe() != fake.describe()) {
            FAIL(history << "the kernel: errno " << got << "\n"
                         << real.describe() << "the fake: errno " << expected << "\n"
                         << fake.describe());
        }
    };
    both({"create pool", [](Side& side) { return side.dm.create(device("pool")); }});
    both({"load pool", [](Side& side) {
              ThinPoolTable table{.metadata_device = side.metadata, .data_device = side.data};
              table.error_if_no_space = true;
              return side.dm.load(device("pool"), {"thin-pool", kDataSectors, make_thin_pool_table(table)}, false);
          }});
    both({"resume pool", [](Side& side) { return side.dm.resume(device("pool")); }});
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
