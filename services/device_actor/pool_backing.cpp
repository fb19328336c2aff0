#include "services/device_actor/pool_backing.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

#include "common/files.h"
#include "common/size.h"
#include "common/state_folder.h"
#include "services/device_actor/block_device.h"
#include "services/device_actor/checks.h"
#include "services/device_actor/loop_device.h"
#include "services/device_actor/overwrite.h"

namespace cowslip {

namespace {

Error unknown_backing(const schemas::PoolSpec& spec) {
    return Error{Errc::invalid_argument, "unknown kind of pool backing '" + spec.backing + "'"};
}

Result<struct stat> check_file(const Fd& file, const std::string& path) {
    struct stat status {};
    if (fstat(file.get(), &status) != 0) return errno_error(errno, "look at '" + path + "'");
    if (!S_ISREG(status.st_mode)) return Error{Errc::invalid_argument, "'" + path + "' is not a regular file"};
    return status;
}

// No descriptor if there is no such file.
Result<Fd> open_file(const std::string& path, int flags = 0) {
    Fd file(open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | flags, 0600));
    if (!file && errno == ENOENT) return file;
    if (!file) return errno_error(errno, "open '" + path + "'");
    TRY(check_file(file, path));
    return file;
}

Result<void> sync_folder(const std::string& path) {
    const Fd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder || fsync(folder.get()) != 0) return errno_error(errno, "sync folder '" + path + "'");
    return {};
}

// Sparse: a pool is promised more than it holds, like its volumes. Or with all its blocks, so that the file system
// below cannot run out of them later.
enum class Blocks { sparse, allocated };

// fallocate itself: posix_fallocate would write to each block where the file system cannot.
Result<void> set_size(const Fd& file, const std::string& path, std::uint64_t bytes, Blocks blocks) {
    const auto size = static_cast<off_t>(bytes);
    int done = 0;
    do {
        done = blocks == Blocks::allocated ? fallocate(file.get(), 0, 0, size) : ftruncate(file.get(), size);
    } while (done != 0 && errno == EINTR);
    if (done == 0) return {};
    return errno_error(errno,
                       blocks == Blocks::allocated ? "allocate the blocks of '" + path + "'" : "size '" + path + "'");
}

Blocks blocks_of(const schemas::PoolSpec& spec) {
    return spec.preallocate ? Blocks::allocated : Blocks::sparse;
}

// Blocks that were allocated ahead and never written are none.
bool holds_data(const Fd& file, const struct stat& status) {
    if (status.st_blocks == 0) return false;
    return lseek(file.get(), 0, SEEK_DATA) >= 0 || errno != ENXIO;
}

// What a file may come to take beyond what it has taken, once it is so large.
std::uint64_t claim_of(const struct stat& status, std::uint64_t bytes) {
    const std::uint64_t size = std::max(static_cast<std::uint64_t>(status.st_size), bytes);
    return size - std::min(static_cast<std::uint64_t>(status.st_blocks) * kSectorBytes, size);
}

// What an older try left goes first.
Result<void> make_file(const std::string& path, std::uint64_t sectors, Blocks blocks) {
    const Fd file = TRY(open_file(path, O_CREAT));
    if (!file) return errno_error(ENOENT, "make '" + path + "'");
    if (ftruncate(file.get(), 0) != 0) return errno_error(errno, "size '" + path + "'");
    TRY(set_size(file, path, sectors * kSectorBytes, blocks));
    if (fsync(file.get()) != 0) return errno_error(errno, "sync '" + path + "'");
    return {};
}

// Own metadata lie under the data that go with them, e.g. the label.
Result<void> check_blank(const Backing& backing, const Overwrite& overwrite) {
    if (overwrite.anything) return {};
    const auto superblock = parse_superblock(TRY(read_first_block(backing.metadata_path)));
    if (!may_format(superblock, overwrite)) return pool_metadata(backing.metadata_path, superblock);
    const std::string signature = TRY(find_signature(backing.metadata_path));
    if (!signature.empty()) return refuse(backing.metadata_path, signature);
    return check_blank_device(backing.data_path);
}

Result<ThinPoolSuperblock> read_file_superblock(const Fd& file, const std::string& path) {
    std::string block(kSuperblockBytes, '\0');
    if (pread(file.get(), block.data(), block.size(), 0) < 0) return errno_error(errno, "read '" + path + "'");
    return parse_superblock(block);
}

