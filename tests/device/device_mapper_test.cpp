#include "common/device_mapper.h"

#include <catch2/catch.hpp>

#include "tests/device/direct_io.h"
#include "tests/device/faulty_disk.h"
#include "tests/fakes/device_mapper_conformance.h"

namespace cowslip {

namespace {

void damage(const FaultyDisk& disk) {
    const Fd device(open(disk.path().c_str(), O_WRONLY | O_CLOEXEC));
    REQUIRE(pwrite(device.get(), "damage", 6, 100) == 6);
    REQUIRE(fsync(device.get()) == 0);
}

}  // namespace

TEST_CASE("the kernel answers as the fake device-mapper does", "[device_mapper]") {
    for (const auto& conformance : conformance_cases()) {
        DYNAMIC_SECTION(conformance.sentence) {
            auto dm = KernelDeviceMapper::open();
            REQUIRE(dm);
            FaultyDisk metadata(*dm, 8192);
            const LoopDisk data(131072);
            Fd opened;
            ConformanceRig rig{.dm = *dm,
                               .metadata = metadata.number(),
                               .data = data.number(),
                               .data_sectors = 131072,
                               .open =
                                   [&](const DmDevice& device) {
                                       const auto node = dm->ensure_node(dm->find(device).value().value());
                                       opened = Fd(open(node.value().c_str(), O_RDONLY | O_CLOEXEC));
                                       REQUIRE(opened);
                                   },
                               .close = [&](const DmDevice&) { opened.close(); },
                               .write =
                                   [&](const DmDevice& device, std::uint64_t begin, std::uint64_t end) {
                                       return DirectIo(*dm, device, O_RDWR).write(begin * 128, end * 128, 7);
                                   },
                               .discard =
                                   [&](const DmDevice& device, std::uint64_t begin, std::uint64_t end) {
                                       return DirectIo(*dm, device, O_RDWR).discard(begin * 128, end * 128);
                                   },
                               .damage_superblock = [&] { damage(metadata); },
                               .grow_metadata = [&] { metadata.grow(16384); },
                               .fail_metadata_writes = [&] { metadata.fail_writes(); },
                               .lose_metadata = [&] { metadata.fail_all(); },
                               .heal_metadata = [&] { metadata.heal(); }};
            struct Cleanup {
                DeviceMapper& dm;
                ~Cleanup() { remove_conformance_devices(dm); }
            } cleanup{*dm};
            conformance.run(rig);
            CHECK(dm->list("CONFORM-")->empty());
        }
    }
}

TEST_CASE("a node of another device's number is made anew, and goes with its device", "[device_mapper]") {
    auto dm = KernelDeviceMapper::open();
    REQUIRE(dm);
    const DmDevice device{"conform-node", "CONFORM-node"};
    const std::string path = node_path(device.name);
    struct Cleanup {
        DeviceMapper& dm;
        ~Cleanup() { remove_conformance_devices(dm); }
    } cleanup{*dm};
    const LoopDisk disk(8192);
    REQUIRE(dm->create(device) == 0);
    REQUIRE(dm->load(device, {"linear", 8192, disk.path() + " 0"}, false) == 0);
    REQUIRE(dm->resume(device) == 0);
    REQUIRE(mknod(path.c_str(), S_IFBLK | 0600, block_device_number(disk.path()).value()) == 0);
    const auto info = dm->find(device).value().value();
    CHECK(dm->ensure_node(info).value() == path);
    CHECK(block_device_number(path).value() == info.number);
    CHECK(dm->ensure_node(info).value() == path);
    REQUIRE(dm->remove(device) == 0);
    CHECK(access(path.c_str(), F_OK) != 0);
}

}  // namespace cowslip
