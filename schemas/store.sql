-- The pool manager's store: the one truth about names, thin ids, transaction ids and leases. One
-- process opens it, over one connection. Times are milliseconds since 1970 and never run backwards,
-- whatever the clock does. Kernel state (which devices are active, what is mounted) is not here: the
-- kernel is asked.
--
-- A CHECK with IN (...) of three words makes SQLite build a table of them for each row: so it is OR.

CREATE TABLE host (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    store_uuid     TEXT NOT NULL,     -- New after a restore and after a rebuild.
    boot_id        TEXT NOT NULL,     -- Of the kernel that the leases were last true under.
    next_operation INTEGER NOT NULL,  -- Operation numbers below this may have been used.
    restored       INTEGER NOT NULL,  -- 1: put in place from a backup. Its rows are not believed before a rebuild.
    trimmed_at     INTEGER NOT NULL   -- When all mounted volumes were last trimmed by themselves; 0: never.
) STRICT;

CREATE TABLE pool (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    name          TEXT NOT NULL,
    uuid          TEXT NOT NULL,
    -- formatting is the only state in which a zeroed superblock may be loaded: the kernel formats it.
    -- needs_repair: its metadata were found damaged, so it is not loaded before they are mended.
    state         TEXT NOT NULL CHECK (state = 'formatting' OR state = 'ready' OR state = 'stopped' OR
                                       state = 'needs_repair'),
    spec          BLOB NOT NULL,      -- schemas::PoolSpec, msgpack.
    limits        BLOB NOT NULL,      -- schemas::PoolLimits, msgpack.
    tag           INTEGER NOT NULL CHECK (tag BETWEEN 1 AND 1048575),
    -- Transaction ids are tag<<32 | generation. Each status ever read shows one in [confirmed,
    -- planned]: planned is committed before its compare-and-swap is sent, confirmed when a good
    -- status has shown it.
    confirmed     INTEGER NOT NULL,
    planned       INTEGER NOT NULL,
    -- Only goes up, so a thin id is never used twice. SQLite would reuse the rowid of a deleted last row.
    next_thin_id  INTEGER NOT NULL CHECK (next_thin_id BETWEEN 2 AND 16777216),
    created_at    INTEGER NOT NULL,
    CHECK (confirmed <= planned)
) STRICT;

-- A row is a life: the thin id. The name is a pointer that rm clears in the commit that answers.
CREATE TABLE volume (
    thin_id       INTEGER PRIMARY KEY CHECK (thin_id BETWEEN 2 AND 16777215),
    name          TEXT UNIQUE,        -- NULL: removed, or internal.
    template      TEXT UNIQUE,        -- "ext4/20971520": the formatted empty volume of that size, "/inode-size=512" behind
                                      -- it if mkfs had options. Internal.
    kind          TEXT NOT NULL CHECK (kind = 'volume' OR kind = 'image' OR kind = 'internal'),
    state         TEXT NOT NULL CHECK (state = 'creating' OR state = 'ready' OR state = 'removing'),
    filling       INTEGER NOT NULL DEFAULT 0,  -- In the pool, but `creating` until its filler says it is whole.
    parent        TEXT NOT NULL,      -- The last name of what it was cloned from; '' for none.
    origin_id     INTEGER,            -- The thin id it is a snapshot of; NULL for none.
    size_sectors  INTEGER NOT NULL CHECK (size_sectors > 0),
    fs_sectors    INTEGER NOT NULL,   -- What its file system fills; less than size_sectors: to be grown at the next mount.
    fs            TEXT NOT NULL CHECK (fs = 'ext4' OR fs = 'xfs' OR fs = 'none'),
    born_min      INTEGER NOT NULL,   -- Its birth mark in the pool lies in [born_min, born_max];
    born_max      INTEGER NOT NULL,   -- 0 while unfinished: then up to pool.planned.
    created_at    INTEGER NOT NULL,
    labels        BLOB NOT NULL,      -- msgpack map.
    mkfs_options  TEXT NOT NULL DEFAULT '',  -- common/filesystem_options.h. These two are there since version 2.
    mount_options TEXT NOT NULL DEFAULT '',
    warm          INTEGER NOT NULL DEFAULT 0,  -- Clones of this image that are kept ready. These two are there since version 3.
    warm_mounted  INTEGER NOT NULL DEFAULT 0,  -- 1: and mounted.
    CHECK (state <> 'removing' OR name IS NULL)
) STRICT;

CREATE INDEX volume_by_origin ON volume (origin_id);  -- Since version 2.
-- Since version 3. A clone that is kept ready is internal, has no template, and its origin is the image.
CREATE INDEX warm_image ON volume (thin_id) WHERE warm > 0;
CREATE INDEX internal_by_origin ON volume (origin_id) WHERE kind = 'internal';

-- An accepted change that is not finished. Its row goes in the commit that finishes it.
CREATE TABLE operation (
    number        INTEGER PRIMARY KEY,
    type          TEXT NOT NULL CHECK (type = 'create' OR type = 'template' OR type = 'remove' OR type = 'create_pool' OR
                                       type = 'rewind' OR type = 'grow' OR type = 'resize' OR type = 'destroy_pool' OR
                                       type = 'warm'),  -- warm: since version 3.
    thin_id       INTEGER,            -- Of the volume; NULL for the pool.
    request_id    TEXT,               -- Whose answer is owed; NULL once answered, or nobody's.
    body          BLOB NOT NULL,      -- The request's body, msgpack.
    attempts      INTEGER NOT NULL,   -- Copies of its command that may have been carried out, one after the other.
    deaths        INTEGER NOT NULL DEFAULT 0  -- Actors that died of it; at 3 it is parked.
) STRICT;

-- What was answered to an accepted, changing request, so that a repeat gets the same bytes.
CREATE TABLE request (
    request_id    TEXT PRIMARY KEY,
    digest        BLOB NOT NULL,      -- Of type and body: the same id for another request is refused.
    reply         BLOB,               -- The whole reply frame; NULL while the operation goes on.
    at            INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX request_by_time ON request (at);

-- Somebody's right to a volume's device or mount. Written when the mount is there, deleted when it
-- is away; ended by a reboot of the kernel.
CREATE TABLE lease (
    thin_id       INTEGER NOT NULL REFERENCES volume (thin_id),
    holder        TEXT NOT NULL,
    mode          TEXT NOT NULL CHECK (mode = 'mounted_rw' OR mode = 'mounted_ro' OR
                                       mode = 'attached_rw' OR mode = 'attached_ro'),
    mount_label   TEXT NOT NULL,
    taken_at      INTEGER NOT NULL,
    PRIMARY KEY (thin_id, holder)
) STRICT, WITHOUT ROWID;

-- Written in the same commit as the change it tells of; seq has no gaps.
CREATE TABLE event (
    seq           INTEGER PRIMARY KEY,  -- The newest one is never purged: the next is one more.
    at            INTEGER NOT NULL,
    type          TEXT NOT NULL,
    subject       TEXT NOT NULL,
    body          BLOB NOT NULL       -- msgpack map of strings.
) STRICT;

-- Thin ids in our pool that are not ours: never adopted, never deleted.
CREATE TABLE quarantine (
    thin_id       INTEGER PRIMARY KEY,
    reason        TEXT NOT NULL,
    at            INTEGER NOT NULL
) STRICT;
