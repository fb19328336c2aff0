#include "services/ctl/command_line.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdlib>
#include <memory>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "common/size.h"
#include "services/ctl/commands.h"

namespace cowslip::ctl {

namespace {

// CLI11 takes "[a,b]" and "{}" for lists where a list is allowed, but both are fine ids. A control
// character, which nobody may pass anyway, hides them from it.
constexpr char kGuard = '\x01';

bool looks_like_list(const std::string& text) {
    return text.starts_with('[') || text.starts_with('{');
}

std::string guarded(const std::string& text) {
    return looks_like_list(text) ? text + kGuard : text;
}

std::string unguarded(std::string text) {
    if (looks_like_list(text) && text.ends_with(kGuard)) text.pop_back();
    return text;
}

// Builds the commands over one CommandLine, which must outlive it.
class Grammar {
public:
    explicit Grammar(CommandLine& line) : line_(line), arguments_(line.arguments) {
        add_globals();
        add_pool_commands();
        add_volume_commands();
        add_list_commands();
        add_service_commands();
        add_store_commands();
        add_bus_commands();
        add_up();
        add_examples();
    }

    CLI::App& root() { return root_; }

private:
    CLI::App* command(CLI::App& parent, const std::string& name, Action action, const std::string& description) {
        CLI::App* app = parent.add_subcommand(name, description);
        app->callback([this, action] { line_.action = action; });
        return app;
    }
    CLI::App* command(const std::string& name, Action action, const std::string& description) {
        return command(root_, name, action, description);
    }
    CLI::App* group(const std::string& name, const std::string& description) {
        return root_.add_subcommand(name, description)->require_subcommand(1);
    }

    static CLI::Option* text(CLI::App* app, const std::string& name, std::string& target,
                             const std::string& description, const std::string& type) {
        const auto store = [&target](const std::string& value) { target = unguarded(value); };
        return app->add_option_function<std::string>(name, store, description)->type_name(type);
    }
    // Empty is not the same as not given.
    static void optional_text(CLI::App* app, const std::string& name, std::optional<std::string>& target,
                              const std::string& description) {
        const auto store = [&target](const std::string& value) { target = unguarded(value); };
        app->add_option_function<std::string>(name, store, description)->type_name("OPTIONS");
    }
    // Each use of the option adds one value.
    static CLI::Option* texts(CLI::App* app, const std::string& name, std::vector<std::string>& target,
                              const std::string& description, const std::string& type) {
        const auto store = [&target](const std::vector<std::string>& values) {
            for (const auto& value : values) target.push_back(unguarded(value));
        };
        return app->add_option_function<std::vector<std::string>>(name, store, description)->type_name(type);
    }
    CLI::Option* id(CLI::App* app) { return text(app, "ID", arguments_.id, "the volume", "")->required(); }
    void holder(CLI::App* app) {
        text(app, "--holder", arguments_.holder, "whose lease it is ('default' if not given)", "NAME");
    }
    void volume_options(CLI::App* app) {
        text(app, "--size", arguments_.size, "10G, 512M, …; default: 10G, or the parent's", "SIZE");
        text(app, "--fs", arguments_.fs, "ext4, xfs or none; default: ext4, or the parent's", "TYPE");
        texts(app, "--label", arguments_.labels, "may be repeated", "K=V")->allow_extra_args(false);
        optional_text(app, "--mkfs", arguments_.mkfs_options, "how its file system is made, as bytes-per-inode=8192");
        optional_text(app, "--mount-options", arguments_.mount_options, "how it is mounted, as nodev,commit=30");
    }

    void pool_limit_options(CLI::App* app) {
        text(app, "--max-size", arguments_.max_size, "of --loop or --data-size: the pool grows by itself, up to this",
             "SIZE");
        text(app, "--grow-step", arguments_.grow_step, "by so much each time; default a quarter of its size", "SIZE");
        text(app, "--min-free", arguments_.min_free, "with less data free no volume is made; default 1 %", "SIZE");
        text(app, "--min-free-metadata", arguments_.min_free_metadata, "likewise; default a fifth", "SIZE");
        text(app, "--overprovision", arguments_.overprovision,
             "of its data, what all volumes may be; default: no limit", "PERCENT");
    }

    void add_globals();
    void add_pool_commands();
    void add_volume_commands();
    void add_list_commands();
    void add_service_commands();
    void add_store_commands();
    void add_bus_commands();
    void add_up();
    void add_examples();