Result<void> delete_file(const std::string& path) {
    if (unlink(path.c_str()) == 0 || errno == ENOENT) return {};
    return errno_error(errno, "delete '" + path + "'");
}

// In sectors.
Result<std::uint64_t> check_file_size(const Fd& file, const std::string& path, std::uint64_t sectors) {
    const auto status = TRY(check_file(file, path));
    const auto found = static_cast<std::uint64_t>(status.st_size) / kSectorBytes;
    if (found >= sectors) return found;
    return Error{Errc::needs_repair, fmt::format("file '{}' has {} sectors, the pool has {} there: it was cut short",
                                                 path, found, sectors)};
}

Result<Fd> open_existing(const std::string& path) {
    auto file = TRY(open_file(path));
    if (file) return file;
    return Error{Errc::needs_repair, "file '" + path + "' of the pool is gone; put it back, or make a new pool"};
}

Result<void> check_not_attached(const Fd& file) {
    if (!file) return {};
    const auto loop = TRY(find_loop_device(file.get()));
    if (!loop) return {};
    return check_unused(*loop);
}

// Before anything is changed: a file may be the pool of a store that was lost.
Result<void> check_files(const std::string& data_path, const std::string& metadata_path, const Overwrite& overwrite) {
    const Fd data = TRY(open_file(data_path));
    const Fd metadata = TRY(open_file(metadata_path));
    TRY(check_not_attached(data));
    TRY(check_not_attached(metadata));
    if (overwrite.anything) return {};
    ThinPoolSuperblock superblock;
    if (metadata) {
        superblock = TRY(read_file_superblock(metadata, metadata_path));
        if (!may_format(superblock, overwrite)) return pool_metadata(metadata_path, superblock);
    }
    const bool has_data = data && holds_data(data, TRY(check_file(data, data_path)));
    if (has_data && !superblock.valid) return refuse(data_path, "data that no metadata belong to");
    return {};
}

Result<void> detach_file(const std::string& path) {
    const Fd file = TRY(open_file(path));
    if (!file) return {};
    const auto loop = TRY(find_loop_device(file.get()));
    if (!loop) return {};
    return detach_loop_device(*loop);
}

}  // namespace

Result<Backing> PoolBacking::make(const schemas::PoolSpec& spec, const Overwrite& overwrite) const {
    if (spec.backing == kLoopBacking) return make_files(spec, overwrite);
    if (spec.backing == kDevicesBacking) return devices_.make(spec, overwrite);
    if (spec.backing != kPairBacking) return unknown_backing(spec);
    auto backing = TRY(find_pair(spec));
    TRY(check_blank(backing, overwrite));
    return backing;
}

Result<Backing> PoolBacking::find(const schemas::PoolSpec& spec) const {
    if (spec.backing == kLoopBacking) return attach_files(spec);
    if (spec.backing == kDevicesBacking) return devices_.find(spec);
    if (spec.backing != kPairBacking) return unknown_backing(spec);
    return find_pair(spec);
}

// Sparse or not like the whole file, and durable before the kernel is told: metadata that know more blocks than the
// file has cannot be loaded.
Result<void> PoolBacking::grow(const schemas::PoolSpec& spec) const {
    if (spec.backing == kDevicesBacking) return devices_.grow(spec);
    if (spec.backing != kLoopBacking) return {};
    struct Part {
        std::string path;
        std::uint64_t bytes;
        Fd file = {};
        bool grows = false;
    };
    std::array<Part, 2> parts = {Part{metadata_file(), spec.metadata_sectors * kSectorBytes},
                                 Part{data_file(), spec.data_sectors * kSectorBytes}};
    std::uint64_t claim = kKeptFreeBytes;
    for (Part& part : parts) {
        part.file = TRY(open_existing(part.path));
        const auto status = TRY(check_file(part.file, part.path));
        part.grows = static_cast<std::uint64_t>(status.st_size) < part.bytes;
        claim += claim_of(status, part.bytes);
    }
    if (parts[0].grows || parts[1].grows) TRY(check_room(claim));
    for (const Part& part : parts) {
        if (part.grows) TRY(set_size(part.file, part.path, part.bytes, blocks_of(spec)));
        if (fsync(part.file.get()) != 0) return errno_error(errno, "sync '" + part.path + "'");
        TRY(attach_loop_device(part.file.get()));  // An attached one reads the file's size anew.
    }
    return {};
}

