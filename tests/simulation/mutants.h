// Wrong variants of the product, each breaking one rule of the protocol. The tests must fail with every one of them:
// mutants_test.sh runs them, so that the tests are known to see. A variant is made at a seam (a function that the
// linker wraps, a fake, the world): the product has no code for them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"
#include "schemas/envelope.h"
#include "tests/fakes/fake_device_mapper.h"
#include "tests/fakes/hooked_filesystems.h"

namespace cowslip::simulation {

// Is it that one which COWSLIP_MUTANT names? Asked elsewhere too: actors_not_asked and resend_on_timeout are the
// world's, folder_not_synced (a backup has its name, and the name is not durable) is the disk's.
bool mutant(std::string_view name);

class MutableDeviceMapper : public FakeDeviceMapper {
public:
    using FakeDeviceMapper::FakeDeviceMapper;
    // no_suspend: a snapshot of a running origin.
    [[nodiscard]] int suspend(const DmDevice& device, SuspendMode mode) override;
    Result<std::optional<DmInfo>> find(const DmDevice& device) override;
    // no_uuid: devices have a name only.
    [[nodiscard]] int create(const DmDevice& device, dev_t* number) override;
};

// label_only: a command to load the pool takes any superblock for its own. Nothing: the command is as it was.
std::optional<std::string> mutated_command(const schemas::Command& command);
// sync_believed: whatever is asked of the pool behind an umount, it has lost no commit.
Result<std::string> mutated_reply(const schemas::Command& command, Result<std::string> reply);

// no_rmdir: the directory of a mount stays.
class MutableFilesystems : public HookedFilesystems {
public:
    using HookedFilesystems::HookedFilesystems;
    Result<void> remove_mount_point(const std::string& directory) override;
};

}  // namespace cowslip::simulation
