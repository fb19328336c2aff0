// The device actor's work on thin devices, on this machine's kernel.
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <functional>
#include <thread>

#include <catch2/catch.hpp>

#include "services/device_actor/block_device.h"
#include "tests/device/machine.h"

namespace cowslip {

namespace {

// A process that does something with the device, says so, and waits to be killed.
class Holder {
public:
    explicit Holder(const std::function<bool()>& hold) {
        int ready[2];
        REQUIRE(pipe(ready) == 0);
        pid_ = fork();
        REQUIRE(pid_ >= 0);
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            prctl(PR_SET_NAME, "the-holder");
            const char answer = hold() ? 'y' : 'n';
            if (write(ready[1], &answer, 1) == 1) pause();
            _exit(0);
        }
        char answer = 'n';
        REQUIRE(read(ready[0], &answer, 1) == 1);
        close(ready[0]);
        close(ready[1]);
        REQUIRE(answer == 'y');
    }
    Holder(const Holder&) = delete;
    ~Holder() { end(); }
    pid_t pid() const { return pid_; }
    void end() {
        if (pid_ <= 0) return;
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }

private:
    pid_t pid_ = 0;
};

std::string pattern(std::size_t size) {
    std::string bytes(size, '\0');
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>('a' + i * 7 % 26);
    return bytes;
}

void write_file(const std::string& path, const std::string& bytes) {
    const Fd file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    REQUIRE(write(file.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
}

}  // namespace

TEST_CASE("a snapshot of a mounted origin that is being written holds what was written before", "[thin]") {
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    machine.activate(2);
    machine.format(2);
    const std::string origin = machine.mount(2);
    const std::string bytes = pattern(1000000);
    write_file(origin + "/before", bytes);  // Not synced: the freeze does that.
    std::atomic<bool> stop = false;
    std::thread writer([&] {
        for (int i = 0; !stop; ++i) write_file(origin + "/during", "entry " + std::to_string(i));
    });
    const auto reply = machine.actor.create_snap({machine.pool, 3, 2, true});
    stop = true;
    writer.join();
    REQUIRE(reply);
    CHECK(machine.judged(reply->verdict) == Outcome::done);
    CHECK_FALSE(reply->torn);
    CHECK(reply->resume_error_number == 0);
    CHECK_FALSE(machine.dm.find(machine.thin(2)).value()->suspended);
    machine.activate(3);
    CHECK(Machine::run({"e2fsck", "-fn", machine.path(3)}) == 0);
    const std::string snapshot = machine.mount(3);
    CHECK(read_file(snapshot + "/before", 2000000).value() == bytes);
    write_file(origin + "/after", "x");
    CHECK_FALSE(std::filesystem::exists(snapshot + "/after"));
}

TEST_CASE("a snapshot whose origin somebody else resumed is deleted as torn", "[thin]") {
    // The somebody: a device-mapper that lets go of the origin just before the message.
    struct Meddler : KernelDeviceMapper {
        explicit Meddler(const KernelDeviceMapper& dm, DmDevice origin)
            : KernelDeviceMapper(dm), origin_(std::move(origin)) {}
        int message(const DmDevice& device, const std::string& text) override {
            if (text.starts_with("create_snap")) static_cast<void>(resume(origin_));
            return KernelDeviceMapper::message(device, text);
        }
        DmDevice origin_;
    };
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    machine.activate(2);
    Meddler meddler(machine.dm, machine.thin(2));
    DeviceActor actor(meddler, machine.host);
    const auto reply = actor.create_snap({machine.pool, 3, 2, true});
    REQUIRE(reply);
    CHECK(reply->torn);
    CHECK(machine.actor.delete_thin({machine.pool, 3})->verdict.error_number == ENODATA);
}

TEST_CASE("a thin is activated, changed, put away and deleted, and each may be asked twice", "[thin]") {
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    machine.activate(2);
    machine.activate(2);
    CHECK(block_device_number(machine.path(2)).value() == machine.dm.find(machine.thin(2)).value()->number);
    CHECK(block_device_sectors(machine.path(2)).value() == 256 * kMib);
    machine.activate(2, 300 * kMib);
    CHECK(block_device_sectors(machine.path(2)).value() == 300 * kMib);
    const auto read_only = machine.actor.activate({machine.pool, 2, 300 * kMib, true});
    CHECK(read_only->error_number == 0);
    {
        // The kernel lets it be opened for writing, and refuses the write.
        const Fd device(open(machine.path(2).c_str(), O_RDWR | O_CLOEXEC));
        REQUIRE(device);
        CHECK(pwrite(device.get(), "x", 1, 0) == -1);
        CHECK(errno == EPERM);
    }
    const auto list = machine.actor.list_active({machine.pool});
    REQUIRE(list->devices.size() == 1);
    CHECK(list->devices[0].size_sectors == 300 * kMib);
    CHECK(list->devices[0].read_only);
    CHECK(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
    CHECK(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
    CHECK(access(machine.path(2).c_str(), F_OK) != 0);
    machine.activate(2);
    CHECK(machine.judged(machine.actor.delete_thin({machine.pool, 2})->verdict) == Outcome::done);
    CHECK(machine.actor.delete_thin({machine.pool, 2})->verdict.error_number == ENODATA);
    CHECK(machine.actor.activate({machine.pool, 2, kMib, false})->error_number == ENODATA);
    CHECK(machine.dm.list("COWSLIP-" + machine.uuid)->size() == 1);
}

TEST_CASE("what an actor left between create, load and resume becomes a live device", "[thin]") {
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    REQUIRE(machine.dm.create(machine.thin(2)) == 0);
    machine.activate(2);
    REQUIRE(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
    const std::string pool = device_number(machine.dm.find({machine.pool.device, ""}).value()->number);
    REQUIRE(machine.dm.create(machine.thin(2)) == 0);
    REQUIRE(machine.dm.load(machine.thin(2), {"thin", 8, make_thin_table({pool, 2})}, false) == 0);
    machine.activate(2);
    CHECK(block_device_sectors(machine.path(2)).value() == 256 * kMib);
    REQUIRE(machine.dm.suspend(machine.thin(2), SuspendMode::freeze) == 0);
    CHECK(machine.actor.resume({machine.pool, 2})->was_suspended);
    CHECK_FALSE(machine.actor.resume({machine.pool, 2})->was_suspended);
    REQUIRE(machine.dm.suspend(machine.thin(2), SuspendMode::freeze) == 0);
    machine.activate(2);
    CHECK_FALSE(machine.dm.find(machine.thin(2)).value()->suspended);
}

TEST_CASE("a thin that a process has open stays, and the process is named", "[thin]") {
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    machine.activate(2);
    Holder holder([&] { return open(machine.path(2).c_str(), O_RDONLY) >= 0; });
    const auto busy = machine.actor.deactivate({machine.pool, 2});
    REQUIRE(busy);
    CHECK(busy->error_number == EBUSY);
    REQUIRE(busy->holders.size() == 1);
    CHECK(busy->holders[0].pid == static_cast<std::uint32_t>(holder.pid()));
    CHECK(busy->holders[0].command == "the-holder");
    const auto kept = machine.actor.delete_thin({machine.pool, 2});
    CHECK(kept->verdict.error_number == EBUSY);
    CHECK(kept->holders.size() == 1);
    const auto refused = machine.actor.stop_pool({machine.spec});
    CHECK(refused.error().code == Errc::in_use);
    CHECK_THAT(refused.error().details.at("holders").front(), Catch::Contains(machine.thin(2).name));
    holder.end();
    CHECK(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
}

TEST_CASE("a thin that is mounted in another mount namespace is named with that namespace", "[thin]") {
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    machine.activate(2);
    machine.format(2);
    const std::string target = machine.folder / "leak";
    REQUIRE(mkdir(target.c_str(), 0700) == 0);
    Holder holder([&] {
        return unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
               mount(machine.path(2).c_str(), target.c_str(), "ext4", 0, nullptr) == 0;
    });
    const auto busy = machine.actor.deactivate({machine.pool, 2});
    CHECK(busy->error_number == EBUSY);
    REQUIRE_FALSE(busy->holders.empty());
    CHECK_THAT(busy->holders[0].detail, Catch::Contains("mount namespace") && Catch::Contains(target));
    holder.end();
    CHECK(machine.actor.deactivate({machine.pool, 2})->error_number == 0);
}

TEST_CASE("the pool's own list has each thin's birth mark and blocks", "[thin]") {
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    machine.activate(2);
    overwrite(machine.path(2), pattern(65536));
    REQUIRE(machine.actor.set_transaction_id({machine.pool, kTag + 1, kTag + 2})->error_number == 0);
    REQUIRE(machine.judged(machine.actor.create_snap({machine.pool, 3, 2, true})->verdict) == Outcome::done);
    const auto list = machine.actor.list_thins({machine.pool});
    INFO((list ? "" : list.error().message));
    REQUIRE(list);
    REQUIRE(list->thins.size() == 2);
    CHECK(list->thins[0].thin_id == 2);
    CHECK(list->thins[0].transaction_id == kTag + 1);
    CHECK(list->thins[0].mapped_blocks == 1);
    CHECK(list->thins[1].transaction_id == kTag + 2);
    CHECK(list->thins[1].mapped_blocks == 1);
    CHECK(machine.judged(list->verdict) == Outcome::done);
    CHECK(parse_thin_pool_status(list->verdict.status)->held_root == 0);
    const DmDevice pool{machine.pool.device, ""};
    REQUIRE(machine.dm.message(pool, kReserveMetadataSnapMessage) == 0);
    CHECK(machine.actor.list_thins({machine.pool})->verdict.error_number == EBUSY);
    CHECK(machine.actor.list_thins({machine.pool, -1, true})->thins.size() == 2);
    CHECK(machine.actor.read_pool_status({machine.pool, true})->superblock.time == 1);
}

TEST_CASE("a pool full of data still snapshots and deletes, and does not hang the origin", "[thin]") {
    Machine machine;
    machine.spec.data_sectors = 16 * kMib;
    machine.make_pool();
    machine.make_thin(2);
    machine.activate(2, 64 * kMib);
    const Fd device(open(machine.path(2).c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC));
    alignas(4096) static char block[65536];
    int error = 0;
    for (off_t at = 0; at < 64 << 20 && error == 0; at += 65536) {
        if (pwrite(device.get(), block, sizeof(block), at) < 0) error = errno;
    }
    CHECK(error == ENOSPC);  // error_if_no_space.
    const auto status = machine.actor.read_pool_status({machine.pool})->status;
    CHECK(parse_thin_pool_status(status)->mode == PoolMode::out_of_data_space);
    const auto snap = machine.actor.create_snap({machine.pool, 3, 2, true});
    CHECK(machine.judged(snap->verdict) == Outcome::done);
    CHECK_FALSE(machine.dm.find(machine.thin(2)).value()->suspended);
    CHECK(machine.judged(machine.actor.delete_thin({machine.pool, 3})->verdict) == Outcome::done);
}

TEST_CASE("devices come and go under udev's eyes without one being busy", "[thin][udev]") {
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    for (int i = 0; i < 20; ++i) {
        machine.activate(2);
        overwrite(machine.path(2), "written and closed: what udev would watch for");
        const auto removed = machine.actor.deactivate({machine.pool, 2});
        REQUIRE(removed->error_number == 0);
        REQUIRE(access(machine.path(2).c_str(), F_OK) != 0);
    }
}

TEST_CASE("a thin that is to be deleted is given back in parts, unless it is small or somebody has it", "[thin]") {
    Machine machine;
    machine.make_pool();
    machine.make_thin(2);
    machine.activate(2, 64 * kMib);
    const std::string piece(std::size_t{1} << 20U, 'x');
    for (std::uint64_t at = 0; at < 32; ++at) REQUIRE(write_blocks(machine.path(2), at << 20U, piece) == 0);
    schemas::DiscardThin part{
        .pool = machine.pool, .thin_id = 2, .size_sectors = 64 * kMib, .offset_sectors = 0, .length_sectors = 8 * kMib};
    {
        const Holder elsewhere([&] { return open(machine.path(2).c_str(), O_RDONLY | O_CLOEXEC) >= 0; });
        const auto busy = machine.actor.discard_thin(part);
        REQUIRE(busy);
        CHECK(busy->verdict.error_number == EBUSY);
        CHECK_FALSE(busy->holders.empty());
    }
    part.at_once_sectors = 32 * kMib;
    CHECK(machine.actor.discard_thin(part)->mapped_sectors == 32 * kMib);
    part.at_once_sectors = 16 * kMib;
    const auto first = machine.actor.discard_thin(part);
    REQUIRE(first);
    CHECK(machine.judged(first->verdict) == Outcome::done);
    CHECK(first->mapped_sectors == 24 * kMib);
    part.offset_sectors = 8 * kMib;
    CHECK(machine.actor.discard_thin(part)->mapped_sectors == 16 * kMib);
    part.offset_sectors = 16 * kMib;
    CHECK(machine.actor.discard_thin(part)->mapped_sectors == 16 * kMib);  // Little enough.
    CHECK_FALSE(machine.dm.find(machine.thin(2)).value());                 // Nothing stays active.
    part.offset_sectors = 60 * kMib;
    CHECK(machine.actor.discard_thin(part).error().code == Errc::invalid_argument);
    CHECK(machine.judged(machine.actor.delete_thin({machine.pool, 2})->verdict) == Outcome::done);
    part.offset_sectors = 0;
    CHECK(machine.actor.discard_thin(part)->verdict.error_number == ENODATA);
}

}  // namespace cowslip
