#include "common/device_mapper.h"

#include <fmt/format.h>
#include <libdevmapper.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <memory>

namespace cowslip {

namespace {

// The kernel passes them on in each uevent (as the high half of DM_COOKIE; the low half, the
// semaphore that someone would wait for, is 0). deploy/udev/05-cowslip.rules knows the sum.
constexpr std::uint16_t kUdevFlags = DM_UDEV_DISABLE_DM_RULES_FLAG | DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG |
                                     DM_UDEV_DISABLE_DISK_RULES_FLAG | DM_UDEV_DISABLE_OTHER_RULES_FLAG;

// Its errors are warnings to us: each comes back as an errno, too, and may be what was expected. That there is no such
// device mostly is.
__attribute__((format(printf, 5, 6))) void log_line(int level, const char* /*file*/, int /*line*/,
                                                    int /*errno_or_class*/, const char* format, ...) {
    constexpr int kLevelMask = 0x07;  // Above it are flags ("to stderr", "once").
    constexpr int kWarning = 4;       // As in syslog(3).
    auto ours = (level & kLevelMask) <= kWarning ? spdlog::level::warn : spdlog::level::debug;
    if (!spdlog::should_log(ours)) return;  // It has several lines for each ioctl.
    std::array<char, 1024> text{};
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text.data(), text.size(), format, arguments);
    va_end(arguments);
    if (std::string_view(text.data()).ends_with(std::strerror(ENXIO))) ours = spdlog::level::debug;
    spdlog::log(ours, "libdevmapper: {}", text.data());
}

// One device-mapper ioctl.
class DmTask {
public:
    DmTask(int type, const DmDevice& device) : task_(dm_task_create(type), &dm_task_destroy) {
        if (task_ && !address(type, device)) task_.reset();
    }

    dm_task* get() { return task_.get(); }

    // 0, or the errno.
    int run() {
        if (!task_) return EINVAL;
        if (dm_task_run(task_.get()) != 0) return 0;
        const int number = dm_task_get_errno(task_.get());
        return number != 0 ? number : EIO;  // It can fail without an ioctl.
    }

    // For what makes a uevent. Nobody waits for it, see the header.
    int run_without_udev() {
        std::uint32_t cookie = 0;
        if (task_) dm_task_set_cookie(task_.get(), &cookie, kUdevFlags);
        return run();
    }

private:
    bool address(int type, const DmDevice& device) {
        const bool by_uuid = !device.uuid.empty();
        const bool by_name = !device.name.empty() && (!by_uuid || type == DM_DEVICE_CREATE);
        return (!by_uuid || dm_task_set_uuid(task_.get(), device.uuid.c_str()) != 0) &&
               (!by_name || dm_task_set_name(task_.get(), device.name.c_str()) != 0);
    }

    std::unique_ptr<dm_task, decltype(&dm_task_destroy)> task_;
};

std::string words(const char* text) {
    return text != nullptr ? text : "";
}

Error dm_error(int number, std::string_view what, const DmDevice& device) {
    return errno_error(number, fmt::format("{} '{}'", what, device.uuid.empty() ? device.name : device.uuid));
}

Result<DmTable> read_targets(int type, std::string_view what, const DmDevice& device) {
    DmTask task(type, device);
    if (task.get() != nullptr) dm_task_no_flush(task.get());
    const int number = task.run();
    if (number == ENXIO) return DmTable{};
    if (number != 0) return dm_error(number, what, device);
    DmTable table;
    void* next = nullptr;
    do {
        std::uint64_t start = 0;
        DmTarget target;
        char* type_name = nullptr;
        char* parameters = nullptr;
        next = dm_get_next_target(task.get(), next, &start, &target.sectors, &type_name, &parameters);
        if (type_name == nullptr) break;
        target.type = type_name;
        target.parameters = words(parameters);
        table.push_back(std::move(target));
    } while (next != nullptr);
    return table;
}

std::optional<DmTarget> only_target(DmTable table) {
    if (table.size() != 1) return std::nullopt;
    return std::move(table.front());
}

}  // namespace

std::string device_number(dev_t number) {
    return fmt::format("{}:{}", major(number), minor(number));
}

std::string node_path(const std::string& dm_name) {
    return "/dev/mapper/" + dm_name;
}

Result<KernelDeviceMapper> KernelDeviceMapper::open() {
    dm_log_with_errno_init(&log_line);
    dm_udev_set_sync_support(0);
    dm_udev_set_checking(0);
    dm_hold_control_dev(1);
    std::array<char, 32> version{};
    if (dm_driver_version(version.data(), version.size()) == 0) {
        return Error{Errc::unavailable,
                     "open device-mapper: this kernel does not offer it; as root, try 'modprobe dm-thin-pool'"};
    }
    spdlog::debug("opened device-mapper version={}", version.data());
    return KernelDeviceMapper();
}

