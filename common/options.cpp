#include "common/options.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>

#include <fmt/format.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <toml++/toml.h>
#include <CLI/CLI.hpp>

#include "common/files.h"
#include "common/size.h"

namespace cowslip {

namespace {

constexpr int kUsage = 2;
const std::vector<std::string> kLogLevels = {"debug", "info", "warn", "error"};

Error at(const std::string& file, const toml::source_region& where, const std::string& what) {
    return {Errc::invalid_argument, fmt::format("{}:{}:{}: {}", file, where.begin.line, where.begin.column, what)};
}

// One key: text, with what it must be, or a number.
struct Setting {
    std::string name;
    std::string* text = nullptr;
    std::function<std::string(const std::string&)> complaint = {};
    const NumberOption* number = nullptr;
};

Result<void> apply(const std::string& file, const toml::node& node, const Setting& setting) {
    if (setting.text != nullptr) {
        const auto value = node.value_exact<std::string>();
        if (!value) return at(file, node.source(), fmt::format("'{}' must be a string", setting.name));
        const std::string complaint = setting.complaint ? setting.complaint(*value) : "";
        if (!complaint.empty()) return at(file, node.source(), fmt::format("'{}' {}", setting.name, complaint));
        *setting.text = *value;
        return {};
    }
    const auto value = node.value_exact<std::int64_t>();
    const NumberOption& option = *setting.number;
    if (!value || *value < 0 || static_cast<std::uint64_t>(*value) < option.least ||
        static_cast<std::uint64_t>(*value) > option.most) {
        return at(file, node.source(),
                  fmt::format("'{}' must be a number from {} to {}", setting.name, option.least, option.most));
    }
    *option.value = static_cast<std::uint64_t>(*value);
    return {};
}

std::string complain_about_level(const std::string& level) {
    if (std::find(kLogLevels.begin(), kLogLevels.end(), level) != kLogLevels.end()) return "";
    return fmt::format("must be one of {}", fmt::join(kLogLevels, ", "));
}

std::string complain_about_duration(const std::string& text) {
    const auto duration = parse_duration(text);
    return duration ? "" : "is no time: " + duration.error().message;
}

std::string complain_about_interval(const std::string& text) {
    return text == "0" ? "" : complain_about_duration(text);
}

using FilesystemCheck = Result<std::string> (*)(const std::string& fs, const std::string& text);
std::function<std::string(const std::string&)> complaint_of(FilesystemCheck check, const std::string& fs) {
    return [check, fs](const std::string& text) {
        const auto checked = check(fs, text);
        return checked ? "" : "is wrong: " + checked.error().message;
    };
}

// The message, with its control characters spelled out: what tools and strangers say gets into it.
class OneLine : public spdlog::custom_flag_formatter {
public:
    void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
        for (const char c : message.payload) {
            const auto byte = static_cast<unsigned char>(c);
            if (byte < 0x20 || byte == 0x7F) {
                fmt::format_to(std::back_inserter(out), "\\x{:02x}", byte);
            } else {
                out.push_back(c);
            }
        }
    }
    std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<OneLine>(); }
};

// A service's memory goes up and down with each message: given back to the kernel and taken again each time, it cost
// ten calls of brk and as many page faults for a volume made and removed.
void keep_freed_memory() {
    ::mallopt(M_TRIM_THRESHOLD, 16 << 20);
    ::mallopt(M_TOP_PAD, 1 << 20);
}

}  // namespace

Result<ConfigFile> read_config(const std::string& file, const std::vector<NumberOption>& own) {
    toml::table table;
    try {
        table = toml::parse_file(file);
    } catch (const toml::parse_error& error) {
        return at(file, error.source(), std::string(error.description()));
    }
    ConfigFile found;
    std::vector<Setting> settings = {{"state", &found.state},
                                     {"run", &found.run},
                                     {"log-level", &found.log_level, complain_about_level},
                                     {"reconcile", &found.reconcile, complain_about_duration},
                                     {"store-backup", &found.store_backup, complain_about_interval},
                                     {"trim", &found.trim, complain_about_interval},
                                     {"socket", &found.socket},
                                     {"timeout", &found.timeout, complain_about_duration}};
    for (const std::string fs : {"ext4", "xfs"}) {
        FilesystemOptions& options = found.filesystems[fs];
        settings.push_back({"mkfs-" + fs, &options.mkfs, complaint_of(check_mkfs_options, fs)});
        settings.push_back({"mount-" + fs, &options.mount, complaint_of(check_mount_options, fs)});
    }
    for (const NumberOption& option : own) settings.push_back({option.name, nullptr, {}, &option});
    for (const auto& [key, node] : table) {
        std::string name(key.str());
        std::replace(name.begin(), name.end(), '_', '-');
        const auto setting =
            std::find_if(settings.begin(), settings.end(), [&](const Setting& s) { return s.name == name; });
        if (setting == settings.end()) return at(file, key.source(), fmt::format("unknown key '{}'", key.str()));
        TRY(apply(file, node, *setting));
    }
    for (auto& [fs, options] : found.filesystems) {
        options = {TRY(check_mkfs_options(fs, options.mkfs)), TRY(check_mount_options(fs, options.mount))};
    }
    return found;
}