    CommandLine& line_;
    Arguments& arguments_;
    CLI::App root_{"Copy-on-write block devices as a service.", "cowslip"};
};

void Grammar::add_globals() {
    Globals& globals = line_.globals;
    root_.fallthrough();  // Inherited by every command: these may stand before or after it.
    root_.require_subcommand(1);
    root_.set_version_flag("--version", "cowslip " COWSLIP_VERSION);
    CLI::Option* state = text(&root_, "--state", globals.state, "the service's state folder ($COWSLIP_STATE)", "DIR");
    text(&root_, "--socket", globals.socket, "the service's clients.sock ($COWSLIP_SOCKET)", "PATH")->excludes(state);
    text(&root_, "--config", globals.config, "a TOML file with state, run, socket, timeout; for 'up' also log-level",
         "FILE")
        ->check(CLI::ExistingFile);
    root_.add_flag("--json", globals.json, "answers and errors as JSON");
    root_.add_flag("--bytes", globals.exact_bytes, "sizes as exact bytes");
    root_.add_flag("--no-color", globals.no_color, "no colours ($NO_COLOR)");
    const auto timeout = [&globals](const std::string& value) {
        auto duration = parse_duration(value);
        if (!duration) throw CLI::ValidationError("--timeout", duration.error().message);  // Caught round parse().
        globals.timeout = *duration;
        globals.timeout_given = true;
    };
    root_.add_option_function<std::string>("--timeout", timeout, "for each request; default 30s")->type_name("TIME");
    text(&root_, "--request-id", globals.request_id, "repeats a request: the same id gets the first answer", "ID");
}

void Grammar::add_pool_commands() {
    CLI::App* pool = group("pool", "make and look at the pool that volumes live in");
    CLI::App* create = command(*pool, "create", pool_create, "make a pool of files or block devices, or adopt one");
    text(create, "NAME", arguments_.pool_name, "default: default", "");
    text(create, "--loop", arguments_.loop_size, "in files below the state folder, this large", "SIZE");
    text(create, "--data", arguments_.data_device, "on this block device; with --metadata, as root", "DEV");
    text(create, "--metadata", arguments_.metadata_device, "the block device for its metadata", "DEV");
    texts(create, "--device", arguments_.devices, "on these block devices, all of them; as root", "DEV...");
    text(create, "--adopt", arguments_.adopt, "take over an existing, empty thin-pool", "DMNAME");
    text(create, "--data-size", arguments_.data_size, "with --device: so much of them at first; default: all", "SIZE");
    text(create, "--metadata-size", arguments_.metadata_size, "with --loop or --device; default: from their size",
         "SIZE");
    text(create, "--block-size", arguments_.block_size, "default 64K", "SIZE");
    pool_limit_options(create);
    create->add_flag("--queue-when-full", arguments_.queue_when_full,
                     "who finds no room waits; default: gets an error");
    create->add_flag("--force", arguments_.force, "even where the devices hold something");
    create->add_flag("--preallocate", arguments_.preallocate, "with --loop: the files have all their blocks at once");
    create->add_flag("--keep-discarded", arguments_.keep_discarded, "the devices below are not told what is discarded");
    create->add_flag("--no-zeroing", arguments_.no_zeroing, "quicker; new volumes show the data of old ones");
    create->add_flag("--accept-no-zeroing", arguments_.accept_no_zeroing,
                     "adopt a pool that shows new volumes the data of old ones");
    command(*pool, "status", pool_status, "state, space and limits of the pool");
    CLI::App* grow = command(*pool, "grow", pool_grow, "make the pool larger, while it is used");
    text(grow, "--data", arguments_.data_size, "its data in all; in files or on its own devices", "SIZE");
    text(grow, "--metadata", arguments_.metadata_size, "its metadata in all; likewise", "SIZE");
    texts(grow, "--device", arguments_.devices, "with these; of a pool made with --device; as root", "DEV...");
    pool_limit_options(
        command(*pool, "limits", pool_limits, "change how far the pool may go; 0 is the default or none"));
    CLI::App* quota = command(*pool, "quota", pool_quota, "how much the volumes with a label may have, all in all");
    text(quota, "LABEL", arguments_.quota_label, "KEY=VALUE", "")->required();
    text(quota, "SIZE", arguments_.quota, "the sum of their sizes, or 'none'", "")->required();
    CLI::App* rewind = command(*pool, "rewind", pool_rewind, "open the limits of a stopped pool's life again");
    text(rewind, "--spare", arguments_.spare, "the new metadata of a pool on two devices go there; as root", "DEV");
    CLI::App* start = command(*pool, "start", pool_start, "bring a stopped pool back into service");
    start->add_flag("--read-only", arguments_.read_only, "without any change to it, also if it is frozen");
    command(*pool, "stop", pool_stop, "put the pool away while no volume is leased");
    command(*pool, "check", pool_check, "look for damage in a stopped pool's metadata");
    CLI::App* destroy = command(*pool, "destroy", pool_destroy, "the pool and all its volumes, for good");
    destroy->add_flag("--yes", arguments_.yes, "it is meant")->required();
    CLI::App* rebuild = command(*pool, "rebuild", pool_rebuild, "make the store anew from what the pool has");
    text(rebuild, "--data", arguments_.data_device, "the pool's block device, if the store is lost; with --metadata",
         "DEV");
    text(rebuild, "--metadata", arguments_.metadata_device, "the block device with its metadata", "DEV");
    texts(rebuild, "--device", arguments_.devices, "devices of a pool made with --device, if the store is lost",
          "DEV...");
    text(rebuild, "--adopt", arguments_.adopt, "the adopted pool, if the store is lost", "DMNAME");
    CLI::App* repair = command(*pool, "repair", pool_repair, "check the pool's metadata, and mend them if need be");
    repair->add_flag("--evict", arguments_.evict, "end all leases first: unwritten data is lost");
    text(repair, "--spare", arguments_.spare, "mend onto this device; for a pool on two devices, as root", "DEV");
    repair->add_flag("--accept-loss", arguments_.accept_loss, "go on although volumes lose data");
}

void Grammar::add_volume_commands() {
    CLI::App* create = command("create", volume_create, "make a volume: a clone of another, or an empty one");
    id(create);
    text(create, "--parent", arguments_.parent, "clone this volume", "ID");
    volume_options(create);
    create->add_flag("--get", arguments_.get, "mount it as well, and print where");
    holder(create);
    text(create, "--mount-label", arguments_.mount_label, "with --get: the SELinux context of the mount", "LABEL");

    CLI::App* remove = command("rm", volume_remove, "remove volumes; unknown ones are no error");
    CLI::Option* removed = texts(remove, "ID", arguments_.ids, "the volumes", "");
    texts(remove, "--filter", arguments_.labels, "all with that label; may be repeated, and then all must match", "K=V")
        ->allow_extra_args(false)
        ->excludes(removed);
    remove->add_flag("--wait", arguments_.wait, "until their space is back");
    remove->add_flag("--must-exist", arguments_.must_exist, "an unknown one is an error");

    CLI::App* resize = command("resize", volume_resize, "make a volume larger, mounted or not");
    id(resize);
    text(resize, "SIZE", arguments_.size, "its new size, as 20G", "")->required();

    CLI::App* freeze = command("freeze", volume_freeze, "make a volume a read-only image for good");
    id(freeze);
    CLI::Option* warm =
        text(freeze, "--warm", arguments_.warm, "keep so many clones of it ready to be taken; 0: none", "N");
    freeze->add_flag("--warm-mounted", arguments_.warm_mounted, "with --warm: and mounted")->needs(warm);

    CLI::App* rename = command("rename", volume_rename, "give a volume another name");
    text(rename, "OLD", arguments_.id, "the volume", "")->required();
    text(rename, "NEW", arguments_.new_id, "its new name", "")->required();

    CLI::App* label = command("label", volume_label, "change the labels of a volume");
    id(label);
    texts(label, "LABEL", arguments_.labels, "K=V sets one, K- takes it away", "")->required();

    CLI::App* trim = command("trim", volume_trim, "give back to the pool what mounted volumes do not use");
    CLI::Option* trimmed = texts(trim, "ID", arguments_.ids, "the volumes", "");
    trim->add_flag("--all", arguments_.all, "all that are mounted writable")->excludes(trimmed);

    CLI::App* get = command("get", volume_get, "mount a volume and print where; takes a lease");
    id(get);
    text(get, "--mount-label", arguments_.mount_label, "the SELinux context of the mount", "LABEL");
    get->add_flag("--read-only", arguments_.read_only);
    holder(get);

    CLI::App* put = command("put", volume_put, "give a lease back; the last one unmounts");
    id(put);
    holder(put);
    put->add_flag("--all-holders", arguments_.all_holders, "everybody's leases");
    put->add_flag("--force", arguments_.force, "even if the last writes cannot be saved");
    put->add_flag("--rm", arguments_.remove, "and remove the volume");

    id(command("exists", volume_exists, "exit with 0 if there is such a volume, 1 if not"));

    CLI::App* attach = command("attach", volume_attach, "print the block device of a volume, unmounted; takes a lease");
    id(attach);
    attach->add_flag("--read-only", arguments_.read_only);
    holder(attach);

    CLI::App* detach = command("detach", volume_detach, "give back the lease of an attach");
    id(detach);
    holder(detach);
    detach->add_flag("--all-holders", arguments_.all_holders, "everybody's leases");

    CLI::App* import = command("import", import_tar, "make a volume and fill it from a tar, as root");
    id(import);
    text(import, "TAR", arguments_.tar, "the archive, also gz, xz or zstd; '-' reads stdin", "")->required();
    volume_options(import);
}

void Grammar::add_list_commands() {
    CLI::App* list = command("ls", volume_list, "list volumes");
    texts(list, "--filter", arguments_.labels, "only those with this label; may be repeated", "K=V")
        ->allow_extra_args(false);
    CLI::App* show = command("show", volume_show, "everything about one volume");
    id(show);
    show->add_flag("--space", arguments_.space, "and look at what it has mapped now");
    CLI::App* tree = command("tree", volume_tree, "volumes below what they were cloned from");
    tree->add_flag("--space", arguments_.space, "and what they take of the pool");
    CLI::App* df = command("df", volume_space, "what the volumes take of the pool, and what removing one gives back");
    df->add_flag("--exact", arguments_.exact, "count all of them, and what they share, anew");
    command("leases", lease_list, "who holds what");
}

void Grammar::add_service_commands() {
    command("operations", operation_list, "what was accepted and goes on, and what it waits for");
    CLI::App* wait = command("wait", operation_wait, "until an operation has ended");
    text(wait, "OPERATION", arguments_.operation, "its number", "")->required();
    command("cleanup", service_cleanup, "end all leases, unmount everything and put the pool away");
    command("status", service_status, "the service, its pool, its work and its warnings");
    CLI::App* fsck = command("fsck", service_fsck, "compare what should be there with what is");
    fsck->add_flag("--repair", arguments_.repair, "and put right what loses nothing");
    CLI::App* event = command("events", events, "what happened, one event a line");
    text(event, "--since", arguments_.since, "only events after this number", "N");
    event->add_flag("--follow", arguments_.follow, "and go on with what happens");
}

void Grammar::add_store_commands() {
    CLI::App* store = group("store", "the service's own record of volumes, and backups of it");
    CLI::App* backup = command(*store, "backup", store_backup, "make a checked copy of it, while the service runs");
    text(backup, "FILE", arguments_.file, "and copy that here", "");
    backup->add_flag("--force", arguments_.force, "even where FILE exists");
    command(*store, "list", store_list, "the backups there are");
    CLI::App* restore = command(*store, "restore", store_restore, "put a backup in its place, while no service runs");
    text(restore, "FILE", arguments_.file, "the backup", "")->required();
    CLI::App* verify = command(*store, "verify", store_verify, "is it whole, and what does it say? Changes nothing");
    text(verify, "FILE", arguments_.file, "default: the store itself, or its newest backup while the service runs", "");
}

void Grammar::add_bus_commands() {
    CLI::App* bus = group("bus", "anything the service can do, as messages");
    CLI::App* call = command(*bus, "call", bus_call, "send one request and print its answer");
    text(call, "TYPE", arguments_.message_type, "as 'bus describe' lists them", "")->required();
    text(call, "JSON", arguments_.message_body, "the request's body; default {}", "");
    CLI::App* describe = command(*bus, "describe", bus_describe, "requests and answers with their fields");
    text(describe, "TYPE", arguments_.message_type, "only this one", "");
    CLI::App* monitor = command(*bus, "monitor", bus_monitor, "events as they are published, one JSON a line");
    text(monitor, "PATTERN", arguments_.pattern, "only types that match, as 'volume.*'", "");
}

void Grammar::add_up() {
    CLI::App* app = command("up", up, "run the services in the foreground, restarted when they die");
    app->add_option("--device-actors", arguments_.device_actors, "default 4")
        ->check(CLI::Range(1U, 64U))
        ->type_name("N");
    app->add_option("--mount-actors", arguments_.mount_actors, "default 4")->check(CLI::Range(1U, 64U))->type_name("M");
}

// After all commands, which would inherit it.
void Grammar::add_examples() {
    root_.footer(
        "Examples:\n"
        "  cowslip up --state /srv/cow &\n"
        "  export COWSLIP_STATE=/srv/cow\n"
        "  cowslip pool create --loop 10G\n"
        "  cowslip import base rootfs.tar\n"
        "  cowslip create web --parent base --get\n"
        "  cowslip put web --rm\n"
        "'cowslip COMMAND --help' has the options of a command; cowslip(1) has everything.");
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i);
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            diagonal = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
        }
    }
    return row.back();
}