// `claim`: what the files may come to take beyond what they have taken, and what stays free.
Result<void> PoolBacking::check_room(std::uint64_t claim) const {
    struct statvfs room {};
    if (statvfs(folder_.c_str(), &room) != 0) return errno_error(errno, "look at the file system of '" + folder_ + "'");
    const std::uint64_t free = std::uint64_t{room.f_bavail} * room.f_frsize;
    if (claim <= free) return {};
    return Error{
        Errc::no_space,
        fmt::format("the file system of '{}' has {} free, and the pool's files could come to take {} more, with "
                    "{} left free: make room there, or grow by less",
                    folder_, format_size(free), format_size(claim - kKeptFreeBytes), format_size(kKeptFreeBytes))};
}

Result<void> PoolBacking::release(const schemas::PoolSpec& spec) const {
    if (spec.backing == kDevicesBacking) return devices_.release(spec);
    if (spec.backing != kLoopBacking) return {};
    TRY(detach_file(data_file()));
    TRY(detach_file(repaired_file()));  // Of a repair that was given up.
    return detach_file(metadata_file());
}

Result<std::string> PoolBacking::make_copy(const std::string& name) const {
    const Fd metadata = TRY(open_existing(metadata_file()));
    const auto status = TRY(check_file(metadata, metadata_file()));
    TRY(detach_file(name));
    TRY(make_file(name, static_cast<std::uint64_t>(status.st_size) / kSectorBytes, Blocks::sparse));
    TRY(sync_folder(folder_));
    const Fd copy = TRY(open_existing(name));
    return attach_loop_device(copy.get());
}

// Both names are durable before the new one takes the old one's place, so a repetition finds what an earlier copy of
// the command has done. `kept` is free, or a second name for the metadata already.
Result<void> PoolBacking::use_copy(const std::string& name, const std::string& kept) const {
    const Fd copy = TRY(open_existing(name));
    if (const auto loop = TRY(find_loop_device(copy.get()))) {
        const Fd device(open(loop->c_str(), O_RDWR | O_CLOEXEC));
        if (!device || fsync(device.get()) != 0) return errno_error(errno, "sync '" + *loop + "'");
    }
    TRY(detach_file(name));
    TRY(detach_file(metadata_file()));
    if (fsync(copy.get()) != 0) return errno_error(errno, "sync '" + name + "'");
    if (link(metadata_file().c_str(), kept.c_str()) != 0 && errno != EEXIST) {
        return errno_error(errno, "keep the metadata as '" + kept + "'");
    }
    TRY(sync_folder(folder_));
    if (rename(name.c_str(), metadata_file().c_str()) != 0) {
        return errno_error(errno, "put '" + name + "' in its place");
    }
    // Which of them a power cut would leave is not known then: the next copy of the command finds out.
    if (!sync_folder(folder_)) std::abort();
    return {};
}

// ---- metadata whose times are counted anew ---------------------------------------------------

Result<std::string> PoolBacking::make_rewound_copy(const schemas::PoolSpec& spec, const std::string& spare,
                                                   std::uint64_t transaction_id) const {
    if (spec.backing != kLoopBacking) return copy_place(spec, spare, transaction_id, Place::make);
    return make_copy(rewound_file());
}

Result<void> PoolBacking::use_rewound_copy(const schemas::PoolSpec& spec) const {
    if (spec.backing == kDevicesBacking) {
        TRY(devices_.use_copy(spec));
        return {};
    }
    if (spec.backing == kPairBacking) return {};  // The store says where they lie.
    TRY(delete_file(old_metadata_file()));        // An earlier rewind's, or a copy of this command's that died.
    return use_copy(rewound_file(), old_metadata_file());
}

// ---- undone ----------------------------------------------------------------------------------

