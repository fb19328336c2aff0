#include "common/options.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <toml++/toml.h>
#include <CLI/CLI.hpp>

namespace cowslip {

namespace {

constexpr int kUsage = 2;
const std::vector<std::string> kLogLevels = {"debug", "info", "warn", "error"};

Error at(const std::string& file, const toml::source_region& where, const std::string& what) {
    return {Errc::invalid_argument, fmt::format("{}:{}:{}: {}", file, where.begin.line, where.begin.column, what)};
}

// Only what the flags and the environment have left open.
struct Setting {
    std::string name;
    bool is_set;
    std::string* text = nullptr;
    const NumberOption* number = nullptr;
};

Result<void> apply(const std::string& file, const toml::node& node, const Setting& setting) {
    if (setting.text != nullptr) {
        const auto value = node.value_exact<std::string>();
        if (!value) return at(file, node.source(), fmt::format("'{}' must be a string", setting.name));
        if (!setting.is_set) *setting.text = *value;
        return {};
    }
    const auto value = node.value_exact<std::int64_t>();
    const NumberOption& option = *setting.number;
    if (!value || *value < 0 || static_cast<std::uint64_t>(*value) < option.least ||
        static_cast<std::uint64_t>(*value) > option.most) {
        return at(file, node.source(),
                  fmt::format("'{}' must be a number from {} to {}", setting.name, option.least, option.most));
    }
    if (!setting.is_set) *option.value = static_cast<std::uint64_t>(*value);
    return {};
}

Result<void> read_file(const std::string& file, const std::vector<Setting>& settings) {
    toml::table table;
    try {
        table = toml::parse_file(file);
    } catch (const toml::parse_error& error) {
        return at(file, error.source(), std::string(error.description()));
    }
    for (const auto& [key, node] : table) {
        std::string name(key.str());
        std::replace(name.begin(), name.end(), '_', '-');
        const auto found =
            std::find_if(settings.begin(), settings.end(), [&](const Setting& s) { return s.name == name; });
        if (found == settings.end()) return at(file, key.source(), fmt::format("unknown key '{}'", key.str()));
        TRY(apply(file, node, *found));
    }
    return {};
}

}  // namespace

ParsedOptions parse_options(const std::string& program, const std::string& what_it_is, int argc, char** argv,
                            const std::vector<NumberOption>& own) {
    ParsedOptions parsed;
    ServiceOptions& options = parsed.options;
    std::string config;
    CLI::App app(what_it_is, program);
    app.set_version_flag("--version", fmt::format("{} {}", program, COWSLIP_VERSION));
    app.add_option("--config", config, "TOML file; its keys are the names of these options")->check(CLI::ExistingFile);
    auto* state = app.add_option("--state", options.state, "folder of the store, pool files and mounts")
                      ->envname("COWSLIP_STATE")
                      ->capture_default_str();
    auto* run = app.add_option("--run", options.run, "folder of the sockets (default: STATE/run)");
    auto* level = app.add_option("--log-level", options.log_level, "debug, info, warn or error")
                      ->check(CLI::IsMember(kLogLevels))
                      ->capture_default_str();
    std::vector<CLI::Option*> flags;
    for (const NumberOption& option : own) {
        flags.push_back(app.add_option("--" + option.name, *option.value, option.help)
                            ->check(CLI::Range(option.least, option.most))
                            ->capture_default_str());
    }
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        const bool asked_for = app.exit(error, std::cout, std::cerr) == 0;
        return {.ends = true, .exit_status = asked_for ? 0 : kUsage, .options = {}};
    }
    if (config.empty()) return parsed;
    std::vector<Setting> settings = {{"state", state->count() > 0, &options.state},
                                     {"run", run->count() > 0, &options.run},
                                     {"log-level", level->count() > 0, &options.log_level}};
    for (std::size_t i = 0; i < own.size(); ++i) {
        settings.push_back({own[i].name, flags[i]->count() > 0, nullptr, &own[i]});
    }
    auto read = read_file(config, settings);
    if (read && std::find(kLogLevels.begin(), kLogLevels.end(), options.log_level) == kLogLevels.end()) {
        read = Error{Errc::invalid_argument, fmt::format("{}: log-level '{}' is none", config, options.log_level)};
    }
    if (!read) {
        std::cerr << program << ": " << read.error().message << '\n';
        return {.ends = true, .exit_status = kUsage, .options = {}};
    }
    return parsed;
}

void setup_logging(const std::string& program, const std::string& level) {
    auto logger = spdlog::stderr_logger_st(program);
    logger->set_pattern(fmt::format("%Y-%m-%dT%H:%M:%S.%eZ {}[{}] %l %v", program, ::getpid()),
                        spdlog::pattern_time_type::utc);
    logger->set_level(spdlog::level::from_str(level));
    spdlog::set_default_logger(std::move(logger));
}

}  // namespace cowslip
