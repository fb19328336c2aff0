// What clients were told until power failed, read from the marks; and what must be there therefore.
//
//   start                        the state's file system is mounted, and the services are about to start
//   N:begin:pool                 N: one number for each request; begin: before it is sent
//   N:begin:create:NAME:PARENT   PARENT empty: an empty file system
//   N:begin:rm:NAME
//   N:begin:write:NAME:FILE:SEED:BYTES
//   N:done                       the answer has come; of a write: its fsync, or the put after it, has returned
//   end
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace cowslip::cut {

struct File {
    std::uint64_t seed = 0;
    std::uint64_t bytes = 0;
};
using Files = std::map<std::string, File>;

std::string content_of(const File& file);

class History {
public:
    struct Request {
        std::string verb;
        std::string name;
        std::string parent;
        std::string file = {};
        Files files = {};  // create: the parent's when it was sent. write: the one.
    };

    // `believe_begun`: a request counts as answered when it is sent, as if a service answered too early.
    explicit History(const std::vector<std::string>& marks, bool believe_begun = false);

    bool pool() const { return pool_; }
    const std::map<std::string, Files>& volumes() const { return volumes_; }
    const std::map<std::string, Request>& unanswered() const { return unanswered_; }  // By number.
    // What is known to be in a volume that is there.
    Files files_of(const std::string& volume) const;
    // Empty, or what is wrong with these volumes being there and no others.
    std::string complain_about(const std::set<std::string>& found) const;

private:
    void begin(const std::string& number, const std::vector<std::string>& words);
    void done(const std::string& number);
    bool pool_ = false;
    std::map<std::string, Files> volumes_;  // Those that are acknowledged and not acknowledged to be gone.
    std::map<std::string, Request> unanswered_;
};

}  // namespace cowslip::cut
