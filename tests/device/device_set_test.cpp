// A pool with block devices of its own, on this machine's kernel.
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "services/device_actor/block_device.h"
#include "services/device_actor/device_header.h"
#include "tests/device/loop_disk.h"
#include "tests/device/machine.h"

namespace cowslip {

namespace {

constexpr std::uint64_t kDiskSectors = 128 * kMib;
constexpr std::uint64_t kFirstMetadata = 8 * kMib;
constexpr std::uint64_t kFirstData = kDiskSectors - kMib - 2 * kFirstMetadata;  // Of the first one.

std::string id_of(std::size_t number) {
    return fmt::format("{:032x}", 0xd0 + number);
}

// The pool is to have these, in this order.
void use(Machine& machine, const std::vector<const LoopDisk*>& disks) {
    std::ofstream list(machine.pool_folder() + "/devices");
    machine.spec.backing = "devices";
    machine.spec.data_sectors = 0;
    machine.spec.metadata_sectors = kFirstMetadata;
    machine.spec.devices.clear();
    for (const LoopDisk* disk : disks) {
        list << disk->path() << "\n";
        machine.spec.devices.push_back({disk->path(), id_of(machine.spec.devices.size())});
    }
    list.close();
    std::filesystem::permissions(machine.pool_folder() + "/devices", std::filesystem::perms::owner_read);
}

schemas::PoolState make(Machine& machine) {
    const auto state = machine.actor.create_pool({.spec = machine.spec, .own_transaction_id = kTag + 1});
    INFO((state ? "" : state.error().message));
    REQUIRE(state);
    REQUIRE(machine.judged(machine.actor.set_transaction_id({machine.pool, 0, kTag + 1}).value()) == Outcome::done);
    machine.spec = state->spec;
    return *state;
}

Error refused_set(Machine& machine, bool force = false) {
    const auto state = machine.actor.create_pool({.spec = machine.spec, .force = force});
    REQUIRE_FALSE(state);
    CHECK(machine.dm.list("COWSLIP-" + machine.uuid)->empty());
    return state.error();
}

Result<schemas::PoolState> start(Machine& machine) {
    return machine.actor.start_pool({machine.spec, kTag + 1, kTag + 1});
}

// All of a thin's `mib`, beginning with `letter`.
void write_all(const Machine& machine, std::uint32_t id, std::uint64_t mib, char letter) {
    for (std::uint64_t at = 0; at < mib; ++at) {
        const std::string piece(std::size_t{1} << 20U, static_cast<char>(letter + at % 20));
        REQUIRE(write_blocks(machine.path(id), at << 20U, piece) == 0);
    }
}

void check_all(const Machine& machine, std::uint32_t id, std::uint64_t mib, char letter) {
    std::string piece(std::size_t{1} << 20U, '\0');
    for (std::uint64_t at = 0; at < mib; ++at) {
        REQUIRE(read_blocks(machine.path(id), at << 20U, piece) == 0);
        CHECK(piece == std::string(piece.size(), static_cast<char>(letter + at % 20)));
    }
}

}  // namespace

TEST_CASE("a pool has block devices for its own, and grows by one while it is used", "[pool]") {
    Machine machine;
    const LoopDisk first(kDiskSectors);
    const LoopDisk second(kDiskSectors);
    const LoopDisk third(kDiskSectors);
    use(machine, {&first, &second});
    const auto made = make(machine);
    // The first one's metadata are all that was asked for.
    CHECK(made.spec.data_sectors == kFirstData + kDiskSectors - kMib);
    CHECK(made.spec.metadata_sectors == kFirstMetadata);
    CHECK(made.spec.devices.size() == 2);
    machine.make_thin(2);
    machine.activate(2);
    write_all(machine, 2, 200, 'a');  // On both.

    use(machine, {&first, &second, &third});
    machine.spec.metadata_sectors = 0;  // All that there is.
    const auto grown = machine.actor.grow_pool({machine.spec});
    INFO((grown ? "" : grown.error().message));
    REQUIRE(grown);
    // It has metadata for its own data besides.
    const std::uint64_t more = default_metadata_sectors(kDiskSectors, 128);
    CHECK(grown->spec.metadata_sectors == kFirstMetadata + more);
    CHECK(parse_thin_pool_status(grown->status)->total_metadata_blocks == grown->spec.metadata_sectors / 8);
    CHECK(grown->spec.data_sectors > made.spec.data_sectors);
    CHECK_FALSE(grown->suspended);
    CHECK(grown->spec.devices.size() == 3);
    write_all(machine, 2, 250, 'c');

    REQUIRE(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    CHECK(machine.dm.list("COWSLIP-" + machine.uuid)->empty());
    machine.spec = grown->spec;
    const auto started = start(machine);
    REQUIRE(started);
    CHECK(started->spec.data_sectors == grown->spec.data_sectors);
    machine.activate(2);
    check_all(machine, 2, 250, 'c');
}

TEST_CASE("a pool takes a part of its devices, and more of them while it is used", "[pool]") {
    Machine machine;
    const LoopDisk first(kDiskSectors);
    const LoopDisk second(kDiskSectors);
    use(machine, {&first, &second});
    machine.spec.data_sectors = 64 * kMib;
    machine.spec.metadata_sectors = 4 * kMib;
    const auto made = make(machine);
    CHECK(made.spec.data_sectors == 64 * kMib);
    CHECK(made.spec.metadata_sectors == 4 * kMib);
    CHECK(parse_thin_pool_status(made.status)->total_metadata_blocks == 4 * kMib / 8);
    // Each has metadata in reserve for all its data.
    const std::uint64_t reserved = default_metadata_sectors(kDiskSectors, 128);
    CHECK(made.most_metadata_sectors == 2 * reserved);
    CHECK(made.most_data_sectors == 2 * (kDiskSectors - kMib - 2 * reserved));
    machine.make_thin(2);
    machine.activate(2);
    write_all(machine, 2, 60, 'a');
    const auto grow = [&](std::uint64_t data_mib, std::uint64_t metadata_mib) {
        auto spec = machine.spec;
        spec.data_sectors = data_mib * kMib;
        spec.metadata_sectors = metadata_mib * kMib;
        return machine.actor.grow_pool({spec});
    };
    const auto refused = grow(1024, 4);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::no_space);
    CHECK(grow(64, 1024).error().code == Errc::no_space);
    // With metadata that lie on both devices.
    const auto grown = grow(150, 24);
    INFO((grown ? "" : grown.error().message));
    REQUIRE(grown);
    CHECK(grown->spec.data_sectors == 150 * kMib);
    CHECK(grown->spec.metadata_sectors == 24 * kMib);
    CHECK(parse_thin_pool_status(grown->status)->total_metadata_blocks == 24 * kMib / 8);
    write_all(machine, 2, 140, 'c');

    REQUIRE(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    SECTION("written down") {
        machine.spec = grown->spec;
    }
    SECTION("only the metadata know of it, since somebody died") {}
    SECTION("the store is lost") {
        machine.spec.data_sectors = machine.spec.metadata_sectors = 0;
    }
    const auto started = start(machine);
    INFO((started ? "" : started.error().message));
    REQUIRE(started);
    CHECK(started->spec.data_sectors == 150 * kMib);
    CHECK(started->spec.metadata_sectors == 24 * kMib);
    machine.activate(2);
    check_all(machine, 2, 140, 'c');
    // Mended and counted anew they lie in areas that are as large.
    REQUIRE(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
    machine.spec = started->spec;
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    REQUIRE(machine.actor.repair_metadata({machine.spec, "", kTag + 1})->sound);
    REQUIRE(machine.actor.replace_metadata({machine.spec}));
    const auto mended = start(machine);
    REQUIRE(mended);
    CHECK(mended->spec.metadata_sectors == 24 * kMib);
    machine.activate(2);
    check_all(machine, 2, 140, 'c');
}

TEST_CASE("what a pool's device has become larger by lies behind all that was there", "[pool]") {
    Machine machine;
    const LoopDisk first(64 * kMib);
    const LoopDisk second(64 * kMib);
    use(machine, {&first, &second});
    machine.spec.metadata_sectors = 12 * kMib;
    const auto made = make(machine);
    machine.make_thin(2);
    machine.activate(2, 300 * kMib);
    write_all(machine, 2, 90, 'a');
    const auto grow_all = [&] {
        machine.spec.data_sectors = machine.spec.metadata_sectors = 0;
        const auto grown = machine.actor.grow_pool({machine.spec});
        INFO((grown ? "" : grown.error().message));
        REQUIRE(grown);
        machine.spec = grown->spec;
        return *grown;
    };
    CHECK(grow_all().spec.data_sectors == made.spec.data_sectors);
    first.grow(128 * kMib);
    const auto once = grow_all();
    // With what so large a pool wants of metadata, and as much again to mend them.
    CHECK(once.spec.metadata_sectors == default_metadata_sectors(once.spec.data_sectors, 128));
    CHECK(once.spec.data_sectors == made.spec.data_sectors + 54 * kMib);
    write_all(machine, 2, 150, 'c');
    // What is at the end goes on; and what was in between has another area, on either device.
    first.grow(144 * kMib);
    const auto longer = grow_all();
    CHECK(longer.spec.data_sectors == once.spec.data_sectors + 16 * kMib);
    CHECK(longer.spec.metadata_sectors == once.spec.metadata_sectors);
    second.grow(128 * kMib);
    CHECK(grow_all().spec.data_sectors > longer.spec.data_sectors);
    first.grow(208 * kMib);
    const auto last = grow_all();
    write_all(machine, 2, 280, 'e');
    check_all(machine, 2, 280, 'e');

    REQUIRE(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    SECTION("at a start") {}
    SECTION("at one after a death before it was written down") {
        machine.spec = made.spec;
    }
    const auto started = start(machine);
    INFO((started ? "" : started.error().message));
    REQUIRE(started);
    CHECK(started->spec.data_sectors == last.spec.data_sectors);
    machine.activate(2, 300 * kMib);
    check_all(machine, 2, 280, 'e');
}

TEST_CASE("an enlarged device whose header was torn while it was written is as it was, or larger", "[pool]") {
    Machine machine;
    const LoopDisk disk(kDiskSectors);
    use(machine, {&disk});
    const auto made = make(machine);
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    std::string older(4096, '\0');
    REQUIRE(read_blocks(disk.path(), 0, older) == 0);
    machine.spec = made.spec;
    REQUIRE(start(machine));
    disk.grow(2 * kDiskSectors);
    // The power goes before the pool has taken it: these are the header's two copies then.
    auto spec = made.spec;
    REQUIRE(machine.actor.grow_pool({spec}));
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    SECTION("the first one is older") {
        overwrite(disk.path(), older);
    }
    SECTION("the second one is torn") {
        overwrite(disk.path(), older);
        overwrite(disk.path(), "torn", static_cast<off_t>(kSecondHeaderOffset + 100));
    }
    const auto started = start(machine);
    INFO((started ? "" : started.error().message));
    REQUIRE(started);
    CHECK(started->spec.data_sectors == made.spec.data_sectors);
    spec.data_sectors = spec.metadata_sectors = 0;
    const auto grown = machine.actor.grow_pool({spec});
    REQUIRE(grown);
    CHECK(grown->spec.data_sectors > made.spec.data_sectors + kDiskSectors / 2);
}

TEST_CASE("a create that is repeated after a power cut finds the areas that it had made", "[pool]") {
    Machine machine;
    const LoopDisk first(kDiskSectors);
    const LoopDisk second(kDiskSectors);
    use(machine, {&first, &second});
    SECTION("of all that there is") {}
    SECTION("of a part") {
        machine.spec.data_sectors = 64 * kMib;
    }
    const auto made = make(machine);  // Its sizes are those that are written down now.
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    const auto again = machine.actor.create_pool({.spec = machine.spec, .own_transaction_id = kTag + 1});
    INFO((again ? "" : again.error().message));
    REQUIRE(again);
    CHECK(again->spec.data_sectors == made.spec.data_sectors);
    CHECK(again->spec.metadata_sectors == made.spec.metadata_sectors);
}

// A create was refused, since the metadata of a larger pool that had been undone there told of devices that are not
// its.
TEST_CASE("metadata of an older pool, which nobody wiped, do not tell how large a new one is", "[pool]") {
    Machine machine;
    const LoopDisk first(kDiskSectors);
    const LoopDisk second(kDiskSectors);
    use(machine, {&first, &second});
    make(machine);
    REQUIRE(machine.actor.discard_pool({.spec = machine.spec, .own_transaction_id = kTag + 1}));
    use(machine, {&first});
    CHECK(make(machine).spec.data_sectors == kFirstData);
}

TEST_CASE("a pool's devices are found by their headers, whatever they are called", "[pool]") {
    Machine machine;
    const LoopDisk first(kDiskSectors);
    const LoopDisk second(kDiskSectors);
    const LoopDisk third(kDiskSectors);
    use(machine, {&first, &second});
    make(machine);
    machine.make_thin(2);
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    SECTION("by other names") {
        machine.spec.devices[0].path = second.path();
        machine.spec.devices[1].path = "/dev/nothing";
        const auto started = start(machine);
        REQUIRE(started);
        CHECK(started->spec.devices[0].path == first.path());
        CHECK(started->spec.devices[1].path == second.path());
    }
    SECTION("one that nobody wrote down, but that the metadata have taken up") {
        // The device-actor or the power went between the growth and its record.
        const auto recorded = machine.spec;
        REQUIRE(start(machine));
        use(machine, {&first, &second, &third});
        machine.spec.metadata_sectors = 0;
        const auto grown = machine.actor.grow_pool({machine.spec});
        REQUIRE(grown);
        REQUIRE(machine.actor.stop_pool({machine.spec}));
        machine.spec = recorded;
        const auto started = start(machine);
        INFO((started ? "" : started.error().message));
        REQUIRE(started);
        CHECK(started->spec.data_sectors == grown->spec.data_sectors);
        CHECK(started->spec.devices.size() == 3);
        machine.spec = started->spec;
    }
    SECTION("a first header that was overwritten has a copy") {
        overwrite(first.path(), std::string(4096, 'x'));
        REQUIRE(start(machine));
    }
    SECTION("one that is not there is asked for") {
        const std::string gone(4096, '\0');
        overwrite(second.path(), gone);
        overwrite(second.path(), gone, static_cast<off_t>(kSecondHeaderOffset));
        const auto refused = start(machine);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::unavailable);
        CHECK_THAT(refused.error().message, Catch::Contains("device 1 of the pool (it was '" + second.path() + "')"));
    }
    SECTION("a copy of one makes nobody guess") {
        std::string header(4096, '\0');
        REQUIRE(read_blocks(first.path(), 0, header) == 0);
        overwrite(third.path(), header);
        machine.spec.devices[1].path = "/dev/nothing";  // So that all are looked at.
        const auto refused = start(machine);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::needs_repair);
        CHECK_THAT(refused.error().message, Catch::Contains(first.path()) && Catch::Contains(third.path()));
    }
    SECTION("a header that somebody forged is not ours") {
        // Whoever sees a volume's device knows the pool's uuid from its name, but not the device's id.
        std::string block(4096, '\0');
        REQUIRE(read_blocks(first.path(), 0, block) == 0);
        DeviceHeader forged = newest_header(block, block).value();
        forged.device_id = std::string(32, 'f');
        overwrite(third.path(), encode_header(forged));
        machine.spec.devices[1].path = "/dev/nothing";
        REQUIRE(start(machine));
    }
    SECTION("headers that give the metadata no room are refused") {
        std::string block(4096, '\0');
        REQUIRE(read_blocks(first.path(), 0, block) == 0);
        DeviceHeader header = newest_header(block, block).value();
        header.areas.metadata_sectors = 0;
        ++header.sequence;
        overwrite(first.path(), encode_header(header));
        CHECK_FALSE(start(machine));
    }
    SECTION("one that has become smaller is refused") {
        second.grow(kDiskSectors / 2);
        const auto refused = start(machine);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::needs_repair);
        CHECK_THAT(refused.error().message, Catch::Contains("sectors, the pool has"));
    }
}

TEST_CASE("a device that holds something does not become a pool's", "[pool]") {
    Machine machine;
    const LoopDisk first(kDiskSectors);
    const LoopDisk second(kDiskSectors);
    use(machine, {&first, &second});
    SECTION("a file system") {
        REQUIRE(Machine::run({"mkfs.ext4", "-q", "-L", "precious", second.path()}) == 0);
        const auto error = refused_set(machine);
        CHECK(error.code == Errc::in_use);
        CHECK_THAT(error.message, Catch::Contains("precious"));
        std::string block(4096, '\0');
        REQUIRE(read_blocks(first.path(), 0, block) == 0);
        CHECK(block == std::string(4096, '\0'));  // Nor was the other one touched.
    }
    SECTION("another pool's device") {
        Machine other(std::string(32, 'c'));
        use(other, {&second});
        make(other);
        CHECK(refused_set(machine, true).code == Errc::in_use);  // Live: also with force.
        REQUIRE(other.actor.stop_pool({other.spec}));
        CHECK_THAT(refused_set(machine).message, Catch::Contains("part of the cowslip pool " + other.uuid));
    }
    SECTION("the metadata of a pool") {
        Machine other(std::string(32, 'c'));
        const LoopDisk data(64 * kMib);
        std::ofstream(other.pool_folder() + "/devices") << data.path() << "\n" << second.path() << "\n";
        std::filesystem::permissions(other.pool_folder() + "/devices", std::filesystem::perms::owner_read);
        other.spec.backing = "pair";
        other.spec.data_path = data.path();
        other.spec.metadata_path = second.path();
        other.spec.data_sectors = other.spec.metadata_sectors = 0;
        other.make_pool();
        REQUIRE(other.actor.stop_pool({other.spec}));
        CHECK_THAT(refused_set(machine).message, Catch::Contains("thin pool"));
    }
    const auto forced = machine.actor.create_pool({.spec = machine.spec, .force = true});
    INFO((forced ? "" : forced.error().message));
    CHECK(forced);
}

TEST_CASE("devices that no pool can be made of are refused", "[pool]") {
    Machine machine;
    const LoopDisk disk(kDiskSectors);
    const LoopDisk small(4 * kMib);
    SECTION("two names of one") {
        const std::string other = machine.folder / "other-name";
        REQUIRE(symlink(disk.path().c_str(), other.c_str()) == 0);
        use(machine, {&disk, &disk});
        machine.spec.devices[1].path = other;
        std::filesystem::permissions(machine.pool_folder() + "/devices", std::filesystem::perms::owner_all);
        std::ofstream(machine.pool_folder() + "/devices", std::ios::app) << other << "\n";
        CHECK(refused_set(machine).code == Errc::invalid_argument);
    }
    SECTION("too small") {
        use(machine, {&small});
        const auto error = refused_set(machine);
        CHECK(error.code == Errc::invalid_argument);
        CHECK_THAT(error.message, Catch::Contains("too small"));
    }
    SECTION("not listed") {
        use(machine, {&disk});
        machine.spec.devices[0].path = small.path();
        CHECK(refused_set(machine, true).code == Errc::permission_denied);
    }
    SECTION("none") {
        use(machine, {});
        CHECK(refused_set(machine).code == Errc::invalid_argument);
    }
    SECTION("to grow by") {
        use(machine, {&disk});
        make(machine);
        use(machine, {&disk, &small});
        const auto refused = machine.actor.grow_pool({machine.spec});
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::invalid_argument);
        use(machine, {&disk, &disk});
        CHECK(machine.actor.grow_pool({machine.spec}).error().code == Errc::in_use);
        CHECK_FALSE(machine.actor.read_pool_status({machine.pool})->suspended);
    }
}

