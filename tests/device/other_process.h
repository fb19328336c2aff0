// Another process, which does something and then waits until it is killed.
#pragma once

#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <functional>

#include <catch2/catch.hpp>

namespace cowslip {

class OtherProcess {
public:
    // Returns when `use` has been done. Its working directory is "/" before. Its name: a-holder.
    explicit OtherProcess(const std::function<void()>& use) {
        std::array<int, 2> ready{};
        REQUIRE(pipe(ready.data()) == 0);
        pid_ = fork();
        REQUIRE(pid_ >= 0);
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            prctl(PR_SET_NAME, "a-holder");
            if (chdir("/") == 0) use();
            if (write(ready[1], "r", 1) == 1) pause();
            _exit(0);
        }
        close(ready[1]);
        char byte = 0;
        REQUIRE(read(ready[0], &byte, 1) == 1);
        close(ready[0]);
    }
    OtherProcess(const OtherProcess&) = delete;
    ~OtherProcess() { end(); }

    pid_t pid() const { return pid_; }
    void end() {
        if (pid_ <= 0) return;
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
        pid_ = -1;
    }

private:
    pid_t pid_ = -1;
};

}  // namespace cowslip
