// Runs a libFuzzer target without libFuzzer, which g++ does not have: mutants of the golden messages, the same ones for
// the same seed. The target runs in a child process and reads its input from memory shared with the parent: whatever
// the child dies of, the parent prints that input in hex.
//
//   decoder_fuzz          COWSLIP_FUZZ_SEED (1), COWSLIP_FUZZ_INPUTS (200000), COWSLIP_FUZZ_SECONDS (15): what ends
//   first decoder_fuzz FILE...  these inputs and no others
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kMaxInput = 65536;
constexpr unsigned kMaxSecondsEach = 10;  // For one input.

struct Shared {
    std::uint64_t count;
    std::size_t size;
    std::uint8_t data[kMaxInput];
};

std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
    const char* value = std::getenv(name);
    return value == nullptr ? otherwise : std::stoull(value);
}

class Mutator {
public:
    Mutator(std::vector<std::string> corpus, std::uint64_t seed) : corpus_(std::move(corpus)), random_(seed) {}

    std::string next() {
        std::string input = any();
        for (std::size_t changes = 1 + below(6); changes > 0; --changes) change(input);
        if (input.size() > kMaxInput) input.resize(kMaxInput);
        return input;
    }

private:
    // Not std::uniform_int_distribution, which may differ from library to library.
    std::size_t below(std::size_t limit) { return limit == 0 ? 0 : static_cast<std::size_t>(random_() % limit); }
    const std::string& any() { return corpus_[below(corpus_.size())]; }

    void change(std::string& input) {
        // msgpack's heads of things that are long, deep, of another type, or not there at all.
        static constexpr unsigned char kHeads[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0,
                                                   0xc1, 0xc3, 0xc4, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcf,
                                                   0xd3, 0xd8, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xff};
        const std::size_t at = below(input.size());
        const std::size_t length = std::min(input.size() - at, 1 + below(16));
        switch (below(9)) {
            case 0:
                if (!input.empty()) input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
                return;
            case 1:
                if (!input.empty()) input[at] = static_cast<char>(random_());
                return;
            case 2:
                if (!input.empty()) input[at] = static_cast<char>(kHeads[below(sizeof kHeads)]);
                return;
            case 3:
                input.insert(at, 1, static_cast<char>(kHeads[below(sizeof kHeads)]));
                return;
            case 4:
                input.erase(at, length);
                return;
            case 5:
                input.insert(at, input.substr(at, length));
                return;
            case 6:
                input.resize(at);
                return;
            case 7: {  // The rest of another message.
                const std::string& other = any();
                input.replace(at, std::string::npos, other, below(other.size()), std::string::npos);
                return;
            }
            case 8:  // Deeper than any limit.
                input.insert(at, 1 + below(below(4) == 0 ? 50000 : 40), below(2) == 0 ? '\x91' : '\x81');
                return;
        }
    }

    std::vector<std::string> corpus_;
    std::mt19937_64 random_;
};

void run(Shared& shared, const std::string& input) {
    shared.size = std::min(input.size(), kMaxInput);
    std::memcpy(shared.data, input.data(), shared.size);
    alarm(kMaxSecondsEach);
    // A copy of exactly this size, so that a read past its end is seen.
    const std::vector<std::uint8_t> exact(shared.data, shared.data + shared.size);
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
    ++shared.count;
}

void run_mutants(Shared& shared, const std::vector<std::string>& corpus, std::uint64_t seed) {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::seconds(setting("COWSLIP_FUZZ_SECONDS", 15));
    const std::uint64_t inputs = setting("COWSLIP_FUZZ_INPUTS", 200000);
    for (const auto& input : corpus) run(shared, input);
    Mutator mutator(corpus, seed);
    while (shared.count < inputs && Clock::now() < end) run(shared, mutator.next());
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<std::string> corpus;
    for (int i = 1; i < argc; ++i) corpus.push_back(read_file(argv[i]));
    if (argc == 1) {
        std::vector<std::filesystem::path> files;
        for (const auto& entry : std::filesystem::directory_iterator(COWSLIP_GOLDEN_FOLDER)) {
            if (entry.path().extension() == ".bin") files.push_back(entry.path());
        }
        std::sort(files.begin(), files.end());  // The seed must mean the same everywhere.
        for (const auto& file : files) corpus.push_back(read_file(file));
    }
    const std::uint64_t seed = setting("COWSLIP_FUZZ_SEED", 1);
    void* const memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (corpus.empty() || memory == MAP_FAILED) {
        std::cerr << "decoder_fuzz: no golden messages, or no memory\n";
        return 2;
    }
    Shared& shared = *new (memory) Shared;
    const pid_t child = fork();
    if (child < 0) return 2;
    if (child == 0) {
        if (argc > 1) {
            for (const auto& input : corpus) run(shared, input);
        } else {
            run_mutants(shared, corpus, seed);
        }
        return 0;
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child) return 2;
    std::cout << fmt::format("{} inputs from {} messages, seed {}\n", shared.count, corpus.size(), seed);
    if (status == 0) return 0;
    std::cout << fmt::format(
        "then the target {} {} of this input (`xxd -r -p` makes a file of it, which this takes):\n",
        WIFSIGNALED(status) ? "died by signal" : "ended with status",
        WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    for (std::size_t i = 0; i < shared.size; ++i) {
        std::cout << fmt::format("{:02x}{}", shared.data[i], i % 32 == 31 ? "\n" : "");
    }
    std::cout << '\n';
    return 1;
}
