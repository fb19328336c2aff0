// Each command of what a service goes through is refused, one at a time: by its actor, by the kernel's errno, or with
// an answer that nobody can read. Every request is answered all the same, nothing that was there is lost, and when
// commands are carried out again all is as it should be.
//
// COWSLIP_NTH_STRIDE=10: every tenth command.
#include <cerrno>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/names.h"
#include "schemas/device_actor.h"
#include "schemas/mount_actor.h"
#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

std::string status_line(World& world) {
    if (world.kernel.pools.empty()) return "";
    FakeDeviceMapper dm(world.kernel);
    const auto status = dm.status(world.kernel.devices.at(world.kernel.pools.begin()->first).device);
    return status && *status ? (*status)->parameters : "";
}

// What the kernel's refusal looks like, where the reply has a place for it.
std::optional<std::string> refusal(const std::string& type, std::int32_t error_number, const std::string& status) {
    const schemas::Verdict verdict{error_number, status};
    if (type == schemas::SetTransactionId::kType || type == schemas::CreateThin::kType ||
        type == schemas::WriteInternal::kType) {
        return encode(verdict);
    }
    if (type == schemas::CreateSnap::kType) return encode(schemas::CreateSnap::Reply{.verdict = verdict});
    if (type == schemas::DeleteThin::kType)
        return encode(schemas::DeleteThin::Reply{.verdict = verdict, .holders = {}});
    if (type == schemas::DiscardThin::kType)
        return encode(schemas::DiscardThin::Reply{.verdict = verdict, .holders = {}});
    if (type == schemas::ReadInternal::kType)
        return encode(schemas::ReadInternal::Reply{.verdict = verdict, .data = ""});
    if (type == schemas::ListThins::kType) return encode(schemas::ListThins::Reply{.verdict = verdict, .thins = {}});
    if (type == schemas::DumpMetadata::kType) return encode(schemas::DumpMetadata::Reply{.verdict = verdict});
    if (type == schemas::Activate::kType) {
        return encode(
            schemas::Activate::Reply{.error_number = error_number, .path = "", .pool_status = verdict.status});
    }
    if (type == schemas::Deactivate::kType)
        return encode(schemas::Deactivate::Reply{.error_number = error_number, .holders = {}});
    if (type == schemas::Resume::kType) return encode(schemas::Resume::Reply{.error_number = error_number});
    if (type == schemas::FindFilesystem::kType) {
        return encode(schemas::FindFilesystem::Reply{.error_number = error_number, .fs = "", .size_sectors = 0});
    }
    if (type == schemas::Unmount::kType && error_number == EBUSY)
        return encode(schemas::Unmount::Reply{.busy = true, .holders = {}});
    return std::nullopt;
}

struct How {
    const char* name;
    std::int32_t error_number;  // 0: the actor itself refuses,
    Errc code;                  // with this.
};

constexpr std::array kHow = {How{"error", 0, Errc::unavailable}, How{"damaged", 0, Errc::needs_repair},
                             How{"errno", EIO, Errc::internal}, How{"busy", EBUSY, Errc::in_use}};

// Nothing: a command of this type cannot be refused so.
std::optional<Result<std::string>> refuse(const std::string& type, const How& how, const std::string& status = "") {
    if (how.error_number == 0) return Error{how.code, "refused by the test"};
    auto body = refusal(type, how.error_number, status);
    if (!body) return std::nullopt;
    return std::move(*body);
}

struct Trial {
    const char* name;
    std::function<void(World&)> prepare;
    std::function<void(World&)> act;    // Each request is asked once, and answered in whatever way.
    std::function<void(World&)> check;  // When commands are carried out again.
};

schemas::VolumeCreate sized(const std::string& id, std::uint64_t bytes, const std::string& fs = "") {
    schemas::VolumeCreate request = create(id);
    request.size_bytes = bytes;
    request.fs = fs;
    return request;
}

// Asked again, as an operator does, until it is done.
template <class Message>
void insist(World& world, const Message& message) {
    std::string last;
    for (int attempt = 0; attempt < 6; ++attempt) {
        const Answer answer = world.ask_once(message);
        if (!answer.error) return;
        last = answer.error->message;
        world.run_for(10000);
    }
    FAIL(fmt::format("{} is not done though all goes well again: {}", Message::kType, last));
}

