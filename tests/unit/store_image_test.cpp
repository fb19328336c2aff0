#include "services/pool_manager/store_image.h"

#include <fstream>
#include <sstream>

#include <catch2/catch.hpp>

#include "common/memory_disk.h"
#include "services/pool_manager/store.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip {
namespace {

std::string bytes_in(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

PoolRow pool_of_two() {
    PoolRow row;
    row.name = "default";
    row.state = "ready";
    row.spec.pool.uuid = std::string(32, 'a');
    row.tag = 5;
    row.confirmed = (5ULL << 32U) + 7;
    row.planned = row.confirmed + 1;
    row.next_thin_id = 4;
    return row;
}

VolumeRow volume_row(std::uint32_t thin_id, const std::string& name) {
    VolumeRow row;
    row.thin_id = thin_id;
    row.name = name;
    row.state = "ready";
    row.size_sectors = 2048;
    row.fs = "none";
    return row;
}

// A store with a pool and two volumes, of which a running process has the second in its log only.
StoreImage store_in_use(const TemporaryFolder& folder) {
    const std::string file = folder / "store.db";
    auto opened = Store::open(file);
    REQUIRE(opened);
    Store store = std::move(*opened);
    store.insert_pool(pool_of_two());
    store.insert_volume(volume_row(2, "a"));
    for (int i = 0; i < 100; ++i) store.append_event("volume.created", "a", {{"thin_id", "2"}});
    REQUIRE(store.commit());
    auto image = read_store_image(file);
    REQUIRE(image);
    REQUIRE(image->log.size() > 4096);
    return *image;
}

StoreImage store_at_rest(const TemporaryFolder& folder) {
    store_in_use(folder);
    auto image = read_store_image(folder / "store.db");
    REQUIRE(image);
    REQUIRE(image->log.empty());
    return *image;
}

std::string complaint(const StoreImage& image) {
    const auto verified = verify_store(image);
    if (verified) return "";
    CHECK(verified.error().code == Errc::needs_repair);
    return verified.error().message;
}

}  // namespace

TEST_CASE("a whole store is one, with what its log alone has, and says what it is", "[store][backup]") {
    const TemporaryFolder folder;
    const StoreImage image = store_in_use(folder);
    const auto verified = verify_store(image);
    INFO((verified ? "" : verified.error().message));
    REQUIRE(verified);
    CHECK(verified->pool == "default");
    CHECK(verified->pool_uuid == std::string(32, 'a'));
    CHECK(verified->transaction_id == pool_of_two().confirmed);
    CHECK(verified->volumes == 1);
    CHECK(verified->bytes == image.database.size());
    CHECK(verified->store_uuid.size() == 32);
    // Without its log it is what it was before.
    const auto older = verify_store({image.database, ""});
    CHECK((!older || older->volumes == 0));
}

TEST_CASE("what is no store of ours, or one that is not whole, is told from one that is", "[store][backup]") {
    const TemporaryFolder folder;
    const StoreImage whole = store_at_rest(folder);
    CHECK(complaint(whole).empty());
    CHECK_THAT(complaint({"", ""}), Catch::Contains("another program's"));
    CHECK_THAT(complaint({"a text", ""}), Catch::Contains("not a database"));
    CHECK_FALSE(complaint({whole.database.substr(0, whole.database.size() / 2), ""}).empty());
    {
        auto database = Database::open(folder / "other.db");
        REQUIRE(database);
        REQUIRE(database->execute("CREATE TABLE t (x)"));
    }
    CHECK_THAT(complaint({bytes_in(folder / "other.db"), ""}), Catch::Contains("another program's"));
    {
        auto database = Database::open(folder / "store.db");
        REQUIRE(database);
        SECTION("of a newer version") {
            REQUIRE(database->execute("PRAGMA user_version = 99"));
        }
        SECTION("with a row that refers to nothing") {
            REQUIRE(database->execute(
                "PRAGMA foreign_keys = OFF; INSERT INTO lease VALUES (77, 'h', 'mounted_rw', '', 1)"));
        }
    }
    CHECK_FALSE(complaint({bytes_in(folder / "store.db"), ""}).empty());
}

TEST_CASE("a store with a damaged page is never called whole where it says something else", "[store][backup]") {
    const TemporaryFolder folder;
    const StoreImage whole = store_at_rest(folder);
    const auto said = verify_store(whole);
    REQUIRE(said);
    std::size_t found = 0;
    std::size_t pages = 0;
    for (std::size_t page = 0; page < whole.database.size(); page += 4096, ++pages) {
        CAPTURE(page);
        StoreImage damaged = whole;
        for (std::size_t at = page; at < page + 4096; ++at) damaged.database[at] = static_cast<char>(at * 7);
        if (!verify_store(damaged)) ++found;
    }
    CHECK(found == pages);
}

TEST_CASE("to look at a store makes and changes no file", "[store][backup]") {
    const TemporaryFolder folder;
    const StoreImage image = store_at_rest(folder);
    const auto files = [&] {
        std::string names;
        for (const StoreFile& file : kernel_store_files().list(folder.path())) names += file.name + " ";
        return names;
    };
    const std::string before = files();
    REQUIRE(verify_store(*read_store_image(folder / "store.db")));
    {
        auto database = Database::open_still(folder / "store.db");
        REQUIRE(database);
        CHECK(Store::describe(*database)->volumes == 1);
    }
    CHECK(files() == before);
    CHECK(bytes_in(folder / "store.db") == image.database);
    CHECK(read_store_image(folder / "absent").error().code == Errc::not_found);
    std::filesystem::create_directory(folder / "store.db-wal");
    CHECK_FALSE(read_store_image(folder / "store.db"));  // Its log may have what it has not.
}

TEST_CASE("a backup's file says which one it is", "[store][backup]") {
    const std::string file = backup_file({12, "2026-11-28T16:41:17.123Z", false});
    CHECK(file == "000012-20261128T164117Z.db");
    const auto name = parse_backup_file(file);
    REQUIRE(name);
    CHECK(name->sequence == 12);
    CHECK(name->taken_at == "2026-11-28T16:41:17Z");
    CHECK_FALSE(name->dump);
    CHECK(parse_backup_file(backup_file({12345678, name->taken_at, false}))->sequence == 12345678);
    CHECK(backup_stem(*name) == "000012-20261128T164117Z");
    CHECK(parse_backup_file(backup_file({12, name->taken_at, true}))->dump);
    const std::string other =
        GENERATE("", "new.tmp", "000012-20261128T164117Z.db.tmp", "000012-20261128T164117Z.dc",
                 "00x012-20261128T164117Z.db", "000012-20261128X164117Z.db", "12-a.db", "000012-2026112aT164117Z.db",
                 "000012-20261128T164117Z.db-wal", "0000000000000000012-20261128T164117Z.db", "000012-20261128T1641.db",
                 "000012-20261128T16411xZ.db", "000012-20261128T164117X.db");
    CAPTURE(other);
    CHECK_FALSE(parse_backup_file(other));
    CHECK(is_unfinished_backup("new.tmp"));
    CHECK(is_unfinished_backup("new.tmp-wal"));
    CHECK_FALSE(is_unfinished_backup(file));
}

TEST_CASE("a file put in its place is there and nowhere else", "[store][backup]") {
    const TemporaryFolder folder;
    REQUIRE(write_durably(folder / "a", "one"));
    REQUIRE(write_durably(folder / "b", "the other"));
    REQUIRE(kernel_store_files().put_in_place(folder / "a", folder / "b"));
    CHECK(bytes_in(folder / "b") == "one");
    CHECK(kernel_store_files().list(folder.path()).size() == 1);
    CHECK_FALSE(kernel_store_files().put_in_place(folder / "a", folder / "b"));
    kernel_store_files().remove(folder / "a");
    CHECK(kernel_store_files().free_bytes() > 0);
}

}  // namespace cowslip
