// Frozen images, names that go to another volume, and labels.
#include <catch2/catch.hpp>

#include "common/names.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

schemas::VolumeFreeze freeze(const std::string& id) {
    schemas::VolumeFreeze message;
    message.id = id;
    return message;
}

schemas::VolumeRename rename(const std::string& id, const std::string& new_id) {
    schemas::VolumeRename message;
    message.id = id;
    message.new_id = new_id;
    return message;
}

schemas::VolumeGet read_only_get(const std::string& id, const std::string& holder = "") {
    schemas::VolumeGet message = get(id, holder);
    message.read_only = true;
    return message;
}

schemas::VolumeAttach read_only_attach(const std::string& id, const std::string& holder = "") {
    schemas::VolumeAttach message = attach(id, holder);
    message.read_only = true;
    return message;
}

bool has_event(World& world, const std::string& type, const std::string& subject) {
    for (const auto& event : body_of<schemas::EventSince>(world.ask_once(schemas::EventSince{})).events) {
        if (event.type == type && event.subject == subject) return true;
    }
    return false;
}

void freeze_and_clone(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(get("base")));
    REQUIRE(world.call(put("base")));
    REQUIRE(world.call(freeze("base")));
    REQUIRE(world.call(create("clone", "base")));
    REQUIRE(world.call(get("clone")));
    REQUIRE(world.call(read_only_get("base")));
}

void rename_and_use_again(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(create("clone", "base")));
    REQUIRE(world.call(attach("base")));
    REQUIRE(world.call(rename("base", "first")));
    REQUIRE(world.call(create("base", "first")));
}

}  // namespace

TEST_CASE("an image is taken read-only alone, on a read-only device, and its clones are writable", "[naming]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const auto frozen = world.call(freeze("base"));
    REQUIRE(frozen);
    CHECK(frozen->changed);
    CHECK(frozen->volume.kind == "image");
    CHECK(has_event(world, "volume.frozen", "base"));
    const Answer refused = world.ask_once(get("base"));
    CHECK(word(refused) == "invalid_argument");
    CHECK_THAT(refused.error->message, Catch::Contains("cowslip create NEW --parent base"));
    CHECK(word(world.ask_once(attach("base"))) == "invalid_argument");
    schemas::VolumeResize larger;
    larger.id = "base";
    larger.size_bytes = 128 * kMiB;
    CHECK(word(world.ask_once(larger)) == "invalid_argument");
    REQUIRE(world.call(read_only_get("base", "one")));
    REQUIRE(world.call(read_only_get("base", "two")));
    CHECK(world.is_device_read_only("base"));
    REQUIRE(world.call(put("base", "one")));
    REQUIRE(world.call(put("base", "two")));
    REQUIRE(world.call(read_only_attach("base")));
    REQUIRE(world.call(detach("base")));
    REQUIRE(world.call(create("clone", "base")));
    CHECK(show(world, "clone").kind == "volume");
    REQUIRE(world.call(get("clone")));
    CHECK_FALSE(world.is_device_read_only("clone"));
    const auto again = world.call(freeze("base"));
    REQUIRE(again);
    CHECK_FALSE(again->changed);
    REQUIRE(world.call(remove_and_wait("base")));
    CHECK(word(world.ask_once(freeze("base"))) == "not_found");
    check_quiet(world);
}

TEST_CASE("who may write to a volume, or has it attached, keeps it from being frozen", "[naming]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(get("base", "one")));
    const Answer refused = world.ask_once(freeze("base"));
    REQUIRE(word(refused) == "in_use");
    CHECK(refused.error->details.at("holders") == std::vector<std::string>{"one"});
    REQUIRE(world.call(put("base", "one")));
    for (const bool read_only : {false, true}) {
        REQUIRE(world.call(read_only ? read_only_attach("base") : attach("base")));
        CHECK(word(world.ask_once(freeze("base"))) == "in_use");
        REQUIRE(world.call(detach("base")));
    }
    CHECK(show(world, "base").kind == "volume");
    const auto reader = world.call(read_only_get("base", "one"));
    REQUIRE(reader);
    REQUIRE(world.call(freeze("base")));
    CHECK(show(world, "base").mount == reader->path);
    check_quiet(world);
}

TEST_CASE("a volume that nobody has unmounted can be read when it is frozen", "[naming]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(get("base")));
    world.cut_power();
    REQUIRE(world.call(freeze("base")));
    // Its device takes no writes: a journal could not be replayed now.
    REQUIRE(world.call(read_only_get("base")));
    CHECK(world.is_device_read_only("base"));
    check_quiet(world);
}

