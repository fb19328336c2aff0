#include "services/pool_manager/store.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/names.h"
#include "common/thin_pool.h"
#include "store_sql.h"

namespace cowslip {

namespace {

constexpr std::int64_t kApplicationId = 0x434F5753;  // "COWS"
// What makes each version from the one before it.
constexpr std::array<const char*, 2> kMigrations = {
    "ALTER TABLE volume ADD COLUMN mkfs_options TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE volume ADD COLUMN mount_options TEXT NOT NULL DEFAULT '';"
    "CREATE INDEX volume_by_origin ON volume (origin_id);",
    "ALTER TABLE volume ADD COLUMN warm INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE volume ADD COLUMN warm_mounted INTEGER NOT NULL DEFAULT 0;"
    "CREATE INDEX warm_image ON volume (thin_id) WHERE warm > 0;"
    "CREATE INDEX internal_by_origin ON volume (origin_id) WHERE kind = 'internal';"
    "CREATE TABLE operations ("
    "    number INTEGER PRIMARY KEY,"
    "    type TEXT NOT NULL CHECK (type = 'create' OR type = 'template' OR type = 'remove' OR type = 'create_pool' OR"
    "        type = 'rewind' OR type = 'grow' OR type = 'resize' OR type = 'destroy_pool' OR type = 'warm'),"
    "    thin_id INTEGER, request_id TEXT, body BLOB NOT NULL, attempts INTEGER NOT NULL,"
    "    deaths INTEGER NOT NULL DEFAULT 0"
    ") STRICT;"
    "INSERT INTO operations SELECT number, type, thin_id, request_id, body, attempts, deaths FROM operation;"
    "DROP TABLE operation;"
    "ALTER TABLE operations RENAME TO operation;"};
constexpr std::int64_t kVersion = 1 + kMigrations.size();

constexpr const char* kVolumeColumns =
    "thin_id, name, template, kind, state, filling, parent, origin_id, size_sectors, fs_sectors, fs, born_min, "
    "born_max, "
    "created_at, labels, mkfs_options, mount_options, warm, warm_mounted";

constexpr const char* kCountReady = "SELECT count(*) FROM volume WHERE name IS NOT NULL AND state = 'ready'";

// The only column of the only row, which there always is.
std::int64_t number_of(Database& database, const char* sql) {
    Query query = database.query(sql);
    query.next();
    return query.integer(0);
}

VolumeRow read_volume(const Query& row) {
    VolumeRow volume;
    volume.thin_id = static_cast<std::uint32_t>(row.integer(0));
    if (!row.is_null(1)) volume.name = row.text(1);
    if (!row.is_null(2)) volume.template_key = row.text(2);
    volume.kind = row.text(3);
    volume.state = row.text(4);
    volume.filling = row.integer(5) != 0;
    volume.parent = row.text(6);
    if (!row.is_null(7)) volume.origin_id = static_cast<std::uint32_t>(row.integer(7));
    volume.size_sectors = row.uinteger(8);
    volume.fs_sectors = row.uinteger(9);
    volume.fs = row.text(10);
    volume.born_min = row.uinteger(11);
    volume.born_max = row.uinteger(12);
    volume.created_at = row.integer(13);
    if (auto labels = decode_as<schemas::Labels>(row.text(14))) volume.labels = std::move(*labels);
    volume.options = {.mkfs = row.text(15), .mount = row.text(16)};
    volume.warm = static_cast<std::uint32_t>(row.integer(17));
    volume.warm_mounted = row.integer(18) != 0;
    return volume;
}

std::optional<VolumeRow> read_one_volume(Query& query) {
    if (!query.next()) return std::nullopt;
    return read_volume(query);
}

LeaseRow read_lease(const Query& row, int first) {
    return {.thin_id = static_cast<std::uint32_t>(row.integer(first)),
            .holder = row.text(first + 1),
            .mode = row.text(first + 2),
            .mount_label = row.text(first + 3),
            .taken_at = row.integer(first + 4)};
}

constexpr std::array<std::string_view, 9> kOperationTypes = {
    "create", "template", "remove", "create_pool", "rewind", "grow", "resize", "destroy_pool", "warm"};

// The schema's CHECK allows no other word.
OperationType parse_operation_type(std::string_view word) {
    const auto found = std::find(kOperationTypes.begin(), kOperationTypes.end(), word);
    return static_cast<OperationType>(found - kOperationTypes.begin());
}

}  // namespace

std::string format_time(std::int64_t milliseconds) {
    const std::time_t seconds = milliseconds / 1000;
    std::tm parts{};
    gmtime_r(&seconds, &parts);
    return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                       parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, milliseconds % 1000);
}

