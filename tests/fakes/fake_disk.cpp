#include "tests/fakes/fake_disk.h"

#include <malloc.h>
#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <set>
#include <stdexcept>

#include <fmt/format.h>

namespace cowslip {

namespace {

constexpr std::size_t kPage = 4096;

struct Content {
    std::string cache;
    std::string disk;
    std::set<std::size_t> dirty;  // Pages to be written by the next sync.
    std::set<std::size_t> lost;   // Clean, and not on the disk: their sync has failed.
};

using Names = std::map<std::string, std::shared_ptr<Content>>;

std::shared_ptr<Content> content_of(std::string bytes) {
    auto content = std::make_shared<Content>();
    content->cache = bytes;
    content->disk = std::move(bytes);
    return content;
}

std::string_view folder_of(std::string_view file) {
    const std::size_t slash = file.rfind('/');
    return slash == std::string_view::npos ? "" : file.substr(0, slash);
}

// With zeros for what is beyond the end of `from`; the size of `to` stays.
void copy_page(const std::string& from, std::size_t number, std::string* to) {
    const std::size_t begin = number * kPage;
    if (begin >= to->size()) return;
    const std::size_t size = std::min(kPage, to->size() - begin);
    const std::size_t there = std::min(size, from.size() - std::min(begin, from.size()));
    if (there > 0) std::memcpy(to->data() + begin, from.data() + begin, there);
    std::memset(to->data() + begin + there, 0, size - there);
}

}  // namespace

struct FakeDisk::State {
    sqlite3_vfs vfs{};
    std::string name;
    Names files;
    Names files_on_disk;  // As its folders have them; by now they may have other names, or none.
    std::uint64_t life = 0;
    std::map<DiskCall, std::uint64_t> calls;
    std::optional<DiskFault> fault;
    bool failed = false;
    bool nobody = false;  // No process has the store open: it was killed.

    bool fails(DiskCall call) {
        ++calls[call];
        if (!fault || fault->call != call) return false;
        if (fault->nth > 0) {
            --fault->nth;
            return false;
        }
        failed = true;
        if (!fault->for_ever) fault.reset();
        return true;
    }
    void sync_folder_of(std::string_view file) {
        const auto is_beside = [&](const auto& entry) { return folder_of(entry.first) == folder_of(file); };
        std::erase_if(files_on_disk, is_beside);
        std::copy_if(files.begin(), files.end(), std::inserter(files_on_disk, files_on_disk.end()), is_beside);
    }
};

namespace {

// What SQLite has open.
struct OpenFile {
    sqlite3_file base;
    void* state;
    std::uint64_t life;
    std::shared_ptr<Content>* content;  // Also after its name is gone.
    const char* name;                   // Null: a temporary file.
    bool syncs_folder;                  // With its next sync.
};

}  // namespace

// SQLite's calls; in a struct that may see the state.
struct FakeDiskCalls {
    using State = FakeDisk::State;
    static OpenFile& open_file(sqlite3_file* file) { return *reinterpret_cast<OpenFile*>(file); }
    static State& state_of(const OpenFile& file) { return *static_cast<State*>(file.state); }
    static bool is_dead(const OpenFile& file) { return state_of(file).life != file.life; }