std::vector<const CLI::App*> all_subcommands(const CLI::App& app) {
    return app.get_subcommands([](const CLI::App*) { return true; });
}

// Long ones, but --help and --version.
std::vector<std::string> option_names(const CLI::App& app) {
    std::vector<std::string> names;
    for (const auto* option : app.get_options()) {
        for (const auto& name : option->get_lnames()) {
            if (name != "help" && name != "version") names.push_back(name);
        }
    }
    return names;
}

// The message for a command line that CLI11 refused.
std::string explain(const CLI::App& root, const CLI::ParseError& error) {
    const CLI::App* app = &root;
    std::string path = "cowslip";
    while (!app->get_subcommands().empty()) {
        app = app->get_subcommands().front();
        path += " " + app->get_name();
    }
    const std::string next = fmt::format("; see '{} --help'", path);
    std::string cause = error.what();
    if (cause.ends_with(kGuard)) cause.pop_back();
    if (cause.size() > 1 && cause[1] >= 'a') cause[0] = static_cast<char>(std::tolower(cause[0]));
    std::vector<std::string> names;
    for (const auto* subcommand : all_subcommands(*app)) names.push_back(subcommand->get_name());
    if (names.empty()) return cause + next;

    const auto left = root.remaining(true);
    const auto word = std::find_if(left.begin(), left.end(), [](const std::string& w) { return !w.starts_with('-'); });
    if (word == left.end()) return (left.empty() ? "which command?" : cause) + next;
    const auto closest = std::min_element(names.begin(), names.end(), [&](const auto& a, const auto& b) {
        return edit_distance(*word, a) < edit_distance(*word, b);
    });
    std::string message = fmt::format("unknown command '{}'", unguarded(*word));
    if (edit_distance(*word, *closest) <= 2) message += fmt::format(": did you mean '{}'?", *closest);
    return message + next;
}

