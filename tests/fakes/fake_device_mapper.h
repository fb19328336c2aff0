// device-mapper over a FakeKernel: refuses what the kernel refuses, with its errnos.
#pragma once

#include "common/device_mapper.h"
#include "tests/fakes/fake_kernel.h"

namespace cowslip {

class FakeDeviceMapper : public DeviceMapper {
public:
    explicit FakeDeviceMapper(FakeKernel& kernel) : kernel_(kernel) {}

    Result<std::optional<DmInfo>> find(const DmDevice& device) override;
    Result<std::vector<DmInfo>> list(std::string_view uuid_prefix) override;
    Result<DmTable> targets(const DmDevice& device) override;
    Result<std::optional<DmTarget>> status(const DmDevice& device) override;
    [[nodiscard]] int create(const DmDevice& device, dev_t* number) override;
    using DeviceMapper::create;
    [[nodiscard]] int load(const DmDevice& device, const DmTable& table, bool read_only) override;
    using DeviceMapper::load;
    [[nodiscard]] int suspend(const DmDevice& device, SuspendMode mode) override;
    [[nodiscard]] int resume(const DmDevice& device) override;
    [[nodiscard]] int remove(const DmDevice& device) override;
    [[nodiscard]] int message(const DmDevice& device, const std::string& text) override;
    Result<std::string> ensure_node(const DmInfo& info) override;
    void remove_node(const std::string& name) override;

private:
    DmInfo info(dev_t number, std::uint32_t open_count) const;
    int load_pool(dev_t number, DmTarget& target);
    int load_thin(DmTarget& target);
    std::string thin_status_text(const DmDevice& device, const std::string& table) const;
    bool pool_suspended(dev_t pool) const;
    bool fits(const FakeDmDevice::Table& table) const;
    void suspend(dev_t number);
    void bind(FakePool& pool, const ThinPoolTable& table);
    bool grow(FakePool& pool, std::uint64_t data_blocks);
    bool runs(dev_t pool, std::uint32_t thin_id) const;
    int pool_message(dev_t number, FakePool& pool, const std::vector<std::string>& words);

    FakeKernel& kernel_;
};

}  // namespace cowslip