TEST_CASE("a device that somebody has open without a lease keeps a volume from being frozen", "[naming]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(attach("base")));
    const std::string uuid = thin_dm_uuid(world.store().pool()->spec.pool.uuid, show(world, "base").thin_id);
    REQUIRE(world.call(detach("base")));
    REQUIRE(world.call(get("base")));
    world.opened.insert(uuid);
    REQUIRE(world.call(put("base")));
    CHECK(word(world.ask_once(freeze("base"))) == "in_use");
    CHECK(show(world, "base").kind == "volume");
    world.opened.clear();
    REQUIRE(world.call(freeze("base")));
    check_quiet(world);
}

TEST_CASE("a death at any effect or turn of a freeze leaves a volume or an image", "[naming]") {
    die_everywhere(false, freeze_and_clone, [](World& world) {
        CHECK(show(world, "base").kind == "image");
        CHECK(world.is_device_read_only("base"));
        CHECK(show(world, "clone").mount.has_value());
    });
}

TEST_CASE("a power cut at any effect or turn of a freeze leaves a volume or an image that can be read", "[naming]") {
    die_everywhere(true, freeze_and_clone, [](World& world) {
        CHECK(show(world, "base").kind == "image");
        REQUIRE(world.call(read_only_get("base")));
    });
}

TEST_CASE("a name goes to another with its device, its leases and its clones, and is free", "[naming]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("clone", "base")));
    const auto attached = world.call(attach("base", "one"));
    REQUIRE(attached);
    const auto before = show(world, "base");
    const auto renamed = world.call(rename("base", "first"));
    REQUIRE(renamed);
    CHECK(renamed->changed);
    CHECK(renamed->volume.thin_id == before.thin_id);
    CHECK(show(world, "first").device == attached->device);
    CHECK(show(world, "first").leases.size() == 1);
    CHECK(show(world, "clone").parent == "first");
    CHECK_FALSE(exists(world, "base"));
    CHECK(has_event(world, "volume.renamed", "base"));
    REQUIRE(world.call(create("base", "first")));
    // Only its own clones know it by the new name.
    REQUIRE(world.call(rename("base", "second")));
    CHECK(show(world, "clone").parent == "first");
    REQUIRE(world.call(detach("first", "one")));
    check_quiet(world);
}

TEST_CASE("a rename is refused for a taken name and for a mounted volume", "[naming]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("other", "base")));
    CHECK(word(world.ask_once(rename("base", "other"))) == "already_exists");
    CHECK(word(world.ask_once(rename("nobody", "first"))) == "not_found");
    CHECK(word(world.ask_once(rename("base", ""))) == "invalid_argument");
    const auto same = world.call(rename("base", "base"));
    REQUIRE(same);
    CHECK_FALSE(same->changed);
    REQUIRE(world.call(get("base", "one")));
    const Answer refused = world.ask_once(rename("base", "first"));
    REQUIRE(word(refused) == "in_use");
    CHECK(refused.error->details.at("holders") == std::vector<std::string>{"one"});
    REQUIRE(world.call(put("base", "one")));
    REQUIRE(world.call(rename("base", "first")));
    const auto path = world.call(get("first"));
    REQUIRE(path);
    CHECK_THAT(path->path, Catch::Contains("/first/"));
    check_quiet(world);
}

TEST_CASE("requests about both names of a rename are carried out in order of arrival", "[naming]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const std::vector<std::string> sent = {world.send_once(create("a", "base")), world.send_once(rename("a", "b")),
                                           world.send_once(create("c", "b")), world.send_once(create("a", "c")),
                                           world.send_once(remove("b"))};
    for (const std::string& id : sent) CHECK(word(world.answer(id)) == "ok");
    CHECK(exists(world, "a"));
    CHECK(exists(world, "c"));
    CHECK_FALSE(exists(world, "b"));
    check_quiet(world);
}

TEST_CASE("a death at any effect or turn of a rename leaves one volume with one name", "[naming]") {
    die_everywhere(false, rename_and_use_again, [](World& world) {
        CHECK(show(world, "first").leases.size() == 1);
        CHECK(show(world, "base").parent == "first");
        CHECK(show(world, "clone").parent == "first");
    });
}

TEST_CASE("a power cut at any effect or turn of a rename leaves one volume with one name", "[naming]") {
    die_everywhere(true, rename_and_use_again, [](World& world) {
        CHECK(show(world, "base").parent == "first");
        CHECK(show(world, "first").thin_id < show(world, "base").thin_id);
    });
}

