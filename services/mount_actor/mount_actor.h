// The mount actor's answers to the pool manager (schemas/mount_actor.h). Keeps nothing: it looks at
// what is there, does what is missing, and says what it saw. Every command may be repeated after a
// death at any point of it.
//
// It runs as root, and the manager parses what strangers send. So what a subverted manager could
// abuse is checked here again: the directory must be the one that belongs to the volume's id, and
// the device one of this service's pool, by the kernel's word.
#pragma once

#include <string>
#include <string_view>

#include "common/codec.h"
#include "common/result.h"
#include "schemas/mount_actor.h"
#include "services/mount_actor/filesystems.h"

namespace cowslip {

class MountActor {
public:
    explicit MountActor(Filesystems& filesystems) : filesystems_(filesystems) {}

    // Any of the below, as it comes over the bus.
    Result<std::string> handle(std::string_view type, const msgpack::object& body);

    Result<schemas::MakeFilesystem::Reply> handle(const schemas::MakeFilesystem& request);
    Result<schemas::Mount::Reply> handle(const schemas::Mount& request);
    Result<schemas::Unmount::Reply> handle(const schemas::Unmount& request);
    Result<schemas::RenameMount::Reply> handle(const schemas::RenameMount& request);
    Result<schemas::Trim::Reply> handle(const schemas::Trim& request);
    Result<schemas::ListMounts::Reply> handle(const schemas::ListMounts& request);

private:
    Result<schemas::Mount::Reply> accept_mounted(const schemas::Mount& request, const std::string& mounted_uuid);
    Result<void> make_directory_and_mount(const schemas::Mount& request);
    Result<void> remove_all(const std::string& directory);

    Filesystems& filesystems_;
};

}  // namespace cowslip
