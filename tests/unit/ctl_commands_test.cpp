// Whole commands, from their words to what is printed, against the other end of the wire.

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <catch2/catch.hpp>

#include "services/ctl/command_line.h"
#include "services/ctl/commands.h"
#include "services/ctl/json.h"
#include "tests/fakes/scripted_manager.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip::ctl {

namespace {

using namespace schemas;

struct Ran {
    int code = 0;
    std::string out;
    std::string err;
};

struct CommandsFixture {
    Ran run(std::vector<std::string> args) {
        args.insert(args.begin(), {"--socket", folder / "clients.sock"});
        std::ostringstream out;
        std::ostringstream err;
        Console console{.out = out, .err = err, .out_is_terminal = terminal, .err_is_terminal = terminal};
        auto stop = StopSignal::watch();
        const int code = ctl::run(args, console, *stop);
        return {code, out.str(), err.str()};
    }
    TemporaryFolder folder;
    ScriptedManager manager{folder.path()};
    bool terminal = false;
};

Volume example_volume() {
    Volume volume;
    volume.id = "web";
    volume.parent = "base";
    volume.kind = "volume";
    volume.state = "ready";
    volume.thin_id = 7;
    volume.transaction_id = 4294967297;
    volume.size_bytes = std::uint64_t{10} << 30U;
    volume.fs = "ext4";
    volume.created_at = "2026-11-23T08:00:00.000Z";
    volume.labels = {{"user", "ada"}};
    volume.leases = {{"me", "mounted_rw"}};
    volume.mount = "/s/mnt/web/rootfs";
    volume.mapped_bytes = 1048576;
    volume.as_of = "2026-11-23T09:00:00.000Z";
    return volume;
}

const std::string kExampleJson =
    R"({"id":"web","parent":"base","kind":"volume","state":"ready","thin_id":7,"transaction_id":4294967297,)"
    R"("size_bytes":10737418240,"fs":"ext4","created_at":"2026-11-23T08:00:00.000Z","labels":{"user":"ada"},)"
    R"("leases":[{"holder":"me","mode":"mounted_rw"}],"device":null,"mount":"/s/mnt/web/rootfs",)"
    R"("mapped_bytes":1048576,"exclusive_bytes":null,"shared_bytes":null,"as_of":"2026-11-23T09:00:00.000Z",)"
    R"("mkfs_options":"","mount_options":"","warm":null})";

}  // namespace

TEST_CASE_METHOD(CommandsFixture, "a configuration file says what options do not", "[ctl]") {
    // --config was an option of 'up' alone.
    manager.on<VolumeExists>([](const VolumeExists&) { return VolumeExists::Reply{true}; });
    manager.start();
    const std::string file = folder / "c.toml";
    std::ofstream(file) << "socket = '" << folder / "clients.sock"
                        << "'\ntimeout = '20s'\nlog-level = 'warn'\n";
    std::ostringstream out;
    std::ostringstream err;
    Console console{.out = out, .err = err};
    auto stop = StopSignal::watch();
    CHECK(ctl::run({"exists", "a", "--config", file}, console, *stop) == 0);
    CHECK(ctl::run({"--config", file, "--socket", "/absent/clients.sock", "--timeout", "1ms", "exists", "a"}, console,
                   *stop) == 7);
    std::ofstream(file) << "state = '/s'\nsokcet = '/s'\n";
    err.str("");
    CHECK(ctl::run({"--config", file, "exists", "a"}, console, *stop) == 2);
    CHECK_THAT(err.str(), Catch::Contains(file + ":2:1: unknown key 'sokcet'"));
    CHECK(ctl::run({"--config", folder / "absent", "exists", "a"}, console, *stop) == 2);
}

TEST_CASE_METHOD(CommandsFixture, "show prints the keys that scripts read, null where absent", "[ctl]") {
    manager.on<VolumeShow>([](const VolumeShow& request) -> Result<Volume> {
        CHECK(request.id == "web");
        return example_volume();
    });
    manager.start();
    const auto ran = run({"show", "web", "--json"});
    CHECK(ran.code == 0);
    CHECK(ran.out == kExampleJson + "\n");
    CHECK(ran.err.empty());
    CHECK_THAT(run({"show", "web"}).out, Catch::Contains("size\t10 GiB\n") && Catch::Contains("device\t\n"));
    CHECK_THAT(run({"show", "web", "--bytes"}).out, Catch::Contains("size\t10737418240\n"));
}

