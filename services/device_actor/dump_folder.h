// DIR/pool/backups: dumps of the pool's metadata, each beside a backup of the store. Root's alone.
//
// Crash: a temporary file, which the next dump removes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/compress.h"
#include "common/result.h"

namespace cowslip {

// The kernel leaves the number of data blocks out of a metadata snapshot, so thin_dump says 0, and thin_restore takes
// no such file: here it is put back, into the first element.
class DataBlocksFiller {
public:
    DataBlocksFiller(GzipWriter& out, std::uint64_t data_blocks) : out_(out), data_blocks_(data_blocks) {}
    void write(std::string_view bytes);
    void finish();

private:
    GzipWriter& out_;
    std::uint64_t data_blocks_;
    std::string head_;  // Until the first element is over.
    bool over_ = false;
};

class DumpFolder {
public:
    explicit DumpFolder(std::string path) : path_(std::move(path)) {}

    Result<void> ensure() const;  // 0700.
    // `fill` writes it. Durable when it returns, and all others but those to keep are gone. Its bytes.
    // invalid_argument: no such name may be. An error leaves none of that name, and the others as they are.
    Result<std::uint64_t> write(const std::string& name, const std::vector<std::string>& keep,
                                const std::function<Result<void>(GzipWriter&)>& fill) const;

private:
    void remove_all_but(const std::vector<std::string>& files) const;
    std::string path_;
};

}  // namespace cowslip
