#include <algorithm>
#include <map>
#include <string_view>

#include "services/ctl/commands.h"

namespace cowslip::ctl {

std::vector<TreeLine> tree_lines(const std::vector<schemas::Volume>& volumes) {
    using schemas::Volume;
    std::map<std::string_view, const Volume*> by_id;
    for (const auto& volume : volumes) by_id[volume.id] = &volume;

    // A clone is younger than what it was cloned from, and thin ids only go up. A volume with the
    // parent's name and a higher thin id is a later bearer of that name: no parent. So no circles either.
    std::vector<const Volume*> roots;
    std::map<const Volume*, std::vector<const Volume*>> children;
    for (const auto& [id, volume] : by_id) {
        const auto parent = by_id.find(volume->parent);
        if (parent != by_id.end() && parent->second->thin_id < volume->thin_id) {
            children[parent->second].push_back(volume);
        } else {
            roots.push_back(volume);
        }
    }

    // A stack and not a recursion: a chain of clones may be as long as the pool has ids.
    struct Pending {
        const Volume* volume;
        std::string branch;     // Before its own name.
        std::string continued;  // Before the names below it.
    };
    std::vector<TreeLine> lines;
    std::vector<Pending> stack;
    for (auto root = roots.rbegin(); root != roots.rend(); ++root) stack.push_back({*root, "", ""});
    while (!stack.empty()) {
        const Pending current = std::move(stack.back());
        stack.pop_back();
        lines.push_back({current.branch, current.volume});
        const auto& below = children[current.volume];
        for (auto child = below.rbegin(); child != below.rend(); ++child) {
            const bool last = child == below.rbegin();
            stack.push_back(
                {*child, current.continued + (last ? "└─ " : "├─ "), current.continued + (last ? "   " : "│  ")});
        }
    }
    return lines;
}

}  // namespace cowslip::ctl
