#include "services/device_actor/dump_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include <catch2/catch.hpp>

#include "common/process.h"
#include "tests/fakes/temporary_folder.h"

namespace cowslip {
namespace {

std::set<std::string> names_in(const std::string& folder) {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) names.insert(entry.path().filename());
    return names;
}

Result<void> some_xml(GzipWriter& out) {
    for (int i = 0; i < 1000; ++i) out.write("<superblock>and so on</superblock>\n");
    return {};
}

}  // namespace

TEST_CASE("a dump is a gzip file of what was written, and those that are not wanted any more are gone", "[dump]") {
    const TemporaryFolder parent;
    const std::string path = parent / "backups";
    const DumpFolder folder(path);
    REQUIRE(folder.ensure());
    REQUIRE(folder.ensure());
    CHECK((std::filesystem::status(path).permissions() & std::filesystem::perms::mask) ==
          std::filesystem::perms::owner_all);
    std::ofstream(path + "/new.tmp") << "of one that died";
    const auto bytes = folder.write("000001-A", {}, some_xml);
    REQUIRE(bytes);
    CHECK(*bytes == std::filesystem::file_size(path + "/000001-A.xml.gz"));
    ProcessOptions unpack;
    unpack.arguments = {"gzip", "-dc", path + "/000001-A.xml.gz"};
    std::size_t unpacked = 0;
    unpack.take_output = [&](std::string_view text) { unpacked += text.size(); };
    CHECK(run_process(unpack)->exit_status == 0);
    CHECK(unpacked == 1000 * std::string("<superblock>and so on</superblock>\n").size());
    REQUIRE(folder.write("000002-A", {"000001-A"}, some_xml));
    REQUIRE(folder.write("000003-A", {"000002-A"}, some_xml));
    CHECK(names_in(path) == std::set<std::string>{"000002-A.xml.gz", "000003-A.xml.gz"});
}

TEST_CASE("a dump says how many data blocks the pool has, in whatever pieces it comes", "[dump]") {
    // Of a metadata snapshot thin_dump says nr_data_blocks="0", and thin_restore refused the file.
    const std::string dump =
        "<superblock uuid=\"\" time=\"1\" data_block_size=\"128\" nr_data_blocks=\"0\">\n"
        "  <device dev_id=\"0\" nr_data_blocks=\"0\">\n";
    const std::size_t piece = GENERATE(as<std::size_t>{}, 1, 7, 1000);
    const bool has_head = GENERATE(true, false);
    const std::string text = has_head ? dump : "nothing of the kind";
    const TemporaryFolder parent;
    const DumpFolder folder(parent / "backups");
    REQUIRE(folder.ensure());
    REQUIRE(folder.write("1", {}, [&](GzipWriter& out) -> Result<void> {
        DataBlocksFiller filler(out, 16384);
        for (std::size_t at = 0; at < text.size(); at += piece) filler.write(std::string_view(text).substr(at, piece));
        filler.finish();
        return {};
    }));
    ProcessOptions unpack;
    unpack.arguments = {"gzip", "-dc", parent / "backups/1.xml.gz"};
    std::string expected = text;
    if (has_head) expected.replace(expected.find("nr_data_blocks=\"0\""), 18, "nr_data_blocks=\"16384\"");
    CHECK(run_process(unpack)->output == expected);
}

TEST_CASE("a dump that fails leaves nothing, and the others as they were", "[dump]") {
    const TemporaryFolder parent;
    const DumpFolder folder(parent / "backups");
    REQUIRE(folder.ensure());
    REQUIRE(folder.write("000001-A", {}, some_xml));
    const auto failed = folder.write("000002-A", {}, [](GzipWriter& out) -> Result<void> {
        out.write("half");
        return Error{Errc::internal, "it ended with 1"};
    });
    CHECK(failed.error().message == "it ended with 1");
    for (const char* name : {"", "../a", "a", "A/B", "A.xml", "A\n"}) {
        CAPTURE(name);
        const auto refused = folder.write(name, {}, some_xml);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == Errc::invalid_argument);
    }
    CHECK(names_in(parent / "backups") == std::set<std::string>{"000001-A.xml.gz"});
}

TEST_CASE("a gzip file that does not fit on its disk is told of", "[dump]") {
    const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
    REQUIRE(full >= 0);
    GzipWriter out(full);
    for (int i = 0; i < 100000; ++i) out.write("some text that becomes small, again and again " + std::to_string(i));
    const auto finished = out.finish();
    ::close(full);
    REQUIRE_FALSE(finished);
    CHECK(finished.error().code == Errc::no_space);
}

}  // namespace cowslip
