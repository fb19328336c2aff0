// cowslip-bench actors: actors that answer each command at once, as if the kernel took no time, for what is measured of
// the manager, its bus and its store natively. Threads of one process; what they have "in the kernel" outlives the
// manager. Nothing that a benchmark does not do is done here.
#include <fmt/format.h>

#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>

#include "common/actor_session.h"
#include "common/names.h"
#include "common/options.h"
#include "common/signals.h"
#include "common/state_folder.h"
#include "schemas/device_actor.h"
#include "schemas/mount_actor.h"
#include "tests/bench/commands.h"

namespace cowslip::bench::actors {

using namespace schemas;

constexpr std::uint64_t kMetadataBlocks = 4000000;
constexpr std::size_t kMostListed = 4096;

class InstantKernel {
public:
    explicit InstantKernel(std::string mounts) : mounts_folder_(std::move(mounts)) {}

    CommandAnswer handle(std::string_view type, const msgpack::object& body) {
        const std::lock_guard lock(mutex_);
        std::optional<Result<std::string>> answer;
        CommandAnswer::Rest rest;
        const auto offer = [&]<class Message>(typename Message::Reply (InstantKernel::*method)(const Message&)) {
            if (!answer)
                answer = on<Message>(
                    type, body, [&](const Message& m) { return Result<typename Message::Reply>((this->*method)(m)); });
        };
        if (type == CreateSnap::kType) {
            const auto command = *decode_as<CreateSnap>(body);
            if (command.activate_sectors != 0) {
                rest = [this, command]() -> Result<std::string> {
                    const std::lock_guard again(mutex_);
                    return encode(activate({command.pool, command.thin_id, command.activate_sectors, false}));
                };
            }
        }
        offer(&InstantKernel::create_pool);
        offer(&InstantKernel::start_pool);
        offer(&InstantKernel::read_pool_status);
        offer(&InstantKernel::set_transaction_id);
        offer(&InstantKernel::create_thin);
        offer(&InstantKernel::create_snap);
        offer(&InstantKernel::delete_thin);
        offer(&InstantKernel::activate);
        offer(&InstantKernel::deactivate);
        offer(&InstantKernel::list_active);
        offer(&InstantKernel::list_thins);
        offer(&InstantKernel::write_internal);
        offer(&InstantKernel::read_internal);
        offer(&InstantKernel::make_filesystem);
        offer(&InstantKernel::mount);
        offer(&InstantKernel::unmount);
        offer(&InstantKernel::list_mounts);
        if (!answer) return {Error{Errc::unimplemented, fmt::format("no benchmark needs '{}'", type)}};
        return {std::move(*answer), std::move(rest)};
    }

private:
    std::string status() const {
        const std::uint64_t blocks = spec_.data_sectors / std::max<std::uint64_t>(spec_.block_sectors, 1);
        return fmt::format("{} {}/{} {}/{} - rw discard_passdown error_if_no_space - 1024", transaction_id_,
                           100 + born_.size(), kMetadataBlocks, std::min(blocks, born_.size()), blocks);
    }
    Verdict verdict(int error_number) const { return {error_number, status()}; }
    PoolState state() const {
        PoolState now;
        now.loaded = loaded_;
        if (loaded_) now.status = status();
        now.data_device = "/dev/loop0";
        now.metadata_device = "/dev/loop1";
        now.superblock.valid = loaded_;
        now.superblock.transaction_id = transaction_id_;
        now.superblock.time = static_cast<std::uint32_t>(snapshots_);
        now.superblock.data_block_sectors = spec_.block_sectors;
        now.spec = spec_;
        return now;
    }

