#include "tests/cut/history.h"

#include <random>
#include <sstream>

#include <fmt/format.h>

namespace cowslip::cut {

std::string content_of(const File& file) {
    std::mt19937_64 random(file.seed);
    std::string bytes(file.bytes, '\0');
    for (std::size_t i = 0; i < bytes.size(); i += 8) {
        const std::uint64_t word = random();
        for (std::size_t j = 0; j < 8 && i + j < bytes.size(); ++j) bytes[i + j] = static_cast<char>(word >> (8 * j));
    }
    return bytes;
}

History::History(const std::vector<std::string>& marks, bool believe_begun) {
    for (const std::string& mark : marks) {
        std::vector<std::string> words;
        std::istringstream stream(mark + ":");
        for (std::string word; std::getline(stream, word, ':');) words.push_back(word);
        if (words.size() < 2) continue;
        if (words[1] == "begin") begin(words[0], words);
        if (words[1] == "done" || believe_begun) done(words[0]);
    }
}

void History::begin(const std::string& number, const std::vector<std::string>& words) {
    Request request{words.at(2), words.size() > 3 ? words[3] : "", ""};
    if (request.verb == "create") {
        request.parent = words.at(4);
        if (!request.parent.empty()) request.files = files_of(request.parent);
    }
    if (request.verb == "write") {
        request.file = words.at(4);
        request.files[request.file] = {std::stoull(words.at(5)), std::stoull(words.at(6))};
    }
    unanswered_[number] = std::move(request);
}

void History::done(const std::string& number) {
    const auto found = unanswered_.find(number);
    if (found == unanswered_.end()) return;
    const Request& request = found->second;
    if (request.verb == "pool") pool_ = true;
    if (request.verb == "create") volumes_[request.name] = request.files;
    if (request.verb == "rm") volumes_.erase(request.name);
    if (request.verb == "write") volumes_[request.name].insert(request.files.begin(), request.files.end());
    unanswered_.erase(found);
}

Files History::files_of(const std::string& volume) const {
    if (const auto found = volumes_.find(volume); found != volumes_.end()) return found->second;
    for (const auto& [number, request] : unanswered_) {
        if (request.verb == "create" && request.name == volume) return request.files;
    }
    return {};
}

std::string History::complain_about(const std::set<std::string>& found) const {
    std::set<std::string> perhaps;
    for (const auto& [number, request] : unanswered_) {
        if (request.verb == "create" || request.verb == "rm") perhaps.insert(request.name);
    }
    for (const auto& [name, files] : volumes_) {
        if (!found.contains(name) && !perhaps.contains(name))
            return fmt::format("volume '{}' was acknowledged and is lost", name);
    }
    for (const std::string& name : found) {
        if (!volumes_.contains(name) && !perhaps.contains(name))
            return fmt::format("volume '{}' is there, and its removal was acknowledged or it was never asked for",
                               name);
    }
    return {};
}

}  // namespace cowslip::cut