std::string pool_said(World& world) {
    return body_of<schemas::PoolStatus>(world.ask_once(schemas::PoolStatus{})).state;
}

void check_all_well(World& world) {
    if (pool_said(world) == "read_only") insist(world, schemas::SystemCleanup{});
    if (pool_said(world) == "frozen") world.kill_manager();
    insist(world, schemas::PoolStart{});
    insist(world, schemas::SystemFsck{.repair = true});
    CHECK(exists(world, "base"));
    insist(world, create("new", "base"));
    insist(world, get("new"));
    insist(world, put("new"));
    insist(world, remove_and_wait("new"));
    check_quiet(world);
    CHECK(findings(world).empty());
}

void repair_and_evict(World& world) {
    world.ask_once(schemas::PoolRepair{.evict = true, .spare = ""});
}

void check_repaired(World& world) {
    if (pool_said(world) == "frozen") world.kill_manager();
    insist(world, schemas::PoolRepair{.evict = true, .spare = ""});
    check_all_well(world);
}

DmDevice thin_named(World& world, std::uint32_t thin_id) {
    const std::string uuid = world.store().pool()->spec.pool.uuid;
    return {thin_dm_name(uuid, thin_id), thin_dm_uuid(uuid, thin_id)};
}

void suspend_behind_our_back(World& world, const std::string& id) {
    world.kernel.devices.at(world.kernel.number_of(thin_named(world, show(world, id).thin_id))).suspended = true;
}

// As after a commit that failed.
void lose_a_commit(World& world) {
    FakePool& pool = world.kernel.pools.begin()->second;
    pool.core.needs_check = true;
    pool.mode = PoolMode::ro;
    world.kernel.media.at(pool.medium).metadata.needs_check = true;
}

void make_quiet(World& world) {
    make_pool_and_base(world);
    REQUIRE(world.call(create("a", "base")));
    REQUIRE(world.call(create("b", "base")));
    world.run_for(70000);
}

void live(World& world) {
    world.ask_once(create("c", "base"));
    world.ask_once(get("a"));
    world.ask_once(schemas::VolumeResize{.id = "a", .size_bytes = 128 * kMiB});
    world.ask_once(create("of an active one", "a"));
    world.ask_once(schemas::VolumeTrim{.id = "a"});
    world.ask_once(schemas::PoolMeasure{});
    world.ask_once(schemas::PoolMeasure{.exact = true});
    world.ask_once(attach("b"));
    world.ask_once(schemas::VolumeResize{.id = "b", .size_bytes = 128 * kMiB});
    world.ask_once(detach("b"));
    world.ask_once(put("a"));
    world.ask_once(sized("raw", 64 * kMiB, "none"));
    world.ask_once(sized("of another size", 96 * kMiB));
    schemas::VolumeCreate got = create("got", "base");
    got.get = true;
    world.ask_once(got);
    schemas::VolumePut away = put("got");
    away.remove = true;
    world.ask_once(away);
    world.ask_once(schemas::VolumeFreeze{.id = "b"});
    world.ask_once(schemas::VolumeRename{.id = "c", .new_id = "renamed"});
    world.ask_once(remove_and_wait("raw"));
    world.ask_once(remove("of another size"));
    world.run_for(10000);
}

void end_everything(World& world) {
    world.ask_once(get("a"));
    world.ask_once(schemas::StoreBackup{});
    world.ask_once(schemas::PoolGrow{.data_bytes = 2048 * kMiB, .devices = {}});
    world.ask_once(schemas::SystemCleanup{});
    world.ask_once(schemas::PoolCheck{});
    world.ask_once(schemas::PoolStart{.read_only = true});
    schemas::VolumeGet read_only = get("b");
    read_only.read_only = true;
    world.ask_once(read_only);
    world.ask_once(schemas::SystemCleanup{});
    world.ask_once(schemas::PoolStart{});
    world.ask_once(put("a"));
    world.ask_once(schemas::PoolStop{});
}