Result<Store> Store::open(const std::string& file, const StoreDisk& disk) {
    const auto refuse = [&](const std::string& why) {
        return Error{
            Errc::needs_repair,
            fmt::format("open store '{}': {}; nothing was changed. Next: keep a copy of it and its -wal, look at "
                        "its disk, and put a copy in its place that is whole",
                        file, why)};
    };
    Result<Database> database = Database::open(file, disk);
    if (!database) return refuse(database.error().message);
    try {
        Store store(std::move(*database), disk);
        if (const std::string damage = store.database_.find_damage(); !damage.empty()) return refuse(damage);
        if (auto migrated = store.migrate(); !migrated) return refuse(migrated.error().message);
        {
            Query newest = store.database_.query("SELECT max(at), max(seq) FROM event");
            newest.next();
            store.set_time(newest.integer(0));
            store.next_event_ = newest.uinteger(1) + 1;
        }
        store.committed_next_event_ = store.next_event_;
        return store;
    } catch (const StoreFailure& failure) {
        if (failure.kind() == StoreFailure::Kind::full) throw;
        return refuse(failure.what());
    }
}

// Each migration is one transaction that ends with its user_version.
Result<void> Store::migrate() {
    if (number_of(database_, "PRAGMA user_version") == 0 && number_of(database_, "PRAGMA application_id") == 0 &&
        number_of(database_, "SELECT count(*) FROM sqlite_schema") == 0) {
        TRY(
            database_.execute(fmt::format("BEGIN IMMEDIATE; {} PRAGMA application_id={}; PRAGMA user_version={}; "
                                          "INSERT INTO host VALUES (1, '{}', '', 1, 0, 0); COMMIT;",
                                          kStoreSql, kApplicationId, kVersion, new_uuid())));
        made_now_ = true;
        return {};
    }
    TRY(check_kind(database_));
    for (std::int64_t version = number_of(database_, "PRAGMA user_version"); version < kVersion; ++version) {
        TRY(database_.execute(fmt::format("BEGIN IMMEDIATE; {} PRAGMA user_version={}; COMMIT;",
                                          kMigrations.at(static_cast<std::size_t>(version - 1)), version + 1)));
        spdlog::info("the store is of version {} now", version + 1);
    }
    return {};
}

Result<void> Store::check_kind(Database& database) {
    const std::int64_t version = number_of(database, "PRAGMA user_version");
    if (number_of(database, "PRAGMA application_id") != kApplicationId) {
        return Error{Errc::needs_repair, "the file is another program's"};
    }
    if (version < 1 || version > kVersion) {
        return Error{Errc::needs_repair, fmt::format("it is of version {}, and this program knows {}: use "
                                                     "the newer cowslip",
                                                     version, kVersion)};
    }
    return {};
}

Result<schemas::StoreCopy> Store::describe(Database& database) {
    schemas::StoreCopy copy;
    Query host = database.query("SELECT store_uuid FROM host");
    if (!host.next()) return Error{Errc::needs_repair, "it does not say whose store it is"};
    copy.store_uuid = host.text(0);
    copy.bytes = database.size_bytes();
    Query pool = database.query("SELECT name, uuid, confirmed FROM pool");
    if (pool.next()) {
        copy.pool = pool.text(0);
        copy.pool_uuid = pool.text(1);
        copy.transaction_id = pool.uinteger(2);
    }
    copy.volumes = static_cast<std::uint64_t>(number_of(database, kCountReady));
    return copy;
}

void Store::set_time(std::int64_t wall_ms) {
    if (wall_ms <= now_ && !now_text_.empty()) return;
    now_ = std::max(now_, wall_ms);
    now_text_ = format_time(now_);
}

void Store::rollback_savepoint() {
    database_.rollback_savepoint();
    events_.resize(std::min(events_.size(), events_before_savepoint_));
    next_event_ = committed_next_event_ + events_.size();
    forget_counts();
    deferring_until_ms_.reset();
    changes_ = database_.changes();
}

void Store::defer_commit(std::int64_t until_ms) {
    deferring_until_ms_ = until_ms;
}

bool Store::commit() {
    release_savepoint();
    const bool changed = database_.commit();
    committed_next_event_ = next_event_;
    deferred_until_ms_.reset();
    undeferred_ = false;
    return changed;
}