// What flags and environment have left open.
Result<Place> take_config(Globals& globals) {
    ConfigFile file;
    if (!globals.config.empty()) file = TRY(read_config(globals.config));
    if (!file.timeout.empty() && !globals.timeout_given) globals.timeout = TRY(parse_duration(file.timeout));
    return find_place(globals, std::getenv("COWSLIP_STATE"), std::getenv("COWSLIP_SOCKET"), file);
}

}  // namespace

Result<CommandLine> parse_command_line(const std::vector<std::string>& args) {
    CommandLine line;
    Grammar grammar(line);
    CLI::App& root = grammar.root();
    std::vector<std::string> reversed;  // As CLI11 wants them.
    std::transform(args.rbegin(), args.rend(), std::back_inserter(reversed), guarded);
    try {
        root.parse(reversed);
    } catch (const CLI::CallForHelp&) {
        line.text = root.help();
    } catch (const CLI::CallForVersion&) {
        line.text = root.version() + "\n";
    } catch (const CLI::ParseError& error) {
        return Error{Errc::invalid_argument, explain(root, error)};
    }
    return line;
}

std::vector<CommandDescription> describe_commands() {
    CommandLine line;
    Grammar grammar(line);
    std::vector<CommandDescription> all;
    for (const auto* app : all_subcommands(grammar.root())) {
        const auto below = all_subcommands(*app);
        if (below.empty()) all.push_back({app->get_name(), option_names(*app)});
        for (const auto* command : below) {
            all.push_back({app->get_name() + " " + command->get_name(), option_names(*command)});
        }
    }
    return all;
}

std::vector<std::string> describe_globals() {
    CommandLine line;
    return option_names(Grammar(line).root());
}

int run(const std::vector<std::string>& args, Console& console, StopSignal& stop) {
    // Also a command line that cannot be read is told as JSON where that was asked for.
    console.json = std::find(args.begin(), args.end(), "--json") != args.end();
    auto line = parse_command_line(args);
    if (!line) {
        console.error(line.error());
        return exit_code(line.error().code);
    }
    if (!line->text.empty()) {
        console.out << line->text;
        return 0;
    }
    console.json = line->globals.json;
    console.exact_bytes = line->globals.exact_bytes;
    if (line->globals.no_color) console.color = false;
    auto place = take_config(line->globals);
    if (!place) {
        console.error(place.error());
        return exit_code(place.error().code);
    }
    Session session(line->globals, *place, console, stop);
    auto result = line->action(session, line->arguments);
    if (const int signal = stop.caught(); signal != 0 && !result) {
        console.error(result.error(), "interrupted");
        return 128 + signal;
    }
    if (!result) {
        console.error(result.error());
        return exit_code(result.error().code);
    }
    return *result;
}

}  // namespace cowslip::ctl
