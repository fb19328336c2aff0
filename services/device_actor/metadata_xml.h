// A pool's metadata as thin_dump writes them, an element a line, with their times and thin ids counted
// anew: each time that occurs becomes its place in the order of all, each thin id the next one. What
// shares a block with what is decided by which of two times is earlier (a block is shared if it was
// mapped before its device was last snapshotted), so nothing else changes. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "common/result.h"

namespace cowslip {

class MetadataRecount {
public:
    // The recounted pool will have this transaction id.
    explicit MetadataRecount(std::uint64_t transaction_id) : transaction_id_(transaction_id) {}

    // First every line, in any order; then no_more, then every line again. An element that we do not know is an error:
    // it might hold a time.
    Result<void> look(std::string_view line);
    void no_more();
    Result<std::string> rewrite(std::string_view line) const;

    std::uint32_t time() const { return static_cast<std::uint32_t>(times_.size() - 1); }
    std::size_t volumes() const { return thin_ids_.size(); }  // Without the internal thin ids, which stay.

private:
    std::uint64_t transaction_id_;
    std::map<std::uint64_t, std::uint64_t> times_ = {{0, 0}};
    std::map<std::uint64_t, std::uint64_t> thin_ids_;
};

}  // namespace cowslip
