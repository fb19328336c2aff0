#include "services/device_actor/linux_host.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "common/holders.h"
#include "common/process.h"
#include "common/state_folder.h"
#include "services/device_actor/block_device.h"
#include "services/device_actor/dump_folder.h"

namespace cowslip {

Result<Backing> LinuxHost::make_backing(const schemas::PoolSpec& spec, const Overwrite& overwrite) {
    return backing_.make(spec, overwrite);
}

Result<Backing> LinuxHost::find_backing(const schemas::PoolSpec& spec) {
    return backing_.find(spec);
}

Result<void> LinuxHost::grow_backing(const schemas::PoolSpec& spec) {
    return backing_.grow(spec);
}

Result<void> LinuxHost::release_backing(const schemas::PoolSpec& spec) {
    return backing_.release(spec);
}

Result<void> LinuxHost::discard_backing(const schemas::PoolSpec& spec, const Overwrite& own) {
    return backing_.discard(spec, own);
}

Result<std::optional<std::string>> LinuxHost::own_pool() {
    return read_pool_uuid(backing_.uuid_file());
}

Result<void> LinuxHost::record_own_pool(const std::string& uuid) {
    return backing_.record_uuid(uuid);
}

Result<void> LinuxHost::forget_own_pool(const std::string& uuid) {
    if (TRY(own_pool()) != uuid) return {};
    return backing_.forget_uuid();
}

Result<void> LinuxHost::check_listed(const std::string& path) {
    return cowslip::check_listed(backing_.devices_file(), path);
}

// Under a loaded pool the kernel may be writing it: a torn one is read again.
Result<ThinPoolSuperblock> LinuxHost::read_superblock(const std::string& device) {
    constexpr int kAttempts = 3;
    ThinPoolSuperblock superblock;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        superblock = parse_superblock(TRY(read_first_block(device)));
        if (superblock.valid || superblock.zeroed) break;
        pause(std::chrono::milliseconds(20));
    }
    return superblock;
}

Result<void> LinuxHost::zero_superblock(const std::string& device) {
    return zero_first_block(device);
}

Result<std::vector<ThinListEntry>> LinuxHost::list_thins(const std::string& metadata_device, Sharing sharing) {
    const char* fields = sharing == Sharing::counted ? kThinSharingFields : kThinListFields;
    return run_thin_ls({"thin_ls", "--metadata-snap", "--no-headers", "-o", fields, metadata_device}, sharing);
}

Result<std::uint64_t> LinuxHost::dump_metadata(const std::string& metadata_device, const Dump& wanted) {
    const DumpFolder folder(backing_.dumps_folder());
    TRY(folder.ensure());
    return folder.write(wanted.name, wanted.keep, [&](GzipWriter& out) -> Result<void> {
        DataBlocksFiller filler(out, wanted.data_blocks);
        ProcessOptions options;
        options.arguments = {"thin_dump", "--metadata-snap", metadata_device};
        options.timeout = std::chrono::minutes(2);  // The pool's blocks stay pinned meanwhile.
        options.inherited_fds = {lock_};
        options.take_output = [&](std::string_view bytes) { filler.write(bytes); };
        const auto result = TRY(run_process(options));
        filler.finish();
        if (result.exit_status == 0) return {};
        return Error{Errc::internal, fmt::format("dump the metadata: thin_dump exited with {}: {}", result.exit_status,
                                                 result.errors.substr(0, result.errors.find('\n')))};
    });
}

Result<std::vector<ThinListEntry>> LinuxHost::list_unloaded_thins(const std::string& metadata_device) {
    return run_thin_ls({"thin_ls", "--no-headers", "-o", kThinListFields, metadata_device}, Sharing::ignored);
}

Result<std::vector<ThinListEntry>> LinuxHost::run_thin_ls(std::vector<std::string> arguments, Sharing sharing) {
    ProcessOptions options;
    if (sharing == Sharing::counted) options.timeout = std::chrono::minutes(10);
    options.arguments = std::move(arguments);
    options.output_limit_bytes = std::size_t{64} << 20U;  // About 40 bytes each.
    options.inherited_fds = {lock_};
    const auto result = TRY(run_process(options));
    if (result.exit_status != 0) {
        return Error{Errc::internal, fmt::format("list thin devices: thin_ls exited with {}: {}", result.exit_status,
                                                 result.errors.substr(0, result.errors.find('\n')))};
    }
    if (result.output_cut) return Error{Errc::internal, "list thin devices: thin_ls said more than we take"};
    return parse_thin_list(result.output, sharing);
}

int LinuxHost::read_range(const std::string& device, std::uint64_t offset, std::string& data) {
    return read_blocks(device, offset, data);
}

int LinuxHost::write_range(const std::string& device, std::uint64_t offset, const std::string& data) {
    return write_blocks(device, offset, data);
}

int LinuxHost::discard_range(const std::string& device, std::uint64_t offset, std::uint64_t length) {
    return discard_blocks(device, offset, length);
}

// Its words if it does not end with success. It may have much to read.
Result<std::string> LinuxHost::run_metadata_tool(std::vector<std::string> arguments) {
    ProcessOptions options;
    options.arguments = std::move(arguments);
    options.timeout = std::chrono::hours(1);
    options.inherited_fds = {lock_};
    const auto result = TRY(run_process(options));
    if (result.exit_status == 0) return std::string();
    std::string words = result.errors.empty() ? result.output : result.errors;
    while (!words.empty() && words.back() == '\n') words.pop_back();
    std::replace(words.begin(), words.end(), '\n', ';');
    constexpr std::size_t kLongest = 400;
    return fmt::format("{} ended with {}: {}", options.arguments.front(), result.exit_status,
                       words.substr(0, kLongest));
}

Result<std::string> LinuxHost::check_metadata(const std::string& device, ClearNeedsCheck clear) {
    std::vector<std::string> arguments = {"thin_check"};
    if (clear == ClearNeedsCheck::yes) arguments.emplace_back("--clear-needs-check-flag");
    arguments.push_back(device);
    return run_metadata_tool(std::move(arguments));
}

Result<std::string> LinuxHost::mend_metadata(const std::string& from, const std::string& to,
                                             const MetadataFacts& facts) {
    std::vector<std::string> arguments = {"thin_repair", "-i", from, "-o", to};
    if (facts.transaction_id != 0) {
        const auto tell = [&](const char* option, std::uint64_t value) {
            arguments.emplace_back(option);
            arguments.push_back(std::to_string(value));
        };
        tell("--transaction-id", facts.transaction_id);
        tell("--data-block-size", facts.block_sectors);
        tell("--nr-data-blocks", facts.data_blocks);
    }
    return run_metadata_tool(std::move(arguments));
}

Result<void> LinuxHost::read_through(const std::string& device) {
    return read_all_blocks(device);
}

Result<std::string> LinuxHost::copy_place(const schemas::PoolSpec& spec, const std::string& spare,
                                          std::uint64_t transaction_id, Place place) {
    return backing_.copy_place(spec, spare, transaction_id, place);
}

Result<std::string> LinuxHost::replace_metadata(const schemas::PoolSpec& spec) {
    return backing_.replace_metadata(spec);
}

Result<std::string> LinuxHost::device_path(const std::string& number) {
    return block_device_path(number);
}

Result<std::uint64_t> LinuxHost::device_sectors(const std::string& path) {
    return block_device_sectors(path);
}

std::vector<schemas::Holder> LinuxHost::holders(dev_t device) {
    return find_holders(device, Hold::device);
}

void LinuxHost::pause(std::chrono::milliseconds duration) {
    std::this_thread::sleep_for(duration);
}

}  // namespace cowslip
