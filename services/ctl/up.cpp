#include <unistd.h>

#include <array>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <sstream>

#include <fmt/format.h>

#include "services/ctl/commands.h"
#include "services/ctl/supervisor.h"

namespace cowslip::ctl {

Result<std::string> find_program(const std::string& name) {
    std::array<char, PATH_MAX> self{};
    const auto length = readlink("/proc/self/exe", self.data(), self.size() - 1);
    const std::string own(self.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
    std::vector<std::string> folders{own.substr(0, own.rfind('/'))};
    const char* path = std::getenv("PATH");
    std::istringstream rest(path == nullptr ? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin" : path);
    for (std::string folder; std::getline(rest, folder, ':');) folders.push_back(folder);
    for (const auto& folder : folders) {
        const std::string program = folder + "/" + name;
        if (folder.starts_with('/') && access(program.c_str(), X_OK) == 0) return program;
    }
    return Error{Errc::not_found, fmt::format("find '{}': it is neither beside this program nor in PATH", name)};
}

Result<int> up(Session& session, const Arguments& arguments) {
    if (session.place().state.empty() ||
        (session.place().state == kDefaultState && session.place().run == kDefaultRun)) {
        return Error{Errc::invalid_argument, "up: name the state folder with --state DIR"};
    }
    const auto folder = TRY(resolve_state_folder(session.place().state, session.place().run));
    std::vector<std::string> options{"--state", folder.dir, "--run", folder.run};
    if (!session.globals().config.empty()) {
        options.emplace_back("--config");
        options.push_back(session.globals().config);
    }
    const auto command = [&](const std::string& program) {
        std::vector<std::string> words{program};
        words.insert(words.end(), options.begin(), options.end());
        return words;
    };
    Supervisor::Plan plan;
    plan.folder = folder;
    plan.manager = command(TRY(find_program("cowslip-pool-manager")));
    plan.standby = plan.manager;
    plan.standby.emplace_back("--standby");
    plan.actors = {{"device", command(TRY(find_program("cowslip-device-actor"))), arguments.device_actors},
                   {"mount", command(TRY(find_program("cowslip-mount-actor"))), arguments.mount_actors}};

    signal(SIGPIPE, SIG_IGN);  // Whoever reads our words may go away; the services stay.
    TRY(Supervisor(std::move(plan), session.console(), session.stop()).run());
    return 0;
}

}  // namespace cowslip::ctl
