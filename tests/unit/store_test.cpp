#include "services/pool_manager/store.h"

#include <fstream>
#include <optional>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "tests/fakes/temporary_folder.h"

namespace cowslip {
namespace {

constexpr std::int64_t kHourMs = 3600 * 1000;

Store open_store(const std::string& file) {
    auto store = Store::open(file);
    INFO((store ? "" : store.error().message));
    REQUIRE(store);
    return std::move(*store);
}

PoolRow some_pool() {
    PoolRow row;
    row.name = "default";
    row.state = "formatting";
    row.spec.pool.uuid = std::string(32, 'a');
    row.tag = 5;
    row.confirmed = 5ULL << 32U;
    row.planned = row.confirmed + 1;
    row.next_thin_id = 2;
    return row;
}

VolumeRow some_volume(std::uint32_t thin_id, const std::string& name) {
    VolumeRow row;
    row.thin_id = thin_id;
    row.name = name;
    row.size_sectors = 2048;
    row.fs_sectors = 2048;
    row.fs = "ext4";
    row.labels = {{"k", "v"}};
    row.options = {.mkfs = "inode-size=512", .mount = "nodev"};
    return row;
}

template <class T>
void check_ok(const Result<T>& result) {
    INFO((result ? "" : result.error().message));
    CHECK(result);
}

std::int64_t number(Database& database, const char* sql) {
    Query query = database.query(sql);
    return query.next() ? query.integer(0) : -1;
}

std::vector<std::uint64_t> sequence_of(const std::vector<StoredEvent>& events) {
    std::vector<std::uint64_t> numbers;
    for (const auto& event : events) numbers.push_back(event.seq);
    return numbers;
}

}  // namespace

TEST_CASE("every statement of the store runs, and says what was written", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    {
        Store store = open_store(file);
        store.set_time(1700000000123);
        CHECK_FALSE(store.pool());
        store.set_boot_id("boot");
        store.reserve_operations(store.next_operation() + 10);
        store.insert_pool(some_pool());
        store.set_pool_state("ready");
        schemas::PoolSpec spec = some_pool().spec;
        spec.backing = "loop";
        store.set_pool_spec(spec);
        store.set_planned(some_pool().planned + 1);
        store.set_confirmed(some_pool().planned);
        CHECK(*store.spend_thin_id() == 2);
        store.raise_next_thin_id(9);
        store.raise_next_thin_id(3);
        CHECK(*store.spend_thin_id() == 9);

        store.insert_volume(some_volume(2, "a"));
        store.insert_volume(some_volume(3, "b"));
        VolumeRow origin = some_volume(4, "");
        origin.name.reset();
        origin.template_key = "ext4/2048";
        origin.kind = "internal";
        store.insert_volume(origin);
        store.set_born(2, 7);
        store.set_volume_ready(2, 7, true);
        CHECK(store.volume(2)->state == "creating");
        store.set_volume_filled(2);
        store.set_fs_sectors(2, 1024);
        store.insert_operation({1, OperationType::create, 3, "request", "body"});
        store.move_volume(3, 5);
        store.set_volume_ready(5, 8, false);
        store.set_attempts(1, 2, 1);

        store.insert_lease({2, "one", "mounted_ro", "label"});
        store.insert_lease({2, "two", "mounted_ro", "label"});
        store.insert_lease({5, "one", "attached_rw", ""});
        store.delete_lease(2, "one");
        store.insert_request("request", "digest");
        store.set_reply("request", "digest", "reply");
        store.set_reply("another", "digest", "");
        store.append_event("type", "subject", {{"k", "v"}});
        store.quarantine(77, "reason");
        store.quarantine(77, "another");
        store.purge(10);
        CHECK(store.commit());
        CHECK_FALSE(store.commit());
    }
    Store store = open_store(file);
    CHECK(store.store_uuid().size() == 32);
    CHECK(store.boot_id() == "boot");
    CHECK(store.next_operation() == 11);
    const auto pool = store.pool();
    REQUIRE(pool);
    CHECK(pool->state == "ready");
    CHECK(pool->spec.backing == "loop");
    CHECK(pool->confirmed == some_pool().planned);
    CHECK(pool->planned == some_pool().planned + 1);
    CHECK(pool->next_thin_id == 10);
    CHECK(pool->created_at == 1700000000123);

    const auto a = store.find_volume("a");
    REQUIRE(a);
    CHECK(a->thin_id == 2);
    CHECK(a->state == "ready");
    CHECK(a->born_max == 7);
    CHECK(a->fs_sectors == 1024);
    CHECK(a->labels == schemas::Labels{{"k", "v"}});
    CHECK_FALSE(store.find_volume("c"));
    CHECK_FALSE(store.volume(3));
    CHECK(store.volume(5)->name == "b");
    CHECK(store.find_template("ext4/2048")->thin_id == 4);
    CHECK(store.thin_ids().size() == 3);
    CHECK(store.list_volumes("", 10).size() == 2);
    CHECK(store.list_volumes("a", 10).front().name == "b");
    CHECK(store.list_volumes("", 1).size() == 1);
    CHECK(store.count_ready_volumes() == 2);

    REQUIRE(store.leases(2).size() == 1);
    CHECK(store.leases(2).front().holder == "two");
    CHECK(store.leases(2).front().mount_label == "label");
    CHECK(store.list_leases("", "", 10).size() == 2);
    CHECK(store.list_leases("a", "two", 10).front().name == "b");
    CHECK(store.leased_volumes().size() == 2);
    CHECK(store.count_leases() == 2);
    store.delete_leases(2);
    store.delete_leases(5);
    CHECK(store.count_leases() == 0);

    REQUIRE(store.unfinished_operations().size() == 1);
    const OperationRow operation = store.unfinished_operations().front();
    CHECK(operation.type == OperationType::create);
    CHECK(operation.thin_id == 5U);
    CHECK(operation.request_id == "request");
    CHECK(operation.body == "body");
    // Moved to another thin id, whose first attempt is still to come; then attempted twice.
    CHECK(operation.attempts == 2);
    CHECK(operation.deaths == 1);
    store.delete_operation(1);
    CHECK(store.unfinished_operations().empty());
    CHECK(store.request("request")->reply == "reply");
    CHECK(store.request("another")->reply == "");
    CHECK_FALSE(store.request("nobody's"));

    store.set_volume_removing(2);
    CHECK(store.volume(2)->state == "removing");
    CHECK_FALSE(store.volume(2)->name);
    store.insert_volume(some_volume(6, "a"));
    store.delete_volume(2);
    CHECK(store.quarantined() == std::vector<std::pair<std::uint32_t, std::string>>{{77, "reason"}});
    CHECK(store.oldest_event_seq() == 1);
    REQUIRE(store.events_since(0, 10).size() == 1);
    CHECK(store.events_since(0, 10).front().body == EventBody{{"k", "v"}});
    store.delete_pool();
    CHECK_FALSE(store.pool());
    CHECK(store.commit());
}

TEST_CASE("what a constraint refuses is thrown, and its neighbours in the turn are unharmed", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    {
        Store store = open_store(file);
        store.insert_pool(some_pool());
        store.insert_volume(some_volume(2, "a"));
        store.release_savepoint();
        store.insert_volume(some_volume(3, "b"));
        CHECK_THROWS_AS(store.insert_volume(some_volume(4, "a")), StoreRefusal);
        store.rollback_savepoint();
        CHECK_THROWS_AS(store.insert_volume(some_volume(1, "label")), StoreRefusal);      // Below the first id.
        CHECK_THROWS_AS(store.insert_lease({9, "one", "mounted_rw", ""}), StoreRefusal);  // Nobody's.
        CHECK_THROWS_AS(store.set_confirmed(some_pool().planned + 1), StoreRefusal);
        store.insert_volume(some_volume(5, "c"));
        store.release_savepoint();
        CHECK(store.commit());
    }
    Store store = open_store(file);
    CHECK(store.find_volume("a"));
    CHECK_FALSE(store.find_volume("b"));
    CHECK(store.find_volume("c"));
}

TEST_CASE("what was not committed is not there, and a thin id or event number of it is given again", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    {
        Store store = open_store(file);
        store.insert_pool(some_pool());
        CHECK(store.commit());
        CHECK(*store.spend_thin_id() == 2);
        store.append_event("type", "", {});
        store.release_savepoint();
    }
    Store store = open_store(file);
    CHECK(*store.spend_thin_id() == 2);
    CHECK(store.last_event_seq() == 0);
    store.append_event("type", "", {});
    CHECK(store.commit());
    CHECK(store.last_event_seq() == 1);
}

TEST_CASE("the last thin id is spent once", "[store]") {
    const TemporaryFolder folder;
    Store store = open_store(folder / "store.db");
    CHECK(store.spend_thin_id().error().code == Errc::unavailable);
    store.insert_pool(some_pool());
    store.raise_next_thin_id(16777215);
    CHECK(*store.spend_thin_id() == 16777215);
    CHECK(store.spend_thin_id().error().code == Errc::no_space);
    CHECK(store.spend_thin_id().error().code == Errc::no_space);
}

TEST_CASE("event numbers have no gaps, whatever is rolled back, and are never used twice", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    const auto append = [](Store& store, const char* type) { store.append_event(type, "", {}); };
    {
        Store store = open_store(file);
        append(store, "a");
        append(store, "b");
        store.release_savepoint();
        append(store, "undone");
        append(store, "undone");
        store.rollback_savepoint();
        append(store, "c");
        store.release_savepoint();
        append(store, "undone");
        store.rollback_savepoint();
        store.release_savepoint();
        CHECK(store.last_event_seq() == 0);  // Of what is durable.
        CHECK(store.commit());
        CHECK(store.last_event_seq() == 3);
        CHECK(sequence_of(store.take_events()) == std::vector<std::uint64_t>{1, 2, 3});
        CHECK(store.take_events().empty());
        append(store, "undone");
        store.rollback_savepoint();
        append(store, "d");
        CHECK(store.commit());
        CHECK(sequence_of(store.take_events()) == std::vector<std::uint64_t>{4});
        CHECK(sequence_of(store.events_since(0, 10)) == std::vector<std::uint64_t>{1, 2, 3, 4});
        CHECK(sequence_of(store.events_since(1, 2)) == std::vector<std::uint64_t>{2, 3});
        for (const auto& event : store.events_since(0, 10)) CHECK(event.type != "undone");
    }
    {
        auto database = Database::open(file);
        REQUIRE(database);
        check_ok(database->execute("DELETE FROM event WHERE seq < 4"));  // A purge keeps the newest.
    }
    Store store = open_store(file);
    CHECK(store.last_event_seq() == 4);
    append(store, "e");
    CHECK(store.commit());
    CHECK(sequence_of(store.events_since(0, 10)) == std::vector<std::uint64_t>{4, 5});
}

TEST_CASE("the store's time never runs backwards, also over a restart", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    {
        Store store = open_store(file);
        store.set_time(5000);
        store.set_time(3000);
        CHECK(store.now() == 5000);
        store.append_event("type", "", {});
        CHECK(store.commit());
    }
    Store store = open_store(file);
    store.set_time(1000);
    CHECK(store.now() == 5000);
    store.append_event("type", "", {});
    CHECK(store.events_since(0, 10).back().time == "1970-01-01T00:00:05.000Z");
    store.set_time(6000);
    CHECK(store.now() == 6000);
}

// `count` answers, a millisecond apart, the first at `first`; the time is the id's end.
void add_answers(const std::string& file, int first, int count, const char* reply, const std::string& prefix = "r") {
    auto database = Database::open(file);
    REQUIRE(database);
    check_ok(database->execute(
        fmt::format("INSERT INTO request SELECT '{}' || value, x'00', {}, value FROM (WITH RECURSIVE n(value) AS "
                    "(SELECT {} UNION ALL SELECT value + 1 FROM n LIMIT {}) SELECT value FROM n)",
                    prefix, reply, first, count)));
}

TEST_CASE("an answer is forgotten when it is older than an hour and has 100,000 newer ones, not before", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    open_store(file);
    const auto add = [&](int first, int count, const char* reply) { add_answers(file, first, count, reply); };
    const auto purged = [&](std::int64_t now) {
        Store store = open_store(file);
        store.set_time(now);
        store.purge(1000);
        store.commit();
        std::vector<int> gone;
        for (int i = 1; i <= 20; ++i) {
            if (!store.request(fmt::format("r{}", i))) gone.push_back(i);
        }
        return gone;
    };
    add(1, 1, "NULL");  // Goes on, however old.
    add(2, 99999, "x'01'");
    CHECK(purged(10 * kHourMs).empty());
    add(100001, 9, "x'01'");
    CHECK(purged(200000).empty());  // None is an hour old.
    CHECK(purged(kHourMs + 5) == std::vector<int>{2, 3, 4});
    CHECK(purged(10 * kHourMs) == std::vector<int>{2, 3, 4, 5, 6, 7, 8});
    // A store that stays open.
    Store store = open_store(file);
    store.set_time(10 * kHourMs);
    store.purge(1000);
    for (int i = 0; i < 1000; ++i) store.set_reply(fmt::format("later{}", i), "d", "reply");
    store.purge(1000);
    store.commit();
    CHECK_FALSE(store.request("r1008"));
    CHECK(store.request("r1009"));
}

// Bytes that this process has read so far.
std::uint64_t read_so_far() {
    std::ifstream file("/proc/self/io");
    std::string name;
    std::uint64_t bytes = 0;
    file >> name >> bytes;
    REQUIRE(name == "rchar:");
    return bytes;
}

TEST_CASE("the purge of each second counted 100,000 answers: five megabytes of their index were read", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    open_store(file);
    add_answers(file, 1, 100010, "x'01'", std::string(36, 'r'));  // More than SQLite keeps.
    Store store = open_store(file);
    const std::uint64_t before = read_so_far();
    store.purge(1000);
    const std::uint64_t counted = read_so_far() - before;
    store.purge(1000);
    CHECK(counted > 1'000'000);
    CHECK(read_so_far() - before - counted < 100'000);
}

TEST_CASE("a purge is small, and keeps the newest 100,000 events", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    open_store(file);
    {
        auto database = Database::open(file);
        REQUIRE(database);
        check_ok(
            database->execute("INSERT INTO event SELECT value, 0, 't', '', x'80' FROM (WITH RECURSIVE n(value) AS "
                              "(SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 100010) SELECT value FROM n)"));
    }
    Store store = open_store(file);
    store.purge(4);
    CHECK(store.oldest_event_seq() == 5);
    for (int i = 0; i < 10; ++i) store.purge(4);
    CHECK(store.oldest_event_seq() == 11);
    store.append_event("t", "", {});
    CHECK(store.commit());
    CHECK(store.last_event_seq() == 100011);
}

TEST_CASE("a file that is not this program's store is refused and left as it is", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    const auto write = [&](const char* sql) {
        auto database = Database::open(file);
        REQUIRE(database);
        check_ok(database->execute(sql));
    };
    const auto refused = [&] {
        const auto store = Store::open(file);
        REQUIRE_FALSE(store);
        CHECK(store.error().code == Errc::needs_repair);
        return store.error().message;
    };
    SECTION("another program's database") {
        write("CREATE TABLE theirs (x); PRAGMA application_id=77");
        CHECK_THAT(refused(), Catch::Contains("another program's"));
    }
    SECTION("a database without a mark") {
        write("CREATE TABLE theirs (x)");
        CHECK_THAT(refused(), Catch::Contains("another program's"));
        auto database = Database::open(file);
        REQUIRE(database);
        CHECK(number(*database, "SELECT count(*) FROM sqlite_schema") == 1);
    }
    SECTION("of a newer version") {
        open_store(file);
        write("PRAGMA user_version=4");
        CHECK_THAT(refused(), Catch::Contains("newer cowslip"));
        auto database = Database::open(file);
        REQUIRE(database);
        CHECK(number(*database, "PRAGMA user_version") == 4);
    }
    SECTION("no database at all") {
        std::ofstream(file) << std::string(8192, 'x');
        refused();
    }
}

TEST_CASE("a store is opened by one process", "[store]") {
    const TemporaryFolder folder;
    const Store first = open_store(folder / "store.db");
    CHECK_FALSE(Store::open(folder / "store.db"));
}

TEST_CASE("a disk that is full at any statement of a turn voids the whole turn", "[store]") {
    // After SQLITE_FULL the statements that follow would each commit by themselves.
    int failures = 0;
    for (int free_pages = 0;; ++free_pages) {
        CAPTURE(free_pages);
        const TemporaryFolder folder;
        const std::string file = folder / "database";
        int done = 0;
        bool committed = false;
        {
            auto database = Database::open(file);
            REQUIRE(database);
            check_ok(database->execute("CREATE TABLE line (number INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT"));
            database->query("INSERT INTO line VALUES (0, 'first turn')").run();
            CHECK(database->commit());
            const std::int64_t pages = number(*database, "PRAGMA page_count");
            check_ok(database->execute(fmt::format("PRAGMA max_page_count={}", pages + free_pages)));
            const std::string text(1000, 'x');
            try {
                for (; done < 20; ++done) {
                    database->query("INSERT INTO line VALUES (?, ?)").bind(std::int64_t{done + 1}).bind(text).run();
                    database->release_savepoint();
                }
                committed = database->commit();
            } catch (const StoreFailure& failure) {
                CHECK(failure.kind() == StoreFailure::Kind::full);
                ++failures;
            }
        }
        auto database = Database::open(file);
        REQUIRE(database);
        CHECK(number(*database, "SELECT count(*) FROM line") == (committed ? 21 : 1));
        if (committed) break;
        CHECK(done < 20);
    }
    CHECK(failures >= 4);
}

TEST_CASE("what nobody can read in a row of the store is as if it were not there", "[store]") {
    const TemporaryFolder folder;
    const std::string file = folder / "store.db";
    {
        Store store = open_store(file);
        store.insert_pool(some_pool());
        store.insert_volume(some_volume(2, "a"));
        store.append_event("volume.created", "a", {{"k", "v"}});
        store.commit();
    }
    {
        auto database = Database::open(file);
        REQUIRE(database);
        check_ok(database->execute(
            "UPDATE volume SET labels = x'c1'; UPDATE pool SET spec = x'c1', limits = x'c1'; UPDATE event SET body = "
            "x'c1'"));
    }
    Store store = open_store(file);
    CHECK(store.find_volume("a")->labels.empty());
    CHECK(store.pool()->name == "default");
    CHECK(store.pool()->spec.pool.uuid.empty());
    CHECK(store.events_since(0, 10).front().body.empty());
    CHECK(store.labelled_bytes("k", "v") == 0);
    store.set_size(77, 4096);  // No volume's: nothing is counted.
    CHECK(store.labelled_bytes("k", "v") == 0);
}

TEST_CASE("a store that does not say whose it is, is told from one that does", "[store]") {
    const TemporaryFolder folder;
    open_store(folder / "store.db");
    auto database = Database::open(folder / "store.db");
    REQUIRE(database);
    CHECK(Store::describe(*database));
    check_ok(database->execute("DELETE FROM host"));
    CHECK(Store::describe(*database).error().code == Errc::needs_repair);
}

TEST_CASE("a value of another type than its column's is refused, and its turn goes on", "[store]") {
    const TemporaryFolder folder;
    auto database = Database::open(folder / "database");
    REQUIRE(database);
    check_ok(database->execute("CREATE TABLE line (number INTEGER PRIMARY KEY)"));
    CHECK_THROWS_AS(database->query("INSERT INTO line VALUES (?)").bind("seven").run(), StoreRefusal);
    database->rollback_savepoint();
    database->query("INSERT INTO line VALUES (?)").bind(std::int64_t{7}).run();
    CHECK(database->commit());
    CHECK(number(*database, "SELECT number FROM line") == 7);
}

TEST_CASE("a database that keeps no log, or has no place, is none for a store", "[store]") {
    const TemporaryFolder folder;
    CHECK_THAT(Database::open(":memory:").error().message, Catch::Contains("WAL"));
    CHECK_FALSE(Database::open(folder / "absent/database"));
    CHECK_FALSE(Database::open(std::string(600, 'a')));
    auto database = Database::open(folder / "database");
    REQUIRE(database);
    CHECK_FALSE(database->find_damage_of("no \"table").empty());
    check_ok(database->execute("CREATE TABLE line (text TEXT); PRAGMA max_page_count=2"));
    const auto full = database->execute(fmt::format("INSERT INTO line VALUES ('{}')", std::string(100000, 'x')));
    REQUIRE_FALSE(full);
    CHECK(full.error().code == Errc::no_space);
}

TEST_CASE("a database is copied on a disk, and not over a file that is none or without a folder", "[store]") {
    const TemporaryFolder folder;
    auto database = Database::open(folder / "database");
    REQUIRE(database);
    check_ok(database->execute("CREATE TABLE line (text TEXT); INSERT INTO line VALUES ('a')"));
    {
        auto copy = DatabaseCopy::begin(*database, folder / "copy", {});
        REQUIRE(copy);
        for (auto done = copy->copy_pages(1); !*done; done = copy->copy_pages(1)) REQUIRE(done);
    }
    auto copied = Database::open(folder / "copy");
    REQUIRE(copied);
    CHECK(number(*copied, "SELECT count(*) FROM line") == 1);
    CHECK_FALSE(DatabaseCopy::begin(*database, folder / "absent/copy", {}));
    std::ofstream(folder / "text") << std::string(8192, 'x');
    auto over = DatabaseCopy::begin(*database, folder / "text", {});
    CHECK((!over || !over->copy_pages(100)));
}

}  // namespace cowslip
