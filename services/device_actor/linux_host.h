// The host as it is: files below DIR/pool, /dev, /sys and /proc, libblkid, thin_ls.
#pragma once

#include <string>

#include "services/device_actor/host.h"
#include "services/device_actor/pool_backing.h"

namespace cowslip {

class LinuxHost : public Host {
public:
    // `lock` is inherited by each child: what it does must end before the actor counts as gone.
    LinuxHost(std::string pool_folder, DeviceMapper& dm, int lock)
        : backing_(std::move(pool_folder), dm), lock_(lock) {}

    Result<Backing> make_backing(const schemas::PoolSpec& spec, const Overwrite& overwrite) override;
    Result<Backing> find_backing(const schemas::PoolSpec& spec) override;
    Result<void> grow_backing(const schemas::PoolSpec& spec) override;
    Result<void> release_backing(const schemas::PoolSpec& spec) override;
    Result<void> discard_backing(const schemas::PoolSpec& spec, const Overwrite& own) override;
    Result<std::optional<std::string>> own_pool() override;
    Result<void> record_own_pool(const std::string& uuid) override;
    Result<void> forget_own_pool(const std::string& uuid) override;
    Result<void> check_listed(const std::string& path) override;
    Result<ThinPoolSuperblock> read_superblock(const std::string& device) override;
    Result<void> zero_superblock(const std::string& device) override;
    Result<std::vector<ThinListEntry>> list_thins(const std::string& metadata_device, Sharing sharing) override;
    Result<std::uint64_t> dump_metadata(const std::string& metadata_device, const Dump& wanted) override;
    Result<void> recount_metadata(const schemas::PoolSpec& spec, const Recount& wanted) override;
    Result<std::vector<ThinListEntry>> list_unloaded_thins(const std::string& metadata_device) override;
    [[nodiscard]] int read_range(const std::string& device, std::uint64_t offset, std::string& data) override;
    [[nodiscard]] int write_range(const std::string& device, std::uint64_t offset, const std::string& data) override;
    [[nodiscard]] int discard_range(const std::string& device, std::uint64_t offset, std::uint64_t length) override;
    Result<std::string> check_metadata(const std::string& device, ClearNeedsCheck clear) override;
    Result<std::string> mend_metadata(const std::string& from, const std::string& to,
                                      const MetadataFacts& facts) override;
    Result<void> read_through(const std::string& device) override;
    Result<std::string> copy_place(const schemas::PoolSpec& spec, const std::string& spare,
                                   std::uint64_t transaction_id, Place place) override;
    Result<std::string> replace_metadata(const schemas::PoolSpec& spec) override;
    Result<std::string> device_path(const std::string& number) override;
    Result<std::uint64_t> device_sectors(const std::string& path) override;
    std::vector<schemas::Holder> holders(dev_t device) override;
    void pause(std::chrono::milliseconds duration) override;

private:
    Result<void> run_tool(const std::vector<std::string>& arguments);
    Result<std::vector<ThinListEntry>> run_thin_ls(std::vector<std::string> arguments, Sharing sharing);
    Result<std::string> run_metadata_tool(std::vector<std::string> arguments);

    PoolBacking backing_;
    int lock_;
};

}  // namespace cowslip