ParsedOptions parse_options(const std::string& program, const std::string& what_it_is, int argc, char** argv,
                            const std::vector<NumberOption>& own, const std::vector<TextOption>& texts,
                            const std::vector<FlagOption>& flags) {
    keep_freed_memory();
    if (const auto filled = fill_standard_fds(); !filled) {
        return {.ends = true, .exit_status = kUsage, .options = {}};  // There is nobody to tell.
    }
    ParsedOptions parsed;
    ServiceOptions& options = parsed.options;
    std::string config;
    CLI::App app(what_it_is, program);
    app.set_version_flag("--version", fmt::format("{} {}", program, COWSLIP_VERSION));
    app.add_option("--config", config, "TOML file; its keys are the names of these options")->check(CLI::ExistingFile);
    app.add_option("--state", options.state,
                   fmt::format("folder of the store, pool files and mounts ({})", kDefaultState))
        ->envname("COWSLIP_STATE");
    app.add_option("--run", options.run,
                   fmt::format("folder of the sockets (STATE/run; with neither given {})", kDefaultRun));
    auto* level = app.add_option("--log-level", options.log_level, "debug, info, warn or error")
                      ->check(CLI::IsMember(kLogLevels))
                      ->capture_default_str();
    for (const TextOption& option : texts) app.add_option("--" + option.name, *option.value, option.help);
    for (const FlagOption& option : flags) app.add_flag("--" + option.name, *option.value, option.help);
    std::vector<CLI::Option*> numbers;
    for (const NumberOption& option : own) {
        numbers.push_back(app.add_option("--" + option.name, *option.value, option.help)
                              ->check(CLI::Range(option.least, option.most))
                              ->capture_default_str());
    }
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        const bool asked_for = app.exit(error, std::cout, std::cerr) == 0;
        return {.ends = true, .exit_status = asked_for ? 0 : kUsage, .options = {}};
    }
    if (!config.empty()) {
        std::vector<std::uint64_t> given;
        for (const NumberOption& option : own) given.push_back(*option.value);
        const auto file = read_config(config, own);
        if (!file) {
            std::cerr << program << ": " << file.error().message << '\n';
            return {.ends = true, .exit_status = kUsage, .options = {}};
        }
        // Only what the flags and the environment have left open.
        if (options.state.empty()) options.state = file->state;
        if (options.run.empty()) options.run = file->run;
        if (level->count() == 0 && !file->log_level.empty()) options.log_level = file->log_level;
        if (!file->reconcile.empty()) options.reconcile = file->reconcile;
        if (!file->store_backup.empty()) options.store_backup = file->store_backup;
        if (!file->trim.empty()) options.trim = file->trim;
        options.filesystems = file->filesystems;
        for (std::size_t i = 0; i < own.size(); ++i) {
            if (numbers[i]->count() > 0) *own[i].value = given[i];
        }
    }
    if (options.state.empty() && options.run.empty()) options.run = kDefaultRun;
    if (options.state.empty()) options.state = kDefaultState;
    return parsed;
}

void setup_logging(const std::string& program, const std::string& level) {
    auto formatter = std::make_unique<spdlog::pattern_formatter>(spdlog::pattern_time_type::utc);
    formatter->add_flag<OneLine>('*').set_pattern(
        fmt::format("%Y-%m-%dT%H:%M:%S.%eZ {}[{}] %l %*", program, ::getpid()));
    auto logger = spdlog::stderr_logger_st(program);
    logger->set_formatter(std::move(formatter));
    logger->set_level(spdlog::level::from_str(level));
    spdlog::set_default_logger(std::move(logger));
}

}  // namespace cowslip
