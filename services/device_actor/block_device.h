// One block device of the host's, looked at before it is given to a pool: who has it, what is on
// it, and its first 4 KiB, which of a pool's metadata are the superblock.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "common/result.h"

namespace cowslip {

Result<std::uint64_t> block_device_sectors(const std::string& path);

Result<dev_t> block_device_number(const std::string& path);

// "/dev/loop0" for "7:0".
Result<std::string> block_device_path(const std::string& number);

// in_use, with details["holders"], if the kernel, a mount or another program has claimed it.
Result<void> check_unused(const std::string& path);

// What libblkid knows on it, for a sentence: "a file system ('ext4')"; empty for nothing.
Result<std::string> find_signature(const std::string& path);

// Past the page cache: another reader may have left an old copy there.
Result<std::string> read_first_block(const std::string& path);
// unavailable: there is a block that cannot be read. Past the page cache.
Result<void> read_all_blocks(const std::string& path);
// Durable when it returns.
Result<void> zero_first_block(const std::string& path);

// Discards all of it where the device can, and zeros its beginning and its end, where all that libblkid knows has its
// mark. Durable when it returns. in_use: somebody has it.
Result<void> wipe_device(const std::string& path);

// `data` is filled; whole blocks of 4096 bytes, past the page cache. 0 or errno; a write is durable then.
[[nodiscard]] int read_blocks(const std::string& path, std::uint64_t offset, std::string& data);
[[nodiscard]] int write_blocks(const std::string& path, std::uint64_t offset, const std::string& data);
// Bytes. 0 or errno: EBUSY if somebody has the device.
[[nodiscard]] int discard_blocks(const std::string& path, std::uint64_t offset, std::uint64_t length);

// Whether `list` (one absolute path a line, '#' begins a comment) has this very path. The file must be
// ours, that is root's, and writable for nobody else: through it root tells root what may be formatted,
// past the process that parses what strangers send (protocol.md A13).
Result<void> check_listed(const std::string& list, const std::string& path);

}  // namespace cowslip
