#include "common/holders.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "common/files.h"
#include "common/mountinfo.h"

namespace cowslip {

namespace {

using Clock = std::chrono::steady_clock;

std::vector<std::string> list_folder(const std::string& path) {
    std::vector<std::string> names;
    DIR* folder = opendir(path.c_str());
    if (folder == nullptr) return names;  // The process has ended.
    while (const dirent* entry = readdir(folder)) {
        if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    }
    closedir(folder);
    return names;
}

constexpr const char* kNoTarget = "?";

std::string link_target(const std::string& path) {
    std::array<char, 4096> buffer{};
    const ssize_t size = readlink(path.c_str(), buffer.data(), buffer.size());
    return size < 0 ? kNoTarget : std::string(buffer.data(), static_cast<std::size_t>(size));
}

class Search {
public:
    Search(dev_t device, Hold hold, HolderBounds bounds)
        : device_(device), hold_(hold), count_(bounds.count), deadline_(Clock::now() + bounds.time) {}

    std::vector<schemas::Holder> run() {
        const std::vector<std::string> processes = list_processes();
        std::set<std::string> found;
        for (const auto& pid : processes) {
            if (exhausted()) return std::move(found_);
            if (const auto detail = find_use(pid)) {
                add(pid, *detail);
                found.insert(pid);
            }
        }
        for (const auto& pid : processes) {  // Apart, as it costs the most and says the least.
            if (exhausted()) return std::move(found_);
            const auto detail = found.contains(pid) ? std::nullopt : find_mapping("/proc/" + pid);
            if (detail) add(pid, *detail);
        }
        add_mounts("self");
        if (hold_ == Hold::file_system) return std::move(found_);
        std::set<std::string> seen = {link_target("/proc/self/ns/mnt")};
        for (const auto& pid : processes) {
            if (exhausted()) return std::move(found_);
            if (seen.insert(link_target("/proc/" + pid + "/ns/mnt")).second) add_mounts(pid);
        }
        add_stacked_devices();
        return std::move(found_);
    }

private:
    // Newest first: they are likelier than those that have run since the machine started. Kernel
    // threads, which have no executable, are left out.
    static std::vector<std::string> list_processes() {
        std::vector<std::string> processes = list_folder("/proc");
        const std::string own = std::to_string(getpid());
        std::erase_if(processes, [&](const std::string& name) {
            return name == own || name.find_first_not_of("0123456789") != std::string::npos ||
                   link_target("/proc/" + name + "/exe") == kNoTarget;
        });
        std::sort(processes.begin(), processes.end(), [](const std::string& one, const std::string& other) {
            return one.size() != other.size() ? one.size() > other.size() : one > other;
        });
        return processes;
    }

    bool exhausted() const { return found_.size() >= count_ || Clock::now() >= deadline_; }

    void add(const std::string& pid, const std::string& detail) {
        if (found_.size() >= count_) return;
        schemas::Holder holder;
        std::from_chars(pid.data(), pid.data() + pid.size(), holder.pid);
        if (holder.pid != 0) {
            holder.command = read_file("/proc/" + pid + "/comm").value_or("");
            if (holder.command.ends_with('\n')) holder.command.pop_back();
        }
        holder.detail = detail;
        found_.push_back(std::move(holder));
    }

    // Whether what the link leads to lies on the file system or is the device. Does not ask a file
    // server that may be dead.
    bool leads_there(const std::string& link) const {
        struct statx status {};
        const int flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;
        if (statx(AT_FDCWD, link.c_str(), flags, STATX_TYPE, &status) != 0) return false;
        if (makedev(status.stx_dev_major, status.stx_dev_minor) == device_) return true;
        return hold_ == Hold::device && S_ISBLK(status.stx_mode) &&
               makedev(status.stx_rdev_major, status.stx_rdev_minor) == device_;
    }

    // How this process uses it, in words.
    std::optional<std::string> find_use(const std::string& pid) const {
        const std::string process = "/proc/" + pid;
        if (leads_there(process + "/cwd")) {
            return fmt::format("has '{}' as its working directory", link_target(process + "/cwd"));
        }
        if (leads_there(process + "/root")) {
            return fmt::format("has '{}' as its root directory", link_target(process + "/root"));
        }
        if (leads_there(process + "/exe")) return fmt::format("runs '{}'", link_target(process + "/exe"));
        for (const auto& fd : list_folder(process + "/fd")) {
            if (Clock::now() >= deadline_) return std::nullopt;
            const std::string link = process + "/fd/" + fd;
            if (leads_there(link)) return fmt::format("has '{}' open", link_target(link));
        }
        return std::nullopt;
    }

    // A mapped file stays in use without a descriptor.
    std::optional<std::string> find_mapping(const std::string& process) const {
        const auto maps = read_file(process + "/maps", 16U << 20U);
        if (!maps) return std::nullopt;
        const std::string wanted = fmt::format(" {:02x}:{:02x} ", major(device_), minor(device_));
        const std::size_t line = maps->find(wanted);  // 7f00-7f01 r--p 00000000 fd:03 131 /path
        if (line == std::string::npos) return std::nullopt;
        const std::string_view rest = std::string_view(*maps).substr(line, maps->find('\n', line) - line);
        const std::size_t path = rest.find('/');
        return fmt::format("has '{}' mapped", path == std::string_view::npos ? kNoTarget : rest.substr(path));
    }

    // In the mount namespace of `pid`: the device's mounts, and what is mounted on them.
    void add_mounts(const std::string& pid) {
        const auto entries = read_mountinfo("/proc/" + pid + "/mountinfo");
        if (!entries) return;
        const bool ours = pid == "self";
        const std::string space = link_target("/proc/" + pid + "/ns/mnt");  // mnt:[4026531841]
        std::set<std::uint64_t> mounts;
        for (const auto& entry : *entries) {
            if (entry.device == device_) mounts.insert(entry.id);
        }
        for (const auto& entry : *entries) {
            if (exhausted()) return;
            const bool lies_on_it = entry.device != device_ && mounts.contains(entry.parent_id);
            if (lies_on_it && ours) add("0", fmt::format("'{}' is mounted on it", entry.mount_point));
            if (entry.device != device_ || hold_ == Hold::file_system) continue;
            const std::string where = ours ? "" : fmt::format(" in mount namespace {}", number_in(space));
            add(ours ? "0" : pid, fmt::format("mounted{} at '{}'", where, entry.mount_point));
        }
    }

    static std::string number_in(const std::string& text) {
        const std::size_t begin = std::min(text.find_first_of("0123456789"), text.size());
        return text.substr(begin, text.find_first_not_of("0123456789", begin) - begin);
    }

    void add_stacked_devices() {
        const std::string folder = fmt::format("/sys/dev/block/{}:{}/holders", major(device_), minor(device_));
        for (const auto& name : list_folder(folder)) add("0", fmt::format("block device '{}' lies on it", name));
    }

    dev_t device_;
    Hold hold_;
    std::size_t count_;
    Clock::time_point deadline_;
    std::vector<schemas::Holder> found_;
};

}  // namespace

std::vector<schemas::Holder> find_holders(dev_t device, Hold hold, HolderBounds bounds) {
    return Search(device, hold, bounds).run();
}

}  // namespace cowslip
