// device-mapper, as much of it as the device actor needs: one method, one thing done to the kernel.
// The one seam at which tests put a fake (tests/fakes/fake_device_mapper.h).
//
// Effects return 0 or the errno of the kernel's answer, exactly: to this service an errno is data,
// and what it means is for the pool manager to judge. Not for several threads (libdevmapper is not).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace cowslip {

// Which device. The uuid alone is used where there is one: the kernel then cannot take another
// device that somebody gave the same name. The name is for creating, and for devices not ours.
struct DmDevice {
    std::string name;
    std::string uuid;
};

struct DmInfo {
    DmDevice device;
    dev_t number = 0;
    std::uint32_t open_count = 0;
    bool suspended = false;
    bool read_only = false;
    bool live_table = false;
    bool inactive_table = false;  // Loaded, and waiting for a resume.
    // Goes up with what a target tells of: a pool that it has come to its low water, is full, or that its mode changes.
    std::uint32_t event_number = 0;
};

struct DmTarget {
    std::string type;
    std::uint64_t sectors = 0;
    std::string parameters;
    friend bool operator==(const DmTarget&, const DmTarget&) = default;
};

using DmTable = std::vector<DmTarget>;  // One after the other, from sector 0 on.

enum class SuspendMode : std::uint8_t {
    freeze,    // Its file system is frozen and its I/O has ended: what a snapshot wants.
    no_flush,  // Neither. For a pool that cannot write, where ending the I/O could take for ever.
};

class DeviceMapper {
public:
    virtual ~DeviceMapper() = default;

    // Looking. An absent device is no error.
    virtual Result<std::optional<DmInfo>> find(const DmDevice& device) = 0;
    virtual Result<std::vector<DmInfo>> list(std::string_view uuid_prefix) = 0;
    // Empty if the device is absent, or has no live table.
    virtual Result<DmTable> targets(const DmDevice& device) = 0;
    // The live table's only target; nothing if there is none, or another one.
    Result<std::optional<DmTarget>> table(const DmDevice& device);
    // The live target's status line. Never flushes: a plain status commits the pool and may hang.
    virtual Result<std::optional<DmTarget>> status(const DmDevice& device) = 0;

    // Doing. EBUSY: the name or the uuid is taken. Tells the new device's number to whom it matters.
    [[nodiscard]] virtual int create(const DmDevice& device, dev_t* number) = 0;
    [[nodiscard]] int create(const DmDevice& device) { return create(device, nullptr); }
    [[nodiscard]] virtual int load(const DmDevice& device, const DmTable& table, bool read_only) = 0;
    [[nodiscard]] int load(const DmDevice& device, const DmTarget& target, bool read_only) {
        return load(device, DmTable{target}, read_only);
    }
    [[nodiscard]] virtual int suspend(const DmDevice& device, SuspendMode mode) = 0;
    // Also makes an inactive table the live one; a device that runs is suspended for that, with a flush, by the same
    // call.
    [[nodiscard]] virtual int resume(const DmDevice& device) = 0;
    // EBUSY while it is open, without any waiting. Removes its node, too.
    [[nodiscard]] virtual int remove(const DmDevice& device) = 0;
    [[nodiscard]] virtual int message(const DmDevice& device, const std::string& text) = 0;

    // The node /dev/mapper/NAME of a live device: makes it, or makes it anew if it belongs to another
    // device number. An old node may point at a reused one, and so at another volume.
    virtual Result<std::string> ensure_node(const DmInfo& info) = 0;
    // For a device that is gone: its remover may have died before it came to the node.
    virtual void remove_node(const std::string& name) = 0;
};

std::string device_number(dev_t number);  // "253:7", as tables have it.
std::string node_path(const std::string& dm_name);

// The running kernel's, through libdevmapper.
//
// udev: we neither wait for it nor let it have our devices. Waiting for its cookie costs 100-270 ms
// for each operation, and one that never comes hangs the caller. So the nodes are ours to make, and
// the flags in each uevent tell udev's rules to make no links, not to scan and not to watch. The rules
// in deploy/udev spare udev the two programs that it would still start to read those flags.
class KernelDeviceMapper : public DeviceMapper {
public:
    // unavailable: this kernel has no device-mapper, with the command that may help.
    static Result<KernelDeviceMapper> open();

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
    KernelDeviceMapper() = default;
};

}  // namespace cowslip
