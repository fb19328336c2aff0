#include "tests/cut/workload.h"

#include <fcntl.h>
#include <unistd.h>

#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "common/client.h"
#include "common/device_mapper.h"
#include "common/files.h"
#include "common/state_folder.h"
#include "services/ctl/device_list.h"
#include "tests/cut/history.h"
#include "tests/cut/recording.h"

namespace cowslip::cut {

namespace {

class Marks {
public:
    Marks(DeviceMapper& dm, std::string device, std::string prefix)
        : dm_(dm), device_(std::move(device)), prefix_(std::move(prefix)) {}

    // Its number.
    Result<std::string> begin(const std::string& what) {
        const std::scoped_lock lock(mutex_);
        const std::string number = prefix_ + std::to_string(++last_);
        TRY(set(number + ":begin:" + what));
        return number;
    }
    Result<void> done(const std::string& number) {
        const std::scoped_lock lock(mutex_);
        return set(number + ":done");
    }

private:
    Result<void> set(const std::string& mark) {
        const int error = dm_.message({device_, ""}, "mark " + mark);
        if (error != 0) return errno_error(error, "mark '" + mark + "'");
        return {};
    }
    DeviceMapper& dm_;
    std::string device_;
    std::string prefix_;
    std::mutex mutex_;
    std::uint64_t last_ = 0;
};

Result<void> write_file(const std::string& path, const File& file, bool sync) {
    const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!fd) return errno_error(errno, "create '" + path + "'");
    const std::string bytes = content_of(file);
    const ssize_t written = ::write(fd.get(), bytes.data(), bytes.size());
    if (written != static_cast<ssize_t>(bytes.size())) return errno_error(errno, "write '" + path + "'");
    if (sync && ::fsync(fd.get()) != 0) return errno_error(errno, "sync '" + path + "'");
    return {};
}

class Worker {
public:
    Worker(Client client, Marks& marks, std::string name, std::uint64_t seed)
        : client_(std::move(client)), marks_(marks), name_(std::move(name)), random_(seed) {}

    Result<void> make_pool(const std::string& state) {
        TRY(ctl::allow_devices(state, {kDataDevice, kMetadataDevice}));
        TRY(ask("pool", pool_request()));
        TRY(create("base", ""));
        TRY(create(kImage, "base"));
        schemas::VolumeFreeze freeze;
        freeze.id = kImage;
        freeze.warm = 3;
        freeze.warm_mounted = true;
        TRY(client_.call(freeze, kTimeout));
        return {};
    }
    // From now on it clones the image as well.
    void use_image() { bases_.emplace_back(kImage); }

    // A clone, files in it, a clone of it while it is mounted; now and then an older one goes, or comes again.
    Result<void> round(unsigned number) {
        const std::string name = fmt::format("{}-{}", name_, number);
        const std::string parent =
            mine_.empty() || chance(0.4) ? bases_[random_() % bases_.size()] : mine_[random_() % mine_.size()];
        TRY(create(name, parent));
        schemas::VolumeGet get;
        get.id = name;
        const std::string path = TRY(client_.call(get, kTimeout)).path;
        TRY(write(name, path, true));
        if (chance(0.5)) {
            TRY(create(name + "-copy", name));
            mine_.push_back(name + "-copy");
        }
        TRY(write(name, path, true));
        const std::string unsynced = TRY(write(name, path, false));
        schemas::VolumePut put;
        put.id = name;
        TRY(client_.call(put, kTimeout));
        TRY(marks_.done(unsynced));
        mine_.push_back(name);
        if (mine_.size() < 3) return {};
        const auto victim = static_cast<std::ptrdiff_t>(random_() % mine_.size());
        const std::string old = mine_[static_cast<std::size_t>(victim)];
        mine_.erase(mine_.begin() + victim);
        TRY(ask("rm:" + old, remove_request(old)));
        if (!chance(0.3)) return {};
        mine_.push_back(old);
        return create(old, "base");
    }

private:
    bool chance(double probability) { return std::uniform_real_distribution<>(0, 1)(random_) < probability; }

    template <class Message>
    Result<void> ask(const std::string& mark, const Message& message) {
        const std::string number = TRY(marks_.begin(mark));
        TRY(client_.call(message, kTimeout, request_id_of(number)));
        return marks_.done(number);
    }

    Result<void> create(const std::string& name, const std::string& parent) {
        return ask("create:" + name + ":" + parent, create_request(name, parent));
    }

    // Its number, for what is only synced by the put.
    Result<std::string> write(const std::string& name, const std::string& path, bool sync) {
        const File file{random_() % 1000000, 1 + random_() % 150000};
        const std::string file_name = fmt::format("file-{}", file.seed);
        const std::string number =
            TRY(marks_.begin(fmt::format("write:{}:{}:{}:{}", name, file_name, file.seed, file.bytes)));
        TRY(write_file(path + "/" + file_name, file, sync));
        if (sync) TRY(marks_.done(number));
        return number;
    }

    Client client_;
    Marks& marks_;
    std::string name_;
    std::mt19937_64 random_;
    std::vector<std::string> bases_ = {"base"};
    std::vector<std::string> mine_;
};

}  // namespace

std::string request_id_of(const std::string& number) {
    return "cut-request-" + number;
}

schemas::PoolCreate pool_request() {
    schemas::PoolCreate request;
    request.data_device = kDataDevice;
    request.metadata_device = kMetadataDevice;
    return request;
}

schemas::VolumeCreate create_request(const std::string& name, const std::string& parent) {
    schemas::VolumeCreate request;
    request.id = name;
    request.parent = parent;
    if (parent.empty()) request.size_bytes = 24 * kMiB;
    return request;
}

schemas::VolumeRemove remove_request(const std::string& name) {
    schemas::VolumeRemove request;
    request.id = name;
    return request;
}

Result<void> run_workload(const WorkloadOptions& options) {
    auto dm = TRY(KernelDeviceMapper::open());
    Marks marks(dm, options.device, options.prefix);
    const StateFolder folder = TRY(resolve_state_folder(options.state));
    BusContext context;
    std::vector<Worker> workers;
    for (unsigned i = 0; i < options.clients; ++i) {
        workers.emplace_back(TRY(Client::connect(context, folder.clients_socket())), marks,
                             fmt::format("{}{}", options.prefix, i), options.seed * 1000 + i);
    }
    if (options.make_pool) {
        TRY(workers.front().make_pool(options.state));
        for (Worker& worker : workers) worker.use_image();
    }
    std::vector<std::optional<Error>> errors(workers.size());
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < workers.size(); ++i) {
        threads.emplace_back([&, i] {
            for (unsigned round = 0; round < options.rounds && !errors[i]; ++round) {
                const Result<void> done = workers[i].round(round);
                if (!done) errors[i] = done.error();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& error : errors) {
        if (error) return *error;
    }
    return {};
}

}  // namespace cowslip::cut
