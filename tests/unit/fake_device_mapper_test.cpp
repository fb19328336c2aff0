#include "tests/fakes/fake_device_mapper.h"

#include <catch2/catch.hpp>

#include "tests/fakes/device_mapper_conformance.h"

namespace cowslip {

TEST_CASE("the fake device-mapper answers as the kernel does", "[device_mapper]") {
    for (const auto& conformance : conformance_cases()) {
        DYNAMIC_SECTION(conformance.sentence) {
            FakeKernel kernel;
            kernel.add_disk("/dev/vda", 8192);
            kernel.add_disk("/dev/vdb", 131072);
            FakeDeviceMapper dm(kernel);
            ConformanceRig rig{.dm = dm,
                               .metadata = device_number(kernel.blocks.at("/dev/vda").number),
                               .data = device_number(kernel.blocks.at("/dev/vdb").number),
                               .data_sectors = 131072,
                               .open = [&](const DmDevice& device) { kernel.open(device); },
                               .close = [&](const DmDevice& device) { kernel.close(device); },
                               .write = [&](const DmDevice& device, std::uint64_t begin,
                                            std::uint64_t end) { return kernel.write(device, begin, end); },
                               .discard = [&](const DmDevice& device, std::uint64_t begin,
                                              std::uint64_t end) { return kernel.discard(device, begin, end); },
                               .damage_superblock = [&] { kernel.media.at("/dev/vda").metadata.damaged = true; },
                               .grow_metadata = [&] { kernel.media.at("/dev/vda").sectors *= 2; },
                               .fail_metadata_writes = [&] { kernel.fail_commits = ~0U; },
                               .lose_metadata =
                                   [&] {
                                       kernel.fail_commits = ~0U;
                                       kernel.media.at("/dev/vda").unreadable = true;
                                   },
                               .heal_metadata =
                                   [&] {
                                       kernel.fail_commits = 0;
                                       kernel.media.at("/dev/vda").unreadable = false;
                                   }};
            conformance.run(rig);
            CHECK(kernel.devices.empty());
        }
    }
}

TEST_CASE("a failed commit takes the fake pool back and out of service", "[device_mapper]") {
    FakeKernel kernel;
    kernel.add_disk("/dev/vda", 8192);
    kernel.add_disk("/dev/vdb", 131072);
    FakeDeviceMapper dm(kernel);
    const DmDevice pool{.name = "pool", .uuid = "u"};
    const auto status = [&] { return dm.status(pool).value()->parameters; };
    REQUIRE(dm.create(pool) == 0);
    REQUIRE(dm.load(pool, {"thin-pool", 131072, "/dev/vda /dev/vdb 128 0"}, false) == 0);
    REQUIRE(dm.resume(pool) == 0);
    REQUIRE(dm.message(pool, "create_thin 1") == 0);
    kernel.fail_commits = 1;
    CHECK(dm.message(pool, "create_thin 2") == 0);
    CHECK(judge(0, status(), 0, 0) == Outcome::unknown);
    CHECK_THAT(status(), Catch::Contains("ro") && Catch::Contains("needs_check"));
    CHECK(dm.message(pool, "create_thin 3") == EOPNOTSUPP);
    CHECK(kernel.pools.begin()->second.core.thins.size() == 1);
    const FakeMetadata& disk = kernel.media.at("/dev/vda").metadata;
    CHECK(disk.thins.size() == 1);
    CHECK_FALSE(disk.needs_check);  // A power cut would leave nothing of it.
    REQUIRE(dm.remove(pool) == 0);
    CHECK(disk.needs_check);
}

TEST_CASE("a fake pool full of data still commits, one full of metadata answers no more", "[device_mapper]") {
    FakeKernel kernel;
    kernel.add_disk("/dev/vda", 8192);
    kernel.add_disk("/dev/vdb", 12800);
    FakeDeviceMapper dm(kernel);
    const DmDevice pool{.name = "pool", .uuid = "u"};
    const DmDevice thin{.name = "thin", .uuid = "t"};
    const auto status = [&] { return dm.status(pool).value()->parameters; };
    REQUIRE(dm.create(pool) == 0);
    REQUIRE(dm.load(pool, {"thin-pool", 12800, "/dev/vda /dev/vdb 128 0 1 error_if_no_space"}, false) == 0);
    REQUIRE(dm.resume(pool) == 0);
    REQUIRE(dm.message(pool, "create_thin 1") == 0);
    REQUIRE(dm.create(thin) == 0);
    REQUIRE(dm.load(thin, {"thin", 65536, device_number(kernel.number_of(pool)) + " 1"}, false) == 0);
    REQUIRE(dm.resume(thin) == 0);
    CHECK(kernel.write(thin, 99) == 0);
    CHECK(kernel.write(thin, 2) == ENOSPC);
    CHECK_THAT(status(), Catch::Contains("out_of_data_space"));
    CHECK(dm.message(pool, "create_thin 2") == 0);
    CHECK(judge(0, status(), 0, 0) == Outcome::done);
    REQUIRE(dm.remove(thin) == 0);
    CHECK(dm.message(pool, "delete 1") == 0);
    CHECK_THAT(status(), Catch::Contains(" rw "));

    kernel.used_metadata_blocks = 1022;  // The very message that fills it is done, and cannot be seen to be.
    CHECK(dm.message(pool, "create_thin 3") == 0);
    CHECK(judge(0, status(), 0, 0) == Outcome::unknown);
    CHECK(dm.message(pool, "delete 3") == EOPNOTSUPP);
}

}  // namespace cowslip
