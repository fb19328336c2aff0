// The manager through its messages: request ids, deadlines, bounds, and input that no request is.
#include <algorithm>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "tests/simulation/requests.h"

namespace cowslip::simulation {
namespace {

using schemas::Labels;

std::uint64_t accepted_number(const Answer& answer) {
    return decode_as<schemas::Accepted>(std::string_view(answer.body))->operation;
}

// All that a refused request must leave as it was.
std::string state_of(World& world) {
    return fmt::format("events {}, rows {}, next thin id {}, messages {}, leases {}", world.store().last_event_seq(),
                       world.store().thin_ids().size(), world.store().pool()->next_thin_id,
                       world.kernel.effects["message"], world.store().count_leases());
}

}  // namespace

TEST_CASE("a repeated request gets the first answer's bytes, also from another manager", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    schemas::VolumeCreate request = create("a", "base");
    request.get = true;
    const Answer first = world.ask_once(request, {.request_id = "one"});
    REQUIRE(word(first) == "ok");
    CHECK(world.ask_once(request, {.request_id = "one"}).frame == first.frame);
    world.kill_manager();
    CHECK(world.ask_once(request, {.request_id = "one"}).frame == first.frame);
    REQUIRE(world.call(put("a")));
    REQUIRE(world.call(remove("a")));
    // It says what was done then.
    CHECK(world.ask_once(request, {.request_id = "one"}).frame == first.frame);
    CHECK_FALSE(exists(world, "a"));
}

TEST_CASE("a request that is repeated while the first one goes on is carried out once and answered twice",
          "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.hold_commands(schemas::CreateSnap::kType);
    world.send_once(create("a", "base"), {.request_id = "one"});
    world.send_once(create("a", "base"), {.request_id = "one"});
    world.run_for(1000);
    CHECK(world.answers("one").empty());
    world.let_go();
    CHECK(word(world.answer("one", 2)) == "ok");
    CHECK(world.answers("one")[0].frame == world.answers("one")[1].frame);
}

TEST_CASE("a request id is refused for another request, whether the first has ended or not", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    REQUIRE(word(world.ask_once(create("a", "base"), {.request_id = "one"})) == "ok");
    CHECK(word(world.ask_once(create("b", "base"), {.request_id = "one"})) == "invalid_argument");
    CHECK(word(world.ask_once(remove("a"), {.request_id = "one"})) == "invalid_argument");
    world.hold_commands(schemas::CreateSnap::kType);
    world.send_once(create("c", "base"), {.request_id = "two"});
    world.run_for(100);
    CHECK(word(world.ask_once(create("d", "base"), {.request_id = "two"})) == "invalid_argument");
    world.let_go();
    CHECK(word(world.answer("two", 2)) == "ok");
    CHECK(exists(world, "a"));
    CHECK(exists(world, "c"));
    CHECK_FALSE(exists(world, "b"));
    CHECK_FALSE(exists(world, "d"));
}

TEST_CASE("a refusal is not remembered: the same request may succeed later", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    CHECK(word(world.ask_once(create("a", "later"), {.request_id = "one"})) == "not_found");
    REQUIRE(world.call(create("later", "base")));
    CHECK(word(world.ask_once(create("a", "later"), {.request_id = "one"})) == "ok");
    CHECK(word(world.ask_once(create("a", "later"), {.request_id = "two"})) == "already_exists");
}

TEST_CASE("a recorded request is answered `accepted` at its deadline and goes on", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.hold_commands(schemas::CreateSnap::kType);
    const std::int64_t asked = world.now_ms();
    const Answer answer = world.ask_once(create("a", "base"), {.request_id = "one", .timeout_ms = 1000});
    REQUIRE(word(answer) == "accepted");
    CHECK(world.now_ms() - asked >= 1000);
    CHECK(world.now_ms() - asked < 1100);
    const std::uint64_t number = accepted_number(answer);
    const auto list = body_of<schemas::OperationList>(world.ask_once(schemas::OperationList{}));
    const auto found = std::find_if(list.operations.begin(), list.operations.end(),
                                    [&](const auto& operation) { return operation.number == number; });
    REQUIRE(found != list.operations.end());
    CHECK(found->type == schemas::VolumeCreate::kType);
    CHECK(found->subject == "a");
    CHECK_FALSE(found->behind_reply);
    CHECK(found->age_ms >= 1000);
    CHECK_FALSE(exists(world, "a"));

    schemas::OperationWait wait;
    wait.operation = number;
    const std::string waiting = world.send_once(wait);
    world.run_for(5000);
    CHECK(world.answers(waiting).empty());
    world.let_go();
    CHECK(word(world.answer(waiting)) == "ok");
    CHECK(exists(world, "a"));
    CHECK(word(world.ask_once(create("a", "base"), {.request_id = "one"})) == "ok");
    CHECK(word(world.ask_once(wait)) == "ok");
}

TEST_CASE("a request that records nothing is answered `timed_out` at its deadline and goes on", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.hold_commands(schemas::Mount::kType);
    const Answer answer = world.ask_once(get("base"), {.request_id = "one", .timeout_ms = 1000});
    CHECK(word(answer) == "timed_out");
    CHECK_THAT(answer.error->message, Catch::Contains("goes on"));
    CHECK(show(world, "base").leases.empty());
    world.let_go();
    world.run_for(1000);
    CHECK(show(world, "base").leases.size() == 1);
    const Answer again = world.ask_once(get("base"), {.request_id = "one"});
    CHECK(body_of<schemas::VolumeGet>(again).changed);
}

TEST_CASE("the wait for an operation gets its error, and one that is not known is not found", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.hold_commands(schemas::Mount::kType);
    world.mounts.directories["base"].mount_point = true;
    world.mounts.directories["base"].mount = FakeMountState::Mount{"somebody else's", {}};
    CHECK(word(world.ask_once(get("base"), {.timeout_ms = 100})) == "timed_out");
    schemas::OperationWait wait;
    const auto list = body_of<schemas::OperationList>(world.ask_once(schemas::OperationList{}));
    for (const auto& operation : list.operations) {
        if (operation.type == schemas::VolumeGet::kType) wait.operation = operation.number;
    }
    REQUIRE(wait.operation != 0);
    const std::string waiting = world.send_once(wait);
    world.let_go();
    CHECK(word(world.answer(waiting)) == "in_use");
    CHECK(word(world.ask_once(wait)) == "in_use");
    wait.operation = 1000000;
    CHECK(word(world.ask_once(wait)) == "not_found");
}

TEST_CASE("past the bound of operations a request is busy, has changed nothing, and succeeds when repeated",
          "[manager]") {
    Options options{.seed = 1};
    options.manager.max_operations = 9;
    World world(options);
    make_pool_and_base(world);
    world.run_for(5000);
    world.hold_commands(schemas::CreateSnap::kType);
    std::vector<std::string> ids;
    for (int i = 0; i < 12; ++i) {
        ids.push_back(world.send_once(create(fmt::format("volume {}", i), "base")));
        world.run_for(10);
    }
    CHECK_FALSE(word(world.ask_once(schemas::SystemStatus{})) == "busy");
    int busy = 0;
    for (const auto& id : ids) {
        if (world.answers(id).empty()) continue;
        ++busy;
        CHECK(word(world.answers(id).front()) == "busy");
        CHECK_THAT(world.answers(id).front().frame, Catch::Contains("retryable\xc3"));
    }
    CHECK(busy >= 4);
    CHECK(busy < 8);
    world.let_go();
    world.run_for(10000);
    for (int i = 0; i < 12; ++i) {
        CHECK(word(world.ask_once(create(fmt::format("volume {}", i), "base"), {.request_id = ids[std::size_t(i)]})) ==
              "ok");
        world.run_for(3000);
    }
}

TEST_CASE("more clients than are kept waiting for one request: the oldest is answered, none is dropped", "[manager]") {
    // Bug: the 65th waiter pushed the first out without an answer.
    World world({.seed = 1});
    make_pool_and_base(world);
    world.hold_commands(schemas::CreateSnap::kType);
    for (int i = 0; i < 70; ++i) world.send_once(create("a", "base"), {.request_id = "one"});
    world.run_for(100);
    world.let_go();
    world.run_for(1000);
    CHECK(world.answers("one").size() == 70);
}

TEST_CASE("a manager that stops admits nothing and answers everybody before it ends", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.hold_commands(schemas::CreateSnap::kType);
    world.hold_commands(schemas::Mount::kType);
    const std::string recorded = world.send_once(create("a", "base"));
    const std::string unrecorded = world.send_once(get("base"));
    world.run_for(100);
    world.stop_admitting();
    CHECK(word(world.ask_once(create("b", "base"), {.request_id = "late"})) == "unavailable");
    world.send_once(create("a", "base"), {.request_id = recorded});  // Joins the first.
    CHECK(word(world.ask_once(schemas::PoolStatus{})) == "ok");
    CHECK(world.answers(recorded).empty());
    world.answer_all_waiting();
    world.run_for(10);
    REQUIRE(world.answers(recorded).size() == 2);
    CHECK(word(world.answers(recorded)[0]) == "accepted");
    CHECK(word(world.answers(recorded)[1]) == "accepted");
    REQUIRE(world.answers(unrecorded).size() == 1);
    CHECK(word(world.answers(unrecorded)[0]) == "unavailable");

    world.kill_manager();
    world.let_go();
    CHECK(word(world.answer(world.send_once(create("a", "base"), {.request_id = recorded}), 3)) == "ok");
    CHECK(word(world.ask_once(create("b", "base"), {.request_id = "late"})) == "ok");
    check_quiet(world);
}

TEST_CASE("while a manager starts, who asks is answered, and changes wait for what is unfinished", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.hold_commands(schemas::CreateSnap::kType);
    const std::string unfinished = world.send_once(create("a", "base"));
    world.run_for(100);
    world.kill_manager();
    world.kill_held_actors();
    world.hold_commands(schemas::ListThins::kType);
    const std::string shown = world.send_once(schemas::SystemStatus{}, {.early = true});
    const std::string looked = world.send_once(schemas::PoolStatus{}, {.early = true});
    const std::string again = world.send_once(create("a", "base"), {.request_id = unfinished, .early = true});
    const std::string behind = world.send_once(create("a", "base"), {.early = true});
    const std::string ended = world.send_once(put("base"), {.early = true});
    world.run_for(1000);
    CHECK_FALSE(world.ready());
    REQUIRE(world.answers(shown).size() == 1);
    CHECK(body_of<schemas::SystemStatus>(world.answers(shown)[0]).pool.state == "starting");
    CHECK(world.answers(looked).empty());
    CHECK(world.answers(again).empty());
    CHECK(world.answers(ended).empty());

    SECTION("and then it starts") {
        world.let_go();
        CHECK(word(world.answer(again, 1)) == "ok");
        CHECK(word(world.answer(behind, 1)) == "already_exists");
        CHECK(word(world.answer(ended, 1)) == "ok");
        CHECK(body_of<schemas::PoolStatus>(world.answer(looked, 1)).state == "ready");
        check_quiet(world);
    }
    SECTION("and it is stopped before") {
        world.stop_admitting();
        CHECK(world.drained());
        world.answer_all_waiting();
        world.run_for(10);
        for (const std::string& request : {again, behind, ended}) {
            REQUIRE(world.answers(request).size() == 1);
            CHECK(word(world.answers(request)[0]) == "unavailable");
        }
    }
}

TEST_CASE("a manager that starts keeps no more changes than it has room for", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.kill_manager();
    world.hold_commands(schemas::ListThins::kType);
    std::string last;
    for (int i = 0; i <= 1024; ++i) last = world.send_once(get("base"), {.early = true});
    world.run_for(100);
    REQUIRE(world.answers(last).size() == 1);
    CHECK(word(world.answers(last)[0]) == "busy");
    world.let_go();
    world.run_until([&] { return world.ready(); });
    check_quiet(world);
}

TEST_CASE("a manager that stops waits for actors, and not where there are none", "[manager]") {
    // Bug: when the supervisor was killed, actors ended at once, and the manager waited 10 s for their answers.
    const int count = GENERATE(0, 1);
    World world({.seed = 1, .device_actors = count, .mount_actors = count});
    world.run_for(1000);
    world.hold_commands(schemas::CreatePool::kType);
    schemas::PoolCreate request;
    request.loop_bytes = 1024 * kMiB;
    world.send_once(request);
    world.run_for(100);
    world.stop_admitting();
    CHECK(world.drained() == (count == 0));
}

TEST_CASE("what no request is gets a named error and changes nothing", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(10000);
    const std::string before = state_of(world);
    const std::string nil = encode(msgpack::type::nil_t());

    CHECK(word(world.answer(world.send_once("volume.explode", nil))) == "unimplemented");
    CHECK(word(world.answer(world.send_once("", nil))) == "unimplemented");
    CHECK(word(world.answer(world.send_once(std::string(10000, 'x'), nil))) == "unimplemented");
    CHECK(word(world.answer(world.send_once(schemas::VolumeCreate::kType, nil))) == "invalid_argument");
    CHECK(word(world.answer(world.send_once(schemas::VolumeCreate::kType, encode(7)))) == "invalid_argument");
    const std::map<std::string, int> wrong_type = {{"id", 7}};
    CHECK(word(world.answer(world.send_once(schemas::VolumeCreate::kType, encode(wrong_type)))) == "invalid_argument");
    CHECK(word(world.answer(world.send_once(schemas::VolumeShow::kType, encode(wrong_type)))) == "invalid_argument");

    for (const char* type :
         {"pool.create",    "pool.start",     "pool.stop",      "pool.grow",     "pool.quota",    "pool.check",
          "pool.destroy",   "pool.repair",    "pool.rewind",    "pool.rebuild",  "pool.measure",  "pool.status",
          "volume.resize",  "volume.freeze",  "volume.rename",  "volume.label",  "volume.trim",   "volume.remove",
          "volume.get",     "volume.put",     "volume.attach",  "volume.detach", "volume.exists", "volume.list",
          "lease.list",     "operation.list", "operation.wait", "event.since",   "system.status", "system.fsck",
          "system.cleanup", "store.backup",   "store.list"}) {
        CAPTURE(type);
        CHECK(word(world.answer(world.send_once(type, encode(7)))) == "invalid_argument");
    }

    // No request id can be read out of these.
    const std::string long_id = encode(schemas::RequestOf<schemas::VolumeCreate>{
        .request_id = std::string(129, 'x'), .type = "volume.create", .body = create("a", "base")});
    const std::string whole =
        encode(schemas::RequestOf<schemas::VolumeCreate>{.request_id = "cut", .type = "volume.create"});
    std::size_t answers = world.answers("").size();
    for (const std::string& frame : {std::string(), std::string("\xff"), std::string("hello"), long_id, whole + "x",
                                     whole.substr(0, whole.size() / 2), encode(7), encode(wrong_type)}) {
        world.send_frame(frame);
        CHECK(word(world.answer("", ++answers)) == "invalid_argument");
    }
    world.send_frame(encode(schemas::RequestOf<schemas::VolumeCreate>{
        .v = 2, .request_id = "of a later version", .type = "volume.create", .body = create("a", "base")}));
    CHECK(word(world.answer("of a later version")) == "invalid_argument");
    CHECK(state_of(world) == before);
}

TEST_CASE("a create that cannot be is refused and has changed nothing", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(10000);
    const std::string before = state_of(world);
    const auto refused = [&](const schemas::VolumeCreate& request) { return word(world.ask_once(request)); };
    const auto with = [](const auto& change) {
        schemas::VolumeCreate request = create("a");
        change(request);
        return request;
    };
    CHECK(refused(create("a", "nobody")) == "not_found");
    CHECK(refused(create("base")) == "already_exists");
    CHECK(refused(create("a", "a")) == "not_found");
    CHECK(refused(with([](auto& request) { request.fs = "btrfs"; })) == "invalid_argument");
    CHECK(refused(with([](auto& request) {
              request.parent = "base";
              request.size_bytes = 64 * kMiB - 4096;
          })) == "invalid_argument");
    CHECK(refused(with([](auto& request) {
              request.parent = "base";
              request.fs = "xfs";
          })) == "invalid_argument");
    CHECK(refused(with([](auto& request) {
              request.fs = "xfs";
              request.size_bytes = 299 * kMiB;
          })) == "invalid_argument");
    CHECK(refused(with([](auto& request) {
              request.fs = "none";
              request.get = true;
          })) == "invalid_argument");
    CHECK(refused(with([](auto& request) { request.size_bytes = kMiB - 1; })) == "invalid_argument");
    CHECK(refused(with([](auto& request) { request.size_bytes = ~std::uint64_t{0}; })) == "invalid_argument");
    CHECK(refused(with([](auto& request) { request.holder = "h"; })) == "invalid_argument");
    CHECK(refused(with([](auto& request) { request.filling = true; })) == "invalid_argument");

    CHECK(refused(with([](auto& request) { request.labels = {{"", "v"}}; })) == "invalid_argument");
    CHECK(refused(with([](auto& request) { request.labels = {{"Key", "v"}}; })) == "invalid_argument");
    CHECK(refused(with([](auto& request) { request.labels = {{std::string(64, 'k'), "v"}}; })) == "invalid_argument");
    CHECK(refused(with([](auto& request) { request.labels = {{"k", std::string(256, 'v')}}; })) == "invalid_argument");
    CHECK(refused(with([](auto& request) { request.labels = {{"k", "a\nb"}}; })) == "invalid_argument");
    CHECK(refused(with([](auto& request) {
              for (int i = 0; i < 33; ++i) request.labels[std::to_string(i)] = "";
          })) == "invalid_argument");
    CHECK(state_of(world) == before);
}

TEST_CASE("the largest labels and the smallest sizes that are allowed are taken", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    schemas::VolumeCreate request = create("a", "base");
    for (int i = 0; i < 31; ++i) request.labels[std::to_string(i)] = std::string(255, 'v');
    request.labels["a-b/c.d_" + std::string(55, 'k')] = "";
    REQUIRE(world.call(request));
    CHECK(show(world, "a").labels == request.labels);
    schemas::VolumeCreate xfs = create("x");
    xfs.fs = "xfs";
    xfs.size_bytes = 300 * kMiB;
    CHECK(world.call(xfs));
    schemas::VolumeCreate raw = create("raw");
    raw.fs = "none";
    raw.size_bytes = kMiB + 1;
    REQUIRE(world.call(raw));
    CHECK(show(world, "raw").size_bytes == kMiB + 4096);
    CHECK(show(world, "base").size_bytes == 64 * kMiB);
    CHECK(world.call(create("default size")));
    CHECK(show(world, "default size").size_bytes == 10240 * kMiB);
    schemas::VolumeCreate larger = create("larger", "base");
    larger.size_bytes = 65 * kMiB;
    REQUIRE(world.call(larger));
    CHECK(show(world, "larger").size_bytes == 65 * kMiB);
}

TEST_CASE("an id that is none is refused by every request and changes nothing", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    world.run_for(10000);
    const std::string before = state_of(world);
    for (const std::string& id :
         {std::string(), std::string(256, 'x'), std::string("a\nb"), std::string("a\x7f"), std::string("\0", 1),
          std::string("\xff"), std::string("\xc0\xaf"), std::string("\xed\xa0\x80"), std::string("\xc2\x85")}) {
        CAPTURE(id);
        schemas::VolumeShow to_show;
        to_show.id = id;
        schemas::VolumeExists to_ask;
        to_ask.id = id;
        CHECK(word(world.ask_once(create(id))) == "invalid_argument");
        CHECK(word(world.ask_once(remove(id))) == "invalid_argument");
        CHECK(word(world.ask_once(get(id))) == "invalid_argument");
        CHECK(word(world.ask_once(put(id))) == "invalid_argument");
        CHECK(word(world.ask_once(attach(id))) == "invalid_argument");
        CHECK(word(world.ask_once(detach(id))) == "invalid_argument");
        CHECK(word(world.ask_once(to_show)) == "invalid_argument");
        CHECK(word(world.ask_once(to_ask)) == "invalid_argument");
    }
    CHECK(word(world.ask_once(get("base", std::string(129, 'h')))) == "invalid_argument");
    CHECK(word(world.ask_once(get("base", "a\nb"))) == "invalid_argument");
    CHECK(state_of(world) == before);
}

TEST_CASE("odd ids live a whole life like any other", "[manager]") {
    World world({.seed = 1});
    make_pool_and_base(world);
    std::set<std::string> paths;
    for (const std::string& id :
         {std::string("library/alpine:3.20"), std::string("with spaces "), std::string("."), std::string(".."),
          std::string("-rf"), std::string("%2F"), std::string("a/b"), std::string("a%2Fb"), std::string(255, 'x'),
          std::string(255, '/'), std::string("\xc3\xa4\xe2\x98\x83\xf0\x9d\x84\x9e"), std::string("default")}) {
        CAPTURE(id);
        REQUIRE(world.call(create(id, "base")));
        const auto got = world.call(get(id));
        REQUIRE(got);
        CHECK(paths.insert(got->path).second);
        CHECK(show(world, id).mount == got->path);
        REQUIRE(world.call(put(id)));
        CHECK(exists(world, id));
    }
    check_quiet(world);
    for (const auto& volume : body_of<schemas::VolumeList>(world.ask_once(schemas::VolumeList{})).volumes)
        REQUIRE(world.call(remove_and_wait(volume.id)));
    check_quiet(world);
}

}  // namespace cowslip::simulation