TEST_CASE("labels are set and taken away afterwards", "[naming]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    schemas::VolumeLabel label;
    label.id = "base";
    label.set = {{"team", "blue"}, {"tier", ""}};
    REQUIRE(world.call(label));
    label.set = {{"tier", "one"}};
    label.remove = {"team", "absent"};
    const auto labelled = world.call(label);
    REQUIRE(labelled);
    CHECK(labelled->labels == schemas::Labels{{"tier", "one"}});
    CHECK(show(world, "base").labels == schemas::Labels{{"tier", "one"}});
    label.remove = {};
    label.set = {{"UPPER", ""}};
    CHECK(word(world.ask_once(label)) == "invalid_argument");
    label.set.clear();
    for (int i = 0; i < 32; ++i) label.set["key" + std::to_string(i)] = "";
    CHECK(word(world.ask_once(label)) == "invalid_argument");
    label.id = "nobody";
    label.set = {{"a", "b"}};
    CHECK(word(world.ask_once(label)) == "not_found");
    CHECK(show(world, "base").labels == schemas::Labels{{"tier", "one"}});
}

TEST_CASE("a store that is made anew knows images, sizes, new names and labels", "[naming]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(create("clone", "base")));
    schemas::VolumeResize larger;
    larger.id = "clone";
    larger.size_bytes = 128 * kMiB;
    REQUIRE(world.call(larger));
    REQUIRE(world.call(freeze("base")));
    REQUIRE(world.call(rename("base", "first")));
    schemas::VolumeLabel label;
    label.id = "first";
    label.set = {{"team", "blue"}};
    REQUIRE(world.call(label));
    world.run_for(120 * 1000);  // The pool has a backup of it by then.
    lose_store(world);
    REQUIRE(world.call(schemas::PoolRebuild{}));
    CHECK(show(world, "first").kind == "image");
    CHECK(show(world, "first").labels == label.set);
    CHECK(show(world, "clone").parent == "first");
    CHECK(show(world, "clone").size_bytes == 128 * kMiB);
    check_quiet(world);
}

TEST_CASE("a volume whose journal cannot be written is not frozen, and not left mounted", "[naming]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    const std::string uuid = thin_dm_uuid(world.store().pool()->spec.pool.uuid, show(world, "base").thin_id);
    world.mounts.sync_errors[uuid] = EIO;
    CHECK(word(world.ask_once(freeze("base"))) == "internal");
    CHECK(show(world, "base").kind == "volume");
    CHECK_FALSE(show(world, "base").mount.has_value());
    REQUIRE(world.call(freeze("base")));
    CHECK(show(world, "base").kind == "image");
    check_quiet(world);
}

TEST_CASE("a busy mount that is left without a lease is in nobody's way unseen", "[naming]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(world.call(get("base")));
    world.mounts.holders["base"] = std::vector<schemas::Holder>(20, {7, "sleep", "has it open"});
    world.store().delete_leases(show(world, "base").thin_id);
    world.run_for(1000);
    const auto busy = [&](const Answer& answer) {
        return word(answer) == "in_use" && answer.error->details.at("holders").size() == 16 &&
               answer.error->details.at("holders").front().find("sleep") != std::string::npos;
    };
    CHECK(busy(world.ask_once(rename("base", "first"))));
    CHECK(busy(world.ask_once(remove("base"))));
    CHECK(busy(world.ask_once(freeze("base"))));
    CHECK(busy(world.ask_once(attach("base"))));
    CHECK(busy(world.ask_once(read_only_get("base"))));
    schemas::VolumePut away = put("base");
    away.remove = true;
    CHECK(busy(world.ask_once(away)));
    world.run_for(5000);  // It is idle no longer.
    REQUIRE(world.call(schemas::SystemFsck{.repair = true}));
    CHECK(findings(world) == std::vector<std::string>{"busy base", "stray-mount base"});
    CHECK(exists(world, "base"));
    const std::string how = GENERATE(as<std::string>(), "renamed", "removed", "put and removed", "got");
    world.mounts.holders.clear();
    if (how == "renamed") REQUIRE(world.call(rename("base", "first")));
    if (how == "removed") REQUIRE(world.call(remove("base")));
    if (how == "put and removed") REQUIRE(world.call(away));
    if (how == "got") REQUIRE(world.call(read_only_get("base")));
    REQUIRE(world.call(schemas::SystemFsck{.repair = true}));
    CHECK(findings(world).empty());
    check_quiet(world);
}

}  // namespace cowslip::simulation
