#include "services/pool_manager/restore.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include <catch2/catch.hpp>

#include "tests/fakes/temporary_folder.h"

namespace cowslip {
namespace {

std::string text_of(const std::string& file) {
    std::ostringstream text;
    text << std::ifstream(file).rdbuf();
    return text.str();
}

bool is_there(const std::string& file) {
    return std::filesystem::exists(file);
}

struct Killed {};

// The process's end before the n-th step.
BeforeStep killed_before(int nth) {
    return [left = nth]() mutable {
        if (left-- == 0) throw Killed{};
    };
}

}  // namespace

TEST_CASE("a restored store is in place, and the one before is kept with its log", "[store][restore]") {
    const TemporaryFolder folder;
    std::ofstream(folder / "store.db") << "old";
    std::ofstream(folder / "store.db-wal") << "its log";
    CHECK(finish_restore(folder.path())->empty());
    CHECK(text_of(folder / "store.db") == "old");
    REQUIRE(stage_store(folder.path(), "new"));
    CHECK(text_of(folder / "store.db") == "old");
    CHECK(*finish_restore(folder.path()) == folder / "store.db.replaced-1");
    CHECK(text_of(folder / "store.db") == "new");
    CHECK_FALSE(is_there(folder / "store.db-wal"));
    CHECK(text_of(folder / "store.db.replaced-1") == "old");
    CHECK(text_of(folder / "store.db.replaced-1-wal") == "its log");
    CHECK(finish_restore(folder.path())->empty());
    // Once more, without a log; and where there was no store.
    REQUIRE(stage_store(folder.path(), "newer"));
    CHECK(*finish_restore(folder.path()) == folder / "store.db.replaced-2");
    CHECK(text_of(folder / "store.db.replaced-2") == "new");
    CHECK_FALSE(is_there(folder / "store.db.replaced-2-wal"));
    std::filesystem::remove(folder / "store.db");
    REQUIRE(stage_store(folder.path(), "newest"));
    CHECK(finish_restore(folder.path())->empty());
    CHECK(text_of(folder / "store.db") == "newest");
}

TEST_CASE("a death at any step of a restore leaves the old store or the new one whole", "[store][restore]") {
    const bool again = GENERATE(false, true);  // Or only started.
    int old_ones = 0;
    int new_ones = 0;
    for (int nth = 0;; ++nth) {
        CAPTURE(again, nth);
        const TemporaryFolder folder;
        std::ofstream(folder / "store.db") << "old";
        std::ofstream(folder / "store.db-wal") << "its log";
        bool killed = false;
        bool done = false;
        try {
            const BeforeStep before = killed_before(nth);
            // Both count the steps of one. Not inside REQUIRE: Catch would swallow the death.
            const auto step = [&] { before(); };
            const bool staged = stage_store(folder.path(), "new", step).has_value();
            done = staged && finish_restore(folder.path(), step).has_value();
        } catch (const Killed&) {
            killed = true;
        }
        CHECK(done != killed);
        // The next start.
        REQUIRE(finish_restore(folder.path()));
        const std::string store = text_of(folder / "store.db");
        if (store == "old") {
            ++old_ones;
            CHECK(text_of(folder / "store.db-wal") == "its log");
        } else {
            ++new_ones;
            CHECK(store == "new");
            CHECK_FALSE(is_there(folder / "store.db-wal"));
            CHECK(text_of(folder / "store.db.replaced-1") == "old");
            CHECK(text_of(folder / "store.db.replaced-1-wal") == "its log");
            CHECK_FALSE(is_there(folder / "store.db.replaced-2"));
        }
        CHECK_FALSE(is_there(folder / "store.db.new"));
        CHECK_FALSE(is_there(folder / "store.db.new.tmp"));
        if (again) {
            REQUIRE(stage_store(folder.path(), "new"));
            REQUIRE(finish_restore(folder.path()));
            CHECK(text_of(folder / "store.db") == "new");
        }
        if (!killed) break;
    }
    CHECK(old_ones == 2);
    CHECK(new_ones > 4);
}

TEST_CASE("a restore that cannot put a file where it belongs says so, and the old store stays", "[store][restore]") {
    const TemporaryFolder folder;
    CHECK_FALSE(stage_store(folder / "absent", "new"));
    std::ofstream(folder / "store.db") << "old";
    REQUIRE(stage_store(folder.path(), "new"));
    SECTION("its log cannot be put away") {
        std::filesystem::create_directory(folder / "store.db-wal");
    }
    SECTION("it cannot be kept") {
        std::filesystem::remove(folder / "store.db");
        std::filesystem::create_directory(folder / "store.db");
    }
    CHECK_FALSE(finish_restore(folder.path()));
    CHECK(is_there(folder / "store.db"));
    CHECK(text_of(folder / "store.db.new") == "new");
}

}  // namespace cowslip
