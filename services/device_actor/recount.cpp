// The offline rewind: what thin_dump says of the metadata, counted anew and restored beside them, checked, and put in
// their place.
#include <fstream>

#include <fmt/format.h>
#include <unistd.h>

#include "common/process.h"
#include "services/device_actor/linux_host.h"
#include "services/device_actor/metadata_xml.h"

namespace cowslip {

namespace {

constexpr std::chrono::hours kPatience{4};  // Metadata have up to 16 GiB.

// Removed at the end, whatever comes: they can be as large as the metadata.
class Scratch {
public:
    explicit Scratch(std::string path) : path_(std::move(path)) { ::unlink(path_.c_str()); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { ::unlink(path_.c_str()); }
    const std::string& path() const { return path_; }

private:
    std::string path_;
};

Result<void> recount(const std::string& from, const std::string& to, const Host::Recount& wanted) {
    MetadataRecount counted(wanted.transaction_id);
    std::string line;
    std::ifstream first(from);
    while (std::getline(first, line)) TRY(counted.look(line));
    counted.no_more();
    if (counted.volumes() != wanted.volumes) {
        return Error{
            Errc::needs_repair,
            fmt::format("rewind: the pool has {} volumes, and the store {}: `cowslip pool start`, then `cowslip "
                        "fsck` names them",
                        counted.volumes(), wanted.volumes)};
    }
    std::ifstream second(from);
    std::ofstream out(to);
    while (std::getline(second, line)) out << TRY(counted.rewrite(line)) << '\n';
    out.close();
    if (!first.eof() || !second.eof() || !out) return Error{Errc::no_space, fmt::format("write '{}'", to)};
    return {};
}

Result<bool> same(const std::string& one, const std::string& other) {
    std::ifstream a(one);
    std::ifstream b(other);
    if (!a || !b) return Error{Errc::internal, "read what thin_dump wrote"};
    std::string line_a;
    std::string line_b;
    for (;;) {
        const bool more_a = static_cast<bool>(std::getline(a, line_a));
        const bool more_b = static_cast<bool>(std::getline(b, line_b));
        if (more_a != more_b || (more_a && line_a != line_b)) return false;
        if (!more_a) return true;
    }
}

}  // namespace

Result<void> LinuxHost::run_tool(const std::vector<std::string>& arguments) {
    ProcessOptions options;
    options.arguments = arguments;
    options.timeout = kPatience;
    options.inherited_fds = {lock_};
    const auto result = TRY(run_process(options));
    if (result.exit_status == 0) return {};
    return Error{Errc::needs_repair, fmt::format("rewind: {} exited with {}: {}", arguments.front(), result.exit_status,
                                                 result.errors.substr(0, result.errors.find('\n')))};
}

Result<void> LinuxHost::recount_metadata(const schemas::PoolSpec& spec, const Recount& wanted) {
    const Backing backing = TRY(backing_.find(spec));
    const Scratch was(backing_.scratch_file("rewind-was.xml"));
    const Scratch wished(backing_.scratch_file("rewind-wished.xml"));
    const Scratch became(backing_.scratch_file("rewind-became.xml"));
    TRY(run_tool({"thin_check", backing.metadata_path}));
    TRY(run_tool({"thin_dump", "-o", was.path(), backing.metadata_path}));
    TRY(recount(was.path(), wished.path(), wanted));
    const std::string copy = TRY(backing_.make_rewound_copy(spec, wanted.spare, wanted.transaction_id));
    TRY(run_tool({"thin_restore", "-i", wished.path(), "-o", copy}));
    TRY(run_tool({"thin_check", copy}));
    TRY(run_tool({"thin_dump", "-o", became.path(), copy}));
    if (!TRY(same(wished.path(), became.path()))) {
        return Error{Errc::internal, "rewind: what was restored is not what was wanted; nothing was changed"};
    }
    return backing_.use_rewound_copy(spec);
}

}  // namespace cowslip
