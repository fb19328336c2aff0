// One example of every message there is, no field of it at its default: what the golden files hold,
// and what a client in another language can try itself against. A new message gets one here.
#pragma once

#include <map>
#include <string>

#include "schemas/device_actor.h"
#include "schemas/envelope.h"
#include "schemas/mount_actor.h"
#include "schemas/pool_manager.h"

namespace cowslip::schemas {

inline const std::string kExampleUuid = "0123456789abcdef0123456789abcdef";

inline PoolRef example_pool_ref() {
    return {.uuid = kExampleUuid, .device = "cowslip-01234567-pool"};
}

inline PoolSpec example_pool_spec() {
    return {.pool = example_pool_ref(),
            .backing = "pair",
            .data_path = "/dev/vdb",
            .metadata_path = "/dev/vdc",
            .data_sectors = 209715200,
            .metadata_sectors = 204800,
            .block_sectors = 256,
            .low_water_blocks = 1000,
            .skip_zeroing = true,
            .discard_passdown = false,
            .queue_if_no_space = true,
            .preallocate = true,
            .devices = {{.path = "/dev/vdd", .id = kExampleUuid}}};
}

inline Verdict example_verdict() {
    return {.error_number = 17,
            .status = "4503599627370497 119/4096 3/1024 - rw discard_passdown error_if_no_space - 64"};
}

inline PoolState example_pool_state() {
    return {.loaded = true,
            .status = example_verdict().status,
            .data_device = "/dev/vdb",
            .metadata_device = "/dev/vdc",
            .superblock = {.zeroed = true,
                           .valid = true,
                           .transaction_id = 4503599627370497,
                           .time = 12,
                           .data_block_sectors = 128,
                           .held_root = 77},
            .spec = example_pool_spec(),
            .open_count = 3,
            .suspended = true,
            .most_data_sectors = 41943040,
            .most_metadata_sectors = 131072};
}

inline Holder example_holder() {
    return {.pid = 4711, .command = "postgres", .detail = "mounted in mount namespace 4026532177 at /data"};
}

inline DeviceRef example_device() {
    return {.path = "/dev/mapper/cowslip-01234567-42", .dm_uuid = "COWSLIP-" + kExampleUuid + "-42"};
}

inline StoreCopy example_store_copy() {
    return {.path = "/var/lib/cowslip/default/store/backups/000012-20261122T101112Z.db",
            .sequence = 12,
            .taken_at = "2026-11-22T10:11:12Z",
            .bytes = 1048576,
            .store_uuid = "fedcba9876543210fedcba9876543210",
            .pool = "default",
            .pool_uuid = kExampleUuid,
            .transaction_id = 4503599627370497,
            .volumes = 12,
            .damage = "it is no whole store",
            .dump = true,
            .no_dump = "the pool is not in service"};
}

inline PoolLimits example_pool_limits() {
    return {.max_bytes = 42949672960,
            .grow_step_bytes = 2147483648,
            .min_free_bytes = 107374182,
            .min_free_metadata_bytes = 3355443,
            .queue_when_full = true,
            .quotas = {{"team=blue", 10737418240}},
            .overprovision_percent = 300};
}

inline PoolStatus::Reply example_pool_status() {
    return {.name = "default",
            .uuid = kExampleUuid,
            .state = "ready",
            .verdict = "orphans",
            .mode = "rw",
            .needs_check = true,
            .transaction_id = 4503599627370497,
            .block_size_bytes = 65536,
            .data = {.used_bytes = 1048576, .total_bytes = 10737418240},
            .metadata = {.used_bytes = 487424, .total_bytes = 16777216},
            .volumes = 12,
            .snapshots_taken = 345,
            .low_water = 67,
            .backing = "loop",
            .features = {"skip_block_zeroing", "preallocated"},
            .data_device = "/dev/loop0",
            .metadata_device = "/dev/loop1",
            .devices = {"/dev/vdd"},
            .reserve_bytes = 10737418240,
            .limits = example_pool_limits(),
            .quotas = {{.label = "team=blue", .bytes = {.used_bytes = 1073741824, .total_bytes = 10737418240}}},
            .warnings = {"metadata is 82 % full"},
            .promised_bytes = 32212254720};
}

inline Volume example_volume() {
    return {.id = "registry.example/app:v1 ☃",
            .parent = "base",
            .kind = "image",
            .state = "ready",
            .thin_id = 42,
            .transaction_id = 4503599627370497,
            .size_bytes = 10737418240,
            .fs = "xfs",
            .created_at = "2026-11-22T10:11:12.345Z",
            .labels = {{"team", "blue"}, {"tier", ""}},
            .leases = {{.holder = "default", .mode = "mounted_rw"}},
            .device = "/dev/mapper/cowslip-01234567-42",
            .mount = "/var/lib/cowslip/default/mnt/x/rootfs",
            .mapped_bytes = 1048576,
            .exclusive_bytes = 262144,
            .shared_bytes = 786432,
            .as_of = "2026-11-22T10:11:12.345Z",
            .mkfs_options = "inode-size=512",
            .mount_options = "nodev",
            .warm = WarmClones{.wanted = 8, .ready = 7, .mounted = true}};
}

using EventBody = std::map<std::string, std::string>;

inline EventOf<EventBody> example_event() {
    return {.seq = 4242,
            .time = "2026-11-22T10:11:12.345Z",
            .type = "volume.created",
            .subject = "app",
            .body = {{"parent", "base"}, {"thin_id", "42"}}};
}

// What goes round a message; the messages themselves come below, without it.
template <class Visitor>
void for_each_envelope(Visitor&& visit) {
    const WireError error{
        .code = "in_use", .message = "'a' is in use", .details = {{"holders", {"x", "y"}}}, .retryable = true};
    visit("envelope.request", RequestOf<VolumeExists>{.v = 1,
                                                      .request_id = "019aa5b0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
                                                      .type = "volume.exists",
                                                      .timeout_ms = 12345,
                                                      .body = {.id = "a"}});
    visit("envelope.reply", ReplyOf<VolumeExists::Reply>{.v = 1, .request_id = "r1", .body = {.exists = true}});
    visit("envelope.error_reply", ErrorReply{.v = 1, .request_id = "r1", .error = error});
    visit("envelope.command",
          CommandOf<Resume>{.v = 1,
                            .operation = 9,
                            .step = 2,
                            .attempt = 3,
                            .type = "device.resume",
                            .body = {.pool = example_pool_ref(), .thin_id = 42, .pool_device = true}});
    visit("envelope.hello",
          FromActorOf<Empty>{
              .v = 1,
              .hello = Hello{.kind = "device", .incarnation = "device-4711-0a1b2c3d", .pid = 4711, .version = "0.1.0"},
              .reply = {}});
    visit("envelope.command_reply",
          FromActorOf<Verdict>{.v = 1,
                               .hello = {},
                               .reply = CommandReplyOf<Verdict>{
                                   .operation = 9, .step = 2, .attempt = 3, .body = example_verdict(), .error = {}}});
    visit("envelope.command_error",
          FromActorOf<Empty>{
              .v = 1,
              .hello = {},
              .reply = CommandReplyOf<Empty>{.operation = 9, .step = 2, .attempt = 3, .body = {}, .error = error}});
    visit("envelope.look", FromActorOf<Empty>{.v = 1, .hello = {}, .reply = {}, .look = true});
    visit("envelope.event", example_event());
    visit("envelope.accepted", Accepted{.accepted = true, .operation = 9});
}

template <class Visitor, class Message>
void visit_message(Visitor&& visit, const Message& request, const typename Message::Reply& reply) {
    visit(std::string(Message::kType) + ".request", request);
    visit(std::string(Message::kType) + ".reply", reply);
}

template <class Visitor>
void for_each_device_message(Visitor&& visit) {
    const PoolRef pool = example_pool_ref();
    const PoolState state = example_pool_state();
    visit_message(visit, CreatePool{.spec = example_pool_spec(), .force = true, .own_transaction_id = 1}, state);
    visit_message(visit, InspectPool{.device = "vg-pool"}, state);
    visit_message(
        visit,
        StartPool{
            .spec = example_pool_spec(), .confirmed = 4503599627370497, .planned = 4503599627370498, .read_only = true},
        state);
    visit_message(
        visit, ExaminePool{.spec = example_pool_spec()},
        {.state = state,
         .listed = true,
         .thins = {{.thin_id = 42, .mapped_blocks = 1024, .transaction_id = 4503599627370497, .exclusive_blocks = 7}}});
    visit_message(visit, StopPool{.spec = example_pool_spec()}, state);
    visit_message(visit,
                  DiscardPool{.spec = example_pool_spec(),
                              .own_transaction_id = 4503599627370497,
                              .thin_ids = {0, 1},
                              .least_transaction_id = 4503599627370496},
                  state);
    visit_message(visit, GrowPool{.spec = example_pool_spec()}, state);
    visit_message(visit, ReadPoolStatus{.pool = pool, .superblock = true, .status_only = true}, state);
    visit_message(visit, SetTransactionId{.pool = pool, .from = 4503599627370497, .to = 4503599627370498},
                  example_verdict());
    visit_message(visit, CreateThin{.pool = pool, .thin_id = 42}, example_verdict());
    visit_message(
        visit,
        CreateSnap{.pool = pool, .thin_id = 43, .origin_id = 42, .origin_active = true, .activate_sectors = 1048576},
        {.verdict = example_verdict(), .torn = true, .resume_error_number = 5});
    visit_message(visit,
                  DiscardThin{.pool = pool,
                              .thin_id = 42,
                              .size_sectors = 20971520,
                              .offset_sectors = 524288,
                              .length_sectors = 524288,
                              .at_once_sectors = 8388608},
                  {.verdict = example_verdict(), .holders = {example_holder()}, .mapped_sectors = 12582912});
    visit_message(visit, DeleteThin{.pool = pool, .thin_id = 42},
                  {.verdict = example_verdict(), .holders = {example_holder()}});
    visit_message(visit, Activate{.pool = pool, .thin_id = 42, .size_sectors = 20971520, .read_only = true},
                  {.error_number = 16, .path = example_device().path, .pool_status = example_verdict().status});
    visit_message(visit, Deactivate{.pool = pool, .thin_id = 42}, {.error_number = 16, .holders = {example_holder()}});
    visit_message(visit,
                  RewindClock{.spec = example_pool_spec(),
                              .confirmed = 4503599627370497,
                              .to = 4503599627370500,
                              .volumes = 12,
                              .spare = "/dev/sdx"},
                  {.superblock = example_pool_state().superblock});
    visit_message(visit, Resume{.pool = pool, .thin_id = 42, .pool_device = true},
                  {.error_number = 6, .was_suspended = true});
    visit_message(visit, ListActive{.pool = pool, .after_thin_id = 41, .mapped = true},
                  {.devices = {{.thin_id = 42,
                                .size_sectors = 20971520,
                                .open_count = 1,
                                .suspended = true,
                                .read_only = true,
                                .live_table = true,
                                .path = example_device().path,
                                .mapped_sectors = 25600}},
                   .more = true});
    visit_message(visit, WriteInternal{.pool = pool, .thin_id = 1, .offset_bytes = 4096, .data = "label"},
                  example_verdict());
    visit_message(visit, ReadInternal{.pool = pool, .thin_id = 1, .offset_bytes = 4096, .length = 8192},
                  {.verdict = example_verdict(), .data = "label"});
    visit_message(visit, FindFilesystem{.pool = pool, .thin_id = 42},
                  {.error_number = 5, .fs = "xfs", .size_sectors = 20971520});
    visit_message(
        visit, ListThins{.pool = pool, .after_thin_id = 41, .release_held = true, .sharing = true},
        {.verdict = example_verdict(),
         .thins = {{.thin_id = 42, .mapped_blocks = 1024, .transaction_id = 4503599627370497, .exclusive_blocks = 7}},
         .more = true});
    visit_message(visit,
                  DumpMetadata{.pool = example_pool_ref(),
                               .name = "000012-20261122T101112Z",
                               .keep = {"000011-20261122T091112Z"},
                               .release_held = true},
                  {.verdict = example_verdict(), .bytes = 4711});
    visit_message(visit, CheckMetadata{.spec = example_pool_spec()}, {.sound = true, .report = "bad checksum"});
    visit_message(
        visit,
        RepairMetadata{
            .spec = example_pool_spec(), .spare = "/dev/vdd", .transaction_id = 4503599627370497, .after_thin_id = 41},
        {.sound = true,
         .report = "bad checksum",
         .transaction_id = 4503599627370497,
         .thins = {{.thin_id = 42, .mapped_blocks = 7, .blocks_before = 9}},
         .more = true});
    visit_message(visit, ReplaceMetadata{.spec = example_pool_spec()},
                  {.damaged_copy = "/var/lib/cowslip/default/pool/metadata.damaged-1"});
}

template <class Visitor>
void for_each_mount_message(Visitor&& visit) {
    visit_message(
        visit,
        MakeFilesystem{.device = example_device(), .fs = "ext4", .stale_blocks = true, .options = "inode-size=512"},
        {});
    visit_message(visit,
                  Mount{.device = example_device(),
                        .directory = "a%2Fb",
                        .id = "a/b",
                        .fs = "xfs",
                        .read_only = true,
                        .mount_label = "system_u:object_r:container_file_t:s0:c1,c2",
                        .grow = true,
                        .options = "commit=30,nodev"},
                  {.path = "/var/lib/cowslip/default/mnt/a%2Fb/rootfs", .grown = true});
    visit_message(visit,
                  Unmount{.directory = "a%2Fb",
                          .dm_uuid = example_device().dm_uuid,
                          .force = true,
                          .pool_sound = true,
                          .shut_down = true},
                  {.busy = true, .holders = {example_holder()}, .sync_error = 28});
    visit_message(
        visit, RenameMount{.from = ".warm-42", .directory = "a%2Fb", .id = "a/b", .dm_uuid = example_device().dm_uuid},
        {.path = "/var/lib/cowslip/default/mnt/a%2Fb/rootfs"});
    visit_message(visit,
                  Trim{.directory = "a%2Fb",
                       .dm_uuid = example_device().dm_uuid,
                       .offset_bytes = 268435456,
                       .length_bytes = 268435456},
                  {.trimmed_bytes = 1048576});
    visit_message(visit, ListMounts{.after = "a"},
                  {.mounts = {{.directory = "a%2Fb",
                               .id = "a/b",
                               .dm_uuid = example_device().dm_uuid,
                               .read_only = true,
                               .mount_label = "label"}},
                   .more = true});
}

template <class Visitor>
void for_each_pool_message(Visitor&& visit) {
    visit_message(visit, PoolStatus{}, example_pool_status());
    visit_message(visit,
                  PoolCreate{.name = "fast",
                             .loop_bytes = 10737418240,
                             .metadata_bytes = 16777216,
                             .block_size_bytes = 131072,
                             .data_device = "/dev/vdb",
                             .metadata_device = "/dev/vdc",
                             .adopt = "vg-pool",
                             .force = true,
                             .accept_no_zeroing = true,
                             .limits = example_pool_limits(),
                             .preallocate = true,
                             .keep_discarded = true,
                             .no_zeroing = true,
                             .devices = {"/dev/vdd", "/dev/vde"},
                             .data_bytes = 21474836480},
                  example_pool_status());
    visit_message(visit,
                  PoolSetLimits{.max_bytes = 42949672960,
                                .grow_step_bytes = 2147483648,
                                .min_free_bytes = 0,
                                .min_free_metadata_bytes = 3355443,
                                .overprovision_percent = 300},
                  example_pool_status());
    visit_message(visit, PoolQuota{.label = "team=blue", .max_bytes = 10737418240},
                  {.label = "team=blue", .bytes = {.used_bytes = 1073741824, .total_bytes = 10737418240}});
    visit_message(visit, PoolStart{.read_only = true}, example_pool_status());
    visit_message(visit, PoolGrow{.data_bytes = 21474836480, .metadata_bytes = 33554432, .devices = {"/dev/vde"}},
                  {.changed = true, .pool = example_pool_status()});
    visit_message(
        visit,
        PoolRebuild{
            .data_device = "/dev/vdb", .metadata_device = "/dev/vdc", .adopt = "vg-pool", .devices = {"/dev/vdd"}},
        {.pool = example_pool_status(),
         .backup_taken_at = "2026-11-22T10:11:12.345Z",
         .recovered = {"recovered-42"},
         .dropped = {"gone"}});
    visit_message(visit, PoolMeasure{.exact = true}, {.volumes = 12});
    visit_message(visit, PoolRepair{.evict = true, .spare = "/dev/vdd", .accept_loss = true},
                  {.how = "repaired", .damaged_copy = "/dev/vdc", .lost = {"app"}});
    visit_message(visit, LeaseList{.after_id = "a", .after_holder = "h", .limit = 10},
                  {.leases = {{.id = "a",
                               .holder = "default",
                               .mode = "mounted_rw",
                               .path = "/var/lib/cowslip/default/mnt/a/rootfs",
                               .taken_at = "2026-11-22T10:11:12.345Z"}},
                   .more = true});
    visit_message(visit, OperationList{},
                  {.operations = {{.number = 9,
                                   .type = "volume.create",
                                   .subject = "a",
                                   .waiting_for = "device-4711-0a1b2c3d",
                                   .age_ms = 1234,
                                   .attempt = 2,
                                   .behind_reply = true}},
                   .total = 501});
    visit_message(visit, OperationWait{.operation = 9}, {});
    visit_message(visit, SystemStatus{},
                  {.version = "0.1.0",
                   .pid = 4710,
                   .account = "cowslip",
                   .uptime_ms = 86400000,
                   .event_seq = 4242,
                   .actors = {{.incarnation = "device-4711-0a1b2c3d",
                               .kind = "device",
                               .pid = 4711,
                               .watcher = true,
                               .doing = "device.create_snap",
                               .busy_ms = 12}},
                   .pool = example_pool_status(),
                   .leases = 3,
                   .operations = 4,
                   .behind_reply = 2,
                   .findings = {{.kind = "lost", .subject = "a", .detail = "thin id 42 is not in the pool"}},
                   .counters = {{"store_syncs", 99}, {"turns", 100}}});
    visit_message(visit, SystemCleanup{}, {.leases_ended = 3, .left = {"a: in use by postgres (4711)"}});
    visit_message(visit, PoolStop{}, example_pool_status());
    visit_message(visit, PoolCheck{}, {.sound = true, .report = "bad checksum in superblock"});
    visit_message(visit, PoolDestroy{.name = "default"}, {});
    visit_message(visit, PoolRewind{.spare = "/dev/sdx"}, {.snapshots_taken = 12, .next_thin_id = 14});
    visit_message(visit, SystemFsck{.repair = true},
                  {.ok = true,
                   .findings = {{.kind = "lost", .subject = "a", .detail = "the pool does not have its thin id 42"}},
                   .repaired = {{.kind = "suspended", .subject = "43", .detail = "its device is suspended"}},
                   .total = 1,
                   .pool_compared = true});
    visit_message(visit, StoreBackup{}, example_store_copy());
    visit_message(visit, StoreList{}, {.backups = {example_store_copy()}});
    visit_message(visit, EventSince{.seq = 4241, .limit = 10},
                  {.events = {example_event()}, .more = true, .oldest = 17});
}

template <class Visitor>
void for_each_volume_message(Visitor&& visit) {
    const std::string holder = "containerd";
    visit_message(visit,
                  VolumeCreate{.id = "app",
                               .parent = "base",
                               .size_bytes = 10737418240,
                               .fs = "xfs",
                               .labels = {{"team", "blue"}},
                               .get = true,
                               .holder = holder,
                               .mount_label = "label",
                               .filling = true,
                               .mkfs_options = "inode-size=512",
                               .mount_options = "nodev"},
                  {.volume = example_volume(), .path = "/var/lib/cowslip/default/mnt/app/rootfs"});
    visit_message(visit, VolumeRemove{.id = "app", .wait = true, .must_exist = true, .thin_id = 42}, {.existed = true});
    visit_message(visit, VolumeResize{.id = "app", .size_bytes = 21474836480},
                  {.volume = example_volume(), .changed = true});
    visit_message(visit, VolumeFreeze{.id = "app", .warm = 8, .warm_mounted = true},
                  {.volume = example_volume(), .changed = true});
    visit_message(visit, VolumeRename{.id = "app", .new_id = "app-2"}, {.volume = example_volume(), .changed = true});
    visit_message(visit, VolumeLabel{.id = "app", .set = {{"team", "blue"}}, .remove = {"tier"}}, example_volume());
    visit_message(visit, VolumeTrim{.id = "app", .offset_bytes = 268435456},
                  {.trimmed_bytes = 1048576, .next_offset_bytes = 536870912, .complete = true});
    visit_message(visit, VolumeGet{.id = "app", .holder = holder, .read_only = true, .mount_label = "label"},
                  {.path = "/var/lib/cowslip/default/mnt/app/rootfs", .changed = true});
    visit_message(
        visit,
        VolumePut{.id = "app", .holder = holder, .all_holders = true, .force = true, .remove = true, .filled = true},
        {.changed = true});
    visit_message(visit, VolumeAttach{.id = "app", .holder = holder, .read_only = true},
                  {.device = example_device().path, .changed = true});
    visit_message(visit, VolumeDetach{.id = "app", .holder = holder, .all_holders = true}, {.changed = true});
    visit_message(visit, VolumeExists{.id = "app"}, {.exists = true});
    visit_message(visit, VolumeShow{.id = "app"}, example_volume());
    visit_message(visit, VolumeList{.labels = {{"team", "blue"}}, .after = "a", .limit = 10},
                  {.volumes = {example_volume()}, .more = true});
}

// visit(name, message) for all of them.
template <class Visitor>
void for_each_example(Visitor&& visit) {
    for_each_envelope(visit);
    for_each_device_message(visit);
    for_each_mount_message(visit);
    for_each_pool_message(visit);
    for_each_volume_message(visit);
}

}  // namespace cowslip::schemas
