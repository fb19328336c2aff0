// Power cuts of what puts files in their places on the kernel's file systems: each call is a point at which power may
// fail. After it a file has the bytes of its last sync, and a folder the names of its last sync, or those that it had
// at the cut: a journal may have carried them. (The linker leads the calls here: --wrap in tests/CMakeLists.txt.)
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <ranges>

#include <fmt/format.h>
#include <catch2/catch.hpp>

#include "common/store_files.h"
#include "services/pool_manager/restore.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip {
namespace {

using FilesAfterCut = std::map<std::string, std::string>;

struct Cut {
    std::map<std::string, ino_t> names;
    std::map<ino_t, std::string> bytes;

    FilesAfterCut files() const {
        FilesAfterCut found;
        for (const auto& [name, inode] : names) found[name] = bytes.contains(inode) ? bytes.at(inode) : "";
        return found;
    }
    // What has two names has them here, too.
    void lay_out(const TemporaryFolder& folder) const {
        std::map<ino_t, std::string> placed;
        for (const auto& [name, text] : files()) {
            const auto [first, is_new] = placed.emplace(names.at(name), folder / name);
            if (is_new) std::ofstream(folder / name) << text;
            if (!is_new) std::filesystem::create_hard_link(first->second, folder / name);
        }
    }
};

// One at a time.
class CutRecorder {
public:
    explicit CutRecorder(std::string folder) : folder_(std::move(folder)) {
        for (const auto& [name, inode] : names_now()) bytes_[inode] = bytes_of(folder_ + "/" + name);
        names_ = names_now();
        current = this;
        before_call();
    }
    ~CutRecorder() { current = nullptr; }
    CutRecorder(const CutRecorder&) = delete;

    void before_call() {
        for (const auto& names : {names_, names_now()}) cuts.push_back({names, bytes_});
    }
    void synced(int fd) {
        struct stat about {};
        REQUIRE(::fstat(fd, &about) == 0);
        if (S_ISDIR(about.st_mode)) names_ = names_now();
        if (S_ISREG(about.st_mode)) bytes_[about.st_ino] = bytes_of("/proc/self/fd/" + std::to_string(fd));
    }

    std::vector<Cut> cuts;  // Two for each call.
    static inline CutRecorder* current = nullptr;

private:
    static std::string bytes_of(const std::string& file) {
        std::ifstream stream(file, std::ios::binary);
        return {std::istreambuf_iterator<char>(stream), {}};
    }
    std::map<std::string, ino_t> names_now() const {
        std::map<std::string, ino_t> names;
        for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
            struct stat about {};
            REQUIRE(::lstat(entry.path().c_str(), &about) == 0);
            names[entry.path().filename()] = about.st_ino;
        }
        return names;
    }

    std::string folder_;
    std::map<std::string, ino_t> names_;
    std::map<ino_t, std::string> bytes_;
};

void write_files(const TemporaryFolder& folder, const FilesAfterCut& files) {
    for (const auto& [name, bytes] : files) std::ofstream(folder / name) << bytes;
}

FilesAfterCut files_in(const TemporaryFolder& folder) {
    FilesAfterCut files;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
        std::ifstream stream(entry.path(), std::ios::binary);
        files[entry.path().filename()] = {std::istreambuf_iterator<char>(stream), {}};
    }
    return files;
}

// What a power cut may leave: at the calls of `work`, and behind them.
struct Cuts {
    std::vector<Cut> during;
    std::vector<Cut> behind;
};

Cuts cuts_of(const FilesAfterCut& before, const std::function<void(const std::string& folder)>& work) {
    const TemporaryFolder folder;
    write_files(folder, before);
    CutRecorder recorder(folder.path());
    work(folder.path());
    Cuts cuts{std::exchange(recorder.cuts, {}), {}};
    recorder.before_call();
    cuts.behind = recorder.cuts;
    return cuts;
}

void call_begins() {
    if (CutRecorder::current != nullptr) CutRecorder::current->before_call();
}

}  // namespace

int real_fsync(int) __asm__("__real_fsync");
int wrapped_fsync(int) __asm__("__wrap_fsync");
int real_rename(const char*, const char*) __asm__("__real_rename");
int wrapped_rename(const char*, const char*) __asm__("__wrap_rename");
int real_link(const char*, const char*) __asm__("__real_link");
int wrapped_link(const char*, const char*) __asm__("__wrap_link");
int real_unlink(const char*) __asm__("__real_unlink");
int wrapped_unlink(const char*) __asm__("__wrap_unlink");

int wrapped_fsync(int fd) {
    call_begins();
    const int result = real_fsync(fd);
    if (CutRecorder::current != nullptr) CutRecorder::current->synced(fd);
    return result;
}

int wrapped_rename(const char* from, const char* to) {
    call_begins();
    return real_rename(from, to);
}

int wrapped_link(const char* from, const char* to) {
    call_begins();
    return real_link(from, to);
}

int wrapped_unlink(const char* file) {
    call_begins();
    return real_unlink(file);
}

TEST_CASE("a power cut at any call leaves what was in a place, or what was put there, and behind it the latter",
          "[store]") {
    const Cuts cuts = cuts_of({{"old", "old"}, {"new.tmp", "new"}}, [](const std::string& folder) {
        REQUIRE(kernel_store_files().put_in_place(folder + "/new.tmp", folder + "/old"));
    });
    CHECK(cuts.during.size() == 8);  // Before all, at the sync, the rename, and the sync of the folder.
    for (const Cut& cut : cuts.during) CHECK((cut.files().at("old") == "old" || cut.files().at("old") == "new"));
    for (const Cut& cut : cuts.behind) CHECK(cut.files() == FilesAfterCut{{"old", "new"}});
}

TEST_CASE("a power cut at any call of a restore leaves the old store or the new one whole; behind it, the new one",
          "[store][restore]") {
    const FilesAfterCut before = {{"store.db", "old"}, {"store.db-wal", "its log"}};
    const FilesAfterCut after = {
        {"store.db", "new"}, {"store.db.replaced-1", "old"}, {"store.db.replaced-1-wal", "its log"}};
    const Cuts staged = cuts_of(before, [](const std::string& folder) { REQUIRE(stage_store(folder, "new")); });
    const Cuts finished = cuts_of({{"store.db", "old"}, {"store.db-wal", "its log"}, {"store.db.new", "new"}},
                                  [](const std::string& folder) { REQUIRE(finish_restore(folder)); });
    const auto next_start = [](const Cut& cut) {
        const TemporaryFolder folder;
        cut.lay_out(folder);
        REQUIRE(finish_restore(folder.path()));
        return files_in(folder);
    };
    for (const Cut& cut : staged.during) {
        const FilesAfterCut started = next_start(cut);
        CHECK((started == before || started == after));
    }
    for (const Cut& cut : staged.behind) CHECK(next_start(cut) == after);
    CHECK(finished.during.size() > 12);
    for (const Cut& cut : finished.during) {
        CAPTURE(fmt::format("{}", fmt::join(std::views::keys(cut.names), " ")));
        CHECK(next_start(cut) == after);
    }
    for (const Cut& cut : finished.behind) CHECK(cut.files() == after);
}

}  // namespace cowslip