std::string Store::store_uuid() {
    Query query = database_.query("SELECT store_uuid FROM host");
    query.next();
    return query.text(0);
}

// A pool that was only being made then is another's by now, or made: a rebuild finds it.
void Store::mark_restored() {
    database_.query("DELETE FROM lease").run();
    database_.query("DELETE FROM operation WHERE type = 'create_pool'").run();
    database_.query("DELETE FROM quarantine WHERE EXISTS (SELECT 1 FROM pool WHERE state = 'formatting')").run();
    database_.query("DELETE FROM pool WHERE state = 'formatting'").run();
    database_.query("UPDATE host SET store_uuid = ?, restored = (SELECT count(*) FROM pool)").bind(new_uuid()).run();
    const auto row = pool();
    append_event("store.restored", row ? row->name : "", {});
}

bool Store::is_restored() {
    return number_of(database_, "SELECT restored FROM host") != 0;
}

std::string Store::boot_id() {
    Query query = database_.query("SELECT boot_id FROM host");
    query.next();
    return query.text(0);
}

void Store::set_boot_id(const std::string& boot_id) {
    database_.query("UPDATE host SET boot_id = ?").bind(boot_id).run();
}

std::int64_t Store::trimmed_at() {
    return number_of(database_, "SELECT trimmed_at FROM host");
}

void Store::set_trimmed_at(std::int64_t wall_ms) {
    database_.query("UPDATE host SET trimmed_at = ?").bind(wall_ms).run();
}

std::uint64_t Store::next_operation() {
    Query query = database_.query("SELECT next_operation FROM host");
    query.next();
    return query.uinteger(0);
}

void Store::reserve_operations(std::uint64_t below) {
    database_.query("UPDATE host SET next_operation = ?").bind(below).run();
}

// ---- pool ------------------------------------------------------------------------------------

std::optional<PoolRow> Store::pool() {
    Query row = database_.query(
        "SELECT name, state, spec, tag, confirmed, planned, next_thin_id, created_at, limits FROM pool");
    if (!row.next()) return std::nullopt;
    PoolRow pool;
    pool.name = row.text(0);
    pool.state = row.text(1);
    if (auto spec = decode_as<schemas::PoolSpec>(row.text(2))) pool.spec = std::move(*spec);
    pool.tag = static_cast<std::uint32_t>(row.integer(3));
    pool.confirmed = row.uinteger(4);
    pool.planned = row.uinteger(5);
    pool.next_thin_id = static_cast<std::uint32_t>(row.integer(6));
    pool.created_at = row.integer(7);
    if (auto limits = decode_as<schemas::PoolLimits>(row.text(8))) pool.limits = *limits;
    return pool;
}