const std::vector<Trial> kTrials = {
    {"the life of volumes", make_quiet, live,
     [](World& world) {
         CHECK(exists(world, "a"));
         CHECK(exists(world, "b"));
         check_all_well(world);
     }},
    {"the pool put away, looked at and started", make_quiet, end_everything, check_all_well},
    {"what was left over is put right",
     [](World& world) {
         make_quiet(world);
         REQUIRE(world.call(get("a")));
         REQUIRE(world.call(attach("b")));
         suspend_behind_our_back(world, "b");
         const DmDevice a = thin_named(world, show(world, "a").thin_id);
         world.mounts.directories.erase("a");
         world.kernel.devices.at(world.kernel.number_of(a)).openers = 0;
         world.mounts.directories["left"] = {.id = "left", .mount_point = true, .mount = {}};
     },
     [](World& world) { world.ask_once(schemas::SystemFsck{.repair = true}); },
     [](World& world) {
         check_all_well(world);
         CHECK(show(world, "b").leases.size() == 1);  // Of "a" it may never be true again.
     }},
    {"a start after a death",
     [](World& world) {
         make_quiet(world);
         REQUIRE(world.call(get("a")));
         REQUIRE(world.call(attach("b")));
         REQUIRE(world.call(create("c", "base")));
         world.hold_commands(schemas::CreateSnap::kType);
         world.hold_commands(schemas::DeleteThin::kType);
         REQUIRE(word(world.ask_once(create("d", "base"), {.request_id = "d", .timeout_ms = 100})) == "accepted");
         REQUIRE(world.call(remove("c")));
         world.run_for(5000);
         suspend_behind_our_back(world, "b");
     },
     [](World& world) {
         world.kill_manager();
         world.kill_held_actors();
         world.let_go();
         world.run_until([&] { return world.ready(); });
         world.run_for(5000);
     },
     [](World& world) {
         check_all_well(world);
         CHECK(show(world, "a").leases.size() == 1);
         CHECK(show(world, "b").leases.size() == 1);
         CHECK_FALSE(exists(world, "c"));
     }},
    {"clones that are kept ready", make_quiet,
     [](World& world) {
         world.ask_once(schemas::VolumeFreeze{.id = "a", .warm = 2, .warm_mounted = true});
         world.run_for(1500);
         for (const char* id : {"c", "d"}) {
             schemas::VolumeCreate taken = create(id, "a");
             taken.get = true;
             world.ask_once(taken);
         }
         world.ask_once(put("d"));
         world.run_for(500);
         world.ask_once(schemas::VolumeFreeze{.id = "a", .warm = 0});
         world.run_for(500);
     },
     [](World& world) {
         CHECK(exists(world, "a"));
         check_all_well(world);
     }},
    {"a start after a power cut",
     [](World& world) {
         make_quiet(world);
         REQUIRE(world.call(get("a")));
         REQUIRE(word(world.ask_once(schemas::VolumeResize{.id = "a", .size_bytes = 128 * kMiB})) == "ok");
     },
     [](World& world) {
         world.cut_power();
         world.run_until([&] { return world.ready(); });
         world.ask_once(get("a"));
     },
     check_all_well},
    {"a store made anew",
     [](World& world) {
         make_quiet(world);
         REQUIRE(world.call(create("unknown", "base")));
         world.kill_manager();
         world.put_store({});
         world.run_until([&] { return world.ready(); });
     },
     [](World& world) { world.ask_once(schemas::PoolRebuild{}); },
     [](World& world) {
         if (pool_said(world) != "ready") {
             insist(world, schemas::PoolRebuild{});
         }
         CHECK(exists(world, "a"));
         check_all_well(world);
     }},
    {"a repair, and the ends of all leases",
     [](World& world) {
         make_quiet(world);
         REQUIRE(world.call(get("a")));
         lose_a_commit(world);
         world.run_for(3000);
     },
     repair_and_evict, check_repaired},
    {"damaged metadata are mended",
     [](World& world) {
         make_quiet(world);
         REQUIRE(world.call(get("a")));
         lose_a_commit(world);
         world.kernel.media.at(world.kernel.pools.begin()->second.medium).metadata.leaf_damaged = true;
         world.run_for(3000);
     },
     repair_and_evict, check_repaired},
    {"a rewind",
     [](World& world) {
         make_quiet(world);
         REQUIRE(world.call(schemas::SystemCleanup{}));
     },
     [](World& world) { world.ask_once(schemas::PoolRewind{}); },
     [](World& world) {
         insist(world, schemas::PoolStart{});
         CHECK(exists(world, "a"));
         check_quiet(world);
         CHECK(findings(world).empty());
     }},
    {"a pool on two devices made, grown and destroyed",
     [](World& world) {
         for (const std::string path : {"/dev/vda", "/dev/vdb"}) world.kernel.add_disk(path, 1048576);
         world.kernel.allowed_devices = {"/dev/vda", "/dev/vdb"};
     },
     [](World& world) {
         schemas::PoolCreate pool;
         pool.data_device = "/dev/vda";
         pool.metadata_device = "/dev/vdb";
         world.ask_once(pool);
         world.ask_once(sized("base", 64 * kMiB));
         world.ask_once(schemas::PoolGrow{});
         world.ask_once(schemas::PoolDestroy{.name = "default"});
     },
     [](World& world) {
         const auto state = pool_said(world);
         if (state != "none") insist(world, schemas::PoolDestroy{.name = "default"});
         CHECK(world.kernel.devices.empty());
         CHECK(world.store().thin_ids().empty());
         check_quiet(world);
     }},
    {"a pool adopted and given back",
     [](World& world) {
         world.kernel.add_disk("/dev/vda", 2097152);
         world.kernel.add_disk("/dev/vdb", 32768);
         world.kernel.allowed_devices = {"/dev/mapper/theirs"};
         FakeDeviceMapper dm(world.kernel);
         const DmDevice theirs{"theirs", ""};
         REQUIRE(dm.create(theirs) == 0);
         REQUIRE(dm.load(theirs, {"thin-pool", 2097152, "/dev/vdb /dev/vda 128 0 0"}, false) == 0);
         REQUIRE(dm.resume(theirs) == 0);
     },
     [](World& world) {
         schemas::PoolCreate pool;
         pool.adopt = "theirs";
         world.ask_once(pool);
         world.ask_once(sized("raw", 64 * kMiB, "none"));
         world.ask_once(schemas::StoreBackup{});
         world.ask_once(schemas::SystemFsck{.repair = true});
         world.ask_once(remove_and_wait("raw"));
         world.ask_once(schemas::PoolDestroy{.name = "default"});
     },
     [](World& world) {
         const auto state = pool_said(world);
         if (state != "none") {
             insist(world, schemas::PoolStart{});
             insist(world, remove_and_wait("raw"));
             insist(world, schemas::PoolDestroy{.name = "default"});
         }
         CHECK(world.kernel.devices.size() == 1);
         check_quiet(world);
     }},
};

