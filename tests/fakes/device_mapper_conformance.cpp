#include "tests/fakes/device_mapper_conformance.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "common/thin_pool.h"

namespace cowslip {

namespace {

constexpr const char* kUuidPrefix = "CONFORM-";
constexpr std::uint64_t kThinSectors = 32768;

DmDevice device(const std::string& name) {
    return {.name = "conform-" + name, .uuid = kUuidPrefix + name};
}

DmTarget pool_target(const ConformanceRig& rig, std::uint32_t block_sectors = 128) {
    const ThinPoolTable table{.metadata_device = rig.metadata, .data_device = rig.data, .block_sectors = block_sectors};
    return {.type = "thin-pool", .sectors = rig.data_sectors, .parameters = make_thin_pool_table(table)};
}

dev_t make_pool(ConformanceRig& rig, const DmDevice& pool) {
    REQUIRE(rig.dm.create(pool) == 0);
    REQUIRE(rig.dm.load(pool, pool_target(rig), false) == 0);
    REQUIRE(rig.dm.resume(pool) == 0);
    const auto info = rig.dm.find(pool);
    REQUIRE((info && *info));
    return (*info)->number;
}

DmTarget thin_target(dev_t pool, std::uint32_t thin_id, std::uint64_t sectors = kThinSectors) {
    return {.type = "thin",
            .sectors = sectors,
            .parameters = make_thin_table({.pool_device = device_number(pool), .thin_id = thin_id})};
}

void make_thin(ConformanceRig& rig, const DmDevice& thin, dev_t pool, std::uint32_t thin_id) {
    REQUIRE(rig.dm.create(thin) == 0);
    REQUIRE(rig.dm.load(thin, thin_target(pool, thin_id), false) == 0);
    REQUIRE(rig.dm.resume(thin) == 0);
}

DmInfo info(ConformanceRig& rig, const DmDevice& of) {
    const auto found = rig.dm.find(of);
    REQUIRE((found && *found));
    return **found;
}

ThinPoolStatus status(ConformanceRig& rig, const DmDevice& pool) {
    const auto text = rig.dm.status(pool);
    REQUIRE((text && *text));
    const auto parsed = parse_thin_pool_status((*text)->parameters);
    REQUIRE(parsed);
    return *parsed;
}

void absent_device(ConformanceRig& rig) {
    const auto nobody = device("nobody");
    CHECK_FALSE(rig.dm.find(nobody).value());
    CHECK_FALSE(rig.dm.table(nobody).value());
    CHECK_FALSE(rig.dm.status(nobody).value());
    CHECK(rig.dm.load(nobody, pool_target(rig), false) == ENXIO);
    CHECK(rig.dm.suspend(nobody, SuspendMode::freeze) == ENXIO);
    CHECK(rig.dm.resume(nobody) == ENXIO);
    CHECK(rig.dm.message(nobody, "create_thin 1") == ENXIO);
    CHECK(rig.dm.remove(nobody) == ENXIO);
}

void name_and_uuid_are_unique(ConformanceRig& rig) {
    const auto a = device("a");
    REQUIRE(rig.dm.create(a) == 0);
    CHECK(rig.dm.create(a) == EBUSY);
    CHECK(rig.dm.create({.name = a.name, .uuid = device("b").uuid}) == EBUSY);
    CHECK(rig.dm.create({.name = device("b").name, .uuid = a.uuid}) == EBUSY);
    CHECK(info(rig, a).device.name == a.name);
    CHECK(info(rig, {.name = a.name, .uuid = {}}).device.uuid == a.uuid);
    CHECK(rig.dm.list(kUuidPrefix)->size() == 1);
    CHECK(rig.dm.list("CONFORM-b")->empty());
    CHECK(rig.dm.remove(a) == 0);
}

void device_without_table(ConformanceRig& rig) {
    const auto a = device("a");
    REQUIRE(rig.dm.create(a) == 0);
    CHECK_FALSE(info(rig, a).live_table);
    CHECK_FALSE(info(rig, a).inactive_table);
    CHECK_FALSE(info(rig, a).suspended);
    CHECK_FALSE(rig.dm.table(a).value());
    CHECK(rig.dm.message(a, "create_thin 1") == EINVAL);
    CHECK(rig.dm.resume(a) == 0);
    CHECK_FALSE(info(rig, a).live_table);
    CHECK(rig.dm.remove(a) == 0);
}

void loaded_table_waits_for_resume(ConformanceRig& rig) {
    const auto pool = device("pool");
    REQUIRE(rig.dm.create(pool) == 0);
    REQUIRE(rig.dm.load(pool, pool_target(rig), false) == 0);
    CHECK_FALSE(info(rig, pool).live_table);
    CHECK(info(rig, pool).inactive_table);
    CHECK(rig.dm.message(pool, "create_thin 1") == EINVAL);
    REQUIRE(rig.dm.resume(pool) == 0);
    CHECK(info(rig, pool).live_table);
    CHECK_FALSE(info(rig, pool).inactive_table);
    const auto table = rig.dm.table(pool);
    REQUIRE((table && *table));
    CHECK((*table)->type == "thin-pool");
    CHECK((*table)->sectors == rig.data_sectors);
    const auto parsed = parse_thin_pool_table((*table)->parameters);
    REQUIRE(parsed);
    CHECK(parsed->metadata_device == rig.metadata);
    CHECK(parsed->data_device == rig.data);
    CHECK(rig.dm.remove(pool) == 0);
}

void zeroed_metadata_is_formatted(ConformanceRig& rig) {
    const auto pool = device("pool");
    make_pool(rig, pool);
    const auto fresh = status(rig, pool);
    CHECK(fresh.mode == PoolMode::rw);
    CHECK_FALSE(fresh.needs_check);
    CHECK(fresh.transaction_id == 0);
    CHECK(fresh.used_data_blocks == 0);
    CHECK(fresh.total_data_blocks == rig.data_sectors / 128);
    CHECK(fresh.held_root == 0);
    CHECK(rig.dm.message(pool, "create_thin 1") == 0);
    CHECK(rig.dm.message(pool, "set_transaction_id 0 5") == 0);
    REQUIRE(rig.dm.remove(pool) == 0);
    make_pool(rig, pool);  // What was committed is there again.
    CHECK(status(rig, pool).transaction_id == 5);
    CHECK(rig.dm.message(pool, "create_thin 1") == EEXIST);
    CHECK(rig.dm.remove(pool) == 0);
}

void bad_pool_tables(ConformanceRig& rig) {
    const auto pool = device("pool");
    const auto other = device("other");
    make_pool(rig, pool);
    REQUIRE(rig.dm.create(other) == 0);
    CHECK(rig.dm.load(other, pool_target(rig), false) == EBUSY);  // The metadata are the pool's.
    REQUIRE(rig.dm.remove(pool) == 0);
    auto target = pool_target(rig);
    target.parameters = fmt::format("{} {} 128 0", rig.metadata, rig.metadata);
    CHECK(rig.dm.load(other, target, false) == EINVAL);
    target = pool_target(rig, 64);
    CHECK(rig.dm.load(other, target, false) == EINVAL);
    target = pool_target(rig, 256);  // The metadata were formatted with 128.
    CHECK(rig.dm.load(other, target, false) == EINVAL);
    target = pool_target(rig);
    target.sectors = rig.data_sectors * 2;
    CHECK(rig.dm.load(other, target, false) == EINVAL);
    target.parameters = fmt::format("253:4000 {} 128 0", rig.data);
    CHECK(rig.dm.load(other, target, false) == ENXIO);
    rig.damage_superblock();
    CHECK(rig.dm.load(other, pool_target(rig), false) == EILSEQ);
    CHECK_FALSE(info(rig, other).inactive_table);
    CHECK(rig.dm.remove(other) == 0);
}

void message_errnos(ConformanceRig& rig) {
    const auto pool = device("pool");
    make_pool(rig, pool);
    CHECK(rig.dm.message(pool, "create_thin 1") == 0);
    CHECK(rig.dm.message(pool, "create_thin 1") == EEXIST);
    CHECK(rig.dm.message(pool, "create_snap 2 1") == 0);
    CHECK(rig.dm.message(pool, "create_snap 2 1") == EEXIST);
    CHECK(rig.dm.message(pool, "create_snap 2 99") == EEXIST);  // Before the origin is looked at.
    CHECK(rig.dm.message(pool, "create_snap 3 99") == ENODATA);
    CHECK(rig.dm.message(pool, "delete 99") == ENODATA);
    CHECK(rig.dm.message(pool, "create_thin 16777215") == 0);
    CHECK(rig.dm.message(pool, "create_thin 16777216") == EINVAL);
    CHECK(rig.dm.message(pool, "create_thin -1") == EINVAL);
    CHECK(rig.dm.message(pool, "create_thin") == EINVAL);
    CHECK(rig.dm.message(pool, "create_snap 4") == EINVAL);
    CHECK(rig.dm.message(pool, "brew 4") == EINVAL);
    CHECK(rig.dm.message(pool, "delete 1") == 0);  // Its snapshot stays.
    CHECK(rig.dm.message(pool, "delete 1") == ENODATA);
    CHECK(rig.dm.message(pool, "delete 2") == 0);
    CHECK(rig.dm.message(pool, "create_thin 2") == 0);
    CHECK(rig.dm.remove(pool) == 0);
}

void transaction_id_is_compared(ConformanceRig& rig) {
    const auto pool = device("pool");
    make_pool(rig, pool);
    CHECK(rig.dm.message(pool, "set_transaction_id 1 2") == EINVAL);
    CHECK(rig.dm.message(pool, "set_transaction_id 0 4503599627370497") == 0);
    CHECK(status(rig, pool).transaction_id == 4503599627370497);
    CHECK(rig.dm.message(pool, "set_transaction_id 0 4503599627370497") == EINVAL);
    CHECK(rig.dm.message(pool, "set_transaction_id 4503599627370497 3") == 0);  // Also backwards.
    CHECK(status(rig, pool).transaction_id == 3);
    CHECK(rig.dm.remove(pool) == 0);
}

void one_metadata_snapshot(ConformanceRig& rig) {
    const auto pool = device("pool");
    make_pool(rig, pool);
    CHECK(rig.dm.message(pool, kReleaseMetadataSnapMessage) == EINVAL);
    CHECK(rig.dm.message(pool, kReserveMetadataSnapMessage) == 0);
    CHECK(status(rig, pool).held_root != 0);
    CHECK(rig.dm.message(pool, kReserveMetadataSnapMessage) == EBUSY);
    REQUIRE(rig.dm.remove(pool) == 0);
    make_pool(rig, pool);
    CHECK(status(rig, pool).held_root != 0);  // It outlives the pool's device.
    CHECK(rig.dm.message(pool, kReleaseMetadataSnapMessage) == 0);
    CHECK(status(rig, pool).held_root == 0);
    CHECK(rig.dm.remove(pool) == 0);
}

void thin_activation(ConformanceRig& rig) {
    const auto pool = device("pool");
    const auto thin = device("thin");
    const dev_t number = make_pool(rig, pool);
    REQUIRE(rig.dm.message(pool, "create_thin 1") == 0);
    REQUIRE(rig.dm.create(thin) == 0);
    CHECK(rig.dm.load(thin, thin_target(number, 2), false) == ENODATA);
    CHECK(rig.dm.load(thin, thin_target(info(rig, thin).number, 1), false) != 0);
    CHECK(rig.dm.load(thin, thin_target(number, 1), false) == 0);
    CHECK(info(rig, pool).open_count == 1);  // Already by the table that waits.
    CHECK(rig.dm.load(thin, thin_target(number, 1, kThinSectors * 2), false) == 0);
    CHECK(rig.dm.resume(thin) == 0);
    CHECK(info(rig, pool).open_count == 1);
    CHECK_FALSE(info(rig, thin).read_only);
    CHECK(rig.dm.table(thin).value()->parameters == make_thin_table({device_number(number), 1}));
    CHECK(rig.dm.table(thin).value()->sectors == kThinSectors * 2);
    CHECK(rig.dm.message(thin, "create_thin 5") == EINVAL);
    CHECK(rig.dm.remove(pool) == EBUSY);
    CHECK(rig.dm.message(pool, "delete 1") == EBUSY);
    CHECK(rig.dm.remove(thin) == 0);
    CHECK(info(rig, pool).open_count == 0);
    CHECK(rig.dm.message(pool, "delete 1") == 0);
    CHECK(rig.dm.remove(pool) == 0);
}

void thin_active_twice(ConformanceRig& rig) {
    const auto pool = device("pool");
    const dev_t number = make_pool(rig, pool);
    REQUIRE(rig.dm.message(pool, "create_thin 1") == 0);
    make_thin(rig, device("thin"), number, 1);
    make_thin(rig, device("again"), number, 1);  // Hence the uuid from pool and thin id.
    CHECK(info(rig, pool).open_count == 2);
    CHECK(rig.dm.remove(device("thin")) == 0);
    CHECK(rig.dm.message(pool, "delete 1") == EBUSY);
    CHECK(rig.dm.remove(device("again")) == 0);
    CHECK(rig.dm.remove(pool) == 0);
}

void read_only_thin(ConformanceRig& rig) {
    const auto pool = device("pool");
    const auto thin = device("thin");
    const dev_t number = make_pool(rig, pool);
    REQUIRE(rig.dm.message(pool, "create_thin 1") == 0);
    REQUIRE(rig.dm.create(thin) == 0);
    REQUIRE(rig.dm.load(thin, thin_target(number, 1), true) == 0);
    REQUIRE(rig.dm.resume(thin) == 0);
    CHECK(info(rig, thin).read_only);
    REQUIRE(rig.dm.load(thin, thin_target(number, 1), false) == 0);
    CHECK(info(rig, thin).read_only);
    REQUIRE(rig.dm.resume(thin) == 0);
    CHECK_FALSE(info(rig, thin).read_only);
    CHECK(rig.dm.remove(thin) == 0);
    CHECK(rig.dm.remove(pool) == 0);
}

void suspended_pool(ConformanceRig& rig) {
    const auto pool = device("pool");
    const auto thin = device("thin");
    const dev_t number = make_pool(rig, pool);
    REQUIRE(rig.dm.message(pool, "create_thin 1") == 0);
    REQUIRE(rig.dm.suspend(pool, SuspendMode::freeze) == 0);
    CHECK(info(rig, pool).suspended);
    CHECK(rig.dm.message(pool, "create_thin 2") == 0);
    REQUIRE(rig.dm.create(thin) == 0);
    CHECK(rig.dm.load(thin, thin_target(number, 1), false) == EINVAL);
    REQUIRE(rig.dm.resume(pool) == 0);
    CHECK(rig.dm.load(thin, thin_target(number, 1), false) == 0);
    CHECK(rig.dm.remove(thin) == 0);
    CHECK(rig.dm.remove(pool) == 0);
}

void suspend_does_not_count(ConformanceRig& rig) {
    const auto pool = device("pool");
    const auto thin = device("thin");
    const dev_t number = make_pool(rig, pool);
    REQUIRE(rig.dm.message(pool, "create_thin 1") == 0);
    make_thin(rig, thin, number, 1);
    CHECK(rig.dm.suspend(thin, SuspendMode::freeze) == 0);
    CHECK(rig.dm.suspend(thin, SuspendMode::freeze) == 0);
    CHECK(info(rig, thin).suspended);
    CHECK(rig.dm.message(pool, "create_snap 2 1") == 0);
    CHECK(rig.dm.resume(thin) == 0);
    CHECK_FALSE(info(rig, thin).suspended);
    CHECK(rig.dm.resume(thin) == 0);
    CHECK(rig.dm.suspend(thin, SuspendMode::no_flush) == 0);
    CHECK(info(rig, thin).suspended);
    CHECK(rig.dm.remove(thin) == 0);  // Also while suspended.
    CHECK(rig.dm.remove(pool) == 0);
}

// What a pool that grows relies on, and one whose actor died while it did.
void pool_takes_a_longer_table(ConformanceRig& rig) {
    const auto pool = device("pool");
    auto whole = pool_target(rig);
    auto half = whole;
    half.sectors = rig.data_sectors / 2;
    REQUIRE(rig.dm.create(pool) == 0);
    REQUIRE(rig.dm.load(pool, half, false) == 0);
    REQUIRE(rig.dm.resume(pool) == 0);
    REQUIRE(rig.dm.load(pool, whole, false) == 0);
    REQUIRE(rig.dm.suspend(pool, SuspendMode::no_flush) == 0);
    CHECK(status(rig, pool).total_data_blocks == half.sectors / 128);
    REQUIRE(rig.dm.resume(pool) == 0);
    CHECK(status(rig, pool).total_data_blocks == whole.sectors / 128);
    CHECK(rig.dm.table(pool).value()->sectors == whole.sectors);
    // A shorter one is refused at its resume, which leaves it live and the pool suspended.
    REQUIRE(rig.dm.load(pool, half, false) == 0);
    CHECK(rig.dm.resume(pool) == EINVAL);
    CHECK(info(rig, pool).suspended);
    CHECK(rig.dm.table(pool).value()->sectors == half.sectors);
    REQUIRE(rig.dm.load(pool, whole, false) == 0);
    CHECK(rig.dm.resume(pool) == 0);
    CHECK_FALSE(info(rig, pool).suspended);
    CHECK(status(rig, pool).mode == PoolMode::rw);
    REQUIRE(rig.dm.remove(pool) == 0);
    // So it is with metadata that were committed longer.
    REQUIRE(rig.dm.create(pool) == 0);
    REQUIRE(rig.dm.load(pool, half, false) == 0);
    CHECK(rig.dm.resume(pool) == EINVAL);
    CHECK(rig.dm.remove(pool) == 0);
}

void pool_takes_more_metadata(ConformanceRig& rig) {
    const auto pool = device("pool");
    make_pool(rig, pool);
    const std::uint64_t before = status(rig, pool).total_metadata_blocks;
    rig.grow_metadata();
    CHECK(status(rig, pool).total_metadata_blocks == before);
    REQUIRE(rig.dm.suspend(pool, SuspendMode::no_flush) == 0);
    REQUIRE(rig.dm.resume(pool) == 0);  // With the same table.
    CHECK(status(rig, pool).total_metadata_blocks == before * 2);
    CHECK(status(rig, pool).mode == PoolMode::rw);
    CHECK(rig.dm.remove(pool) == 0);
}

// Also without a table of its own: what it has live is looked at again.
void refused_pool_stays_refused(ConformanceRig& rig) {
    const auto pool = device("pool");
    make_pool(rig, pool);
    auto half = pool_target(rig);
    half.sectors /= 2;
    REQUIRE(rig.dm.load(pool, half, false) == 0);
    CHECK(rig.dm.resume(pool) == EINVAL);
    CHECK(rig.dm.resume(pool) == EINVAL);
    CHECK(info(rig, pool).suspended);
    REQUIRE(rig.dm.load(pool, pool_target(rig), false) == 0);
    CHECK(rig.dm.resume(pool) == 0);
    CHECK(rig.dm.remove(pool) == 0);
}

void running_pool_is_not_resumed(ConformanceRig& rig) {
    const auto pool = device("pool");
    make_pool(rig, pool);
    const std::uint64_t before = status(rig, pool).total_metadata_blocks;
    rig.grow_metadata();
    REQUIRE(rig.dm.resume(pool) == 0);
    CHECK(status(rig, pool).total_metadata_blocks == before);
    CHECK(rig.dm.remove(pool) == 0);
}

// "<mapped sectors> <highest mapped sector>"
std::string mapped(ConformanceRig& rig, const DmDevice& thin) {
    const auto line = rig.dm.status(thin);
    REQUIRE((line && *line));
    return (*line)->parameters;
}

void blocks_are_shared(ConformanceRig& rig) {
    const auto pool = device("pool");
    const auto origin = device("origin");
    const auto snap = device("snap");
    const dev_t number = make_pool(rig, pool);
    const auto used = [&] {
        REQUIRE(rig.dm.message(pool, "set_transaction_id 0 0") == 0);  // It commits.
        return status(rig, pool).used_data_blocks;
    };
    REQUIRE(rig.dm.message(pool, "create_thin 1") == 0);
    make_thin(rig, origin, number, 1);
    CHECK(mapped(rig, origin) == "0 -");
    CHECK(rig.write(origin, 2, 6) == 0);
    CHECK(mapped(rig, origin) == "512 767");
    CHECK(used() == 4);
    REQUIRE(rig.dm.suspend(origin, SuspendMode::freeze) == 0);
    REQUIRE(rig.dm.message(pool, "create_snap 2 1") == 0);
    REQUIRE(rig.dm.resume(origin) == 0);
    make_thin(rig, snap, number, 2);
    CHECK(mapped(rig, snap) == "512 767");
    CHECK(used() == 4);
    CHECK(rig.write(snap, 2, 3) == 0);
    CHECK(rig.write(snap, 2, 3) == 0);  // It has its own now.
    CHECK(mapped(rig, snap) == "512 767");
    CHECK(used() == 5);
    // Nobody shares it any more. That is told by the clock alone, which does not know.
    CHECK(rig.write(origin, 2, 3) == 0);
    CHECK(used() == 5);
    CHECK(rig.discard(origin, 4, 6) == 0);  // The snapshot still has them.
    CHECK(mapped(rig, origin) == "256 511");
    CHECK(used() == 5);
    REQUIRE(rig.dm.message(pool, kReserveMetadataSnapMessage) == 0);
    CHECK(rig.discard(snap, 0, 8) == 0);
    CHECK(mapped(rig, snap) == "0 -");
    CHECK(used() == 5);  // And so has the metadata snapshot.
    REQUIRE(rig.dm.message(pool, kReleaseMetadataSnapMessage) == 0);
    CHECK(used() == 2);
    CHECK(rig.dm.remove(snap) == 0);
    CHECK(rig.dm.remove(origin) == 0);
    CHECK(rig.dm.remove(pool) == 0);
}

void full_pool(ConformanceRig& rig) {
    const auto pool = device("pool");
    const auto thin = device("thin");
    ThinPoolTable table{.metadata_device = rig.metadata, .data_device = rig.data};
    table.error_if_no_space = true;
    DmTarget target{.type = "thin-pool", .sectors = 8 * 128, .parameters = make_thin_pool_table(table)};
    REQUIRE(rig.dm.create(pool) == 0);
    REQUIRE(rig.dm.load(pool, target, false) == 0);
    REQUIRE(rig.dm.resume(pool) == 0);
    REQUIRE(rig.dm.message(pool, "create_thin 1") == 0);
    make_thin(rig, thin, info(rig, pool).number, 1);
    CHECK(rig.write(thin, 0, 8) == 0);
    CHECK(rig.dm.message(pool, "set_transaction_id 0 0") == 0);
    CHECK(status(rig, pool).mode == PoolMode::rw);  // Until somebody wants one more.
    CHECK(rig.write(thin, 8, 9) == ENOSPC);
    CHECK(status(rig, pool).mode == PoolMode::out_of_data_space);
    CHECK(rig.write(thin, 0, 8) == 0);
    CHECK(rig.dm.message(pool, "create_snap 2 1") == 0);
    CHECK(rig.write(thin, 0, 1) == ENOSPC);  // It is shared now.
    CHECK(rig.dm.message(pool, "delete 2") == 0);
    CHECK(status(rig, pool).mode == PoolMode::out_of_data_space);
    CHECK(rig.discard(thin, 7, 8) == 0);
    CHECK(rig.dm.message(pool, "set_transaction_id 0 0") == 0);  // It commits, and sees that one is free.
    CHECK(status(rig, pool).mode == PoolMode::rw);
    CHECK(rig.write(thin, 0, 1) == 0);
    CHECK(status(rig, pool).used_data_blocks == 7);  // That has freed one, which nobody gets before a commit.
    CHECK(rig.dm.message(pool, "set_transaction_id 0 0") == 0);
    CHECK(rig.write(thin, 7, 8) == 0);
    CHECK(rig.write(thin, 8, 9) == ENOSPC);
    REQUIRE(rig.dm.load(pool, target, false) == 0);
    REQUIRE(rig.dm.resume(pool) == 0);
    CHECK(status(rig, pool).mode == PoolMode::rw);  // A new table lets it try anew.
    CHECK(rig.write(thin, 8, 9) == ENOSPC);
    target.sectors *= 2;
    REQUIRE(rig.dm.load(pool, target, false) == 0);
    REQUIRE(rig.dm.resume(pool) == 0);
    CHECK(status(rig, pool).mode == PoolMode::rw);
    CHECK(rig.write(thin, 8, 9) == 0);
    CHECK(rig.dm.remove(thin) == 0);
    CHECK(rig.dm.remove(pool) == 0);
}

void failed_commit(ConformanceRig& rig) {
    const auto pool = device("pool");
    const auto thin = device("thin");
    const dev_t number = make_pool(rig, pool);
    REQUIRE(rig.dm.message(pool, "create_thin 1") == 0);
    make_thin(rig, thin, number, 1);
    CHECK(rig.write(thin, 0, 1) == 0);
    REQUIRE(rig.dm.message(pool, "set_transaction_id 0 5") == 0);
    rig.fail_metadata_writes();
    CHECK(rig.write(thin, 1, 2) == 0);
    REQUIRE(rig.dm.message(pool, "set_transaction_id 5 6") == 0);  // That is all that is said.
    const auto failed = status(rig, pool);
    CHECK(failed.mode == PoolMode::ro);
    CHECK(failed.needs_check);
    CHECK(failed.transaction_id == 6);
    CHECK(failed.used_data_blocks == 1);
    CHECK(mapped(rig, thin) == "256 127");  // It has counted the block that was taken back.
    CHECK(rig.write(thin, 0, 1) == 0);
    CHECK(rig.write(thin, 1, 2) == EIO);
    CHECK(rig.discard(thin, 0, 1) == 0);
    CHECK(mapped(rig, thin) == "256 127");  // Nothing was done.
    CHECK(rig.dm.message(pool, "create_thin 2") == EOPNOTSUPP);
    CHECK(rig.dm.message(pool, "brew") == EOPNOTSUPP);
    REQUIRE(rig.dm.load(pool, pool_target(rig), false) == 0);
    REQUIRE(rig.dm.resume(pool) == 0);
    CHECK(status(rig, pool).mode == PoolMode::ro);
    REQUIRE(rig.dm.remove(thin) == 0);
    REQUIRE(rig.dm.remove(pool) == 0);
    // needs_check was to be written with that, and could not.
    make_pool(rig, pool);
    CHECK(status(rig, pool).mode == PoolMode::rw);
    CHECK(status(rig, pool).transaction_id == 5);
    REQUIRE(rig.dm.suspend(pool, SuspendMode::no_flush) == 0);
    REQUIRE(rig.dm.resume(pool) == 0);
    CHECK(status(rig, pool).mode == PoolMode::rw);                    // There was nothing to commit.
    CHECK(rig.dm.message(pool, kReserveMetadataSnapMessage) == EIO);  // It commits by itself, and nothing comes of it.
    CHECK(status(rig, pool).mode == PoolMode::rw);
    CHECK(rig.dm.message(pool, kReserveMetadataSnapMessage) == EPERM);
    CHECK(status(rig, pool).needs_check);
    rig.heal_metadata();
    REQUIRE(rig.dm.remove(pool) == 0);
    make_pool(rig, pool);
    CHECK(status(rig, pool).mode == PoolMode::ro);
    CHECK(status(rig, pool).needs_check);
    CHECK(rig.dm.remove(pool) == 0);
}

void failed_pool(ConformanceRig& rig) {
    const auto pool = device("pool");
    const auto thin = device("thin");
    const dev_t number = make_pool(rig, pool);
    REQUIRE(rig.dm.message(pool, "create_thin 1") == 0);
    make_thin(rig, thin, number, 1);
    CHECK(rig.write(thin, 0, 1) == 0);
    REQUIRE(rig.dm.message(pool, "set_transaction_id 0 5") == 0);
    rig.lose_metadata();
    REQUIRE(rig.dm.suspend(pool, SuspendMode::no_flush) == 0);  // It commits.
    rig.heal_metadata();
    CHECK(rig.dm.resume(pool) == 0);
    CHECK(rig.dm.status(pool).value()->parameters == "Fail");
    CHECK(parse_thin_pool_table(rig.dm.table(pool).value()->parameters));
    CHECK(mapped(rig, thin) == "Fail");
    CHECK(rig.dm.table(thin).value()->parameters == "Fail");
    CHECK(rig.write(thin, 0, 1) == EIO);
    CHECK(rig.discard(thin, 0, 1) == EIO);
    CHECK(rig.dm.message(pool, "create_thin 2") == EOPNOTSUPP);
    CHECK(rig.dm.load(pool, pool_target(rig), false) == EINVAL);
    CHECK(rig.dm.load(thin, thin_target(number, 1), false) == EINVAL);
    REQUIRE(rig.dm.remove(thin) == 0);
    REQUIRE(rig.dm.remove(pool) == 0);
    make_pool(rig, pool);  // As it was at its last commit.
    CHECK(status(rig, pool).mode == PoolMode::rw);
    CHECK(status(rig, pool).transaction_id == 5);
    CHECK(status(rig, pool).used_data_blocks == 1);
    CHECK(rig.dm.remove(pool) == 0);
}

// While it is open, as a mounted one is.
void live_thin_grows(ConformanceRig& rig) {
    const auto pool = device("pool");
    const auto thin = device("thin");
    const dev_t number = make_pool(rig, pool);
    REQUIRE(rig.dm.message(pool, "create_thin 1") == 0);
    make_thin(rig, thin, number, 1);
    rig.open(thin);
    DmTarget larger = thin_target(number, 1);
    larger.sectors *= 2;
    REQUIRE(rig.dm.load(thin, larger, false) == 0);
    CHECK(rig.dm.table(thin).value()->sectors == larger.sectors / 2);
    REQUIRE(rig.dm.suspend(thin, SuspendMode::no_flush) == 0);
    REQUIRE(rig.dm.resume(thin) == 0);
    CHECK(rig.dm.table(thin).value()->sectors == larger.sectors);
    rig.close(thin);
    CHECK(rig.dm.remove(thin) == 0);
    CHECK(rig.dm.remove(pool) == 0);
}

void open_device_stays(ConformanceRig& rig) {
    const auto pool = device("pool");
    const auto thin = device("thin");
    const dev_t number = make_pool(rig, pool);
    REQUIRE(rig.dm.message(pool, "create_thin 1") == 0);
    make_thin(rig, thin, number, 1);
    rig.open(thin);
    CHECK(info(rig, thin).open_count == 1);
    CHECK(rig.dm.remove(thin) == EBUSY);
    rig.close(thin);
    CHECK(info(rig, thin).open_count == 0);
    CHECK(rig.dm.remove(thin) == 0);
    CHECK(rig.dm.remove(pool) == 0);
}

}  // namespace

const std::vector<ConformanceCase>& conformance_cases() {
    static const std::vector<ConformanceCase> kCases = {
        {"an absent device is nothing to look at and ENXIO to do anything with", absent_device},
        {"a name and a uuid can be taken only once", name_and_uuid_are_unique},
        {"a device without a table answers no message", device_without_table},
        {"a loaded table waits for its resume", loaded_table_waits_for_resume},
        {"zeroed metadata are formatted without a word, and committed ones are kept", zeroed_metadata_is_formatted},
        {"a pool table that does not fit is refused at its load", bad_pool_tables},
        {"each refused message has its errno", message_errnos},
        {"the transaction id is set by compare-and-swap", transaction_id_is_compared},
        {"there is one metadata snapshot, which outlives the pool's device", one_metadata_snapshot},
        {"a thin needs its id in the pool, holds the pool open and cannot be deleted while active", thin_activation},
        {"the kernel lets one thin id be active twice under two uuids", thin_active_twice},
        {"a read-only table makes a read-only device, at its resume", read_only_thin},
        {"a suspended pool takes messages but no thin table", suspended_pool},
        {"suspending twice is undone by one resume", suspend_does_not_count},
        {"a pool takes a longer table at its resume, and no shorter one", pool_takes_a_longer_table},
        {"a pool that was refused for its table is refused again at each resume", refused_pool_stays_refused},
        {"a pool that runs is not resumed", running_pool_is_not_resumed},
        {"a snapshot shares blocks until they are written to", blocks_are_shared},
        {"a pool is full once a block is wanted and none is left", full_pool},
        {"a commit that fails takes the pool out of service, which is written down at its removal", failed_commit},
        {"a pool that cannot go back to its last commit fails until it is removed", failed_pool},
        {"a pool looks at each resume how large its metadata's device is", pool_takes_more_metadata},
        {"a device that is open gets a larger table, with its next resume", live_thin_grows},
        {"a device that somebody has open is not removed", open_device_stays},
    };
    return kCases;
}

void remove_conformance_devices(DeviceMapper& dm) {
    for (int round = 0; round < 2; ++round) {  // The thins first, then the pools that they held open.
        const auto left = dm.list(kUuidPrefix);
        if (!left) return;
        for (const auto& found : *left) {
            static_cast<void>(dm.remove(found.device));
        }
    }
}

}  // namespace cowslip
