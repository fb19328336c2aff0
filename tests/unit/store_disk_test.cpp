// The store on a disk that fails or has lost something: seen at the next opening, and never built upon.
#include <filesystem>
#include <fstream>
#include <iterator>

#include <catch2/catch.hpp>

#include "services/pool_manager/store.h"
#include "tests/fakes/fake_disk.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip {
namespace {

std::uint64_t rows(Database& database) {
    Query query = database.query("SELECT count(*) FROM line");
    query.next();
    return query.uinteger(0);
}

void insert(Database& database) {
    database.query("INSERT INTO line VALUES (NULL)").run();
    database.release_savepoint();
}

Database open_lines(const StoreDisk& disk) {
    auto database = Database::open("lines", disk);
    INFO((database ? "" : database.error().message));
    REQUIRE(database);
    return std::move(*database);
}

std::string bytes_of(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

TEST_CASE("X10: what a failed sync left in the page cache is not taken for what the disk has", "[store]") {
    FakeDisk disk;
    {
        Database database = open_lines(disk.disk());
        REQUIRE(database.execute("CREATE TABLE line (number INTEGER PRIMARY KEY) STRICT"));
        insert(database);
        REQUIRE(database.commit());
        disk.fail({.call = DiskCall::sync});
        insert(database);
        CHECK_THROWS_AS(database.commit(), StoreFailure);
        disk.kill();
    }
    SECTION("the cache is dropped, so the row was never there") {
        {
            Database database = open_lines(disk.disk());
            CHECK(rows(database) == 1);
            insert(database);
            REQUIRE(database.commit());
        }
        disk.cut_power();
        Database database = open_lines(disk.disk());
        CHECK(rows(database) == 2);
    }
    SECTION("one that keeps the cache sees it") {
        StoreDisk keeping = disk.disk();
        keeping.drop_page_cache = [](const std::string&) {};
        Database database = open_lines(keeping);
        CHECK(rows(database) == 2);
    }
}

TEST_CASE("the disk of the tests: a name is lost by a power cut until its folder is synced", "[store]") {
    FakeDisk disk;
    disk.put({{"backups/old", "old"}, {"backups/new.tmp", "new"}});
    disk.folders_not_synced = GENERATE(false, true);
    REQUIRE(disk.disk().files->put_in_place("backups/new.tmp", "backups/new"));
    disk.disk().files->remove("backups/old");
    CHECK(disk.image() == FakeDisk::Image{{"backups/new", "new"}});
    disk.cut_power();
    const char* name = disk.folders_not_synced ? "backups/new.tmp" : "backups/new";
    CHECK(disk.image() == FakeDisk::Image{{"backups/old", "old"}, {name, "new"}});
    // SQLite syncs the folder of its log: with the first commit the store itself is there.
    CHECK(open_lines(disk.disk()).execute("CREATE TABLE line (number INTEGER PRIMARY KEY) STRICT"));
    disk.cut_power();
    Database again = open_lines(disk.disk());
    CHECK(rows(again) == 0);
}

TEST_CASE("a connection whose sync has failed does not try it again when it is closed", "[store]") {
    FakeDisk disk;
    {
        Database database = open_lines(disk.disk());
        REQUIRE(database.execute("CREATE TABLE line (number INTEGER PRIMARY KEY) STRICT"));
        disk.fail({.call = DiskCall::sync});
        insert(database);
        CHECK_THROWS_AS(database.commit(), StoreFailure);
        disk.fail({.call = DiskCall::sync, .for_ever = true});
    }
    CHECK_FALSE(disk.has_failed());
}

TEST_CASE("a store that is damaged or cut short is refused, with the way out, and left as it is", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    {
        auto store = Store::open(file);
        REQUIRE(store);
        for (int i = 0; i < 200; ++i) store->append_event("type", "subject", {{"text", std::string(100, 'x')}});
        REQUIRE(store->commit());
    }
    const std::uintmax_t size = std::filesystem::file_size(file);
    REQUIRE(size > 40000);
    SECTION("its header is overwritten") {
        std::fstream(file, std::ios::in | std::ios::out | std::ios::binary).write("nothing of the kind", 19);
    }
    SECTION("a page in its middle is") {
        std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
        stream.seekp(static_cast<std::streamoff>(size / 2 / 4096 * 4096));
        stream << std::string(4096, '\x5a');
    }
    SECTION("its last page is cut off") {
        std::filesystem::resize_file(file, size - 4096);
    }
    SECTION("half of it is") {
        std::filesystem::resize_file(file, size / 8192 * 4096);
    }
    const std::string before = bytes_of(file);
    const auto store = Store::open(file);
    REQUIRE_FALSE(store);
    CHECK(store.error().code == Errc::needs_repair);
    CHECK_THAT(store.error().message, Catch::Contains(file) && Catch::Contains("Next: "));
    CHECK(bytes_of(file) == before);
}

TEST_CASE("a store of version 1 becomes one of this version, or stays it, at a power cut at each call of its disk",
          "[store]") {
    FakeDisk disk;
    {
        auto store = Store::open("store.db", disk.disk());
        REQUIRE(store);
        VolumeRow row;
        row.thin_id = 2;
        row.name = "a";
        row.size_sectors = row.fs_sectors = 2048;
        row.fs = "ext4";
        store->insert_volume(row);
        REQUIRE(store->commit());
    }
    REQUIRE(Database::open("store.db", disk.disk())
                ->execute("DROP INDEX volume_by_origin; DROP INDEX warm_image; DROP INDEX internal_by_origin; "
                          "ALTER TABLE volume DROP COLUMN mkfs_options; "
                          "ALTER TABLE volume DROP COLUMN mount_options; "
                          "ALTER TABLE volume DROP COLUMN warm; "
                          "ALTER TABLE volume DROP COLUMN warm_mounted; "
                          "DROP TABLE operation; "
                          "CREATE TABLE operation (number INTEGER PRIMARY KEY, "
                          "type TEXT NOT NULL CHECK (type = 'create' OR type = 'remove'), thin_id INTEGER, "
                          "request_id TEXT, body BLOB NOT NULL, attempts INTEGER NOT NULL, "
                          "deaths INTEGER NOT NULL DEFAULT 0) STRICT; "
                          "INSERT INTO operation VALUES (5, 'create', 2, 'one', x'00', 2, 1); "
                          "PRAGMA user_version=1"));
    const FakeDisk::Image before = disk.image();
    int cuts = 0;
    for (const DiskCall call : {DiskCall::write, DiskCall::sync}) {
        for (std::uint64_t nth = 0;; ++nth) {
            CAPTURE(nth);
            FakeDisk cut;
            cut.put(before);
            cut.fail({.call = call, .nth = nth, .for_ever = true});
            const bool opened = static_cast<bool>(Store::open("store.db", cut.disk()));
            if (!cut.has_failed()) {
                CHECK(opened);
                break;
            }
            ++cuts;
            cut.kill();
            cut.heal();
            cut.cut_power();
            auto store = Store::open("store.db", cut.disk());
            INFO((store ? "" : store.error().message));
            REQUIRE(store);
            REQUIRE(store->find_volume("a"));
            CHECK(store->find_volume("a")->options == FilesystemOptions{});
            VolumeRow row = *store->find_volume("a");
            row.thin_id = 3;
            row.name = "b";
            row.options = {.mkfs = "inode-size=512", .mount = "nodev"};
            store->insert_volume(row);
            CHECK(store->volume(3)->options == row.options);
            store->set_warm(2, 3, true);
            CHECK(store->warm_images().front().warm == 3);
            store->insert_operation({6, OperationType::warm, 4, "", ""});
            const auto operations = store->unfinished_operations();
            REQUIRE(operations.size() == 2);
            CHECK(operations.front().type == OperationType::create);
            CHECK(operations.front().request_id == "one");
            CHECK(operations.front().attempts == 2);
            CHECK(operations.front().deaths == 1);
            CHECK(operations.back().type == OperationType::warm);
        }
    }
    CHECK(cuts > 2);
}

TEST_CASE("a store that was emptied is new, and one that is there is not", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    CHECK(Store::open(file)->made_now());
    CHECK_FALSE(Store::open(file)->made_now());
    std::filesystem::resize_file(file, 0);
    CHECK(Store::open(file)->made_now());
}

}  // namespace cowslip