    PoolState create_pool(const CreatePool& command) {
        spec_ = command.spec;
        loaded_ = true;
        return state();
    }
    PoolState start_pool(const StartPool&) { return state(); }
    PoolState read_pool_status(const ReadPoolStatus&) { return state(); }
    Verdict set_transaction_id(const SetTransactionId& command) {
        if (transaction_id_ != command.from) return verdict(EINVAL);
        transaction_id_ = command.to;
        return verdict(0);
    }
    Verdict create_thin(const CreateThin& command) {
        return verdict(born_.emplace(command.thin_id, transaction_id_).second ? 0 : EEXIST);
    }
    CreateSnap::Reply create_snap(const CreateSnap& command) {
        CreateSnap::Reply reply;
        ++snapshots_;
        reply.verdict = verdict(born_.emplace(command.thin_id, transaction_id_).second ? 0 : EEXIST);
        return reply;
    }
    DeleteThin::Reply delete_thin(const DeleteThin& command) {
        DeleteThin::Reply reply;
        active_.erase(command.thin_id);
        reply.verdict = verdict(born_.erase(command.thin_id) == 1 ? 0 : ENODATA);
        return reply;
    }
    Activate::Reply activate(const Activate& command) {
        Activate::Reply reply;
        reply.path = "/dev/mapper/" + thin_dm_name(command.pool.uuid, command.thin_id);
        ActiveDevice& device = active_[command.thin_id];
        device.thin_id = command.thin_id;
        device.size_sectors = command.size_sectors;
        device.live_table = true;
        device.path = reply.path;
        return reply;
    }
    Deactivate::Reply deactivate(const Deactivate& command) {
        active_.erase(command.thin_id);
        return {};
    }
    ListActive::Reply list_active(const ListActive& command) {
        ListActive::Reply reply;
        for (auto next = active_.upper_bound(command.after_thin_id); next != active_.end(); ++next) {
            reply.more = reply.devices.size() == kMostListed;
            if (reply.more) break;
            reply.devices.push_back(next->second);
        }
        return reply;
    }
    ListThins::Reply list_thins(const ListThins& command) {
        ListThins::Reply reply;
        reply.verdict = verdict(0);
        for (auto next = born_.upper_bound(command.after_thin_id); next != born_.end(); ++next) {
            reply.more = reply.thins.size() == kMostListed;
            if (reply.more) break;
            reply.thins.push_back({static_cast<std::uint32_t>(next->first), 0, next->second, 0});
        }
        return reply;
    }
    Verdict write_internal(const WriteInternal& command) {
        for (std::size_t at = 0; at < command.data.size(); at += 4096)
            internal_[{command.thin_id, command.offset_bytes + at}] = command.data.substr(at, 4096);
        return verdict(0);
    }
    ReadInternal::Reply read_internal(const ReadInternal& command) {
        ReadInternal::Reply reply;
        reply.verdict = verdict(0);
        for (std::size_t at = 0; at < command.length; at += 4096) {
            const auto found = internal_.find({command.thin_id, command.offset_bytes + at});
            reply.data += found == internal_.end() ? std::string(4096, '\0') : found->second;
        }
        return reply;
    }
    MakeFilesystem::Reply make_filesystem(const MakeFilesystem&) { return {}; }
    Mount::Reply mount(const Mount& command) {
        mounts_[command.directory] = {command.directory, command.id, command.device.dm_uuid, command.read_only, ""};
        return {.path = mounts_folder_ + "/" + command.directory + "/rootfs", .grown = command.grow};
    }
    Unmount::Reply unmount(const Unmount& command) {
        mounts_.erase(command.directory);
        return {};
    }
    ListMounts::Reply list_mounts(const ListMounts& command) {
        ListMounts::Reply reply;
        for (auto next = mounts_.upper_bound(command.after); next != mounts_.end(); ++next) {
            reply.more = reply.mounts.size() == 2048;
            if (reply.more) break;
            reply.mounts.push_back(next->second);
        }
        return reply;
    }

    std::mutex mutex_;  // Of all below.
    std::string mounts_folder_;
    PoolSpec spec_;
    bool loaded_ = false;
    std::uint64_t transaction_id_ = 0;
    std::uint64_t snapshots_ = 0;
    std::map<std::int64_t, std::uint64_t> born_;  // Transaction ids, by thin id.
    std::map<std::int64_t, ActiveDevice> active_;
    std::map<std::pair<std::uint32_t, std::uint64_t>, std::string> internal_;
    std::map<std::string, MountedVolume> mounts_;
};

Result<void> serve(const std::string& state, unsigned device_actors, unsigned mount_actors) {
    const int stop_fd = TRY(stop_signal_fd());  // Before any thread exists.
    const StateFolder folder = TRY(resolve_state_folder(state, ""));
    const Account account = TRY(service_account());
    TRY(ensure_state_folder(folder, account));
    InstantKernel kernel(folder.mounts());
    std::vector<std::thread> actors;
    for (unsigned i = 0; i < device_actors + mount_actors; ++i) {
        actors.emplace_back([&, kind = i < device_actors ? "device" : "mount"] {
            auto lock = ActorLock::take(folder.actors(), kind);
            if (!lock) return;
            BusContext context;
            const ActorSession session{folder.actors_socket(), account.uid, kind, COWSLIP_VERSION, stop_fd};
            const auto served = serve_manager(
                context, *lock, session,
                [&](std::string_view type, const msgpack::object& body) { return kernel.handle(type, body); });
            if (!served) std::cerr << "cowslip-bench actors: " << served.error().message << '\n';
        });
    }
    for (std::thread& actor : actors) actor.join();
    return {};
}

int command(int argc, char** argv) {
    std::string state;
    unsigned device_actors = 17;
    unsigned mount_actors = 16;
    CLI::App app("Actors that answer at once");
    app.add_option("--state", state, "the folder of the service")->required();
    app.add_option("--device-actors", device_actors, "how many")->check(CLI::Range(1, 64));
    app.add_option("--mount-actors", mount_actors, "how many")->check(CLI::Range(1, 64));
    CLI11_PARSE(app, argc, argv);
    const auto served = serve(state, device_actors, mount_actors);
    if (!served) std::cerr << "cowslip-bench actors: " << served.error().message << '\n';
    return served ? 0 : 1;
}

}  // namespace cowslip::bench::actors