TEST_CASE_METHOD(CommandsFixture, "ls asks for page after page and prints an array of what show prints", "[ctl]") {
    manager.on<VolumeList>([](const VolumeList& request) -> Result<VolumeList::Reply> {
        CHECK(request.labels == Labels{{"user", "ada"}});
        VolumeList::Reply reply{{example_volume()}, request.after != "c"};
        reply.volumes[0].id = request.after.empty() ? "b" : request.after == "b" ? "c" : "d";
        return reply;
    });
    manager.start();
    const auto ran = run({"ls", "--filter", "user=ada", "--json"});
    const auto array = Json::parse(ran.out);
    REQUIRE(array.size() == 3);
    CHECK(array[2]["id"] == "d");
    CHECK(array[0]["leases"][0]["holder"] == "me");
    CHECK_THAT(run({"ls", "--filter", "user=ada"}).out,
               Catch::StartsWith("b\tbase\tready\t10 GiB\text4\t1\t2026-11-23T08:00:00.000Z\nc\t"));
}

TEST_CASE_METHOD(CommandsFixture, "an empty pool lists nothing, as text and as JSON", "[ctl]") {
    manager.on<VolumeList>([](const VolumeList&) -> Result<VolumeList::Reply> { return VolumeList::Reply{}; });
    manager.start();
    CHECK(run({"ls"}).out.empty());
    CHECK(run({"ls", "--json"}).out == "[]\n");
    CHECK(run({"tree"}).out.empty());
}

TEST_CASE_METHOD(CommandsFixture, "pool status has its spaces as objects", "[ctl]") {
    manager.on<PoolStatus>([](const PoolStatus&) -> Result<PoolStatus::Reply> {
        PoolStatus::Reply pool;
        pool.name = "default";
        pool.mode = "rw";
        pool.data = {1, 2};
        pool.metadata = {3, 4};
        return pool;
    });
    manager.start();
    const auto json = Json::parse(run({"--json", "pool", "status"}).out);
    CHECK(json["data"] == Json{{"used_bytes", 1}, {"total_bytes", 2}});
    CHECK(json["metadata"]["total_bytes"] == 4);
    for (const auto* key : {"name", "uuid", "mode", "needs_check", "transaction_id", "block_size_bytes", "volumes",
                            "snapshots_taken", "low_water"}) {
        CAPTURE(key);
        CHECK(json.contains(key));
    }
    CHECK_THAT(run({"pool", "status"}).out, Catch::Contains("data\t1 B of 2 B (50%)\n"));
}

TEST_CASE_METHOD(CommandsFixture, "create is silent in a script, and prints the path it got", "[ctl]") {
    manager.on<VolumeCreate>([](const VolumeCreate& request) -> Result<VolumeCreate::Reply> {
        return VolumeCreate::Reply{example_volume(), request.get ? "/s/mnt/web/rootfs" : ""};
    });
    manager.start();
    const auto silent = run({"create", "web"});
    CHECK((silent.code == 0 && silent.out.empty() && silent.err.empty()));
    CHECK(run({"create", "web", "--get"}).out == "/s/mnt/web/rootfs\n");
    CHECK(run({"create", "web", "--json"}).out == kExampleJson + "\n");
    CHECK(Json::parse(run({"create", "web", "--get", "--json"}).out)["path"] == "/s/mnt/web/rootfs");
    terminal = true;
    const auto shown = run({"create", "web"});
    CHECK((shown.out.empty() && shown.err.find("next: cowslip get") != std::string::npos));
}

TEST_CASE_METHOD(CommandsFixture, "create passes on how a file system is made and mounted, and empty is not absent",
                 "[ctl]") {
    std::vector<VolumeCreate> requests;
    manager.on<VolumeCreate>([&](const VolumeCreate& request) -> Result<VolumeCreate::Reply> {
        requests.push_back(request);
        return VolumeCreate::Reply{example_volume(), ""};
    });
    manager.start();
    CHECK(run({"create", "web", "--mkfs", "inode-size=512", "--mount-options", "nodev"}).code == 0);
    CHECK(run({"create", "web", "--mkfs", "", "--mount-options", ""}).code == 0);
    CHECK(run({"create", "web"}).code == 0);
    REQUIRE(requests.size() == 3);
    CHECK((requests[0].mkfs_options == "inode-size=512" && requests[0].mount_options == "nodev"));
    CHECK((requests[1].mkfs_options == "" && requests[1].mount_options == ""));
    CHECK_FALSE((requests[2].mkfs_options || requests[2].mount_options));
}

