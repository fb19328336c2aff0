#include "tests/cut/native.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <stdexcept>

#include <fmt/format.h>

#include "common/files.h"
#include "common/names.h"
#include "common/process.h"
#include "common/sqlite.h"
#include "tests/cut/workload.h"
#include "tests/simulation/world.h"

namespace cowslip::cut {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlock = 4096;
// Of blocks that the pool has taken and mapped nowhere: a power cut between the two loses them, and only them.
constexpr std::uint64_t kMostLeaked = 8;
constexpr std::int64_t kSettleMs = 60000;

ProcessResult run(std::vector<std::string> arguments) {
    ProcessOptions options{std::move(arguments)};
    options.output_limit_bytes = 64U << 20U;
    const auto result = run_process(options);
    if (!result) throw std::runtime_error(result.error().message);
    return *result;
}

// Where a file can be read past the page cache, as thin_check does; in memory if the kernel can do that there.
std::string scratch_folder() {
    for (const char* base : {"/dev/shm", "/var/tmp"}) {
        std::string folder = std::string(base) + "/cowslip-cut-XXXXXX";
        if (::mkdtemp(folder.data()) == nullptr) continue;
        const Fd file(::open((folder + "/direct").c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
        if (file) return folder;
        fs::remove_all(folder);
    }
    throw std::runtime_error("no folder for files that can be read past the page cache");
}

// The number in ` NAME="123"` of an XML element.
std::uint64_t attribute(std::string_view element, const std::string& name) {
    const std::string key = " " + name + "=\"";
    const auto at = element.find(key);
    if (at == std::string_view::npos) throw std::runtime_error("thin_dump: no" + key + " in " + std::string(element));
    return std::stoull(std::string(element.substr(at + key.size(), 20)));
}

// What of the piece lies in [begin, begin + size) of the disk, to where that is.
void write_part(char* to, std::uint64_t begin, std::uint64_t size, const Piece& piece) {
    const std::uint64_t first = std::max(piece.begin, begin);
    const std::uint64_t last = std::min(piece.begin + piece.length, begin + size);
    if (first >= last) return;
    if (piece.bytes.empty()) {
        std::memset(to + (first - begin), 0, last - first);
    } else {
        std::memcpy(to + (first - begin), piece.bytes.data() + (first - piece.begin), last - first);
    }
}

// Zeros, or a file. Not for the programs that are started at each point: they begin sooner without.
class Memory {
public:
    explicit Memory(std::size_t size) : size_(size) { map(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1); }
    Memory(std::size_t size, const std::string& path) : size_(size) {
        const Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        if (!file || ::ftruncate(file.get(), static_cast<off_t>(size)) != 0) throw std::runtime_error("make " + path);
        map(MAP_SHARED, file.get());
    }
    ~Memory() { ::munmap(begin_, size_); }
    Memory(const Memory&) = delete;

    char* data() const { return static_cast<char*>(begin_); }

private:
    void map(int flags, int fd) {
        begin_ = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, flags, fd, 0);
        if (begin_ == MAP_FAILED) throw std::runtime_error("no memory for the disk");
        ::madvise(begin_, size_, MADV_DONTFORK);
    }

    std::size_t size_;
    void* begin_ = nullptr;
};

}  // namespace

// The pool's data, of which only the internal thins are looked at: so it is not laid out for each point.
class NativeChecker::Data {
public:
    void write_for_good(const Piece& piece) { write_part(whole_.data(), kBegin, Layout::kData, piece); }
    std::string read(std::uint64_t offset, std::uint64_t length, const std::vector<Piece>& undecided) const {
        if (offset + length > Layout::kData) throw std::runtime_error("a mapping beyond the pool's data");
        std::string bytes(whole_.data() + offset, length);
        for (const Piece& piece : undecided) write_part(bytes.data(), kBegin + offset, length, piece);
        return bytes;
    }

private:
    static constexpr std::uint64_t kBegin = Layout::kState + Layout::kMetadata;
    Memory whole_{Layout::kData};
};

// Part of the disk in a file that programs can read and change; it goes back to what was written by us.
class NativeChecker::Image {
public:
    Image(std::string path, std::uint64_t begin, std::uint64_t size)
        : path_(std::move(path)), begin_(begin), size_(size), whole_(size), file_(size, path_) {}

