#include "common/options.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>

#include <fmt/format.h>
#include <spdlog/pattern_formatter.h>
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
    std::vector<std::string> allowed = {};  // Empty: any text.
    const NumberOption* number = nullptr;
};

Result<void> apply(const std::string& file, const toml::node& node, const Setting& setting) {
    if (setting.text != nullptr) {
        const auto value = node.value_exact<std::string>();
        if (!value) return at(file, node.source(), fmt::format("'{}' must be a string", setting.name));
        const auto& allowed = setting.allowed;
        if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), *value) == allowed.end()) {
            return at(file, node.source(),
                      fmt::format("'{}' must be one of {}", setting.name, fmt::join(allowed, ", ")));
        }
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

Result<void> read_config(const std::string& file, const std::vector<Setting>& settings) {
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
                                     {"log-level", level->count() > 0, &options.log_level, kLogLevels}};
    for (std::size_t i = 0; i < own.size(); ++i) {
        settings.push_back({own[i].name, flags[i]->count() > 0, nullptr, {}, &own[i]});
    }
    const auto read = read_config(config, settings);
    if (!read) {
        std::cerr << program << ": " << read.error().message << '\n';
        return {.ends = true, .exit_status = kUsage, .options = {}};
    }
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
