// Space kept back in the state folder, so that on a full disk volumes can still be removed: when the
// store finds no room the ballast goes, the process ends, and the next one, which finds no room for
// a ballast, takes no new volumes.
#pragma once

#include <string>

namespace cowslip {

class Ballast {
public:
    // Makes the file if it is missing and there is room for it and as much again.
    static Ballast take(const std::string& file);
    static void release(const std::string& file);
    bool there() const { return there_; }

private:
    explicit Ballast(bool there) : there_(there) {}
    bool there_;
};

}  // namespace cowslip