// Its creator records the uuid when all checks are behind it and before it writes; so without that record nothing
// was written but blank files.
Result<void> PoolBacking::discard(const schemas::PoolSpec& spec, const Overwrite& own) const {
    const bool recorded = TRY(read_pool_uuid(uuid_file())) == spec.pool.uuid;
    if (spec.backing == kLoopBacking) {
        TRY(delete_files(recorded, own));
    } else if (spec.backing == kDevicesBacking) {
        TRY(devices_.discard(spec, own));
    } else if (recorded) {
        const auto backing = TRY(find_pair(spec));
        const auto superblock = parse_superblock(TRY(read_first_block(backing.metadata_path)));
        if (may_format(superblock, own)) {
            // The metadata last: as long as they are there, they say that all this is ours.
            if (own.is_whole()) TRY(wipe_device(backing.data_path));
            TRY(own.is_whole() ? wipe_device(backing.metadata_path) : zero_first_block(backing.metadata_path));
        } else if (own.is_whole()) {
            return not_destroyed(backing.metadata_path);
        }
    }
    return recorded ? forget_uuid() : Result<void>();
}

Result<void> PoolBacking::delete_files(bool recorded, const Overwrite& own) const {
    const Fd data = TRY(open_file(data_file()));
    const Fd metadata = TRY(open_file(metadata_file()));
    if (metadata) {
        const auto superblock = TRY(read_file_superblock(metadata, metadata_file()));
        const bool blank = !superblock.valid && !superblock.damaged;
        const bool ours = blank || (recorded && may_format(superblock, own));
        if (!ours && own.is_whole()) return not_destroyed(metadata_file());
        if (!ours) return {};
    }
    if (data && !recorded && TRY(check_file(data, data_file())).st_blocks > 0) return {};
    TRY(delete_file(data_file()));
    if (own.is_whole()) TRY(delete_other_metadata());
    TRY(delete_file(metadata_file()));
    return sync_folder(folder_);
}

// What repairs and rewinds have kept.
Result<void> PoolBacking::delete_other_metadata() const {
    for (const std::string& path : {rewound_file(), old_metadata_file(), repaired_file()}) {
        TRY(detach_file(path));
        TRY(delete_file(path));
    }
    for (int number = 1; access(damaged_file(number).c_str(), F_OK) == 0; ++number) {
        TRY(delete_file(damaged_file(number)));
    }
    return {};
}

Result<void> PoolBacking::forget_uuid() const {
    TRY(delete_file(uuid_file()));
    return sync_folder(folder_);
}

// ---- a mended copy of the metadata -----------------------------------------------------------

Result<std::string> PoolBacking::copy_place(const schemas::PoolSpec& spec, const std::string& spare,
                                            std::uint64_t transaction_id, Place place) const {
    if (spec.backing == kDevicesBacking) return devices_.copy_place(spec, place);
    if (spec.backing == kPairBacking) {
        if (place == Place::make) TRY(check_spare(spec, spare, transaction_id));
        TRY(check_listed(devices_file(), spare));
        return spare;
    }
    if (place == Place::make) return make_copy(repaired_file());
    const Fd copy = TRY(open_existing(repaired_file()));
    return attach_loop_device(copy.get());
}

Result<void> PoolBacking::check_spare(const schemas::PoolSpec& spec, const std::string& spare,
                                      std::uint64_t transaction_id) const {
    TRY(check_listed(devices_file(), spare));
    TRY(check_unused(spare));
    const std::uint64_t wanted = TRY(block_device_sectors(spec.metadata_path));
    const std::uint64_t found = TRY(block_device_sectors(spare));
    if (found < wanted) {
        return Error{Errc::invalid_argument,
                     fmt::format("spare '{}' has {} sectors, and the metadata have {}", spare, found, wanted)};
    }
    for (const auto& taken : {spec.data_path, spec.metadata_path}) {
        if (TRY(block_device_number(taken)) != TRY(block_device_number(spare))) continue;
        return Error{Errc::invalid_argument, fmt::format("spare '{}' is a device of the pool", spare)};
    }
    const auto superblock = parse_superblock(TRY(read_first_block(spare)));
    if (superblock.valid && superblock.transaction_id >> 32U == transaction_id >> 32U) return {};  // An earlier copy.
    return check_blank_device(spare);
}

Result<std::string> PoolBacking::replace_metadata(const schemas::PoolSpec& spec) const {
    if (spec.backing == kDevicesBacking) return devices_.use_copy(spec);
    if (spec.backing != kLoopBacking) return Error{Errc::invalid_argument, "replace metadata: they lie in no file"};
    if (!TRY(open_file(repaired_file()))) {
        int last = 0;
        while (::access(damaged_file(last + 1).c_str(), F_OK) == 0) ++last;
        if (last == 0) return Error{Errc::unavailable, "replace metadata: there is no repaired copy"};
        return damaged_file(last);
    }
    std::string damaged = TRY(name_for_damaged());
    TRY(use_copy(repaired_file(), damaged));
    return damaged;
}