Result<std::optional<DmInfo>> KernelDeviceMapper::find(const DmDevice& device) {
    DmTask task(DM_DEVICE_INFO, device);
    const int number = task.run();
    if (number == ENXIO) return std::optional<DmInfo>{};
    dm_info raw{};
    if (number == 0 && dm_task_get_info(task.get(), &raw) == 0) return dm_error(EIO, "look at dm device", device);
    if (number != 0) return dm_error(number, "look at dm device", device);
    if (raw.exists == 0) return std::optional<DmInfo>{};
    DmInfo info;
    info.device = {.name = words(dm_task_get_name(task.get())), .uuid = words(dm_task_get_uuid(task.get()))};
    info.number = makedev(raw.major, raw.minor);
    info.open_count = raw.open_count > 0 ? static_cast<std::uint32_t>(raw.open_count) : 0;
    info.suspended = raw.suspended != 0;
    info.read_only = raw.read_only != 0;
    info.event_number = raw.event_nr;
    info.live_table = raw.live_table != 0;
    info.inactive_table = raw.inactive_table != 0;
    return std::optional<DmInfo>{std::move(info)};
}

Result<std::vector<DmInfo>> KernelDeviceMapper::list(std::string_view uuid_prefix) {
    DmTask task(DM_DEVICE_LIST, {});
    if (const int number = task.run(); number != 0) return errno_error(number, "list dm devices");
    std::vector<DmInfo> found;
    const dm_names* entry = dm_task_get_names(task.get());
    if (entry == nullptr || entry->dev == 0) return found;
    while (true) {
        // A device may have gone since; the kernel's list has no uuids that libdevmapper 1.02.185 shows.
        auto info = TRY(find({.name = entry->name, .uuid = {}}));
        if (info && info->device.uuid.starts_with(uuid_prefix)) found.push_back(std::move(*info));
        if (entry->next == 0) return found;
        entry = reinterpret_cast<const dm_names*>(reinterpret_cast<const char*>(entry) + entry->next);
    }
}

Result<std::optional<DmTarget>> DeviceMapper::table(const DmDevice& device) {
    return only_target(TRY(targets(device)));
}

Result<DmTable> KernelDeviceMapper::targets(const DmDevice& device) {
    return read_targets(DM_DEVICE_TABLE, "read table of dm device", device);
}

Result<std::optional<DmTarget>> KernelDeviceMapper::status(const DmDevice& device) {
    return only_target(TRY(read_targets(DM_DEVICE_STATUS, "read status of dm device", device)));
}

int KernelDeviceMapper::create(const DmDevice& device, dev_t* number) {
    DmTask task(DM_DEVICE_CREATE, device);
    const int error_number = task.run();
    dm_info raw{};
    if (error_number == 0 && number != nullptr && dm_task_get_info(task.get(), &raw) != 0) {
        *number = makedev(raw.major, raw.minor);
    }
    return error_number;
}

// Not one CREATE task with the table in it: it would be the same three ioctls, but when the load
// fails, the library removes the device and with that forgets the errno.
int KernelDeviceMapper::load(const DmDevice& device, const DmTable& table, bool read_only) {
    DmTask task(DM_DEVICE_RELOAD, device);
    if (task.get() == nullptr) return EINVAL;
    std::uint64_t start = 0;
    for (const DmTarget& target : table) {
        if (dm_task_add_target(task.get(), start, target.sectors, target.type.c_str(), target.parameters.c_str()) ==
            0) {
            return ENOMEM;
        }
        start += target.sectors;
    }
    if (read_only) dm_task_set_ro(task.get());
    return task.run();
}

int KernelDeviceMapper::suspend(const DmDevice& device, SuspendMode mode) {
    DmTask task(DM_DEVICE_SUSPEND, device);
    if (task.get() != nullptr && mode == SuspendMode::no_flush) {
        dm_task_no_flush(task.get());
        dm_task_skip_lockfs(task.get());
    }
    return task.run();
}

int KernelDeviceMapper::resume(const DmDevice& device) {
    return DmTask(DM_DEVICE_RESUME, device).run_without_udev();
}

int KernelDeviceMapper::remove(const DmDevice& device) {
    const int number = DmTask(DM_DEVICE_REMOVE, device).run_without_udev();
    if (number == 0) remove_node(device.name);
    return number;
}

int KernelDeviceMapper::message(const DmDevice& device, const std::string& text) {
    DmTask task(DM_DEVICE_TARGET_MSG, device);
    if (task.get() == nullptr) return EINVAL;
    if (dm_task_set_sector(task.get(), 0) == 0 || dm_task_set_message(task.get(), text.c_str()) == 0) return ENOMEM;
    return task.run();
}

Result<std::string> KernelDeviceMapper::ensure_node(const DmInfo& info) {
    const std::string path = node_path(info.device.name);
    struct stat found {};
    const bool right = stat(path.c_str(), &found) == 0 && S_ISBLK(found.st_mode) && found.st_rdev == info.number;
    if (right) return path;  // Perhaps udev's link: as good.
    if (unlink(path.c_str()) != 0 && errno != ENOENT) return errno_error(errno, "remove stale node '" + path + "'");
    dm_prepare_selinux_context(path.c_str(), S_IFBLK);
    const int made = mknod(path.c_str(), S_IFBLK | 0600, info.number);
    const int number = errno;
    dm_prepare_selinux_context(nullptr, 0);
    if (made != 0) return errno_error(number, "make node '" + path + "'");
    return path;
}

void KernelDeviceMapper::remove_node(const std::string& name) {
    const std::string path = node_path(name);
    if (unlink(path.c_str()) != 0 && errno != ENOENT) {
        spdlog::warn("remove node '{}': {}", path, std::strerror(errno));
    }
}

}  // namespace cowslip
