// The block devices that a pool has for its own: a header on each (device_header.h), and dm-linear devices put together
// of their areas, on which the pool lies: all of those for data, of which the pool's table has as much as it uses, and
// of those for metadata as many as it uses. They are known by their headers, whatever they are called after a boot.
//
// Crash: a device without a whole header is not the pool's yet, or no more. One that the pool's metadata have taken up
// is found also where the store does not know of it yet.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/device_mapper.h"
#include "services/device_actor/device_header.h"
#include "services/device_actor/host.h"

namespace cowslip {

class DeviceSet {
public:
    // `list`: DIR/pool/devices, where root names those that may be taken.
    DeviceSet(std::string list, DeviceMapper& dm) : list_(std::move(list)), dm_(dm) {}

    // As the methods of Host of similar names.
    Result<Backing> make(const schemas::PoolSpec& spec, const Overwrite& overwrite) const;
    // unavailable: not all of them are there (yet). needs_repair: two devices have one header, or one has become
    // smaller.
    Result<Backing> find(const schemas::PoolSpec& spec) const;
    Result<void> grow(const schemas::PoolSpec& spec) const;
    Result<void> release(const schemas::PoolSpec& spec) const;
    Result<void> discard(const schemas::PoolSpec& spec, const Overwrite& own) const;

    // A device over the areas that do not have the metadata now; from use_copy() on they have.
    Result<std::string> copy_place(const schemas::PoolSpec& spec, Place place) const;
    Result<std::string> use_copy(const schemas::PoolSpec& spec) const;

private:
    struct Member {
        std::string path;
        DeviceHeader header;
    };
    using Members = std::map<std::uint32_t, Member>;  // By number.

    Result<Members> members(const schemas::PoolSpec& spec) const;
    Result<Members> all_members(const schemas::PoolSpec& spec) const;
    static bool suffice(const schemas::PoolSpec& spec, const Members& found);
    struct Sizes {  // In sectors.
        std::uint64_t data = 0;
        std::uint64_t metadata = 0;
    };
    static Sizes sizes_of(const Members& members);
    static Sizes used_sizes(const schemas::PoolSpec& spec, const Members& members);
    struct Part {
        const Member* member;
        const DeviceAreas* areas;
    };
    static std::vector<Part> in_order(const Members& members);
    static Result<ThinPoolSuperblock> read_superblock(const Member& first);
    Result<void> check_may_take(const schemas::PoolSpec& spec, std::uint32_t number, const Overwrite& overwrite) const;
    static Result<std::vector<std::uint32_t>> lengthen(Members& members);
    static Result<Members> plan_members(const schemas::PoolSpec& spec, const Members& found);
    Result<Backing> assemble(const schemas::PoolSpec& spec, const Members& members, const Sizes& used) const;
    struct Areas;
    Result<std::string> put_together(const schemas::PoolSpec& spec, const Areas& areas, const Members& members,
                                     std::uint64_t sectors) const;
    static Result<void> rewrite(Member& member);

    std::string list_;
    DeviceMapper& dm_;
};

}  // namespace cowslip