// The watch asks for its status all the time.
bool is_watch(const schemas::Command& command) {
    return command.type == schemas::ReadPoolStatus::kType &&
           decode_as<schemas::ReadPoolStatus>(command.body)->superblock;
}

Options small_world() {
    return {.seed = 1, .device_actors = 2, .mount_actors = 1};
}

std::vector<std::string> commands_of(const Trial& trial) {
    World world(small_world());
    trial.prepare(world);
    std::vector<std::string> types;
    world.answer_instead = [&](const schemas::Command& command) -> std::optional<Result<std::string>> {
        if (!is_watch(command)) types.push_back(command.type);
        return std::nullopt;
    };
    trial.act(world);
    return types;
}

void refuse_one(const Trial& trial, const How& how, std::size_t number, const std::string& type) {
    CAPTURE(trial.name, how.name, number, type);
    World world(small_world());
    guarded(world, [&] {
        trial.prepare(world);
        std::size_t told = 0;
        world.answer_instead = [&](const schemas::Command& command) -> std::optional<Result<std::string>> {
            if (is_watch(command) || told++ != number) return std::nullopt;
            return refuse(command.type, how, status_line(world));
        };
        trial.act(world);
        world.answer_instead = nullptr;
        world.run_for(60000);
        trial.check(world);
    });
}

}  // namespace

TEST_CASE("any one command is refused: every request is answered, and nothing is lost or left over", "[refused]") {
    const std::size_t stride = number_from_environment("COWSLIP_NTH_STRIDE", 1);
    for (const Trial& trial : kTrials) {
        const std::vector<std::string> types = commands_of(trial);
        for (const How& how : kHow) {
            for (std::size_t number = 0; number < types.size(); number += stride) {
                const std::string& type = types.at(number);
                if (refuse(type, how)) refuse_one(trial, how, number, type);
            }
        }
    }
}

}  // namespace cowslip::simulation
