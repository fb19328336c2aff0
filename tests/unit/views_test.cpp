#include "services/pool_manager/views.h"

#include <catch2/catch.hpp>

#include "common/names.h"
#include "services/pool_manager/keys.h"

namespace cowslip {
namespace {

const std::string kUuid = "0123456789abcdef0123456789abcdef";

ThinRow row(std::uint32_t thin_id, const std::string& name) {
    ThinRow made;
    made.thin_id = thin_id;
    made.name = name;
    made.state = "ready";
    made.size_sectors = 2048;
    made.born_min = 5;
    made.born_max = 6;
    return made;
}

// "a" is thin 7, whole and mounted; the next id is 10.
Views in_order() {
    Views views;
    views.pool_uuid = kUuid;
    views.before.rows[7] = row(7, "a");
    views.before.leases[7].mode = "mounted_rw";
    views.before.next_thin_id = 10;
    views.after = views.before;
    views.kernel.thins = {{7, {.thin_id = 7, .transaction_id = 5}}};
    views.kernel.live_read = true;
    views.kernel.devices[7] = {
        .thin_id = 7, .size_sectors = 2048, .live_table = true, .path = "/dev/mapper/x", .mapped_sectors = {}};
    schemas::MountedVolume mounted;
    mounted.directory = "a";
    mounted.id = "a";
    mounted.dm_uuid = thin_dm_uuid(kUuid, 7);
    views.kernel.mounts = {mounted};
    return views;
}

std::vector<std::string> words(const Views& views) {
    std::vector<std::string> list;
    for (const auto& difference : compare(views)) {
        list.push_back(std::string(to_string(difference.kind)) + " " + difference.subject);
    }
    return list;
}

// Everything about thin 7 is wrong.
Views out_of_order() {
    Views views = in_order();
    views.kernel.thins->clear();
    views.kernel.devices[7].suspended = true;
    views.kernel.devices[7].size_sectors = 1024;
    views.kernel.mounts.clear();
    return views;
}

}  // namespace

TEST_CASE("views that agree have no difference", "[views]") {
    CHECK(words(in_order()).empty());
    CHECK(words(out_of_order()) == std::vector<std::string>{"broken-lease a", "lost a", "suspended 7", "wrong-size a"});
}

TEST_CASE("what somebody has worked on meanwhile is not compared", "[views]") {
    Views views = out_of_order();
    SECTION("on the thin id") {
        views.worked_on.insert(thin_key(7));
    }
    SECTION("on the name") {
        views.worked_on.insert(volume_key("a"));
    }
    SECTION("an operation that goes on") {
        views.unfinished.insert(7);
    }
    SECTION("it is being removed by now") {
        views.after.rows[7].state = "removing";
        views.after.rows[7].name.reset();
    }
    SECTION("it is gone by now") {
        views.after.rows.erase(7);
    }
    CHECK(words(views).empty());
}

TEST_CASE("what was not read is not compared", "[views]") {
    Views views = out_of_order();
    SECTION("the pool's list") {
        views.kernel.thins.reset();
        CHECK(words(views) == std::vector<std::string>{"broken-lease a", "suspended 7", "wrong-size a"});
        CHECK_FALSE(views.can_tell(FindingKind::lost, "b"));
        CHECK(views.can_tell(FindingKind::broken_lease, "b"));
    }
    SECTION("devices and mounts") {
        views.kernel.live_read = false;
        CHECK(words(views) == std::vector<std::string>{"lost a"});
        CHECK(views.can_tell(FindingKind::lost, "b"));
        CHECK_FALSE(views.can_tell(FindingKind::broken_lease, "b"));
    }
}

TEST_CASE("a thin id from the next one on may be one that was made meanwhile", "[views]") {
    Views views = in_order();
    (*views.kernel.thins)[9] = {.thin_id = 9};
    (*views.kernel.thins)[10] = {.thin_id = 10};
    (*views.kernel.thins)[1] = {.thin_id = 1};  // Internal.
    CHECK(words(views) == std::vector<std::string>{"foreign-thin 9"});
    views.after.rows[9] = row(9, "b");
    CHECK(words(views).empty());
}

TEST_CASE("a birth outside the row's window says that it may be another's", "[views]") {
    Views views = in_order();
    views.kernel.thins->at(7).transaction_id = GENERATE(4U, 7U);
    CHECK(words(views) == std::vector<std::string>{"wrong-birth a"});
}

TEST_CASE("a device without a lease is a stray unless it is kept on purpose or mounted", "[views]") {
    Views views = in_order();
    views.before.leases.clear();
    views.after.leases.clear();
    CHECK(words(views) == std::vector<std::string>{"stray-mount a"});
    views.kernel.mounts.clear();
    CHECK(words(views) == std::vector<std::string>{"stray-device a"});
    views.kept.insert(7);
    CHECK(words(views).empty());
}

TEST_CASE("what is kept on purpose may be mounted where its row belongs, and nowhere else", "[views]") {
    Views views = in_order();
    views.before.leases.clear();
    views.after.leases.clear();
    views.kept.insert(7);
    CHECK(words(views).empty());
    views.kernel.mounts.front().directory = ".warm-7";
    views.kernel.mounts.front().id = "";
    CHECK(words(views) == std::vector<std::string>{"stray-mount .warm-7"});
    // A warm clone.
    views.before.rows[7].name.reset();
    views.after.rows[7].name.reset();
    CHECK(words(views).empty());
    views.kernel.mounts.front().directory = "a";
    CHECK(words(views) == std::vector<std::string>{"stray-mount a"});
}

TEST_CASE("a lease that was taken or ended meanwhile is not compared", "[views]") {
    Views views = in_order();
    views.kernel.mounts.clear();
    views.after.leases.clear();
    CHECK(words(views).empty());
}

TEST_CASE("a finding about what is worked on is kept as it is", "[views]") {
    Views views = in_order();
    CHECK(views.can_tell(FindingKind::lost, "a"));
    views.worked_on.insert(thin_key(7));
    CHECK_FALSE(views.can_tell(FindingKind::lost, "a"));
    CHECK_FALSE(views.can_tell(FindingKind::suspended, "7"));
    CHECK_FALSE(views.can_tell(FindingKind::stray_device, "thin 7"));
    CHECK(views.can_tell(FindingKind::lost, "b"));
    CHECK_FALSE(views.can_tell(FindingKind::frozen, "b"));  // Not found by comparing.
}

TEST_CASE("a device without a table is no lease's, and is neither too small nor suspended", "[views]") {
    Views views = in_order();
    views.kernel.devices[7].live_table = false;
    views.kernel.devices[7].suspended = true;
    views.kernel.devices[7].size_sectors = 1;
    CHECK(words(views) == std::vector<std::string>{"broken-lease a"});
}

TEST_CASE("a mount of a volume that is attached, or of a life that has no row, is a stray", "[views]") {
    Views views = in_order();
    views.before.leases[7].mode = "attached_rw";
    views.after = views.before;
    CHECK(words(views) == std::vector<std::string>{"stray-mount a"});
    views = in_order();
    views.kernel.devices[8] = views.kernel.devices[7];
    views.kernel.devices[8].thin_id = 8;
    views.kernel.mounts.front().dm_uuid = thin_dm_uuid(kUuid, 8);
    CHECK(words(views) == std::vector<std::string>{"broken-lease a", "stray-mount a"});
}

TEST_CASE("what has another name than before, or lies where a name is worked on, is not compared", "[views]") {
    Views views = out_of_order();
    views.after.rows[7].name = "b";
    CHECK(words(views).empty());
    views = in_order();
    views.kernel.mounts.front().id = "";
    views.kernel.mounts.front().dm_uuid = "";
    views.worked_on = {volume_key("a")};
    CHECK(words(views).empty());
    CHECK_FALSE(views.can_tell(FindingKind::stray_mount, "a"));
}

}  // namespace cowslip