    static int close(sqlite3_file* file) {
        delete open_file(file).content;
        return SQLITE_OK;
    }
    static Content& content_of(const OpenFile& file) { return **file.content; }
    static int read(sqlite3_file* file, void* to, int size, sqlite3_int64 offset) {
        OpenFile& open = open_file(file);
        if (is_dead(open)) return SQLITE_IOERR_READ;
        if (open.name != nullptr && state_of(open).fails(DiskCall::read)) return SQLITE_IOERR_READ;
        const std::string& text = content_of(open).cache;
        const auto wanted = static_cast<std::size_t>(size);
        const std::size_t begin = std::min(static_cast<std::size_t>(offset), text.size());
        const std::size_t there = std::min(wanted, text.size() - begin);
        std::memcpy(to, text.data() + begin, there);
        if (there == wanted) return SQLITE_OK;
        std::memset(static_cast<char*>(to) + there, 0, wanted - there);
        return SQLITE_IOERR_SHORT_READ;
    }
    static int write(sqlite3_file* file, const void* from, int size, sqlite3_int64 offset) {
        OpenFile& open = open_file(file);
        if (is_dead(open)) return SQLITE_OK;
        if (open.name != nullptr) {
            const bool full = state_of(open).fault && state_of(open).fault->full;
            if (state_of(open).fails(DiskCall::write)) return full ? SQLITE_FULL : SQLITE_IOERR_WRITE;
        }
        const auto begin = static_cast<std::size_t>(offset);
        const auto end = begin + static_cast<std::size_t>(size);
        std::string& text = content_of(open).cache;
        if (text.size() < end) text.resize(end, '\0');
        std::memcpy(text.data() + begin, from, end - begin);
        for (std::size_t page = begin / kPage; page * kPage < end; ++page) content_of(open).dirty.insert(page);
        return SQLITE_OK;
    }
    static int truncate(sqlite3_file* file, sqlite3_int64 size) {
        OpenFile& open = open_file(file);
        if (is_dead(open)) return SQLITE_OK;
        content_of(open).cache.resize(static_cast<std::size_t>(size), '\0');
        return SQLITE_OK;
    }
    static int sync(sqlite3_file* file, int /*flags*/) {
        OpenFile& open = open_file(file);
        if (is_dead(open) || open.name == nullptr) return SQLITE_OK;
        Content& content = content_of(open);
        if (state_of(open).fails(DiskCall::sync)) {
            content.lost.merge(content.dirty);
            content.dirty.clear();
            return SQLITE_IOERR_FSYNC;
        }
        content.disk.resize(content.cache.size(), '\0');
        for (const std::size_t page : content.dirty) {
            copy_page(content.cache, page, &content.disk);
            content.lost.erase(page);
        }
        content.dirty.clear();
        if (std::exchange(open.syncs_folder, false)) state_of(open).sync_folder_of(open.name);
        return SQLITE_OK;
    }
    static int size(sqlite3_file* file, sqlite3_int64* size) {
        *size = static_cast<sqlite3_int64>(content_of(open_file(file)).cache.size());
        return SQLITE_OK;
    }
    static int lock(sqlite3_file* /*file*/, int /*level*/) { return SQLITE_OK; }
    static int check_lock(sqlite3_file* /*file*/, int* locked) {
        *locked = 0;
        return SQLITE_OK;
    }
    static int control(sqlite3_file* /*file*/, int /*operation*/, void* /*argument*/) { return SQLITE_NOTFOUND; }
    static int sector_size(sqlite3_file* /*file*/) { return static_cast<int>(kPage); }
    static int characteristics(sqlite3_file* /*file*/) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }

    static int open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) {
        static const sqlite3_io_methods methods = {
            .iVersion = 1,
            .xClose = &close,
            .xRead = &read,
            .xWrite = &write,
            .xTruncate = &truncate,
            .xSync = &sync,
            .xFileSize = &size,
            .xLock = &lock,
            .xUnlock = &lock,
            .xCheckReservedLock = &check_lock,
            .xFileControl = &control,
            .xSectorSize = &sector_size,
            .xDeviceCharacteristics = &characteristics,
            .xShmMap = nullptr,
            .xShmLock = nullptr,
            .xShmBarrier = nullptr,
            .xShmUnmap = nullptr,
            .xFetch = nullptr,
            .xUnfetch = nullptr,
        };
        auto& state = *static_cast<State*>(vfs->pAppData);
        OpenFile& opened = open_file(file);
        opened = {};
        state.nobody = false;
        if (name != nullptr && state.fails(DiskCall::open)) return SQLITE_CANTOPEN;
        if (name != nullptr && (flags & SQLITE_OPEN_CREATE) == 0 && state.files.count(name) == 0)
            return SQLITE_CANTOPEN;
        opened.base.pMethods = &methods;
        opened.state = &state;
        opened.life = state.life;
        opened.name = name;
        std::shared_ptr<Content> content = name == nullptr ? nullptr : state.files[name];
        if (!content) content = std::make_shared<Content>();
        if (name != nullptr) state.files[name] = content;
        opened.content = new std::shared_ptr<Content>(std::move(content));
        constexpr int kJournals = SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL;
        opened.syncs_folder = (flags & SQLITE_OPEN_CREATE) != 0 && (flags & kJournals) != 0;
        if (out_flags != nullptr) *out_flags = flags;
        return SQLITE_OK;
    }
    static int remove(sqlite3_vfs* vfs, const char* name, int sync_folder) {
        auto& state = *static_cast<State*>(vfs->pAppData);
        if (state.nobody) return SQLITE_OK;  // The close of a connection whose process was killed.
        if (state.files.erase(name) == 0) return SQLITE_IOERR_DELETE_NOENT;
        if (sync_folder != 0) state.sync_folder_of(name);
        return SQLITE_OK;
    }
    static int access(sqlite3_vfs* vfs, const char* name, int /*flags*/, int* there) {
        *there = static_cast<State*>(vfs->pAppData)->files.count(name) != 0 ? 1 : 0;
        return SQLITE_OK;
    }
    static int full_name(sqlite3_vfs* /*vfs*/, const char* name, int size, char* out) {
        const std::string_view text(name);
        if (text.size() >= static_cast<std::size_t>(size)) return SQLITE_CANTOPEN;
        *std::copy(text.begin(), text.end(), out) = '\0';
        return SQLITE_OK;
    }
};

