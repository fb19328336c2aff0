// Each call of libzmq fails, once or for a while: in the manager, in an actor, in a client. Nobody crashes or hangs,
// every request is done in the end, once, and store and kernel agree. All over real sockets and a real store; the
// kernel is the fake one.
//
// COWSLIP_BUS_POINTS=1000: at most so many of the calls of each of them; 20 unless told otherwise.
#include <dlfcn.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "common/actor_session.h"
#include "common/client.h"
#include "services/device_actor/device_actor.h"
#include "services/mount_actor/mount_actor.h"
#include "services/pool_manager/server.h"
#include "tests/fakes/environment.h"
#include "tests/fakes/fake_device_mapper.h"
#include "tests/fakes/fake_host.h"
#include "tests/fakes/fake_mounts.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip::bus_failures {

// Whose calls are counted; each has a thread of its own.
enum class Part : std::uint8_t { nobody, manager, device, mount, client };

thread_local Part part = Part::nobody;
thread_local bool in_message = false;  // Behind a part that was taken libzmq takes the rest.

struct Faults {
    std::atomic<Part> of = Part::nobody;
    std::atomic<std::int64_t> fail_at = 0;
    std::atomic<bool> lasting = false;
    std::array<std::atomic<std::int64_t>, 5> calls{};

    bool fail(bool may_last = true) {
        if (part == Part::nobody || in_message) return false;
        const std::int64_t number = calls.at(static_cast<std::size_t>(part))++;
        if (of != part || number < fail_at) return false;
        return number == fail_at || (lasting && may_last);
    }
};
Faults faults;

template <class Function>
Function* real(const char* name) {
    return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

int failed(int number) {
    errno = number;
    return -1;
}

}  // namespace cowslip::bus_failures

// libzmq's own, for the whole program of tests, behind a look at the faults.
extern "C" {

int zmq_send(void* socket, const void* bytes, std::size_t size, int flags) {
    using namespace cowslip::bus_failures;
    static const auto send = real<decltype(zmq_send)>("zmq_send");
    if (faults.fail()) return failed(size % 2 == 0 ? EAGAIN : EHOSTUNREACH);
    const int sent = send(socket, bytes, size, flags);
    in_message = sent >= 0 && (flags & ZMQ_SNDMORE) != 0;
    return sent;
}

int zmq_msg_recv(zmq_msg_t* message, void* socket, int flags) {
    using namespace cowslip::bus_failures;
    static const auto receive = real<decltype(zmq_msg_recv)>("zmq_msg_recv");
    return faults.fail(false) ? failed(EINTR) : receive(message, socket, flags);
}

int zmq_getsockopt(void* socket, int option, void* value, std::size_t* size) {
    using namespace cowslip::bus_failures;
    static const auto get = real<decltype(zmq_getsockopt)>("zmq_getsockopt");
    return faults.fail(false) ? failed(EINTR) : get(socket, option, value, size);
}

int zmq_setsockopt(void* socket, int option, const void* value, std::size_t size) {
    using namespace cowslip::bus_failures;
    static const auto set = real<decltype(zmq_setsockopt)>("zmq_setsockopt");
    return faults.fail() ? failed(EINVAL) : set(socket, option, value, size);
}

void* zmq_socket(void* context, int type) {
    using namespace cowslip::bus_failures;
    static const auto make = real<decltype(zmq_socket)>("zmq_socket");
    if (!faults.fail()) return make(context, type);
    errno = EMFILE;
    return nullptr;
}

int zmq_bind(void* socket, const char* address) {
    using namespace cowslip::bus_failures;
    static const auto bind = real<decltype(zmq_bind)>("zmq_bind");
    return faults.fail() ? failed(EMFILE) : bind(socket, address);
}

int zmq_connect(void* socket, const char* address) {
    using namespace cowslip::bus_failures;
    static const auto connect = real<decltype(zmq_connect)>("zmq_connect");
    return faults.fail() ? failed(EMFILE) : connect(socket, address);
}

int zmq_socket_monitor(void* socket, const char* address, int events) {
    using namespace cowslip::bus_failures;
    static const auto monitor = real<decltype(zmq_socket_monitor)>("zmq_socket_monitor");
    // To end it (no address) cannot fail; where it did, libzmq's thread would wait for ever to be rid of an event.
    return address != nullptr && faults.fail() ? failed(EMFILE) : monitor(socket, address, events);
}

}  // extern "C"

