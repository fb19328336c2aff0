#include "common/memory_disk.h"

#include <sqlite3.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string_view>

#include <fmt/format.h>

namespace cowslip {

struct MemoryDisk::State {
    sqlite3_vfs vfs{};
    std::string name;
    Files files;
};

namespace {

struct OpenFile {
    sqlite3_file base;
    std::string* bytes;
    std::string* temporary;  // Owned: a file without a name.
};

OpenFile& open_file(sqlite3_file* file) {
    return *reinterpret_cast<OpenFile*>(file);
}

int close_file(sqlite3_file* file) {
    delete open_file(file).temporary;
    return SQLITE_OK;
}

int read_file_bytes(sqlite3_file* file, void* to, int size, sqlite3_int64 offset) {
    const std::string& bytes = *open_file(file).bytes;
    const auto wanted = static_cast<std::size_t>(size);
    const std::size_t begin = std::min(static_cast<std::size_t>(offset), bytes.size());
    const std::size_t there = std::min(wanted, bytes.size() - begin);
    std::memcpy(to, bytes.data() + begin, there);
    if (there == wanted) return SQLITE_OK;
    std::memset(static_cast<char*>(to) + there, 0, wanted - there);
    return SQLITE_IOERR_SHORT_READ;
}

int write_file_bytes(sqlite3_file* file, const void* from, int size, sqlite3_int64 offset) {
    std::string& bytes = *open_file(file).bytes;
    const auto begin = static_cast<std::size_t>(offset);
    const auto end = begin + static_cast<std::size_t>(size);
    if (bytes.size() < end) bytes.resize(end, '\0');
    std::memcpy(bytes.data() + begin, from, end - begin);
    return SQLITE_OK;
}

int truncate_file(sqlite3_file* file, sqlite3_int64 size) {
    open_file(file).bytes->resize(static_cast<std::size_t>(size), '\0');
    return SQLITE_OK;
}

int sync_nothing(sqlite3_file* /*file*/, int /*flags*/) {
    return SQLITE_OK;
}

int file_size(sqlite3_file* file, sqlite3_int64* size) {
    *size = static_cast<sqlite3_int64>(open_file(file).bytes->size());
    return SQLITE_OK;
}

int lock_nothing(sqlite3_file* /*file*/, int /*level*/) {
    return SQLITE_OK;
}

int is_unlocked(sqlite3_file* /*file*/, int* locked) {
    *locked = 0;
    return SQLITE_OK;
}

int control_nothing(sqlite3_file* /*file*/, int /*operation*/, void* /*argument*/) {
    return SQLITE_NOTFOUND;
}

int sector_bytes(sqlite3_file* /*file*/) {
    return 4096;
}

int no_characteristics(sqlite3_file* /*file*/) {
    return 0;
}

MemoryDisk::Files& files_of(sqlite3_vfs* vfs) {
    return *static_cast<MemoryDisk::Files*>(vfs->pAppData);
}

int open_in_memory(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) {
    static const sqlite3_io_methods methods = {
        .iVersion = 1,
        .xClose = &close_file,
        .xRead = &read_file_bytes,
        .xWrite = &write_file_bytes,
        .xTruncate = &truncate_file,
        .xSync = &sync_nothing,
        .xFileSize = &file_size,
        .xLock = &lock_nothing,
        .xUnlock = &lock_nothing,
        .xCheckReservedLock = &is_unlocked,
        .xFileControl = &control_nothing,
        .xSectorSize = &sector_bytes,
        .xDeviceCharacteristics = &no_characteristics,
        .xShmMap = nullptr,
        .xShmLock = nullptr,
        .xShmBarrier = nullptr,
        .xShmUnmap = nullptr,
        .xFetch = nullptr,
        .xUnfetch = nullptr,
    };
    OpenFile& opened = open_file(file);
    opened = {};
    if (name != nullptr && (flags & SQLITE_OPEN_CREATE) == 0 && !files_of(vfs).contains(name)) return SQLITE_CANTOPEN;
    opened.base.pMethods = &methods;
    opened.temporary = name == nullptr ? new std::string : nullptr;
    opened.bytes = name == nullptr ? opened.temporary : &files_of(vfs)[name];
    if (out_flags != nullptr) *out_flags = flags;
    return SQLITE_OK;
}

int remove_from_memory(sqlite3_vfs* vfs, const char* name, int /*sync_folder*/) {
    return files_of(vfs).erase(name) == 0 ? SQLITE_IOERR_DELETE_NOENT : SQLITE_OK;
}

int is_in_memory(sqlite3_vfs* vfs, const char* name, int /*flags*/, int* there) {
    *there = files_of(vfs).contains(name) ? 1 : 0;
    return SQLITE_OK;
}

int same_name(sqlite3_vfs* /*vfs*/, const char* name, int size, char* out) {
    const std::string_view text(name);
    if (text.size() >= static_cast<std::size_t>(size)) return SQLITE_CANTOPEN;
    *std::copy(text.begin(), text.end(), out) = '\0';
    return SQLITE_OK;
}

}  // namespace

MemoryDisk::MemoryDisk(Files files) : state_(std::make_unique<State>()) {
    static std::atomic<int> number = 0;
    state_->name = fmt::format("memory-disk-{}", ++number);
    state_->files = std::move(files);
    sqlite3_vfs& vfs = state_->vfs;
    vfs = *sqlite3_vfs_find("unix");  // Its randomness and its clock.
    vfs.pNext = nullptr;
    vfs.zName = state_->name.c_str();
    vfs.pAppData = &state_->files;
    vfs.szOsFile = static_cast<int>(sizeof(OpenFile));
    vfs.xOpen = &open_in_memory;
    vfs.xDelete = &remove_from_memory;
    vfs.xAccess = &is_in_memory;
    vfs.xFullPathname = &same_name;
    sqlite3_vfs_register(&vfs, 0);
}

MemoryDisk::~MemoryDisk() {
    sqlite3_vfs_unregister(&state_->vfs);
}

StoreDisk MemoryDisk::disk() {
    return {.vfs = state_->name.c_str(), .drop_page_cache = [](const std::string& /*file*/) {}, .files = nullptr};
}

MemoryDisk::Files& MemoryDisk::files() {
    return state_->files;
}

}  // namespace cowslip
