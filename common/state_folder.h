// The folders and files of one service, and who may touch them (protocol.md A13). All paths below
// DIR are made here.
//
//   DIR                  root:root 0711
//   DIR/store            account   0700   the store and the manager's lock; its working folder; in backups/ copies of
//   the
//                                         store
//   DIR/run              account   0750   clients.sock events.sock 0660, actors.sock 0600
//   DIR/run/actors       root      0755   actors' lock files, 0644
//   DIR/mnt              root      0711   volumes' directories
//   DIR/pool             root      0700   loop files, `uuid`: which pool they are, and `devices`: the block
//                                         devices root has named; in backups/ dumps of the pool's metadata
//
// On a host, run may lie elsewhere (/run/cowslip/POOL): it is a parameter.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "common/result.h"

namespace cowslip {

struct StateFolder {
    std::string dir;  // Absolute.
    std::string run;  // Absolute; dir + "/run" unless configured.

    std::string store() const { return dir + "/store"; }
    std::string actors() const { return run + "/actors"; }
    std::string mounts() const { return dir + "/mnt"; }
    std::string pool() const { return dir + "/pool"; }
    std::string allowed_devices() const { return dir + "/pool/devices"; }
    std::string pool_uuid() const { return dir + "/pool/uuid"; }
    std::string clients_socket() const { return run + "/clients.sock"; }
    std::string events_socket() const { return run + "/events.sock"; }
    std::string actors_socket() const { return run + "/actors.sock"; }
};

// Makes `dir` absolute; an empty `run` means DIR/run.
Result<StateFolder> resolve_state_folder(const std::string& dir, const std::string& run = "");

// The pool whose folder it is, as a device actor has written it there; nothing if it has none yet. The
// actors serve no other (protocol.md A13).
Result<std::optional<std::string>> read_pool_uuid(const std::string& file);

struct Account {
    std::string name;
    uid_t uid = 0;
    gid_t gid = 0;
};

// The unprivileged account of the manager: `cowslip` if this host has it, else `nobody`; if we are
// not root, ourselves.
Result<Account> service_account();

// Makes all of it, idempotent; as root with the owners above. A DIR that holds other things already
// stays as it is, and is refused (permission_denied, with the command to run) where the account
// could not pass through it or somebody but root could change it.
Result<void> ensure_state_folder(const StateFolder& folder, const Account& account);

// Takes DIR/store/lock (flock, close-on-exec) for the life of the process; in_use names the holder's
// pid. After drop_privileges, as the file belongs to who makes it.
Result<int> lock_store(const StateFolder& folder);

// For good: uid, gid, groups, every capability set, no_new_privs. Does nothing when not root. A
// parent-death signal that was asked for stays in force.
// Closes nothing; the caller has opened nothing above stderr that the account could not open.
Result<void> drop_privileges(const Account& account);

}  // namespace cowslip
