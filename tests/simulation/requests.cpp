#include "tests/simulation/requests.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <iterator>

#include <catch2/catch.hpp>

#include "common/names.h"

namespace cowslip::simulation {

schemas::VolumeCreate create(const std::string& id, const std::string& parent) {
    schemas::VolumeCreate message;
    message.id = id;
    message.parent = parent;
    return message;
}

schemas::VolumeGet get(const std::string& id, const std::string& holder) {
    schemas::VolumeGet message;
    message.id = id;
    message.holder = holder;
    return message;
}

schemas::VolumePut put(const std::string& id, const std::string& holder) {
    schemas::VolumePut message;
    message.id = id;
    message.holder = holder;
    return message;
}

schemas::VolumeAttach attach(const std::string& id, const std::string& holder) {
    schemas::VolumeAttach message;
    message.id = id;
    message.holder = holder;
    return message;
}

schemas::VolumeDetach detach(const std::string& id, const std::string& holder) {
    schemas::VolumeDetach message;
    message.id = id;
    message.holder = holder;
    return message;
}

schemas::VolumeRemove remove(const std::string& id) {
    schemas::VolumeRemove message;
    message.id = id;
    return message;
}

schemas::VolumeRemove remove_and_wait(const std::string& id) {
    schemas::VolumeRemove message = remove(id);
    message.wait = true;
    return message;
}

std::string word(const Answer& answer) {
    if (answer.error) return std::string(to_string(answer.error->code));
    const auto accepted = decode_as<schemas::Accepted>(std::string_view(answer.body));
    return accepted && accepted->accepted ? "accepted" : "ok";
}

void make_pool_and_base(World& world) {
    schemas::PoolCreate pool;
    pool.loop_bytes = 1024 * kMiB;
    pool.limits.min_free_metadata_bytes = 4096;
    const auto made = world.call(pool);
    INFO((made ? "" : made.error().message));
    REQUIRE(made);
    schemas::VolumeCreate base = create("base");
    base.size_bytes = 64 * kMiB;
    auto created = world.call(base);
    while (!created && created.error().code == Errc::needs_repair && world.commits_failed() > 0) {
        world.run_for(5000);
        created = world.call(base);
    }
    INFO((created ? "" : created.error().message));
    REQUIRE(created);
}

void make_pair_and_base(World& world) {
    world.kernel.add_disk("/dev/vda", 2097152);
    world.kernel.add_disk("/dev/vdb", 32768);
    world.kernel.add_disk("/dev/vdc", 32768);
    world.kernel.allowed_devices = {"/dev/vda", "/dev/vdb", "/dev/vdc"};
    schemas::PoolCreate pool;
    pool.data_device = "/dev/vda";
    pool.metadata_device = "/dev/vdb";
    REQUIRE(world.call(pool));
    schemas::VolumeCreate base = create("base");
    base.size_bytes = 64 * kMiB;
    REQUIRE(world.call(base));
}

void lose_store(World& world) {
    world.kill_manager();
    world.put_store({});
    world.run_for(1000);
}

void check_quiet(World& world) {
    world.stop_faults();
    std::string complaint;
    for (int i = 0; i < 20; ++i) {
        world.run_for(i == 0 ? 4000 : 10000);
        complaint = world.complaint();
        if (complaint.empty()) return;
    }
    FAIL(complaint);
}

bool exists(World& world, const std::string& id) {
    schemas::VolumeExists message;
    message.id = id;
    return body_of<schemas::VolumeExists>(world.ask_once(message)).exists;
}

schemas::Volume show(World& world, const std::string& id) {
    schemas::VolumeShow message;
    message.id = id;
    return body_of<schemas::VolumeShow>(world.ask_once(message));
}

std::size_t thins_of_volumes(World& world) {
    const auto& thins = world.kernel.pools.begin()->second.core.thins;
    return static_cast<std::size_t>(std::distance(thins.lower_bound(kFirstThinId), thins.end()));
}

std::vector<std::string> findings(World& world) {
    std::vector<std::string> list;
    for (const auto& finding : body_of<schemas::SystemStatus>(world.ask_once(schemas::SystemStatus{})).findings) {
        list.push_back(finding.kind + " " + finding.subject);
    }
    return list;
}

bool has_finding(World& world, const std::string& wanted) {
    const auto list = findings(world);
    return std::find(list.begin(), list.end(), wanted) != list.end();
}

void die_everywhere(bool power_cut, const std::function<void(World&)>& job, const std::function<void(World&)>& check) {
    const auto stride = static_cast<std::int64_t>(number_from_environment("COWSLIP_STRIDE", 1));
    for (std::int64_t die_at = 0;; die_at += stride) {
        CAPTURE(die_at, power_cut);
        Options options;
        options.seed = 1;
        options.device_actors = 2;  // One of them watches.
        options.mount_actors = 1;
        options.die_at = die_at;
        options.power_cut_at_that = power_cut;
        World world(options);
        bool all_done = false;
        guarded(world, [&] {
            job(world);
            check_quiet(world);
            all_done = world.happened() <= die_at;
            world.let_live();
            check(world);
        });
        if (all_done) break;
    }
}

void guarded(World& world, const std::function<void()>& job) {
    try {
        job();
    } catch (...) {
        for (const auto& line : world.history()) std::cerr << line << "\n";
        throw;
    }
}

}  // namespace cowslip::simulation
