// Requests as the cases write them, and what came back in one word.
#pragma once

#include <string>
#include <vector>

#include "schemas/device_actor.h"
#include "schemas/mount_actor.h"
#include "tests/fakes/environment.h"
#include "tests/simulation/world.h"

namespace cowslip::simulation {

inline constexpr std::uint64_t kMiB = 1ULL << 20U;

// Of every command that there is.
inline const std::vector<std::string> kDeviceCommands = {
    schemas::CreatePool::kType,       schemas::InspectPool::kType,    schemas::StartPool::kType,
    schemas::ExaminePool::kType,      schemas::StopPool::kType,       schemas::DiscardPool::kType,
    schemas::GrowPool::kType,         schemas::ReadPoolStatus::kType, schemas::RewindClock::kType,
    schemas::SetTransactionId::kType, schemas::CreateThin::kType,     schemas::CreateSnap::kType,
    schemas::DiscardThin::kType,      schemas::DeleteThin::kType,     schemas::Activate::kType,
    schemas::Deactivate::kType,       schemas::Resume::kType,         schemas::ListActive::kType,
    schemas::WriteInternal::kType,    schemas::ReadInternal::kType,   schemas::FindFilesystem::kType,
    schemas::ListThins::kType,        schemas::DumpMetadata::kType,   schemas::CheckMetadata::kType,
    schemas::RepairMetadata::kType,   schemas::ReplaceMetadata::kType};
inline const std::vector<std::string> kMountCommands = {schemas::MakeFilesystem::kType, schemas::Mount::kType,
                                                        schemas::Unmount::kType,        schemas::RenameMount::kType,
                                                        schemas::Trim::kType,           schemas::ListMounts::kType};

schemas::VolumeCreate create(const std::string& id, const std::string& parent = "");
schemas::VolumeGet get(const std::string& id, const std::string& holder = "");
schemas::VolumePut put(const std::string& id, const std::string& holder = "");
schemas::VolumeAttach attach(const std::string& id, const std::string& holder = "");
schemas::VolumeDetach detach(const std::string& id, const std::string& holder = "");
schemas::VolumeRemove remove(const std::string& id);
schemas::VolumeRemove remove_and_wait(const std::string& id);

// "ok", "accepted", or the error's code.
std::string word(const Answer& answer);

// The body of an answer to `Message`, which must be no error.
template <class Message>
typename Message::Reply body_of(const Answer& answer) {
    if (answer.error) throw std::runtime_error(answer.error->message);
    return *decode_as<typename Message::Reply>(std::string_view(answer.body));
}

// A loop pool of 1 GiB, and in it "base": 64 MiB, ext4.
void make_pool_and_base(World& world);
// A pool on /dev/vda and its metadata on /dev/vdb, with such a base; /dev/vdc is as large as these and may be used too.
void make_pair_and_base(World& world);

// An end to faults; soon afterwards all is as it must be, or the case fails.
void lose_store(World& world);  // The next manager has begun with an empty one.
void check_quiet(World& world);

bool exists(World& world, const std::string& id);
schemas::Volume show(World& world, const std::string& id);
std::size_t thins_of_volumes(World& world);       // In the live pool; not the label's.
std::vector<std::string> findings(World& world);  // "kind subject".
bool has_finding(World& world, const std::string& wanted);

// One run of `job` for each effect and turn that it takes, which is the last of its process or, if
// `power_cut`, of the machine; then quiet, and `check`. COWSLIP_STRIDE=2: for every other one.
void die_everywhere(bool power_cut, const std::function<void(World&)>& job, const std::function<void(World&)>& check);

// Runs `job`; if it fails, the whole history is shown.
void guarded(World& world, const std::function<void()>& job);

}  // namespace cowslip::simulation