TEST_CASE_METHOD(CommandsFixture, "get prints the path and attach the device, alone", "[ctl]") {
    manager.on<VolumeGet>([](const VolumeGet& request) -> Result<VolumeGet::Reply> {
        CHECK((request.holder == "me" && request.read_only && request.mount_label == "l"));
        return VolumeGet::Reply{"/s/mnt/web/rootfs", true};
    });
    manager.on<VolumeAttach>([](const VolumeAttach& request) -> Result<VolumeAttach::Reply> {
        CHECK((request.holder.empty() && !request.read_only));
        return VolumeAttach::Reply{"/dev/mapper/x", true};
    });
    manager.start();
    CHECK(run({"get", "web", "--read-only", "--holder", "me", "--mount-label", "l"}).out == "/s/mnt/web/rootfs\n");
    CHECK(run({"attach", "web"}).out == "/dev/mapper/x\n");
    CHECK(run({"attach", "web", "--json"}).out == "{\"device\":\"/dev/mapper/x\",\"changed\":true}\n");
}

TEST_CASE_METHOD(CommandsFixture, "put passes on what was asked", "[ctl]") {
    manager.on<VolumePut>([](const VolumePut& request) -> Result<VolumePut::Reply> {
        CHECK((request.remove && request.force && request.all_holders && !request.filled));
        return VolumePut::Reply{true};
    });
    manager.start();
    CHECK(run({"put", "web", "--rm", "--force", "--all-holders", "--json"}).out == "{\"changed\":true}\n");
}

TEST_CASE_METHOD(CommandsFixture, "exists answers with its exit code", "[ctl]") {
    manager.on<VolumeExists>([](const VolumeExists& request) -> Result<VolumeExists::Reply> {
        return VolumeExists::Reply{request.id == "yes"};
    });
    manager.start();
    CHECK(run({"exists", "yes"}).code == 0);
    const auto no = run({"exists", "no"});
    CHECK((no.code == 1 && no.out.empty() && no.err.empty()));
    CHECK(run({"exists", "no", "--json"}).out == "{\"exists\":false}\n");
}

TEST_CASE_METHOD(CommandsFixture, "an error of the service is told with its code and details", "[ctl]") {
    manager.on<VolumeGet>([](const VolumeGet&) -> Result<VolumeGet::Reply> {
        return Error{Errc::in_use, "get 'web': mounted otherwise", {{"holders", {"me"}}}};
    });
    manager.start();
    const auto json = run({"get", "web", "--json"});
    CHECK(json.code == 5);
    CHECK(json.out.empty());
    CHECK(json.err ==
          "{\"error\":{\"code\":\"in_use\",\"message\":\"get 'web': mounted "
          "otherwise\",\"details\":{\"holders\":[\"me\"]}}}\n");
    CHECK(run({"get", "web"}).err == "error: get 'web': mounted otherwise\n  holders: me\n");
}

TEST_CASE_METHOD(CommandsFixture, "what was accepted and goes on is exit code 8 and says how to wait", "[ctl]") {
    manager.on_raw(VolumeCreate::kType, [](const Request&) { return Result<std::string>(encode(Accepted{true, 42})); });
    manager.start();
    const auto ran = run({"create", "web"});
    CHECK(ran.code == 8);
    CHECK_THAT(ran.err, Catch::Contains("cowslip wait 42"));
    const auto json = Json::parse(run({"create", "web", "--json"}).err);
    CHECK(json["error"]["code"] == "timed_out");
    CHECK(json["error"]["details"]["operation"][0] == "42");
}

TEST_CASE_METHOD(CommandsFixture, "a request without an answer ends in its time and names its id", "[ctl]") {
    manager.on_raw(VolumeRemove::kType, [](const Request&) { return std::nullopt; });
    manager.on_raw(VolumeGet::kType, [](const Request&) { return std::nullopt; });
    manager.start();
    const auto ran = run({"get", "web", "--timeout", "300ms", "--request-id", "my-id"});
    CHECK(ran.code == 8);
    CHECK_THAT(ran.err, Catch::Contains("--request-id my-id"));
    CHECK(run({"rm", "web", "--timeout", "300ms"}).code == 8);
}