// The first that is free; or that they have already, where somebody died behind the link.
Result<std::string> PoolBacking::name_for_damaged() const {
    const Fd metadata = TRY(open_existing(metadata_file()));
    const auto own = TRY(check_file(metadata, metadata_file()));
    for (int number = 1;; ++number) {
        std::string name = damaged_file(number);
        struct stat other {};
        if (lstat(name.c_str(), &other) != 0) {
            if (errno == ENOENT) return name;
            return errno_error(errno, "look at '" + name + "'");
        }
        if (other.st_dev == own.st_dev && other.st_ino == own.st_ino) return name;
    }
}

Result<void> PoolBacking::record_uuid(const std::string& uuid) const {
    const std::string fresh = uuid_file() + ".new";
    const std::string what = "write '" + uuid_file() + "'";
    const std::string text = uuid + "\n";
    const Fd file(open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file) return errno_error(errno, what);
    const ssize_t size = write(file.get(), text.data(), text.size());
    if (size >= 0 && size != static_cast<ssize_t>(text.size())) return errno_error(ENOSPC, what);
    if (size < 0 || fsync(file.get()) != 0 || rename(fresh.c_str(), uuid_file().c_str()) != 0) {
        return errno_error(errno, what);
    }
    return sync_folder(folder_);
}

// Both files durably there before anything is written to them: metadata that outlive their data file
// in a power cut would promise what is lost.
Result<Backing> PoolBacking::make_files(const schemas::PoolSpec& spec, const Overwrite& overwrite) const {
    TRY(check_files(data_file(), metadata_file(), overwrite));
    const std::array<std::pair<std::string, std::uint64_t>, 2> files = {
        std::pair{data_file(), spec.data_sectors}, std::pair{metadata_file(), spec.metadata_sectors}};
    if (spec.preallocate) {
        std::uint64_t claim = kKeptFreeBytes;
        for (const auto& [path, sectors] : files) {
            const Fd older = TRY(open_file(path));
            struct stat status {};
            if (older) status = TRY(check_file(older, path));
            claim += claim_of(status, sectors * kSectorBytes);
        }
        TRY(check_room(claim));
    }
    for (const auto& [path, sectors] : files) TRY(make_file(path, sectors, blocks_of(spec)));
    TRY(sync_folder(folder_));
    return attach_files(spec);
}

Result<Backing> PoolBacking::attach_files(const schemas::PoolSpec& spec) const {
    const Fd data = TRY(open_existing(data_file()));
    const Fd metadata = TRY(open_existing(metadata_file()));
    const std::uint64_t data_sectors = TRY(check_file_size(data, data_file(), spec.data_sectors));
    const std::uint64_t metadata_sectors = TRY(check_file_size(metadata, metadata_file(), spec.metadata_sectors));
    return Backing{.data_path = TRY(attach_loop_device(data.get())),
                   .metadata_path = TRY(attach_loop_device(metadata.get())),
                   .data_sectors = data_sectors,
                   .metadata_sectors = metadata_sectors};
}

Result<Backing> PoolBacking::find_pair(const schemas::PoolSpec& spec) const {
    Backing backing{.data_path = spec.data_path, .metadata_path = spec.metadata_path};
    for (const auto& path : {spec.data_path, spec.metadata_path}) {
        TRY(check_listed(devices_file(), path));
        TRY(check_unused(path));
    }
    // Two names can mean one device, and the kernel compares the names.
    if (TRY(block_device_number(spec.data_path)) == TRY(block_device_number(spec.metadata_path))) {
        return Error{Errc::invalid_argument, "a pool's data and metadata must lie on two devices"};
    }
    backing.data_sectors = TRY(block_device_sectors(spec.data_path));
    backing.metadata_sectors = TRY(block_device_sectors(spec.metadata_path));
    if (backing.data_sectors < spec.data_sectors) {
        return Error{Errc::needs_repair, fmt::format("block device '{}' has {} sectors, the pool has {} there",
                                                     spec.data_path, backing.data_sectors, spec.data_sectors)};
    }
    return backing;
}

}  // namespace cowslip
