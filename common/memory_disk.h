// A store's file and its log in memory, for SQLite: what somebody hands us is looked at, and changed, without a file
// being made or touched, and by a process that could not open it.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "common/sqlite.h"

namespace cowslip {

class MemoryDisk {
public:
    using Files = std::map<std::string, std::string>;  // Bytes, by name.
    explicit MemoryDisk(Files files);
    ~MemoryDisk();
    MemoryDisk(const MemoryDisk&) = delete;
    MemoryDisk& operator=(const MemoryDisk&) = delete;

    StoreDisk disk();  // Not longer than this lives.
    // As SQLite has left them.
    Files& files();

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace cowslip