TEST_CASE_METHOD(CommandsFixture, "an interrupted request says what goes on, with exit code 130", "[ctl]") {
    manager.on_raw(VolumeGet::kType, [](const Request&) -> std::optional<Result<std::string>> {
        ::kill(::getpid(), SIGINT);  // Blocked, and looked for between two steps.
        return std::nullopt;
    });
    auto mask = StopSignal::watch();  // Blocked before the other thread is made.
    manager.start();
    const auto ran = run({"get", "web", "--json"});
    CHECK(ran.code == 130);
    const auto json = Json::parse(ran.err);
    CHECK(json["error"]["code"] == "interrupted");
    CHECK(json["error"]["details"].contains("request_id"));
}

TEST_CASE_METHOD(CommandsFixture, "rm reports each failure and ends with the first one's code", "[ctl]") {
    manager.on<VolumeRemove>([](const VolumeRemove& request) -> Result<VolumeRemove::Reply> {
        if (request.id == "v3") return Error{Errc::in_use, "remove 'v3': held"};
        if (request.id == "v700") return Error{Errc::internal, "remove 'v700': broken"};
        return VolumeRemove::Reply{request.id != "v5"};
    });
    manager.start();
    std::vector<std::string> args{"rm", "--json"};
    for (int i = 0; i < 1000; ++i) args.push_back("v" + std::to_string(i));
    const auto ran = run(args);
    CHECK(ran.code == 5);
    CHECK_THAT(ran.err, Catch::Contains("held") && Catch::Contains("broken"));
    CHECK(std::count(ran.out.begin(), ran.out.end(), '\n') == 998);
    CHECK_THAT(ran.out, Catch::Contains("{\"id\":\"v5\",\"existed\":false}\n"));
    CHECK(manager.types_asked().size() == 1000);
    CHECK(run({"rm", "a", "b", "--request-id", "x"}).code == 2);
}

TEST_CASE_METHOD(CommandsFixture, "rm of many shows on a terminal how many are gone", "[ctl]") {
    manager.on<VolumeRemove>(
        [](const VolumeRemove&) { return Result<VolumeRemove::Reply>(VolumeRemove::Reply{true}); });
    manager.start();
    std::vector<std::string> args{"rm"};
    for (int i = 0; i < 1000; ++i) args.push_back("v" + std::to_string(i));
    CHECK(run(args).err.empty());
    terminal = true;
    CHECK_THAT(run(args).err, Catch::Contains("removed 1 of 1000") && Catch::Contains("removed 1000 of 1000"));
}

TEST_CASE_METHOD(CommandsFixture, "rm removes all with a label, and no other volume that has got such a name",
                 "[ctl]") {
    manager.on<VolumeList>([](const VolumeList& request) -> Result<VolumeList::Reply> {
        CHECK(request.labels == Labels{{"job", "7"}});
        VolumeList::Reply reply{{example_volume()}, request.after.empty()};
        reply.volumes[0].id = request.after.empty() ? "a" : "b";
        reply.volumes[0].thin_id = request.after.empty() ? 11 : 12;
        return reply;
    });
    manager.on<VolumeRemove>([](const VolumeRemove& request) -> Result<VolumeRemove::Reply> {
        CHECK(request.thin_id == (request.id == "a" ? 11 : 12));
        return VolumeRemove::Reply{true};
    });
    manager.start();
    const auto ran = run({"rm", "--filter", "job=7", "--json"});
    CHECK(ran.code == 0);
    CHECK(ran.out == "{\"id\":\"a\",\"existed\":true}\n{\"id\":\"b\",\"existed\":true}\n");
    CHECK(run({"rm"}).code == 2);
    CHECK(run({"rm", "a", "--filter", "job=7"}).code == 2);
    CHECK(run({"rm", "--filter", "job"}).code == 2);
}

TEST_CASE_METHOD(CommandsFixture, "cleanup names what it left, as in use", "[ctl]") {
    manager.on<SystemCleanup>([](const SystemCleanup&) -> Result<SystemCleanup::Reply> {
        return SystemCleanup::Reply{2, {"web: bash (pid 7)"}};
    });
    manager.start();
    const auto ran = run({"cleanup", "--json"});
    CHECK(ran.code == 5);
    CHECK(ran.out == "{\"leases_ended\":2,\"left\":[\"web: bash (pid 7)\"]}\n");
    CHECK_THAT(run({"cleanup"}).err, Catch::Contains("left: web: bash (pid 7)"));
}

