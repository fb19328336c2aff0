#include "services/pool_manager/verdict.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "common/names.h"

namespace cowslip {

namespace {

constexpr const char* kLookFirst =
    "`cowslip pool start --read-only` serves what is there without a change, and `cowslip pool rebuild` makes the "
    "store "
    "anew from what the pool has";

std::uint64_t tag_of(std::uint64_t transaction_id) {
    return transaction_id >> 32U;
}

// As ours are: a tag of 20 bits, and a generation from 1 on.
bool looks_like_ours(std::uint64_t transaction_id) {
    const std::uint64_t tag = tag_of(transaction_id);
    return tag != 0 && tag < (1U << 20U) && (transaction_id & 0xffffffffU) != 0;
}

bool has_births_of(const Seen& seen, std::uint32_t tag) {
    return seen.thins && std::any_of(seen.thins->begin(), seen.thins->end(),
                                     [tag](const SeenThin& thin) { return tag_of(thin.birth) == tag; });
}

Judgement of_wrong_transaction_id(const Seen& seen) {
    const std::string has = fmt::format("the pool's transaction id is {}, and the store knows {} to {}",
                                        seen.transaction_id, seen.confirmed, seen.planned);
    const auto say = [&](PoolVerdict verdict, const std::string& what) {
        return Judgement{verdict, fmt::format("{}: {}; nothing was changed", has, what)};
    };
    if (tag_of(seen.transaction_id) == seen.tag) {
        if (seen.transaction_id > seen.planned) {
            return say(PoolVerdict::store_older,
                       fmt::format("the store is an older copy; put back the newer one, or {}", kLookFirst));
        }
        return say(PoolVerdict::pool_older,
                   fmt::format("the metadata are an older copy, and what was made since is not in them; put back the "
                               "newer ones, or {}",
                               kLookFirst));
    }
    if (seen.live || has_births_of(seen, seen.tag)) {
        return say(
            PoolVerdict::foreign_transaction_id,
            fmt::format("another program has changed it, and may have changed more; end that program; if you know "
                        "that it did no more, `dmsetup message POOL 0 \"set_transaction_id {} {}\"` gives it "
                        "back, else {}",
                        seen.transaction_id, seen.confirmed, kLookFirst));
    }
    if (seen.transaction_id == 0 && (!seen.thins || seen.thins->empty())) {
        return say(PoolVerdict::formatted,
                   "the metadata were formatted, and hold nothing of what the store knows; put back a copy of them");
    }
    if (looks_like_ours(seen.transaction_id)) {
        return say(PoolVerdict::metadata_swapped,
                   "they are the metadata of another cowslip pool; give each pool its own devices");
    }
    return say(PoolVerdict::foreign_pool, "they are another program's metadata; give the pool its own device");
}

Judgement of_lists(const Seen& seen) {
    Judgement judgement;
    if (!seen.thins) return judgement;
    std::map<std::uint32_t, std::uint64_t> births;
    for (const SeenThin& thin : *seen.thins) births[thin.thin_id] = thin.birth;
    std::set<std::uint32_t> known = seen.quarantined;
    for (const SeenRow& row : seen.rows) {
        known.insert(row.thin_id);
        if (!row.ready) continue;
        const auto found = births.find(row.thin_id);
        const std::uint64_t latest = row.born_max != 0 ? row.born_max : seen.planned;
        if (found == births.end() || found->second < row.born_min || found->second > latest) {
            judgement.lost.push_back(row.thin_id);
        }
    }
    for (const auto& [thin_id, birth] : births) {
        if (thin_id >= kFirstThinId && !known.contains(thin_id)) judgement.orphans.push_back(thin_id);
    }
    if (!judgement.orphans.empty()) {
        judgement.verdict = PoolVerdict::orphans;
        judgement.detail = fmt::format(
            "{} thin ids are in the pool and in no row, and are left alone; whose they are, "
            "nobody here knows",
            judgement.orphans.size());
    }
    if (!judgement.lost.empty()) {
        judgement.verdict = PoolVerdict::lost;
        judgement.detail = fmt::format(
            "the pool does not have the thin ids of {} volumes; put back its metadata, or "
            "`cowslip rm` them",
            judgement.lost.size());
    }
    return judgement;
}

}  // namespace

std::string_view to_string(PoolVerdict verdict) {
    switch (verdict) {
        case PoolVerdict::normal:
            return "normal";
        case PoolVerdict::orphans:
            return "orphans";
        case PoolVerdict::lost:
            return "lost";
        case PoolVerdict::store_older:
            return "store_older";
        case PoolVerdict::pool_older:
            return "pool_older";
        case PoolVerdict::superblock_zeroed:
            return "superblock_zeroed";
        case PoolVerdict::superblock_damaged:
            return "superblock_damaged";
        case PoolVerdict::formatted:
            return "formatted";
        case PoolVerdict::foreign_transaction_id:
            return "foreign_transaction_id";
        case PoolVerdict::metadata_swapped:
            return "metadata_swapped";
        case PoolVerdict::foreign_pool:
            return "foreign_pool";
        case PoolVerdict::data_swapped:
            return "data_swapped";
        case PoolVerdict::label_missing:
            return "label_missing";
        case PoolVerdict::label_damaged:
            return "label_damaged";
        case PoolVerdict::unusable:
            return "unusable";
        case PoolVerdict::store_restored:
            return "store_restored";
    }
    return "";
}

bool freezes(PoolVerdict verdict) {
    return verdict > PoolVerdict::lost;
}

bool may_be_read(PoolVerdict verdict) {
    return verdict <= PoolVerdict::pool_older || verdict == PoolVerdict::foreign_transaction_id;
}

// In the order in which it is seen: what comes first makes the rest meaningless.
Judgement judge_pool(const Seen& seen) {
    if (seen.restored) {
        return {PoolVerdict::store_restored,
                "the store was restored from a backup, and the pool may have changed since; nothing of it is used "
                "before `cowslip pool rebuild` has made the store's rows from the pool as it is now"};
    }
    if (seen.zeroed) {
        return {PoolVerdict::superblock_zeroed,
                "the metadata's superblock is all zero, and the kernel would format it; nothing was loaded; put back a "
                "copy of the metadata, or mend a copy of the device with thin_repair and put that in its place"};
    }
    if (!seen.valid) {
        return {
            PoolVerdict::superblock_damaged,
            "the metadata's superblock is damaged (wrong magic or checksum); nothing was loaded; put back a copy of "
            "the metadata, or `cowslip pool repair` (it mends a copy, and keeps these)"};
    }
    if (seen.transaction_id < seen.confirmed || seen.transaction_id > seen.planned) {
        return of_wrong_transaction_id(seen);
    }
    switch (seen.label) {
        case SeenLabel::another:
            return {PoolVerdict::data_swapped,
                    fmt::format("the pool's data device bears the label of pool {}: it is another pool's; give each "
                                "pool its own devices",
                                seen.label_pool)};
        case SeenLabel::absent:
            return {PoolVerdict::label_missing,
                    "the pool has no label (thin id 0): it is not the pool that this store was made with; give it its "
                    "own devices, or put back a copy of its metadata"};
        case SeenLabel::damaged:
            return {PoolVerdict::label_damaged,
                    "the pool's label cannot be read: its data device is damaged, or another pool's; give it its own "
                    "device"};
        case SeenLabel::not_read:
        case SeenLabel::ours:
            break;
    }
    return of_lists(seen);
}

}  // namespace cowslip
