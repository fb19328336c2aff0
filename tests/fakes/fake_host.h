// The host over a FakeKernel: loop files, listed block devices, superblocks, thin_ls and holders.
#pragma once

#include "services/device_actor/host.h"
#include "tests/fakes/fake_kernel.h"

namespace cowslip {

class FakeHost : public Host {
public:
    explicit FakeHost(FakeKernel& kernel) : kernel_(kernel) {}

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
    Result<std::string> attach(const std::string& medium, std::uint64_t sectors);
    Result<Backing> find_devices(const schemas::PoolSpec& spec);
    Result<void> grow_devices(const schemas::PoolSpec& spec);
    Result<void> take_devices(const schemas::PoolSpec& spec, const Overwrite& overwrite);
    Result<void> check_unused(const std::string& path);
    bool claimed(dev_t number) const;
    FakePool* thin_at(const std::string& device, std::uint32_t& thin_id);
    FakeMedium& medium_of(const std::string& device);

    FakeKernel& kernel_;
};

}  // namespace cowslip