TEST_CASE_METHOD(CommandsFixture, "wait ends with the operation's own error", "[ctl]") {
    manager.on<OperationWait>([](const OperationWait& request) -> Result<Empty> {
        if (request.operation == 7) return Error{Errc::no_space, "create 'web': the pool is full"};
        return Empty{};
    });
    manager.start();
    CHECK(run({"wait", "7"}).code == 6);
    CHECK(run({"wait", "8"}).code == 0);
    CHECK(run({"wait", "-1"}).code == 2);
    CHECK(run({"wait", "8x"}).code == 2);
}

TEST_CASE_METHOD(CommandsFixture, "bus call sends any message and prints its answer", "[ctl]") {
    manager.on<VolumeExists>([](const VolumeExists& request) -> Result<VolumeExists::Reply> {
        return VolumeExists::Reply{request.id == "a"};
    });
    manager.start();
    CHECK(run({"bus", "call", "volume.exists", R"({"id":"a"})"}).out == "{\"exists\":true}\n");
    CHECK(run({"bus", "call", "volume.exists"}).out == "{\"exists\":false}\n");
    CHECK(run({"bus", "call", "no.such"}).code == 11);
    CHECK(run({"bus", "call", "volume.exists", R"({"id":7})"}).code == 2);
    CHECK(run({"bus", "call", "volume.exists", "nonsense"}).code == 2);
}

TEST_CASE_METHOD(CommandsFixture, "bus describe shows requests and answers without a service", "[ctl]") {
    const auto json = Json::parse(run({"bus", "describe", "volume.create"}).out);
    CHECK(json["request"].contains("filling"));
    CHECK(json["reply"]["volume"]["leases"][0].contains("holder"));
    CHECK_THAT(run({"bus", "describe"}).out, Catch::Contains("volume.list\tlabels after limit\tvolumes more\n"));
    CHECK(run({"bus", "describe", "no.such"}).code == 3);
}

TEST_CASE_METHOD(CommandsFixture, "store backup copies the service's file to where it is told, and over none unasked",
                 "[ctl][backup]") {
    StoreCopy copy;
    copy.path = folder / "000012-20261128T164117Z.db";
    copy.sequence = 12;
    copy.bytes = 9;
    copy.volumes = 3;
    std::ofstream(copy.path) << "the store";
    int asked = 0;
    manager.on<StoreBackup>([&](const StoreBackup&) -> Result<StoreCopy> {
        ++asked;
        return copy;
    });
    manager.on<StoreList>([&](const StoreList&) -> Result<StoreList::Reply> { return StoreList::Reply{{copy}}; });
    manager.start();
    const auto text_of = [](const std::string& file) {
        std::ostringstream text;
        text << std::ifstream(file).rdbuf();
        return text.str();
    };
    CHECK(run({"store", "backup"}).out == copy.path + "\n");
    const std::string file = folder / "mine";
    CHECK(run({"store", "backup", file}).out == file + "\n");
    CHECK(text_of(file) == "the store");
    std::ofstream(file) << "something else";
    const auto refused = run({"store", "backup", file});
    CHECK(refused.code == 4);
    CHECK_THAT(refused.err, Catch::Contains("--force"));
    CHECK(asked == 2);
    CHECK(text_of(file) == "something else");
    CHECK(Json::parse(run({"store", "backup", file, "--force", "--json"}).out)["path"] == file);
    CHECK(text_of(file) == "the store");
    CHECK(run({"store", "backup", folder / "absent/file"}).code == 70);
    CHECK(run({"store", "list"}).out == "12\t\t9 B\t0\t3\tno\t" + copy.path + "\n");
    CHECK(Json::parse(run({"store", "list", "--json"}).out)[0]["sequence"] == 12);
    // Neither a temporary file nor the other's.
    std::size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
        files += entry.is_regular_file() ? 1 : 0;
    CHECK(files == 2);
}

TEST_CASE("a service that is not there is exit code 7, soon", "[ctl]") {
    const TemporaryFolder folder;
    std::ostringstream out;
    std::ostringstream err;
    Console console{.out = out, .err = err};
    auto stop = StopSignal::watch();
    CHECK(run({"ls", "--state", folder.path(), "--timeout", "200ms"}, console, *stop) == 7);
    CHECK_THAT(err.str(), Catch::Contains("cowslip up"));
}

