#include "services/device_actor/metadata_xml.h"

#include <sstream>
#include <vector>

#include <catch2/catch.hpp>

namespace cowslip {
namespace {

Result<std::string> recounted(const std::string& text, std::size_t* volumes = nullptr) {
    MetadataRecount recount(77);
    std::istringstream first(text);
    for (std::string line; std::getline(first, line);) TRY(recount.look(line));
    recount.no_more();
    if (volumes != nullptr) *volumes = recount.volumes();
    std::istringstream second(text);
    std::string out;
    for (std::string line; std::getline(second, line);) out += TRY(recount.rewrite(line)) + "\n";
    return out;
}

// As thin_dump 0.9 writes it.
const std::string kDump =
    "<superblock uuid=\"\" time=\"16777000\" transaction=\"4503599627370500\" flags=\"0\" version=\"2\" "
    "data_block_size=\"128\" nr_data_blocks=\"16384\">\n"
    "  <device dev_id=\"0\" mapped_blocks=\"1\" transaction=\"4\" creation_time=\"0\" snap_time=\"0\">\n"
    "    <single_mapping origin_block=\"0\" data_block=\"0\" time=\"0\"/>\n"
    "  </device>\n"
    "  <device dev_id=\"9\" mapped_blocks=\"18\" transaction=\"4\" creation_time=\"0\" snap_time=\"16777000\">\n"
    "    <range_mapping origin_begin=\"0\" data_begin=\"2\" length=\"16\" time=\"500\"/>\n"
    "    <single_mapping origin_block=\"20\" data_block=\"19\" time=\"16777000\"/>\n"
    "    <single_mapping origin_block=\"21\" data_block=\"16777000\" time=\"499\"/>\n"
    "  </device>\n"
    "  <device dev_id=\"16000000\" mapped_blocks=\"16\" transaction=\"5\" creation_time=\"16777000\" "
    "snap_time=\"16777000\">\n"
    "  </device>\n"
    "</superblock>\n";

}  // namespace

TEST_CASE("times become their places in their order, thin ids the next ones, and nothing else changes", "[rewind]") {
    std::size_t volumes = 0;
    const auto text = recounted(kDump, &volumes);
    REQUIRE(text);
    CHECK(volumes == 2);
    CHECK(*text ==
          "<superblock uuid=\"\" time=\"3\" transaction=\"77\" flags=\"0\" version=\"2\" "
          "data_block_size=\"128\" nr_data_blocks=\"16384\">\n"
          "  <device dev_id=\"0\" mapped_blocks=\"1\" transaction=\"4\" creation_time=\"0\" snap_time=\"0\">\n"
          "    <single_mapping origin_block=\"0\" data_block=\"0\" time=\"0\"/>\n"
          "  </device>\n"
          "  <device dev_id=\"2\" mapped_blocks=\"18\" transaction=\"4\" creation_time=\"0\" snap_time=\"3\">\n"
          "    <range_mapping origin_begin=\"0\" data_begin=\"2\" length=\"16\" time=\"2\"/>\n"
          "    <single_mapping origin_block=\"20\" data_block=\"19\" time=\"3\"/>\n"
          "    <single_mapping origin_block=\"21\" data_block=\"16777000\" time=\"1\"/>\n"
          "  </device>\n"
          "  <device dev_id=\"3\" mapped_blocks=\"16\" transaction=\"5\" creation_time=\"3\" snap_time=\"3\">\n"
          "  </device>\n"
          "</superblock>\n");
}

TEST_CASE("what thin_dump has never written is refused: it might hold a time", "[rewind]") {
    const std::string line = GENERATE("<def name=\"1\">", "  <device dev_id=\"1\" snap_time=\"0\">",
                                      "<single_mapping origin_block=\"0\" data_block=\"0\" time=\"\"/>",
                                      "<single_mapping origin_block=\"0\" data_block=\"0\" time=\"x\"/>", "error");
    CAPTURE(line);
    CHECK_FALSE(recounted(line + "\n"));
}

TEST_CASE("the ring of store backups is born anew, since they name volumes by their old thin ids", "[metadata_xml]") {
    MetadataRecount recount(77);
    const std::string line =
        "  <device dev_id=\"1\" mapped_blocks=\"1\" transaction=\"4\" creation_time=\"0\" snap_time=\"0\">\n";
    REQUIRE(recount.look(line));
    recount.no_more();
    const auto rewritten = recount.rewrite(line);
    REQUIRE(rewritten);
    CHECK(rewritten->find("transaction=\"77\"") != std::string::npos);
    CHECK(rewritten->find("dev_id=\"1\"") != std::string::npos);
}

}  // namespace cowslip