void Store::insert_pool(const PoolRow& row) {
    database_
        .query(
            "INSERT INTO pool (one, name, uuid, state, spec, limits, tag, confirmed, planned, next_thin_id, "
            "created_at) "
            "VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        .bind(row.name)
        .bind(row.spec.pool.uuid)
        .bind(row.state)
        .bind_blob(encode(row.spec))
        .bind_blob(encode(row.limits))
        .bind(row.tag)
        .bind(row.confirmed)
        .bind(row.planned)
        .bind(row.next_thin_id)
        .bind(now_)
        .run();
}

void Store::set_pool_state(const std::string& state) {
    database_.query("UPDATE pool SET state = ?").bind(state).run();
}

void Store::set_pool_limits(const schemas::PoolLimits& limits) {
    database_.query("UPDATE pool SET limits = ?").bind_blob(encode(limits)).run();
}

void Store::set_pool_spec(const schemas::PoolSpec& spec) {
    database_.query("UPDATE pool SET spec = ?").bind_blob(encode(spec)).run();
}

void Store::set_planned(std::uint64_t transaction_id) {
    database_.query("UPDATE pool SET planned = ?").bind(transaction_id).run();
}

void Store::set_confirmed(std::uint64_t transaction_id) {
    database_.query("UPDATE pool SET confirmed = ?").bind(transaction_id).run();
}

void Store::delete_pool() {
    database_.query("DELETE FROM quarantine").run();
    database_.query("DELETE FROM pool").run();
}

void Store::delete_pool_and_volumes() {
    database_.query("DELETE FROM volume").run();
    forget_counts();
    delete_pool();
}

void Store::forget_counts() {
    labelled_.reset();
    promised_.reset();
    kept_from_.reset();
}

void Store::begin_anew() {
    database_.query("DELETE FROM lease").run();
    database_.query("DELETE FROM operation").run();
    database_.query("DELETE FROM volume").run();
    forget_counts();
    database_.query("DELETE FROM request WHERE reply IS NULL").run();
    delete_pool();
    database_.query("UPDATE host SET store_uuid = ?, restored = 0").bind(new_uuid()).run();
}

Result<std::uint32_t> Store::spend_thin_id() {
    std::uint32_t id = 0;
    {
        Query query = database_.query("SELECT next_thin_id FROM pool");
        if (!query.next()) return Error{Errc::unavailable, "there is no pool yet: cowslip pool create"};
        id = static_cast<std::uint32_t>(query.integer(0));
    }
    if (id > kLastThinId) {
        return Error{Errc::no_space,
                     "all 16777215 thin ids of the pool are used up: `cowslip cleanup`, then `cowslip pool rewind`"};
    }
    database_.query("UPDATE pool SET next_thin_id = ?").bind(id + 1).run();
    return id;
}

// In their order, so none gets an id that another has still.
std::uint32_t Store::count_thin_ids_anew() {
    std::uint32_t next = kFirstThinId;
    std::map<std::uint32_t, std::uint32_t> counted;
    for (const ThinRow& row : thin_ids()) counted[row.thin_id] = 0;
    for (auto& [old, anew] : counted) {
        anew = next++;
        database_.query("UPDATE volume SET thin_id = ? WHERE thin_id = ?").bind(anew).bind(old).run();
    }
    // An origin that is gone is none any more: its id would be another's.
    std::map<std::uint32_t, std::uint32_t> origins;
    {
        Query query = database_.query("SELECT thin_id, origin_id FROM volume WHERE origin_id IS NOT NULL");
        while (query.next()) {
            origins[static_cast<std::uint32_t>(query.integer(0))] = static_cast<std::uint32_t>(query.integer(1));
        }
    }
    for (const auto& [thin_id, origin] : origins) {
        Query query = database_.query("UPDATE volume SET origin_id = ? WHERE thin_id = ?");
        const auto found = counted.find(origin);
        found != counted.end() ? query.bind(found->second) : query.bind_null();
        query.bind(thin_id);
        query.run();
    }
    database_.query("UPDATE pool SET next_thin_id = ?").bind(next).run();
    return next;
}

void Store::raise_next_thin_id(std::uint32_t least) {
    database_.query("UPDATE pool SET next_thin_id = max(next_thin_id, ?)").bind(least).run();
}

// ---- volumes ---------------------------------------------------------------------------------

std::optional<VolumeRow> Store::find_volume(std::string_view name) {
    static const std::string sql = fmt::format("SELECT {} FROM volume WHERE name = ?", kVolumeColumns);
    Query query = database_.query(sql.c_str());
    query.bind(name);
    return read_one_volume(query);
}

std::optional<VolumeRow> Store::volume(std::uint32_t thin_id) {
    static const std::string sql = fmt::format("SELECT {} FROM volume WHERE thin_id = ?", kVolumeColumns);
    Query query = database_.query(sql.c_str());
    query.bind(thin_id);
    return read_one_volume(query);
}

std::optional<VolumeRow> Store::find_template(std::string_view key) {
    static const std::string sql = fmt::format("SELECT {} FROM volume WHERE template = ?", kVolumeColumns);
    Query query = database_.query(sql.c_str());
    query.bind(key);
    return read_one_volume(query);
}

std::vector<VolumeRow> Store::list_volumes(std::string_view after, std::uint32_t limit) {
    static const std::string sql =
        fmt::format("SELECT {} FROM volume WHERE name > ? ORDER BY name LIMIT ?", kVolumeColumns);
    Query query = database_.query(sql.c_str());
    query.bind(after).bind(limit);
    std::vector<VolumeRow> rows;
    while (query.next()) rows.push_back(read_volume(query));
    return rows;
}

std::vector<VolumeRow> Store::volumes_after(std::int64_t thin_id, std::uint32_t limit) {
    static const std::string sql =
        fmt::format("SELECT {} FROM volume WHERE thin_id > ? ORDER BY thin_id LIMIT ?", kVolumeColumns);
    Query query = database_.query(sql.c_str());
    query.bind(thin_id).bind(limit);
    std::vector<VolumeRow> rows;
    while (query.next()) rows.push_back(read_volume(query));
    return rows;
}

std::vector<ThinRow> Store::thin_ids() {
    Query query = database_.query("SELECT thin_id, name, state, size_sectors, born_min, born_max FROM volume");
    std::vector<ThinRow> rows;
    while (query.next()) {
        ThinRow row;
        row.thin_id = static_cast<std::uint32_t>(query.integer(0));
        if (!query.is_null(1)) row.name = query.text(1);
        row.state = query.text(2);
        row.size_sectors = query.uinteger(3);
        row.born_min = query.uinteger(4);
        row.born_max = query.uinteger(5);
        rows.push_back(std::move(row));
    }
    return rows;
}

std::uint64_t Store::count_ready_volumes() {
    return static_cast<std::uint64_t>(number_of(database_, kCountReady));
}

void Store::insert_volume(const VolumeRow& row) {
    static const std::string sql = fmt::format(
        "INSERT INTO volume ({}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", kVolumeColumns);
    Query query = database_.query(sql.c_str());
    query.bind(row.thin_id);
    row.name ? query.bind(*row.name) : query.bind_null();
    row.template_key ? query.bind(*row.template_key) : query.bind_null();
    query.bind(row.kind).bind(row.state).bind(std::int64_t{row.filling}).bind(row.parent);
    row.origin_id ? query.bind(*row.origin_id) : query.bind_null();
    query.bind(row.size_sectors).bind(row.fs_sectors).bind(row.fs).bind(row.born_min).bind(row.born_max);
    query.bind(row.created_at != 0 ? row.created_at : now_).bind_blob(encode(row.labels));
    query.bind(row.options.mkfs).bind(row.options.mount).bind(row.warm).bind(std::int64_t{row.warm_mounted});
    query.run();
    count_size(row, Count::add);
}

void Store::set_volume_ready(std::uint32_t thin_id, std::uint64_t born_max, bool filling) {
    database_.query("UPDATE volume SET state = ?, filling = ?, born_max = ? WHERE thin_id = ?")
        .bind(filling ? "creating" : "ready")
        .bind(std::int64_t{filling})
        .bind(born_max)
        .bind(thin_id)
        .run();
}

void Store::set_born(std::uint32_t thin_id, std::uint64_t born_max) {
    database_.query("UPDATE volume SET born_max = ? WHERE thin_id = ?").bind(born_max).bind(thin_id).run();
}

void Store::set_volume_filled(std::uint32_t thin_id) {
    database_.query("UPDATE volume SET state = 'ready', filling = 0 WHERE thin_id = ?").bind(thin_id).run();
}

void Store::set_volume_removing(std::uint32_t thin_id) {
    count_size(thin_id, Count::take);
    database_.query("UPDATE volume SET state = 'removing', name = NULL, template = NULL, warm = 0 WHERE thin_id = ?")
        .bind(thin_id)
        .run();
}

void Store::set_size(std::uint32_t thin_id, std::uint64_t sectors) {
    count_size(thin_id, Count::take);
    database_
        .query(
            "UPDATE volume SET size_sectors = ?1, fs_sectors = CASE fs WHEN 'none' THEN ?1 ELSE fs_sectors END "
            "WHERE thin_id = ?2")
        .bind(sectors)
        .bind(thin_id)
        .run();
    count_size(thin_id, Count::add);
}

void Store::set_volume_image(std::uint32_t thin_id) {
    database_.query("UPDATE volume SET kind = 'image' WHERE thin_id = ?").bind(thin_id).run();
}

void Store::rename_volume(std::uint32_t thin_id, std::string_view name) {
    database_.query("UPDATE volume SET name = ? WHERE thin_id = ?").bind(name).bind(thin_id).run();
    database_.query("UPDATE volume SET parent = ? WHERE origin_id = ?").bind(name).bind(thin_id).run();
}

void Store::set_labels(std::uint32_t thin_id, const schemas::Labels& labels) {
    count_size(thin_id, Count::take);
    database_.query("UPDATE volume SET labels = ? WHERE thin_id = ?").bind_blob(encode(labels)).bind(thin_id).run();
    count_size(thin_id, Count::add);
}

void Store::set_warm(std::uint32_t thin_id, std::uint32_t count, bool mounted) {
    database_.query("UPDATE volume SET warm = ?, warm_mounted = ? WHERE thin_id = ?")
        .bind(count)
        .bind(std::int64_t{mounted})
        .bind(thin_id)
        .run();
}

std::vector<VolumeRow> Store::warm_images() {
    static const std::string sql =
        fmt::format("SELECT {} FROM volume INDEXED BY warm_image WHERE warm > 0 ORDER BY thin_id", kVolumeColumns);
    Query query = database_.query(sql.c_str());
    std::vector<VolumeRow> rows;
    while (query.next()) rows.push_back(read_volume(query));
    return rows;
}

std::vector<VolumeRow> Store::warm_clones(std::uint32_t thin_id) {
    static const std::string sql = fmt::format(
        "SELECT {} FROM volume INDEXED BY internal_by_origin WHERE origin_id = ? AND kind = 'internal' AND "
        "state = 'ready' AND template IS NULL ORDER BY thin_id",
        kVolumeColumns);
    Query query = database_.query(sql.c_str());
    query.bind(thin_id);
    std::vector<VolumeRow> rows;
    while (query.next()) rows.push_back(read_volume(query));
    return rows;
}

void Store::name_warm_clone(std::uint32_t thin_id, const VolumeRow& as) {
    database_
        .query(
            "UPDATE volume SET name = ?, kind = 'volume', parent = ?, labels = ?, mount_options = ?, created_at = ? "
            "WHERE thin_id = ?")
        .bind(*as.name)
        .bind(as.parent)
        .bind_blob(encode(as.labels))
        .bind(as.options.mount)
        .bind(now_)
        .bind(thin_id)
        .run();
    count_size(thin_id, Count::add);
}

bool Store::has_clones(std::uint32_t thin_id) {
    Query query = database_.query("SELECT 1 FROM volume WHERE origin_id = ? LIMIT 1");
    query.bind(thin_id);
    return query.next();
}

std::uint64_t Store::labelled_bytes(const std::string& key, const std::string& value) {
    if (!labelled_) {
        labelled_.emplace();
        constexpr std::uint32_t kPage = 1000;
        for (auto page = list_volumes("", kPage); !page.empty(); page = list_volumes(*page.back().name, kPage)) {
            for (const VolumeRow& row : page) count_labels(row, Count::add);
        }
    }
    const auto found = labelled_->find({key, value});
    return found == labelled_->end() ? 0 : found->second;
}

std::uint64_t Store::promised_bytes() {
    if (!promised_) {
        const auto sectors = number_of(database_, "SELECT total(size_sectors) FROM volume WHERE name IS NOT NULL");
        promised_ = static_cast<std::uint64_t>(sectors) * kSectorBytes;
    }
    return *promised_;
}

void Store::count_size(std::uint32_t thin_id, Count count) {
    if (!labelled_ && !promised_) return;
    if (const auto row = volume(thin_id)) count_size(*row, count);
}

void Store::count_size(const VolumeRow& row, Count count) {
    if (!row.name) return;
    const std::uint64_t own = row.size_sectors * kSectorBytes;
    if (promised_) *promised_ = count == Count::add ? *promised_ + own : *promised_ - std::min(*promised_, own);
    if (labelled_) count_labels(row, count);
}

void Store::count_labels(const VolumeRow& row, Count count) {
    const std::uint64_t own = row.size_sectors * kSectorBytes;
    for (const auto& label : row.labels) {
        std::uint64_t& bytes = (*labelled_)[{label.first, label.second}];
        bytes = count == Count::add ? bytes + own : bytes - std::min(bytes, own);
        if (bytes == 0) labelled_->erase({label.first, label.second});
    }
}

void Store::set_fs_sectors(std::uint32_t thin_id, std::uint64_t sectors) {
    database_.query("UPDATE volume SET fs_sectors = ? WHERE thin_id = ?").bind(sectors).bind(thin_id).run();
}

void Store::move_volume(std::uint32_t from, std::uint32_t to) {
    database_.query("UPDATE volume SET thin_id = ? WHERE thin_id = ?").bind(to).bind(from).run();
    database_.query("UPDATE operation SET thin_id = ?, attempts = 1 WHERE thin_id = ?").bind(to).bind(from).run();
}

void Store::delete_volume(std::uint32_t thin_id) {
    database_.query("DELETE FROM volume WHERE thin_id = ?").bind(thin_id).run();
}

// ---- leases ----------------------------------------------------------------------------------

std::vector<LeaseRow> Store::leases(std::uint32_t thin_id) {
    Query query = database_.query(
        "SELECT thin_id, holder, mode, mount_label, taken_at FROM lease WHERE thin_id = ? ORDER BY holder");
    query.bind(thin_id);
    std::vector<LeaseRow> rows;
    while (query.next()) rows.push_back(read_lease(query, 0));
    return rows;
}

std::vector<NamedLease> Store::list_leases(std::string_view after_name, std::string_view after_holder,
                                           std::uint32_t limit) {
    Query query = database_.query(
        "SELECT name, lease.thin_id, holder, mode, mount_label, taken_at FROM lease JOIN volume USING (thin_id) "
        "WHERE (name, holder) > (?, ?) ORDER BY name, holder LIMIT ?");
    query.bind(after_name).bind(after_holder).bind(limit);
    std::vector<NamedLease> rows;
    while (query.next()) rows.push_back({query.text(0), read_lease(query, 1)});
    return rows;
}

std::vector<std::uint32_t> Store::leased_volumes() {
    Query query = database_.query("SELECT DISTINCT thin_id FROM lease");
    std::vector<std::uint32_t> ids;
    while (query.next()) ids.push_back(static_cast<std::uint32_t>(query.integer(0)));
    return ids;
}

std::uint64_t Store::count_leases() {
    Query query = database_.query("SELECT count(*) FROM lease");
    query.next();
    return query.uinteger(0);
}

void Store::insert_lease(const LeaseRow& row) {
    database_.query("INSERT INTO lease (thin_id, holder, mode, mount_label, taken_at) VALUES (?, ?, ?, ?, ?)")
        .bind(row.thin_id)
        .bind(row.holder)
        .bind(row.mode)
        .bind(row.mount_label)
        .bind(now_)
        .run();
}

void Store::delete_lease(std::uint32_t thin_id, std::string_view holder) {
    database_.query("DELETE FROM lease WHERE thin_id = ? AND holder = ?").bind(thin_id).bind(holder).run();
}

void Store::delete_leases(std::uint32_t thin_id) {
    database_.query("DELETE FROM lease WHERE thin_id = ?").bind(thin_id).run();
}

// ---- operations and requests -----------------------------------------------------------------

std::vector<OperationRow> Store::unfinished_operations() {
    Query query = database_.query(
        "SELECT number, type, thin_id, request_id, body, attempts, deaths FROM operation ORDER BY number");
    std::vector<OperationRow> rows;
    while (query.next()) {
        OperationRow row;
        row.number = query.uinteger(0);
        row.type = parse_operation_type(query.text(1));
        if (!query.is_null(2)) row.thin_id = static_cast<std::uint32_t>(query.integer(2));
        row.request_id = query.text(3);
        row.body = query.text(4);
        row.attempts = static_cast<std::uint32_t>(query.integer(5));
        row.deaths = static_cast<std::uint32_t>(query.integer(6));
        rows.push_back(std::move(row));
    }
    return rows;
}

void Store::insert_operation(const OperationRow& row) {
    Query query = database_.query(
        "INSERT INTO operation (number, type, thin_id, request_id, body, attempts) VALUES (?, ?, ?, ?, ?, ?)");
    query.bind(row.number).bind(kOperationTypes.at(static_cast<std::size_t>(row.type)));
    row.thin_id ? query.bind(*row.thin_id) : query.bind_null();
    row.request_id.empty() ? query.bind_null() : query.bind(row.request_id);
    query.bind_blob(row.body).bind(row.attempts);
    query.run();
}

void Store::set_attempts(std::uint64_t number, std::uint32_t attempts, std::uint32_t deaths) {
    database_.query("UPDATE operation SET attempts = ?, deaths = ? WHERE number = ?")
        .bind(attempts)
        .bind(deaths)
        .bind(number)
        .run();
}

void Store::delete_operation(std::uint64_t number) {
    database_.query("DELETE FROM operation WHERE number = ?").bind(number).run();
}

std::optional<RequestRow> Store::request(std::string_view request_id) {
    Query query = database_.query("SELECT digest, reply FROM request WHERE request_id = ?");
    query.bind(request_id);
    if (!query.next()) return std::nullopt;
    RequestRow row;
    row.digest = query.text(0);
    if (!query.is_null(1)) row.reply = query.text(1);
    return row;
}

void Store::insert_request(std::string_view request_id, std::string_view digest) {
    database_.query("INSERT INTO request (request_id, digest, reply, at) VALUES (?, ?, NULL, ?)")
        .bind(request_id)
        .bind_blob(digest)
        .bind(now_)
        .run();
}

void Store::set_reply(std::string_view request_id, std::string_view digest, std::string_view reply) {
    database_
        .query(
            "INSERT INTO request (request_id, digest, reply, at) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (request_id) DO UPDATE SET reply = excluded.reply, at = excluded.at")
        .bind(request_id)
        .bind_blob(digest)
        .bind_blob(reply)
        .bind(now_)
        .run();
    ++answers_since_count_;
}

void Store::forget_request(std::string_view request_id) {
    database_.query("DELETE FROM request WHERE request_id = ?").bind(request_id).run();
    kept_from_.reset();
}

void Store::purge(std::uint32_t most) {
    constexpr std::int64_t kHour = 3600 * 1000;
    constexpr std::uint32_t kAnswersBetweenCounts = 1000;
    // 100,000 rows are counted for it, so not each time: what it was before forgets too few, never too many.
    if (!kept_from_ || answers_since_count_ >= kAnswersBetweenCounts) {
        kept_from_ =
            number_of(database_, "SELECT ifnull((SELECT at FROM request ORDER BY at DESC LIMIT 1 OFFSET 100000), 0)");
        answers_since_count_ = 0;
    }
    database_
        .query(
            "DELETE FROM request WHERE request_id IN (SELECT request_id FROM request WHERE reply IS NOT NULL "
            "AND at < ? ORDER BY at LIMIT ?)")
        .bind(std::min(now_ - kHour, *kept_from_))
        .bind(most)
        .run();
    database_.query("DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE seq < ? ORDER BY seq LIMIT ?)")
        .bind(static_cast<std::int64_t>(next_event_) - 100000)
        .bind(most)
        .run();
}

// ---- events, quarantine ----------------------------------------------------------------------

void Store::append_event(std::string_view type, std::string_view subject, const EventBody& body) {
    database_.query("INSERT INTO event (seq, at, type, subject, body) VALUES (?, ?, ?, ?, ?)")
        .bind(next_event_)
        .bind(now_)
        .bind(type)
        .bind(subject)
        .bind_blob(encode(body))
        .run();
    events_.push_back({next_event_, now_text_, std::string(type), std::string(subject), body});
    ++next_event_;
}

void Store::release_savepoint() {
    database_.release_savepoint();
    events_before_savepoint_ = events_.size();
    const auto until_ms = std::exchange(deferring_until_ms_, std::nullopt);
    const std::int64_t before = std::exchange(changes_, database_.changes());
    if (changes_ == before) return;
    if (until_ms) deferred_until_ms_ = std::min(deferred_until_ms_.value_or(*until_ms), *until_ms);
    undeferred_ = undeferred_ || !until_ms;
}

std::vector<StoredEvent> Store::take_events() {
    events_before_savepoint_ = 0;
    return std::exchange(events_, {});
}

std::vector<StoredEvent> Store::events_since(std::uint64_t seq, std::uint32_t limit) {
    Query query = database_.query(
        "SELECT seq, at, type, subject, body FROM event WHERE seq > ? AND seq < ? ORDER BY seq LIMIT ?");
    query.bind(seq).bind(committed_next_event_).bind(limit);
    std::vector<StoredEvent> events;
    while (query.next()) {
        StoredEvent event{query.uinteger(0), format_time(query.integer(1)), query.text(2), query.text(3), {}};
        if (auto body = decode_as<EventBody>(query.text(4))) event.body = std::move(*body);
        events.push_back(std::move(event));
    }
    return events;
}

std::uint64_t Store::oldest_event_seq() {
    Query query = database_.query("SELECT min(seq) FROM event");
    query.next();
    return query.uinteger(0);
}

void Store::quarantine(std::uint32_t thin_id, const std::string& reason) {
    database_.query("INSERT OR IGNORE INTO quarantine (thin_id, reason, at) VALUES (?, ?, ?)")
        .bind(thin_id)
        .bind(reason)
        .bind(now_)
        .run();
}

void Store::end_quarantine(std::uint32_t thin_id) {
    database_.query("DELETE FROM quarantine WHERE thin_id = ?").bind(thin_id).run();
}

std::vector<std::pair<std::uint32_t, std::string>> Store::quarantined() {
    Query query = database_.query("SELECT thin_id, reason FROM quarantine ORDER BY thin_id LIMIT 1000");
    std::vector<std::pair<std::uint32_t, std::string>> rows;
    while (query.next()) rows.emplace_back(static_cast<std::uint32_t>(query.integer(0)), query.text(1));
    return rows;
}

}  // namespace cowslip