namespace cowslip::bus_failures {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMiB = 1U << 20U;

// A thread that is one process of the service: begun anew when it ends, until it is told to stop.
class Process {
public:
    Process(Part which, std::function<void(int stop_fd)> run) {
        REQUIRE(::pipe2(ends_.data(), O_CLOEXEC) == 0);
        thread_ = std::thread([this, which, run = std::move(run)] {
            part = which;
            while (!stopped_) {
                run(ends_[0]);
                in_message = false;
                std::this_thread::sleep_for(5ms);
            }
        });
    }
    Process(const Process&) = delete;
    ~Process() {
        stopped_ = true;
        static_cast<void>(::write(ends_[1], "x", 1));
        thread_.join();
        ::close(ends_[0]);
        ::close(ends_[1]);
    }

private:
    std::array<int, 2> ends_{};
    std::atomic<bool> stopped_ = false;
    std::thread thread_;
};

class Service {
public:
    Service() { std::filesystem::create_directory(folder_.actors()); }
    const FakeKernel& kernel() const { return kernel_; }
    std::string door() const { return folder_.clients_socket(); }
    std::string events() const { return folder_.events_socket(); }

private:
    void manage(int stop_fd) {
        auto store = Store::open(place_ / "store.db");
        if (!store) return;
        BusContext context;
        ManagerOptions options;
        options.boot_id = "boot";
        PoolManager manager(*store, std::move(options));
        auto server = Server::open(context, folder_, manager);
        const auto locks = list_actor_locks(folder_.actors());
        if (!server || !locks) return;
        manager.start(*locks, time_now());
        static_cast<void>(server->serve(stop_fd));
    }
    void act(const char* kind, int stop_fd, const CommandHandler& handler) {
        const auto lock = ActorLock::take(folder_.actors(), kind);
        if (!lock) return;
        BusContext context;
        const ActorSession session{folder_.actors_socket(), ::getuid(), kind, "0", stop_fd};
        static_cast<void>(serve_manager(context, *lock, session, handler));
    }
    CommandAnswer change_devices(std::string_view type, const msgpack::object& body) {
        struct Actor {
            explicit Actor(FakeKernel& kernel) : dm(kernel), host(kernel) {}
            FakeDeviceMapper dm;
            FakeHost host;
            DeviceActor actor{dm, host};
        };
        const std::lock_guard guard(mutex_);
        const auto actor = std::make_shared<Actor>(kernel_);
        CommandAnswer answer = actor->actor.handle(type, body);
        if (!answer.rest) return answer;
        answer.rest = [this, actor, rest = std::move(answer.rest)] {
            const std::lock_guard again(mutex_);
            return rest();
        };
        return answer;
    }
    CommandAnswer change_mounts(std::string_view type, const msgpack::object& body) {
        const std::lock_guard guard(mutex_);
        FakeMounts mounts(mounts_, FakeDevices{.is_active = [](const auto&) { return true; }});
        return {MountActor(mounts).handle(type, body)};
    }

    TemporaryFolder place_;
    StateFolder folder_{.dir = place_.path(), .run = place_.path()};
    std::mutex mutex_;  // Of the kernel.
    FakeKernel kernel_;
    FakeMountState mounts_;
    Process manager_{Part::manager, [this](int stop_fd) { manage(stop_fd); }};
    Process device_{Part::device, [this](int stop_fd) {
                        act("device", stop_fd,
                            [this](auto type, const auto& body) { return change_devices(type, body); });
                    }};
    Process mount_{Part::mount, [this](int stop_fd) {
                       act("mount", stop_fd, [this](auto type, const auto& body) { return change_mounts(type, body); });
                   }};
};

// As a client that comes back until it is done, under the same request ids.
class Asking {
public:
    explicit Asking(const std::string& door) : door_(door) {}

    template <class Message>
    typename Message::Reply done(const Message& message) {
        const std::string id = std::to_string(next_++);
        std::string words;
        for (int attempt = 0; attempt < 40; ++attempt) {
            const auto reply = ask(message, id);
            if (reply) return *reply;
            words = reply.error().message;
            const Errc code = reply.error().code;
            if (code != Errc::unavailable && code != Errc::timed_out && code != Errc::internal) break;
            std::this_thread::sleep_for(10ms);
        }
        FAIL(Message::kType << ": " << words);
        throw std::logic_error("not reached");
    }

private:
    template <class Message>
    Result<typename Message::Reply> ask(const Message& message, const std::string& id) {
        BusContext context;
        auto client = TRY(Client::connect(context, door_));
        return client.call(message, 2s, id);
    }

