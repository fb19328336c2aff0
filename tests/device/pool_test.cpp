// The device actor's pool commands on this machine's kernel.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "services/device_actor/block_device.h"
#include "tests/device/loop_disk.h"
#include "tests/device/machine.h"

namespace cowslip {

namespace {

std::string listing(const Machine& machine) {
    return machine.pool_folder() + "/devices";
}

void list_devices(const Machine& machine, const std::vector<std::string>& paths, mode_t mode = 0600) {
    std::ofstream file(listing(machine));
    file << "# devices of this pool\n";
    for (const auto& path : paths) file << path << "\n";
    file.close();
    REQUIRE(chmod(listing(machine).c_str(), mode) == 0);
}

void use_pair(Machine& machine, const LoopDisk& data, const LoopDisk& metadata) {
    machine.spec.backing = "pair";
    machine.spec.data_path = data.path();
    machine.spec.metadata_path = metadata.path();
    machine.spec.data_sectors = 0;
    machine.spec.metadata_sectors = 0;
}

Error refused_create(Machine& machine, bool force = false) {
    const auto state = machine.actor.create_pool({.spec = machine.spec, .force = force});
    REQUIRE_FALSE(state);
    CHECK(machine.dm.list("COWSLIP-" + machine.uuid)->empty());
    return state.error();
}

}  // namespace

TEST_CASE("the kernel tells once that the pool has come to its low water, and of no other device's events", "[pool]") {
    Machine machine;
    machine.spec.low_water_blocks = 512 * kMib / 128 - 160;  // After 10 MiB.
    machine.make_pool();
    machine.make_thin(2);
    machine.make_thin(3);
    machine.activate(2);
    machine.activate(3);
    PoolEvents events(machine.dm);
    const auto told = [&](int timeout_ms) {
        pollfd entry{events.fd(), POLLIN, 0};
        return ::poll(&entry, 1, timeout_ms) == 1;
    };
    CHECK(events.fd() == -1);
    events.watch({machine.pool.device, pool_dm_uuid(machine.uuid)});
    REQUIRE(events.fd() >= 0);
    CHECK_FALSE(told(0));
    REQUIRE(machine.actor.deactivate({machine.pool, 3})->error_number == 0);
    if (told(0)) CHECK_FALSE(events.happened());
    CHECK(events.fd() >= 0);
    REQUIRE(write_blocks(machine.path(2), 0, std::string(12U << 20U, 'x')) == 0);
    REQUIRE(told(1000));
    CHECK(events.happened());
    CHECK(events.fd() == -1);
    events.watch({machine.pool.device, pool_dm_uuid(machine.uuid)});
    CHECK_FALSE(told(100));
}

TEST_CASE("a pool is made on loop files, stopped, and started with what it held", "[pool]") {
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    const auto live = machine.actor.read_pool_status({machine.pool, true});
    REQUIRE(live);
    CHECK(live->superblock.valid);
    CHECK(live->superblock.transaction_id == kTag + 1);
    CHECK(live->superblock.data_block_sectors == 128);
    CHECK(std::filesystem::exists(node_path(machine.pool.device)));

    const auto stopped = machine.actor.stop_pool({machine.spec});
    REQUIRE(stopped);
    CHECK_FALSE(stopped->loaded);
    CHECK_FALSE(std::filesystem::exists(node_path(machine.pool.device)));
    CHECK(machine.actor.stop_pool({machine.spec}));
    CHECK_FALSE(machine.actor.read_pool_status({machine.pool})->loaded);

    const auto started = machine.actor.start_pool({machine.spec, kTag + 1, kTag + 1});
    REQUIRE(started);
    CHECK(started->superblock.transaction_id == kTag + 1);
    CHECK(machine.actor.create_thin({machine.pool, 2})->error_number == EEXIST);
    CHECK(machine.actor.start_pool({machine.spec, kTag + 1, kTag + 1})->loaded);
}

TEST_CASE("the pool's loop devices stay without us", "[pool]") {
    Machine machine;
    machine.make_pool();
    const auto state = machine.actor.read_pool_status({machine.pool});
    for (const auto& path : {state->data_device, state->metadata_device}) {
        const std::string sysfs = "/sys/block/" + path.substr(5) + "/loop/";
        CHECK(read_file(sysfs + "autoclear").value() == "0\n");
    }
    CHECK(read_file("/sys/block/" + state->data_device.substr(5) + "/loop/backing_file").value() ==
          machine.pool_folder() + "/data\n");
}

TEST_CASE("the pool's loop devices do direct I/O, also over a disk with large blocks", "[pool]") {
    // With blocks of 512 bytes over a disk of 4096 the kernel silently left direct I/O out.
    const auto block_bytes = GENERATE(512, 4096);
    CAPTURE(block_bytes);
    const TemporaryFolder folder;
    const std::string image = folder / "disk";
    REQUIRE(Machine::run({"truncate", "-s", "1G", image}) == 0);
    const auto attached = run_process(
        {.arguments = {"losetup", "--find", "--show", "--sector-size", std::to_string(block_bytes), image}});
    REQUIRE(attached);
    REQUIRE(attached->exit_status == 0);
    const std::string disk = attached->output.substr(0, attached->output.find('\n'));
    REQUIRE(Machine::run({"mkfs.ext4", "-q", disk}) == 0);
    {
        Machine machine;
        const std::string pool_folder = machine.pool_folder();
        REQUIRE(mount(disk.c_str(), pool_folder.c_str(), "ext4", 0, nullptr) == 0);
        struct PutAway {
            Machine& machine;
            ~PutAway() {
                static_cast<void>(machine.actor.stop_pool({machine.spec}));
                umount2(machine.pool_folder().c_str(), 0);
            }
        } put_away{machine};
        machine.spec.data_sectors = 128 * kMib;
        machine.make_pool();
        const auto state = machine.actor.read_pool_status({machine.pool});
        for (const auto& path : {state->data_device, state->metadata_device}) {
            const std::string sysfs = "/sys/block/" + path.substr(5);
            CHECK(read_file(sysfs + "/loop/dio").value() == "1\n");
            CHECK(read_file(sysfs + "/queue/logical_block_size").value() == std::to_string(block_bytes) + "\n");
        }
        machine.make_thin(2);
        machine.activate(2, 64 * kMib);
        machine.format(2);
        REQUIRE(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
    }
    CHECK(Machine::run({"losetup", "--detach", disk}) == 0);
}

TEST_CASE("a zeroed, damaged, older, newer or foreign superblock is refused before any load", "[pool]") {
    Machine machine;
    machine.make_pool();
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    const std::string metadata = machine.pool_folder() + "/metadata";
    std::uint64_t confirmed = kTag + 1;
    std::uint64_t planned = kTag + 2;
    std::string saw;
    SECTION("zeroed") {
        overwrite(metadata, std::string(kSuperblockBytes, '\0'));
        saw = "all zero";
    }
    SECTION("damaged") {
        overwrite(metadata, "x", 2000);
        saw = "damaged";
    }
    SECTION("older") {
        confirmed = kTag + 2;
        saw = "older";
    }
    SECTION("newer") {
        confirmed = planned = kTag;
        saw = "newer";
    }
    SECTION("foreign") {
        confirmed = planned = kTag * 2;
        saw = "another pool";
    }
    const auto refused = machine.actor.start_pool({machine.spec, confirmed, planned});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::needs_repair);
    CHECK_THAT(refused.error().message, Catch::Contains(saw));
    CHECK(machine.dm.list("COWSLIP-" + machine.uuid)->empty());
    if (saw == "all zero") CHECK(parse_superblock(read_file(metadata, 64U << 20U)->substr(0, 4096)).zeroed);
}

TEST_CASE("swapped metadata of two pools made alike are not loaded", "[pool]") {
    Machine a;
    Machine b(std::string(32, 'b'));
    constexpr std::uint64_t kOther = std::uint64_t{9} << 32U;
    a.make_pool();
    REQUIRE(b.actor.create_pool({.spec = b.spec}));
    REQUIRE(b.actor.set_transaction_id({b.pool, 0, kOther + 1})->error_number == 0);
    REQUIRE(a.actor.stop_pool({a.spec}));
    REQUIRE(b.actor.stop_pool({b.spec}));
    const std::string kept = a.folder / "kept";
    std::filesystem::rename(a.pool_folder() + "/metadata", kept);
    std::filesystem::rename(b.pool_folder() + "/metadata", a.pool_folder() + "/metadata");
    std::filesystem::rename(kept, b.pool_folder() + "/metadata");
    CHECK(a.actor.start_pool({a.spec, kTag + 1, kTag + 1}).error().code == Errc::needs_repair);
    CHECK(b.actor.start_pool({b.spec, kOther + 1, kOther + 1}).error().code == Errc::needs_repair);
}

TEST_CASE("a pool's files are not made anew over another pool, but over a half made one of its own", "[pool]") {
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    machine.activate(2);
    overwrite(machine.path(2), "something");
    REQUIRE(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    CHECK(refused_create(machine).code == Errc::in_use);
    const auto again = machine.actor.create_pool({.spec = machine.spec, .own_transaction_id = kTag + 1});
    REQUIRE(again);
    CHECK(parse_thin_pool_status(again->status)->transaction_id == 0);
    CHECK(parse_thin_pool_status(again->status)->used_data_blocks == 0);
}

TEST_CASE("a loop file cut short or gone is named", "[pool]") {
    Machine machine;
    machine.make_pool();
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    REQUIRE(truncate((machine.pool_folder() + "/data").c_str(), 4096) == 0);
    auto refused = machine.actor.start_pool({machine.spec, kTag + 1, kTag + 1});
    CHECK(refused.error().code == Errc::needs_repair);
    CHECK_THAT(refused.error().message, Catch::Contains("/data' has 8 sectors"));
    std::filesystem::remove(machine.pool_folder() + "/metadata");
    refused = machine.actor.start_pool({machine.spec, kTag + 1, kTag + 1});
    CHECK_THAT(refused.error().message, Catch::Contains("/metadata' of the pool is gone"));
}

TEST_CASE("block devices are taken only from a list that root alone can write", "[pool]") {
    Machine machine;
    const LoopDisk data(64 * kMib);
    const LoopDisk metadata(8 * kMib);
    use_pair(machine, data, metadata);
    CHECK(refused_create(machine, true).code == Errc::permission_denied);
    list_devices(machine, {data.path()});
    CHECK(refused_create(machine, true).code == Errc::permission_denied);
    list_devices(machine, {data.path(), metadata.path()}, 0620);
    CHECK(refused_create(machine, true).code == Errc::permission_denied);
    list_devices(machine, {data.path(), metadata.path()});
    REQUIRE(chown(listing(machine).c_str(), 65534, 65534) == 0);
    CHECK(refused_create(machine, true).code == Errc::permission_denied);
    REQUIRE(chown(listing(machine).c_str(), 0, 0) == 0);
    const auto state = machine.actor.create_pool({.spec = machine.spec});
    REQUIRE(state);
    CHECK(state->spec.data_sectors == 64 * kMib);
    CHECK(state->data_device == data.path());
    CHECK(state->metadata_device == metadata.path());
    REQUIRE(machine.actor.set_transaction_id({machine.pool, 0, kTag + 1}));
    REQUIRE(machine.actor.stop_pool({machine.spec}));
    REQUIRE(machine.actor.start_pool({machine.spec, kTag + 1, kTag + 1}));
}

TEST_CASE("a block device that holds something is refused by its name, and taken with force", "[pool]") {
    Machine machine;
    const LoopDisk data(64 * kMib);
    const LoopDisk metadata(8 * kMib);
    use_pair(machine, data, metadata);
    list_devices(machine, {data.path(), metadata.path()});
    SECTION("a file system") {
        REQUIRE(Machine::run({"mkfs.ext4", "-q", "-L", "precious", data.path()}) == 0);
        const auto error = refused_create(machine);
        CHECK(error.code == Errc::in_use);
        CHECK_THAT(error.message, Catch::Contains("ext4") && Catch::Contains("precious"));
    }
    SECTION("swap space") {
        REQUIRE(Machine::run({"mkswap", metadata.path()}) == 0);
        CHECK_THAT(refused_create(machine).message, Catch::Contains("swap"));
    }
    SECTION("a pool") {
        Machine other(std::string(32, 'c'));
        use_pair(other, data, metadata);
        list_devices(other, {data.path(), metadata.path()});
        other.make_pool();
        CHECK(refused_create(machine, true).code == Errc::in_use);  // Live: also with force.
        REQUIRE(other.actor.stop_pool({other.spec}));
        CHECK_THAT(refused_create(machine).message, Catch::Contains("thin pool"));
    }
    CHECK(machine.actor.create_pool({.spec = machine.spec, .force = true}));
}

TEST_CASE("a damaged pool on a block device is refused, and taken with force", "[pool]") {
    // Whatever had a wrong checksum was formatted without --force, also what thin_repair could have mended.
    Machine machine;
    const LoopDisk data(64 * kMib);
    const LoopDisk metadata(8 * kMib);
    use_pair(machine, data, metadata);
    list_devices(machine, {data.path(), metadata.path()});
    {
        Machine other(std::string(32, 'c'));
        use_pair(other, data, metadata);
        list_devices(other, {data.path(), metadata.path()});
        other.make_pool();
        REQUIRE(other.actor.stop_pool({other.spec}));
    }
    overwrite(metadata.path(), "x", 2000);
    const auto error = refused_create(machine);
    CHECK(error.code == Errc::in_use);
    CHECK_THAT(error.message, Catch::Contains("damaged metadata of a thin pool"));
    CHECK(machine.actor.create_pool({.spec = machine.spec, .force = true}));
}

TEST_CASE("a pool on two devices is started by the names that root has listed", "[pool]") {
    // Its record had the kernel's names for them (/dev/loop0), which are not listed: it did not start again.
    Machine machine;
    const LoopDisk data(64 * kMib);
    const LoopDisk metadata(8 * kMib);
    use_pair(machine, data, metadata);
    machine.spec.data_path = machine.folder / "data-name";
    machine.spec.metadata_path = machine.folder / "metadata-name";
    REQUIRE(symlink(data.path().c_str(), machine.spec.data_path.c_str()) == 0);
    REQUIRE(symlink(metadata.path().c_str(), machine.spec.metadata_path.c_str()) == 0);
    list_devices(machine, {machine.spec.data_path, machine.spec.metadata_path});
    auto state = machine.actor.create_pool({.spec = machine.spec});
    REQUIRE(state);
    REQUIRE(machine.actor.set_transaction_id({machine.pool, 0, kTag + 1})->error_number == 0);
    for (int repeat = 0; repeat < 2; ++repeat) {
        CHECK(state->spec.data_path == machine.spec.data_path);
        CHECK(state->spec.metadata_path == machine.spec.metadata_path);
        CHECK(state->data_device == data.path());
        REQUIRE(machine.actor.stop_pool({state->spec}));
        state = machine.actor.start_pool({state->spec, kTag + 1, kTag + 1});
        REQUIRE(state);
    }
}

TEST_CASE("a mounted block device is refused with its mount point, also with force", "[pool]") {
    Machine machine;
    const LoopDisk data(64 * kMib);
    const LoopDisk metadata(8 * kMib);
    use_pair(machine, data, metadata);
    list_devices(machine, {data.path(), metadata.path()});
    REQUIRE(Machine::run({"mkfs.ext4", "-q", data.path()}) == 0);
    const std::string target = machine.folder / "other";
    REQUIRE(mkdir(target.c_str(), 0700) == 0);
    REQUIRE(mount(data.path().c_str(), target.c_str(), "ext4", 0, nullptr) == 0);
    const auto error = refused_create(machine, true);
    REQUIRE(umount(target.c_str()) == 0);
    CHECK(error.code == Errc::in_use);
    // udevd may be looking at it, too.
    CHECK_THAT(fmt::format("{}", fmt::join(error.details.at("holders"), "; ")), Catch::Contains(target));
}

TEST_CASE("two names of one device are not a pair", "[pool]") {
    Machine machine;
    const LoopDisk disk(64 * kMib);
    const std::string other = machine.folder / "other-name";
    REQUIRE(symlink(disk.path().c_str(), other.c_str()) == 0);
    use_pair(machine, disk, disk);
    machine.spec.metadata_path = other;
    list_devices(machine, {disk.path(), other});
    CHECK(refused_create(machine).code == Errc::invalid_argument);
}

TEST_CASE("a pool to be adopted is looked at, and used only once root has listed it", "[pool]") {
    Machine machine;
    const LoopDisk data(64 * kMib);
    const LoopDisk metadata(8 * kMib);
    const DmDevice theirs{"conform-theirs", ""};
    REQUIRE(machine.dm.create(theirs) == 0);
    struct Cleanup {
        Machine& machine;
        DmDevice device;
        ~Cleanup() {
            static_cast<void>(machine.dm.remove(machine.thin(2)));
            static_cast<void>(machine.dm.remove(device));
        }
    } cleanup{machine, theirs};
    CHECK(machine.actor.inspect_pool({theirs.name}).error().code == Errc::not_found);
    const std::string table = metadata.path() + " " + data.path() + " 256 7 1 no_discard_passdown";
    REQUIRE(machine.dm.load(theirs, {"thin-pool", 64 * kMib, table}, false) == 0);
    REQUIRE(machine.dm.resume(theirs) == 0);
    const auto found = machine.actor.inspect_pool({theirs.name});
    REQUIRE(found);
    CHECK(found->spec.block_sectors == 256);
    CHECK(found->spec.low_water_blocks == 7);
    CHECK_FALSE(found->spec.discard_passdown);
    CHECK(found->spec.data_path == data.path());
    CHECK(found->superblock.valid);
    CHECK(found->superblock.transaction_id == 0);

    machine.spec.pool.device = theirs.name;
    machine.spec.backing = "adopted";
    machine.pool.device = theirs.name;
    CHECK(machine.actor.create_thin({machine.pool, 2}).error().code == Errc::permission_denied);
    list_devices(machine, {node_path(theirs.name)});
    REQUIRE(machine.actor.start_pool({machine.spec, 0, 0}));
    CHECK(machine.actor.create_thin({machine.pool, 2})->error_number == 0);
    machine.activate(2);
    CHECK(machine.actor.list_active({machine.pool})->devices.size() == 1);
    CHECK(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
    CHECK(machine.actor.stop_pool({machine.spec})->loaded);
}

}  // namespace cowslip
