#include "tests/fakes/mount_conformance.h"

#include <catch2/catch.hpp>

#include "tests/device/mount_lab.h"

TEST_CASE("the kernel's mounts behave as the fake ones do", "[device][mount]") {
    for (const auto& one : cowslip::mount_conformance::kCases) {
        DYNAMIC_SECTION(one.name) {
            cowslip::MountLab lab;
            one.run(lab);
        }
    }
}
