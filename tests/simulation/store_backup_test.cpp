// Backups of the store beside it: made while work goes on; whole or not there, whatever dies or fills up.
#include <algorithm>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "services/pool_manager/store_image.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

using Names = std::vector<std::string>;

Names files_of_backups(World& world) {
    Names names;
    for (const auto& [name, bytes] : world.disk.image()) {
        if (name.starts_with("backups/")) names.push_back(name);
    }
    return names;
}

// Of the store in that file, which must be whole.
Names volumes_in(World& world, const std::string& file) {
    const auto verified = verify_store({world.disk.image().at(file), ""});
    INFO((verified ? "" : verified.error().message));
    REQUIRE(verified);
    FakeDisk disk;
    disk.put({{"store.db", world.disk.image().at(file)}});
    auto store = Store::open("store.db", disk.disk());
    REQUIRE(store);
    Names names;
    for (const VolumeRow& row : store->list_volumes("", 1000)) names.push_back(*row.name);
    return names;
}

std::string file_of(const schemas::StoreCopy& copy) {
    const std::string folder = "/fake/store/";
    REQUIRE_THAT(copy.path, Catch::StartsWith(folder));
    return copy.path.substr(folder.size());
}

Options few_pages_a_turn() {
    Options options{.seed = 1, .device_actors = 2, .mount_actors = 1};
    options.manager.backup_pages = 4;
    return options;
}

}  // namespace

TEST_CASE("a backup of the store is whole and says what is in it", "[simulation][backup]") {
    World world(few_pages_a_turn());
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    const auto copy = world.call(schemas::StoreBackup{});
    INFO((copy ? "" : copy.error().message));
    REQUIRE(copy);
    CHECK(files_of_backups(world) == Names{file_of(*copy)});
    CHECK(volumes_in(world, file_of(*copy)) == Names{"a", "base"});
    const auto pool = world.store().pool();
    CHECK(copy->sequence == 1);
    CHECK(copy->bytes == world.disk.image().at(file_of(*copy)).size());
    CHECK(copy->store_uuid == world.store().store_uuid());
    CHECK(copy->pool == "default");
    CHECK(copy->pool_uuid == pool->spec.pool.uuid);
    CHECK(copy->volumes == 2);
    CHECK(copy->damage.empty());
    CHECK_THAT(copy->taken_at, Catch::StartsWith("1970-01-01T00:") && Catch::EndsWith("Z"));
    // A1: a generation opens, so that none spans the history of the store and of one that is restored from it.
    world.run_for(3000);
    CHECK(world.store().pool()->confirmed > copy->transaction_id);
    check_quiet(world);
}

TEST_CASE("work goes on during a backup, and what was done before it ended is in it", "[simulation][backup]") {
    Options options = few_pages_a_turn();
    options.manager.backup_pages = 1;
    World world(options);
    make_pool_and_base(world);
    for (int i = 0; i < 40; ++i) {
        schemas::VolumeCreate large = create(fmt::format("large {}", i), "base");
        for (int label = 0; label < 32; ++label) large.labels[fmt::format("key{}", label)] = std::string(255, 'x');
        REQUIRE(world.call(large));
    }
    std::optional<schemas::StoreCopy> copy;
    Names before;
    Names all;
    Names at_the_end;
    int going_on = 0;
    world.ask(schemas::StoreBackup{}, [&](const Answer& answer) {
        copy = body_of<schemas::StoreBackup>(answer);
        at_the_end = before;
    });
    for (int i = 0; i < 60; ++i) {
        const std::string name = fmt::format("v{:02}", i);
        all.push_back(name);
        ++going_on;
        world.at(i * 10, [&, name] {
            world.ask(create(name, "base"), [&, name](const Answer& answer) {
                --going_on;
                if (!answer.error) before.push_back(name);
            });
        });
    }
    world.run_until([&] { return going_on == 0 && copy; });
    Names names = volumes_in(world, file_of(*copy));
    std::erase_if(names, [](const std::string& name) { return name[0] != 'v'; });
    INFO(fmt::format("{} of {} were made before it ended, {} are in it", at_the_end.size(), all.size(), names.size()));
    CHECK(at_the_end.size() > 0);
    CHECK(at_the_end.size() < all.size());
    CHECK(names.size() > at_the_end.size() / 2);
    check_quiet(world);
}

