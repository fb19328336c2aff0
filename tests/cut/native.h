// A power cut looked at without a kernel: the disk as it was left is laid out in files; e2fsck replays the journal of
// the state's file system and debugfs takes the store out of it; thin_check and thin_dump read the pool's metadata; and
// the real pool manager recovers over a fake kernel that begins with those.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/cut/history.h"
#include "tests/cut/recording.h"
#include "tests/fakes/fake_disk.h"
#include "tests/fakes/fake_kernel.h"

namespace cowslip::cut {

struct NativeOptions {
    std::uint64_t seed = 1;
    bool believe_begun = false;  // See History.
};

// One recording's. Points go upwards: the disk is not replayed from its beginning for each. Programs that fail to start
// and the like throw runtime_error: that is no complaint.
class NativeChecker {
public:
    NativeChecker(const Recording& recording, NativeOptions options);
    ~NativeChecker();
    NativeChecker(const NativeChecker&) = delete;

    // Empty, or what is wrong after this cut.
    std::string complaint(const Point& point);
    std::uint64_t recoveries() const { return recoveries_; }
    std::uint64_t recoveries_cut() const { return recoveries_cut_; }

private:
    class Image;
    class Data;
    // Part of an internal thin: the label, the backups.
    struct InternalBlock {
        std::uint32_t thin_id = 0;
        std::uint64_t origin_block = 0;
        std::uint64_t data_block = 0;
    };
    struct Metadata {
        FakeMetadata content = {};
        std::string complaint = {};
        std::vector<InternalBlock> internal = {};
    };

    void lay_out(const Point& point);
    std::string take_out_store(const Point& point);
    const Metadata& read_metadata();
    Metadata examine_metadata() const;
    std::string check_store() const;
    FakeKernel kernel_with(const Metadata& metadata) const;
    std::string recover(const Point& point, const FakeKernel& kernel, const History& history);
    std::string recover_once(const FakeKernel& kernel, const History& history, std::int64_t die_at,
                             std::int64_t* happened);

    const Recording& recording_;
    NativeOptions options_;
    std::string folder_;
    FakeDisk::Image store_;  // Of the point that is laid out.
    std::unique_ptr<Image> state_;
    std::unique_ptr<Image> metadata_;
    std::unique_ptr<Data> data_;
    std::vector<Piece> undecided_;  // Of the point that is laid out.
    std::size_t applied_ = 0;       // Entries that are on the images whatever happens.
    std::string metadata_written_;  // What the metadata image holds, in short.
    std::uint64_t metadata_applied_ = 0;
    std::map<std::string, Metadata> metadata_seen_;
    std::uint64_t recoveries_ = 0;
    std::uint64_t recoveries_cut_ = 0;
};

}  // namespace cowslip::cut