    std::string door_;
    int next_ = 0;
};

void carry_out_job() {
    Service service;
    part = Part::client;
    Asking client(service.door());
    schemas::PoolCreate pool;
    pool.loop_bytes = 256 * kMiB;
    client.done(pool);
    schemas::VolumeCreate create;
    create.id = "base";
    create.fs = "none";
    create.size_bytes = kMiB;
    client.done(create);
    schemas::VolumeAttach attach;
    attach.id = "base";
    client.done(attach);
    create.id = "clone";
    create.parent = "base";
    client.done(create);
    schemas::VolumeDetach detach;
    detach.id = "base";
    client.done(detach);
    schemas::VolumeRemove remove;
    remove.id = "base";
    remove.wait = true;
    remove.must_exist = true;
    client.done(remove);
    create.id = "last";
    create.parent = "clone";
    client.done(create);
    part = Part::nobody;

    faults.of = Part::nobody;
    std::set<std::string> volumes;
    for (const auto& volume : client.done(schemas::VolumeList{}).volumes) volumes.insert(volume.id);
    CHECK(volumes == std::set<std::string>{"clone", "last"});
    const auto compared = client.done(schemas::SystemFsck{});
    CHECK(compared.ok);
    for (const auto& finding : compared.findings) FAIL_CHECK(finding.kind << " " << finding.subject);
}

// The next event that is published; a heartbeat comes each second.
schemas::EventOf<std::map<std::string, std::string>> next_event(SubscriberSocket& subscriber) {
    for (int waits = 0; waits < 100; ++waits) {
        if (const auto message = subscriber.receive()) {
            return decode_as<schemas::EventOf<std::map<std::string, std::string>>>(std::string_view(message->payload))
                .value();
        }
        const std::array<const BusSocket*, 1> sockets = {&subscriber};
        wait_readable(sockets, {}, 100ms);
    }
    FAIL("nothing is published");
    throw std::logic_error("not reached");
}

// Fails the calls of `who` from that one on; they go well again soon.
void carry_out_job_with(Part who, std::int64_t fail_at, bool lasting) {
    CAPTURE(static_cast<int>(who), fail_at, lasting);
    for (auto& count : faults.calls) count = 0;
    faults.fail_at = fail_at;
    faults.lasting = lasting;
    faults.of = who;
    const std::jthread healer([lasting] {
        if (!lasting) return;
        std::this_thread::sleep_for(200ms);
        faults.of = Part::nobody;
    });
    carry_out_job();
}

}  // namespace

TEST_CASE("calls of the bus fail, and every request is done once all the same", "[bus_failures]") {
    // A command that the bus had not taken, over a connection that was whole, was waited for till its actor ended.
    const Part who = GENERATE(Part::manager, Part::device, Part::mount, Part::client);
    const bool lasting = GENERATE(false, true);
    for (auto& count : faults.calls) count = 0;
    faults.of = Part::nobody;
    carry_out_job();
    const std::int64_t calls = faults.calls.at(static_cast<std::size_t>(who));
    REQUIRE(calls > 10);
    const auto points = static_cast<std::int64_t>(number_from_environment("COWSLIP_BUS_POINTS", 20));
    for (std::int64_t i = 0; i < std::min(points, calls); ++i) {
        carry_out_job_with(who, i * calls / std::min(points, calls), lasting);
    }
}

TEST_CASE("events that follow each other closely are published all, in their order, before a heartbeat tells of them",
          "[server]") {
    Service service;
    Asking client(service.door());
    schemas::PoolCreate pool;
    pool.loop_bytes = 256 * kMiB;
    client.done(pool);
    BusContext context;
    auto subscriber = SubscriberSocket::connect(context, service.events(), {""}).value();
    auto heartbeat = next_event(subscriber);
    while (heartbeat.type != "heartbeat") heartbeat = next_event(subscriber);

    schemas::VolumeCreate create;
    create.fs = "none";
    create.size_bytes = kMiB;
    const auto end = std::chrono::steady_clock::now() + 2500ms;  // Time for two heartbeats.
    std::uint64_t last = heartbeat.seq;
    for (int i = 0; std::chrono::steady_clock::now() < end; ++i) {
        const std::uint64_t before = last;
        for (const char* name : {"a", "b", "c"}) {
            create.id = name + std::to_string(i);
            client.done(create);
        }
        while (last < before + 3) {
            const auto event = next_event(subscriber);
            CAPTURE(event.type, event.subject);
            if (event.type != "heartbeat") ++last;
            REQUIRE(event.seq == last);
        }
    }
}

TEST_CASE("events that are held when the manager is told to stop are published", "[server]") {
    auto service = std::make_unique<Service>();
    Asking client(service->door());
    schemas::PoolCreate pool;
    pool.loop_bytes = 256 * kMiB;
    client.done(pool);
    BusContext context;
    auto subscriber = SubscriberSocket::connect(context, service->events(), {""}).value();
    auto event = next_event(subscriber);
    while (event.type != "heartbeat") event = next_event(subscriber);
    schemas::VolumeCreate create;
    create.fs = "none";
    create.size_bytes = kMiB;
    for (const char* name : {"a", "b", "c"}) {
        create.id = name;
        client.done(create);
    }
    service.reset();
    for (const std::uint64_t last = event.seq + 3; event.seq < last;) {
        const std::uint64_t before = event.seq;
        event = next_event(subscriber);
        REQUIRE(event.seq == before + (event.type == "heartbeat" ? 0 : 1));
    }
}

}  // namespace cowslip::bus_failures
