// A libFuzzer target: everything that reads bytes of strangers, that is the parser with its limits, the
// envelopes, and the messages in them. What comes through is encoded again and must come through again.
// The test `fuzz` runs it with driver.cpp; with clang's libFuzzer instead:
//
//   clang++ -std=c++20 -g -fsanitize=fuzzer,address,undefined -I. -o fuzz tests/fuzz/decoder_fuzz.cpp
//     common/codec.cpp common/result.cpp -lfmt && ./fuzz -max_len=65536 corpus tests/wire/golden
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/codec.h"
#include "tests/wire/examples.h"

using namespace cowslip;

namespace {

template <class Message>
void read(const msgpack::object& root) {
    const auto message = decode_as<Message>(root);
    if (!message) return;
    const std::string bytes = encode(*message);
    if (!decode_as<Message>(std::string_view(bytes)) && bytes.size() <= kMaxFrameBytes) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto document = decode({reinterpret_cast<const char*>(data), size});
    if (!document) return 0;
    const msgpack::object& root = document->root();
    read<schemas::Request>(root);
    read<schemas::Command>(root);
    read<schemas::FromActor>(root);
    read<schemas::Reply>(root);
    read<schemas::Event>(root);
    schemas::for_each_example(
        [&](const std::string&, const auto& example) { read<std::decay_t<decltype(example)>>(root); });
    return 0;
}