TEST_CASE("a command line that cannot be read is told as JSON where that was asked for", "[ctl]") {
    std::ostringstream out;
    std::ostringstream err;
    Console console{.out = out, .err = err};
    auto stop = StopSignal::watch();
    CHECK(run({"creat", "--json"}, console, *stop) == 2);
    CHECK(Json::parse(err.str())["error"]["code"] == "invalid_argument");
}

TEST_CASE("labels are set as K=V and taken away as K-", "[ctl]") {
    Arguments arguments;
    arguments.id = "a";
    arguments.labels = {"team=blue-", "tier-"};
    const auto request = make_volume_label(arguments);
    REQUIRE(request);
    CHECK(request->set == Labels{{"team", "blue-"}});
    CHECK(request->remove == std::vector<std::string>{"tier"});
    for (const auto& wrong : {"team", "UPPER=1", "-", ""}) {
        CAPTURE(wrong);
        arguments.labels = {wrong};
        CHECK_FALSE(make_volume_label(arguments));
    }
    arguments.labels = {"team=1", "team-"};
    CHECK_FALSE(make_volume_label(arguments));
}

TEST_CASE("what has most for itself comes first, and what was not counted last", "[ctl]") {
    std::vector<Volume> volumes(4);
    volumes[0].id = "not counted";
    volumes[1].id = "little";
    volumes[1].exclusive_bytes = 1;
    volumes[2].id = "active";
    volumes[2].mapped_bytes = 9;
    volumes[3].id = "much";
    volumes[3].exclusive_bytes = 2;
    sort_by_space(volumes);
    std::vector<std::string> ids;
    for (const auto& volume : volumes) ids.push_back(volume.id);
    CHECK(ids == std::vector<std::string>{"much", "little", "active", "not counted"});
}

TEST_CASE_METHOD(CommandsFixture, "df counts first, and has the pool's totals beside the volumes", "[ctl]") {
    std::vector<std::string> asked;
    manager.on<PoolMeasure>([&](const PoolMeasure& request) {
        asked.emplace_back(request.exact ? "exactly" : "cheaply");
        return PoolMeasure::Reply{1};
    });
    manager.on<PoolStatus>([](const PoolStatus&) {
        PoolStatus::Reply pool;
        pool.name = "default";
        pool.data = {1, 2};
        return pool;
    });
    manager.on<VolumeList>([](const VolumeList&) { return VolumeList::Reply{{example_volume()}, false}; });
    manager.start();
    const auto json = Json::parse(run({"df", "--exact", "--json"}).out);
    CHECK(json["data"]["total_bytes"] == 2);
    CHECK(json["volumes"][0].dump() ==
          R"({"id":"web","size_bytes":10737418240,"mapped_bytes":1048576,)"
          R"("exclusive_bytes":null,"shared_bytes":null,"as_of":"2026-11-23T09:00:00.000Z"})");
    CHECK(run({"df"}).out == "web\t10 GiB\t1 MiB\t\t\t2026-11-23T09:00:00.000Z\n");
    CHECK(asked == std::vector<std::string>{"exactly", "cheaply"});
}

TEST_CASE_METHOD(CommandsFixture, "a trim goes on where the answer says, and one that fails keeps none of the others",
                 "[ctl]") {
    std::vector<std::uint64_t> offsets;
    manager.on<VolumeShow>([](const VolumeShow& request) {
        Volume volume = example_volume();
        volume.id = request.id;
        return volume;
    });
    manager.on<VolumeTrim>([&](const VolumeTrim& request) -> Result<VolumeTrim::Reply> {
        if (request.id == "idle") return Error{Errc::invalid_argument, "it is not mounted"};
        offsets.push_back(request.offset_bytes);
        return VolumeTrim::Reply{5, request.offset_bytes + 10, request.offset_bytes == 20};
    });
    manager.start();
    const auto ran = run({"trim", "idle", "web", "--json"});
    CHECK(ran.code == 2);
    CHECK(ran.out == R"([{"id":"web","trimmed_bytes":15}])"
                     "\n");
    CHECK(offsets == std::vector<std::uint64_t>{0, 10, 20});
    CHECK(run({"trim"}).code == 2);
}

}  // namespace cowslip::ctl