TEST_CASE("the newest three backups are kept, and listed", "[simulation][backup]") {
    World world(few_pages_a_turn());
    make_pool_and_base(world);
    CHECK(world.call(schemas::StoreList{})->backups.empty());
    for (int i = 0; i < 5; ++i) REQUIRE(world.call(schemas::StoreBackup{}));
    const auto list = world.call(schemas::StoreList{});
    REQUIRE(list);
    std::vector<std::uint64_t> sequences;
    for (const auto& copy : list->backups) sequences.push_back(copy.sequence);
    CHECK(sequences == std::vector<std::uint64_t>{5, 4, 3});
    CHECK(files_of_backups(world).size() == 3);
    CHECK(list->backups.front().volumes == 1);
    // Of one that cannot be read it is said why.
    world.kill_manager();
    FakeDisk::Image image = world.take_store();
    image[file_of(list->backups.front())] = "no store";
    world.put_store(image);
    world.run_for(3000);
    CHECK_FALSE(world.call(schemas::StoreList{})->backups.front().damage.empty());
    CHECK(world.call(schemas::StoreBackup{})->sequence == 6);
}

TEST_CASE("a death or a power cut at any turn of a backup leaves a whole one or none", "[simulation][backup]") {
    // Bug: a dump that was whole when the manager died stayed, though its backup does not say that it has one.
    const bool power_cut = GENERATE(false, true);
    const auto stride = static_cast<std::int64_t>(number_from_environment("COWSLIP_STRIDE", 1));
    for (std::int64_t more = 0;; more += stride) {
        CAPTURE(power_cut, more);
        World world(few_pages_a_turn());
        make_pool_and_base(world);
        world.run_for(10000);
        const std::int64_t before = world.happened();
        world.die_after(more, power_cut);
        bool died = false;
        guarded(world, [&] {
            REQUIRE(world.call(schemas::StoreBackup{}));
            died = world.happened() - before > more;
            world.let_live();
            world.kill_manager();  // A start removes what is unfinished.
            world.run_for(10000);
            const Names files = files_of_backups(world);
            CHECK_FALSE(files.empty());
            for (const std::string& file : files) CHECK(volumes_in(world, file) == Names{"base"});
            REQUIRE(world.call(schemas::StoreBackup{}));
            std::size_t with_dump = 0;
            const auto list = world.call(schemas::StoreList{});
            for (const auto& copy : list->backups) with_dump += copy.dump ? 1U : 0U;
            CHECK(world.kernel.dumps.size() == with_dump);
            check_quiet(world);
        });
        if (!died) break;
    }
}

TEST_CASE("a backup that was answered is there after a power cut, and so is the one before it",
          "[simulation][backup]") {
    World world(few_pages_a_turn());
    make_pool_and_base(world);
    Names told;
    for (int i = 0; i < 3; ++i) {
        const auto copy = world.call(schemas::StoreBackup{});
        REQUIRE(copy);
        told.push_back(file_of(*copy));
        world.cut_power();
        for (const std::string& file : told) {
            CAPTURE(i, file);
            REQUIRE(world.disk.has(file));
            CHECK(volumes_in(world, file) == Names{"base"});
        }
    }
    CHECK(world.call(schemas::StoreList{})->backups.size() == 3);
    check_quiet(world);
}

TEST_CASE("with a backup goes a dump of the pool's metadata, as many as backups", "[simulation][backup]") {
    World world(few_pages_a_turn());
    make_pool_and_base(world);
    const std::uint32_t base = show(world, "base").thin_id;
    for (int i = 0; i < 5; ++i) {
        const auto copy = world.call(schemas::StoreBackup{});
        REQUIRE(copy);
        CHECK(copy->no_dump.empty());
        CHECK(copy->dump);
        const auto name = parse_backup_file(file_of(*copy).substr(std::string("backups/").size()));
        REQUIRE(name);
        const auto dump = world.kernel.dumps.find(backup_stem(*name));
        REQUIRE(dump != world.kernel.dumps.end());
        CHECK(std::find(dump->second.begin(), dump->second.end(), base) != dump->second.end());
    }
    CHECK(world.kernel.dumps.size() == 3);
    check_quiet(world);  // No metadata snapshot is held.
}

TEST_CASE("a dump that fails makes the backup one without, and says why", "[simulation][backup]") {
    World world(few_pages_a_turn());
    make_pool_and_base(world);
    std::string why;
    SECTION("the tool fails") {
        world.kernel.list_thins_fails = true;
        why = "thin_ls exited with 1";
    }
    SECTION("another program holds the snapshot") {
        world.kernel.pools.begin()->second.core.held_root = 77;
        why = "another program holds a metadata snapshot";
    }
    SECTION("the pool is put away") {
        REQUIRE(world.call(schemas::SystemCleanup{}));
        why = "not in service";
    }
    const auto copy = world.call(schemas::StoreBackup{});
    REQUIRE(copy);
    CHECK_FALSE(copy->dump);
    CHECK_THAT(copy->no_dump, Catch::Contains(why));
    CHECK(volumes_in(world, file_of(*copy)) == Names{"base"});
    CHECK(world.kernel.dumps.empty());
    CHECK_FALSE(world.call(schemas::StoreList{})->backups.front().dump);
}