TEST_CASE("damaged metadata on a pool's own devices are mended into their spare areas", "[pool]") {
    Machine machine;
    const LoopDisk first(kDiskSectors);
    const LoopDisk second(kDiskSectors);
    use(machine, {&first, &second});
    machine.spec.metadata_sectors = 0;  // Each has its own.
    make(machine);
    machine.make_thin(2);
    machine.activate(2);
    write_all(machine, 2, 4, 'm');
    REQUIRE(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    // Its superblock.
    overwrite(first.path(), "x", static_cast<off_t>(kMib * 512 + 2000));
    const auto checked = machine.actor.check_metadata({machine.spec});
    REQUIRE(checked);
    CHECK_FALSE(checked->sound);
    const auto mended = machine.actor.repair_metadata({machine.spec, "", kTag + 1});
    INFO((mended ? mended->report : mended.error().message));
    REQUIRE(mended);
    REQUIRE(mended->sound);
    CHECK(mended->thins.size() == 1);
    CHECK_FALSE(start(machine));  // The damaged ones count still.
    const auto replaced = machine.actor.replace_metadata({machine.spec});
    REQUIRE(replaced);
    CHECK_THAT(replaced->damaged_copy, Catch::Contains(first.path()));
    // As after a reply that was lost: they do not change places again.
    CHECK(machine.actor.replace_metadata({machine.spec})->damaged_copy == replaced->damaged_copy);
    const auto started = start(machine);
    INFO((started ? "" : started.error().message));
    REQUIRE(started);
    machine.activate(2);
    check_all(machine, 2, 4, 'm');
}

TEST_CASE("a pool's own devices are given back clean, and a refused pool leaves no header", "[pool]") {
    Machine machine;
    const LoopDisk first(kDiskSectors);
    const LoopDisk second(kDiskSectors);
    use(machine, {&first, &second});
    make(machine);
    const auto is_clean = [](const LoopDisk& disk) {
        for (const std::uint64_t offset : {std::uint64_t{0}, kSecondHeaderOffset}) {
            std::string block(4096, 'x');
            REQUIRE(read_blocks(disk.path(), offset, block) == 0);
            if (block != std::string(4096, '\0')) return false;
        }
        return true;
    };
    schemas::DiscardPool command{.spec = machine.spec, .own_transaction_id = kTag + 1};
    SECTION("destroyed") {
        command.least_transaction_id = kTag + 1;
    }
    SECTION("undone") {}
    SECTION("destroyed, when it had begun before") {
        REQUIRE(machine.actor.stop_pool({machine.spec}));
        REQUIRE(wipe_device(second.path()));
        command.least_transaction_id = kTag + 1;
    }
    SECTION("others' metadata are not") {
        REQUIRE(machine.actor.stop_pool({machine.spec}));
        command.own_transaction_id += 100;
        command.least_transaction_id = kTag + 100;
        CHECK(machine.actor.discard_pool(command).error().code == Errc::needs_repair);
        CHECK_FALSE(is_clean(first));
        return;
    }
    const auto discarded = machine.actor.discard_pool(command);
    INFO((discarded ? "" : discarded.error().message));
    REQUIRE(discarded);
    CHECK(is_clean(first));
    CHECK(is_clean(second));
    CHECK(machine.dm.list("COWSLIP-" + machine.uuid)->empty());
    CHECK(machine.actor.discard_pool(command));
    use(machine, {&first, &second});
    CHECK(machine.actor.create_pool({.spec = machine.spec}));
}

}  // namespace cowslip