class FakeDisk::Files : public StoreFiles {
public:
    explicit Files(FakeDisk& disk) : disk_(disk) {}
    Result<void> ensure_folder(const std::string& /*folder*/) override { return {}; }
    std::vector<StoreFile> list(const std::string& folder) override {
        std::vector<StoreFile> found;
        for (const auto& [name, content] : disk_.state_->files) {
            if (name.starts_with(folder + "/"))
                found.push_back({name.substr(folder.size() + 1), content->cache.size()});
        }
        return found;
    }
    std::uint64_t free_bytes() override { return disk_.free_bytes; }
    void begin_writing(const std::string& /*file*/) override {}
    Result<void> put_in_place(const std::string& from, const std::string& to) override {
        const auto found = disk_.state_->files.find(from);
        if (found == disk_.state_->files.end()) return Error{Errc::internal, "put in place: there is no such file"};
        if (disk_.state_->fails(DiskCall::sync)) return Error{Errc::internal, "sync: Input/output error"};
        const std::shared_ptr<Content> content = found->second;
        content->disk = content->cache;
        content->dirty.clear();
        content->lost.clear();
        disk_.state_->files.erase(found);
        disk_.state_->files[to] = content;
        if (!disk_.folders_not_synced) disk_.state_->sync_folder_of(to);
        return {};
    }
    void remove(const std::string& file) override { disk_.state_->files.erase(file); }

private:
    FakeDisk& disk_;
};

FakeDisk::FakeDisk() : state_(std::make_unique<State>()), files_(std::make_unique<Files>(*this)) {
    static int number = 0;
    if (number == 0) {
        // The memory of one disk's files is for the next one's: to get it from the kernel each time is a sixth of a
        // seed.
        ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
        ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
    }
    state_->name = fmt::format("fake-disk-{}", ++number);
    sqlite3_vfs& vfs = state_->vfs;
    vfs = *sqlite3_vfs_find("unix");  // Its randomness and its clock.
    vfs.pNext = nullptr;
    vfs.zName = state_->name.c_str();
    vfs.pAppData = state_.get();
    vfs.szOsFile = static_cast<int>(sizeof(OpenFile));
    vfs.xOpen = &FakeDiskCalls::open;
    vfs.xDelete = &FakeDiskCalls::remove;
    vfs.xAccess = &FakeDiskCalls::access;
    vfs.xFullPathname = &FakeDiskCalls::full_name;
    if (sqlite3_vfs_register(&vfs, 0) != SQLITE_OK) throw std::runtime_error("register a SQLite VFS");
}

FakeDisk::~FakeDisk() {
    sqlite3_vfs_unregister(&state_->vfs);
}

StoreDisk FakeDisk::disk() {
    return {.vfs = state_->name.c_str(),
            .drop_page_cache = [this](const std::string& file) { drop_clean_pages(file); },
            .files = files_.get()};
}

void FakeDisk::fail(const DiskFault& fault) {
    state_->fault = fault;
    state_->failed = false;
}

void FakeDisk::heal() {
    state_->fault.reset();
}

bool FakeDisk::has_failed() const {
    return state_->failed;
}

std::map<DiskCall, std::uint64_t> FakeDisk::calls() const {
    return state_->calls;
}

void FakeDisk::kill() {
    ++state_->life;
    state_->nobody = true;
}

void FakeDisk::cut_power() {
    kill();
    state_->files.clear();
    for (auto& [name, content] : state_->files_on_disk) {
        content = content_of(content->disk);
        state_->files[name] = content;
    }
}

void FakeDisk::drop_clean_pages(const std::string& file) {
    const auto found = state_->files.find(file);
    if (found == state_->files.end()) return;
    Content& content = *found->second;
    for (const std::size_t page : std::exchange(content.lost, {})) {
        if (!content.dirty.contains(page)) copy_page(content.disk, page, &content.cache);
    }
}

FakeDisk::Image FakeDisk::image() const {
    Image image;
    for (const auto& [name, content] : state_->files) image[name] = content->cache;
    return image;
}

void FakeDisk::put(Image image) {
    state_->files.clear();
    for (auto& [name, bytes] : image) state_->files[name] = content_of(std::move(bytes));
    state_->files_on_disk = state_->files;
}

std::string& FakeDisk::on_disk(const std::string& file) {
    return state_->files.at(file)->disk;
}

bool FakeDisk::has(const std::string& file) const {
    return state_->files.contains(file);
}

}  // namespace cowslip