TEST_CASE("a comparison and a dump take turns at the one metadata snapshot", "[simulation][backup]") {
    World world(few_pages_a_turn());
    make_pool_and_base(world);
    world.hold_commands(schemas::DumpMetadata::kType);
    bool backed_up = false;
    bool compared = false;
    world.ask(schemas::StoreBackup{},
              [&](const Answer& answer) { backed_up = body_of<schemas::StoreBackup>(answer).dump; });
    world.run_until([&] { return world.held() > 0; });
    world.ask(schemas::SystemFsck{},
              [&](const Answer& answer) { compared = body_of<schemas::SystemFsck>(answer).pool_compared; });
    world.run_for(5000);
    CHECK_FALSE(compared);
    world.let_go();
    world.run_until([&] { return backed_up && compared; });
    check_quiet(world);
}

TEST_CASE("the store is backed up by itself where something has changed", "[simulation][backup]") {
    constexpr std::int64_t kMinute = 60 * 1000;
    Options options = few_pages_a_turn();
    SECTION("in its time") {
        options.manager.store_backup_ms = 20 * kMinute;
        World world(options);
        make_pool_and_base(world);
        world.run_for(9 * kMinute);
        CHECK(files_of_backups(world).empty());
        world.run_for(2 * kMinute);  // Soon after a start.
        REQUIRE(files_of_backups(world).size() == 1);
        CHECK(volumes_in(world, files_of_backups(world).front()) == Names{"base"});
        world.run_for(35 * kMinute);
        CHECK(files_of_backups(world).size() == 1);  // Nothing has changed.
        REQUIRE(world.call(create("a", "base")));
        world.run_for(25 * kMinute);
        REQUIRE(files_of_backups(world).size() == 2);
        CHECK(volumes_in(world, files_of_backups(world).back()) == Names{"a", "base"});
        CHECK(world.kernel.dumps.size() == 2);
        check_quiet(world);
    }
    SECTION("again after one that failed") {
        World world(options);
        make_pool_and_base(world);
        world.disk.free_bytes = 0;
        world.run_for(11 * kMinute);
        CHECK(files_of_backups(world).empty());
        CHECK(has_finding(world, "store-backup "));
        world.disk.free_bytes = 1ULL << 40U;
        world.run_for(11 * kMinute);
        CHECK_FALSE(has_finding(world, "store-backup "));
        CHECK(files_of_backups(world).size() == 1);
    }
    SECTION("never, if that is wanted") {
        options.manager.store_backup_ms = 0;
        World world(options);
        make_pool_and_base(world);
        world.run_for(30 * kMinute);
        CHECK(files_of_backups(world).empty());
    }
}

TEST_CASE("a backup for which there is no room is refused, and leaves nothing", "[simulation][backup]") {
    World world(few_pages_a_turn());
    make_pool_and_base(world);
    world.disk.free_bytes = 1 << 20U;
    const auto refused = world.call(schemas::StoreBackup{});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::no_space);
    CHECK_THAT(refused.error().message, Catch::Contains("make room there"));
    CHECK(files_of_backups(world).empty());
    world.disk.free_bytes = 1ULL << 40U;
    CHECK(world.call(schemas::StoreBackup{}));
}

TEST_CASE("a disk that fails or is full at any write or sync of a backup leaves nothing of it",
          "[simulation][backup]") {
    const bool full = GENERATE(false, true);
    const auto call = full ? DiskCall::write : GENERATE(DiskCall::write, DiskCall::sync, DiskCall::open);
    bool failed = true;
    int refusals = 0;
    for (std::uint64_t nth = 0; failed; ++nth) {
        CAPTURE(full, static_cast<int>(call), nth);
        World world(few_pages_a_turn());
        make_pool_and_base(world);
        world.run_for(10000);
        world.disk.fail({.call = call, .nth = nth, .full = full});
        const auto answer = world.call(schemas::StoreBackup{});
        failed = world.disk.has_failed();
        world.disk.heal();
        if (!answer) {
            ++refusals;
            CHECK(answer.error().code == (full ? Errc::no_space : Errc::internal));
            CHECK(files_of_backups(world).empty());
        }
        REQUIRE(world.call(schemas::StoreBackup{}));
        for (const std::string& file : files_of_backups(world)) CHECK(volumes_in(world, file) == Names{"base"});
        check_quiet(world);
    }
    CHECK(refusals > 0);
}

}  // namespace cowslip::simulation