    const std::string& path() const { return path_; }
    std::string_view file() const { return {file_.data(), size_}; }
    bool touched_by(const Piece& piece) const {
        return piece.begin < begin_ + size_ && piece.begin + piece.length > begin_;
    }
    void write_for_good(const Piece& piece) { write_part(whole_.data(), begin_, size_, piece); }
    void write_for_now(const Piece& piece) { write_part(file_.data(), begin_, size_, piece); }
    void restore() {
        for (std::size_t at = 0; at < size_; at += kBlock) {
            if (std::memcmp(file_.data() + at, whole_.data() + at, kBlock) != 0)
                std::memcpy(file_.data() + at, whole_.data() + at, kBlock);
        }
    }

private:
    std::string path_;
    std::uint64_t begin_;
    std::uint64_t size_;
    Memory whole_;
    Memory file_;
};

NativeChecker::NativeChecker(const Recording& recording, NativeOptions options)
    : recording_(recording), options_(options), folder_(scratch_folder()) {
    state_ = std::make_unique<Image>(folder_ + "/state", 0, Layout::kState);
    metadata_ = std::make_unique<Image>(folder_ + "/metadata", Layout::kState, Layout::kMetadata);
    data_ = std::make_unique<Data>();
    for (const Piece& piece : recording_.beginning()) {
        state_->write_for_good(piece);
        metadata_->write_for_good(piece);
        data_->write_for_good(piece);
    }
}

NativeChecker::~NativeChecker() {
    fs::remove_all(folder_);
}

std::string NativeChecker::complaint(const Point& point) {
    lay_out(point);
    std::string text = take_out_store(point);
    if (!text.empty()) return text;
    const Metadata& metadata = read_metadata();
    if (!metadata.complaint.empty()) return metadata.complaint;
    if (text = check_store(); !text.empty()) return text;
    const History history(recording_.marks(point.entry), options_.believe_begun);
    try {
        return recover(point, kernel_with(metadata), history);
    } catch (const std::exception& failure) {
        return fmt::format("recovery: {}", failure.what());
    }
}

void NativeChecker::lay_out(const Point& point) {
    const std::size_t durable = recording_.durable_before(point.entry);
    if (durable < applied_) throw std::runtime_error("points must go upwards");
    for (; applied_ < durable; ++applied_) {
        const Entry& entry = recording_.entries()[applied_];
        if (!entry.mark.empty() || entry.length == 0) continue;
        const Piece piece = piece_of(entry);
        state_->write_for_good(piece);
        metadata_->write_for_good(piece);
        data_->write_for_good(piece);
        if (metadata_->touched_by(piece)) ++metadata_applied_;
    }
    state_->restore();
    metadata_->restore();
    metadata_written_ = std::to_string(metadata_applied_);
    undecided_ = recording_.undecided(point, options_.seed);
    for (const Piece& piece : undecided_) {
        state_->write_for_now(piece);
        metadata_->write_for_now(piece);
        if (!metadata_->touched_by(piece)) continue;
        metadata_written_ += fmt::format(" {}+{}@{}", piece.begin, piece.length, fmt::ptr(piece.bytes.data()));
    }
}

std::string NativeChecker::take_out_store(const Point& point) {
    // Whole now and then: that this is what a kernel's replay would leave is the rig's own matter.
    const bool whole = point.entry % 16 == 0;
    const auto checked = whole ? run({"e2fsck", "-f", "-p", state_->path()})
                               : run({"e2fsck", "-p", "-E", "journal_only", state_->path()});
    if (checked.exit_status > 1) return "e2fsck of the state's file system: " + checked.output + checked.errors;
    const std::string out = folder_ + "/out";
    fs::remove_all(out);
    fs::create_directory(out);
    const std::string commands = folder_ + "/commands";
    std::ofstream(commands) << fmt::format(
        "dump /store/store.db {0}/store.db\ndump /store/store.db-wal {0}/store.db-wal\n"
        "dump /pool/devices {0}/devices\ndump /pool/uuid {0}/uuid\n",
        out);
    const auto dumped = run({"debugfs", "-f", commands, state_->path()});
    if (dumped.exit_status != 0) return "debugfs of the state's file system: " + dumped.errors;
    // As it is before anybody opens it.
    store_.clear();
    for (const char* name : {"store.db", "store.db-wal"}) {
        auto bytes = read_file(out + "/" + name, Layout::kState);
        if (bytes) store_[name] = std::move(*bytes);
    }
    return {};
}

const NativeChecker::Metadata& NativeChecker::read_metadata() {
    const auto found = metadata_seen_.find(metadata_written_);
    if (found != metadata_seen_.end()) return found->second;
    if (metadata_seen_.size() > 8) metadata_seen_.clear();
    return metadata_seen_[metadata_written_] = examine_metadata();
}

NativeChecker::Metadata NativeChecker::examine_metadata() const {
    Metadata found;
    const ThinPoolSuperblock superblock = parse_superblock(metadata_->file().substr(0, kSuperblockBytes));
    if (superblock.zeroed) return found;
    if (!superblock.valid) return {{}, "the pool's superblock is damaged"};
    const auto checked = run({"thin_check", metadata_->path()});
    if (checked.exit_status != 0) return {{}, "thin_check: " + checked.output + checked.errors};
    const auto dumped = run({"thin_dump", metadata_->path()});
    if (dumped.exit_status != 0) return {{}, "thin_dump: " + dumped.errors};
    FakeMetadata& content = found.content;
    content.formatted = true;
    content.needs_check = superblock.needs_check;
    content.block_sectors = superblock.data_block_sectors;
    content.data_blocks = superblock.total_data_blocks;
    content.metadata_blocks = superblock.total_metadata_blocks;
    content.transaction_id = superblock.transaction_id;
    content.time = superblock.time;
    content.held_root = superblock.held_root;
    std::set<std::uint64_t> mapped;
    std::uint32_t thin_id = 0;
    content.next_block = content.data_blocks;
    const auto map = [&](const std::string& line, std::uint64_t origin_block, std::uint64_t data_block,
                         std::uint64_t length) {
        const auto time = static_cast<std::uint32_t>(attribute(line, "time"));
        content.thins[thin_id].blocks.map(origin_block, {length, {data_block, time}});
        for (std::uint64_t i = 0; i < length; ++i) {
            mapped.insert(data_block + i);
            if (thin_id < kFirstThinId) found.internal.push_back({thin_id, origin_block + i, data_block + i});
        }
    };
    std::istringstream lines(dumped.output);
    for (std::string line; std::getline(lines, line);) {
        if (line.find("<device ") != std::string::npos) {
            thin_id = static_cast<std::uint32_t>(attribute(line, "dev_id"));
            content.thins[thin_id] = {.snapshotted_time = static_cast<std::uint32_t>(attribute(line, "snap_time")),
                                      .transaction_id = attribute(line, "transaction")};
        } else if (line.find("<single_mapping ") != std::string::npos) {
            map(line, attribute(line, "origin_block"), attribute(line, "data_block"), 1);
        } else if (line.find("<range_mapping ") != std::string::npos) {
            map(line, attribute(line, "origin_begin"), attribute(line, "data_begin"), attribute(line, "length"));
        }
    }
    if (content.held_root != 0) content.held_thins = content.thins;
    const std::uint64_t used = superblock.used_data_blocks;
    // A held metadata snapshot may keep blocks of thins that are gone.
    const std::uint64_t leaked = used - std::min(used, std::uint64_t{mapped.size()});
    if (used < mapped.size() || (content.held_root == 0 && leaked > kMostLeaked))
        found.complaint = fmt::format("{} data blocks are used, and {} are mapped", used, mapped.size());
    return found;
}

std::string NativeChecker::check_store() const {
    const std::string file = folder_ + "/out/store.db";
    if (!fs::exists(file)) return {};
    try {
        auto database = Database::open(file);
        if (!database) return "open the store: " + database.error().message;
        Query query = database->query("PRAGMA integrity_check");
        if (!query.next() || query.text(0) != "ok") return "integrity_check of the store: " + query.text(0);
    } catch (const StoreFailure& failure) {
        return fmt::format("the store: {}", failure.what());
    }
    return {};
}

FakeKernel NativeChecker::kernel_with(const Metadata& metadata) const {
    FakeKernel kernel;
    kernel.add_disk(kDataDevice, Layout::kData / kSectorBytes);
    kernel.add_disk(kMetadataDevice, Layout::kMetadata / kSectorBytes);
    kernel.media.at(kMetadataDevice).metadata = metadata.content;
    const std::uint64_t block = metadata.content.block_sectors * kSectorBytes;
    for (const InternalBlock& part : metadata.internal) {
        const std::string bytes = data_->read(part.data_block * block, block, undecided_);
        for (std::uint64_t at = 0; at < block; at += kBlock) {
            kernel.media.at(kDataDevice).contents[{part.thin_id, part.origin_block * block + at}] =
                bytes.substr(at, kBlock);
        }
    }
    std::ifstream devices(folder_ + "/out/devices");
    for (std::string line; std::getline(devices, line);) kernel.allowed_devices.insert(line);
    std::ifstream uuid(folder_ + "/out/uuid");
    if (std::string line; std::getline(uuid, line)) kernel.own_pool = line;
    return kernel;
}

// Once in peace, and once with the power gone again at some effect or turn of the recovery.
std::string NativeChecker::recover(const Point& point, const FakeKernel& kernel, const History& history) {
    std::int64_t happened = 0;
    std::string text = recover_once(kernel, history, -1, &happened);
    if (!text.empty() || happened == 0) return text;
    std::seed_seq mix{options_.seed, std::uint64_t{point.entry}, std::uint64_t{point.variant}, std::uint64_t{7}};
    const auto die_at = static_cast<std::int64_t>(std::mt19937_64(mix)() % static_cast<std::uint64_t>(happened));
    ++recoveries_cut_;
    text = recover_once(kernel, history, die_at, nullptr);
    if (!text.empty()) return fmt::format("after a second power cut at step {} of the recovery: {}", die_at, text);
    return {};
}

std::string NativeChecker::recover_once(const FakeKernel& kernel, const History& history, std::int64_t die_at,
                                        std::int64_t* happened) {
    ++recoveries_;
    simulation::Options options;
    options.seed = options_.seed;
    options.die_at = die_at;
    options.power_cut_at_that = true;
    options.kernel = kernel;
    options.store = store_;
    simulation::World world(std::move(options));
    const auto settle = [&]() -> std::string {
        world.run_until([&] { return world.ready(); });
        std::string text;
        for (const std::int64_t end = world.now_ms() + kSettleMs; world.now_ms() < end; world.run_for(500)) {
            text = world.complaint();
            if (text.empty()) break;
        }
        return text;
    };
    if (std::string text = settle(); !text.empty()) return text;
    if (happened != nullptr) *happened = world.happened();
    world.let_live();

    const auto pool = world.call(schemas::PoolStatus{});
    if (!pool) return "pool status: " + pool.error().message;
    std::set<std::string> names;
    if (pool->state == "ready") {
        const auto list = world.call(schemas::VolumeList{});
        if (!list) return "list: " + list.error().message;
        for (const auto& volume : list->volumes) names.insert(volume.id);
    } else if (pool->state != "none" || history.pool()) {
        return fmt::format("the pool is '{}'", pool->state);
    }
    if (std::string text = history.complain_about(names); !text.empty()) return text;

    // The client asks again what was not answered, under the same id: it happens once, whatever had happened before.
    for (const auto& [number, request] : history.unanswered()) {
        simulation::Answer answer;
        if (request.verb == "create") {
            answer = world.ask_once(create_request(request.name, request.parent), {request_id_of(number)});
            names.insert(request.name);
        } else if (request.verb == "rm") {
            answer = world.ask_once(remove_request(request.name), {request_id_of(number)});
            names.erase(request.name);
        }
        if (answer.error) return fmt::format("{} '{}' again: {}", request.verb, request.name, answer.error->message);
    }
    if (names.contains("base")) {
        if (const auto made = world.call(create_request("new", "base")); !made)
            return "create: " + made.error().message;
        const auto removed = world.call(remove_request("new"));
        if (!removed) return "rm: " + removed.error().message;
        const auto list = world.call(schemas::VolumeList{});
        if (!list || list->volumes.size() != names.size()) return "volumes after requests were repeated are others";
    }
    return settle();
}

}  // namespace cowslip::cut
