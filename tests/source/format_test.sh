#!/bin/bash
# Each C++ source is as clang-format (version 14, the rules at the root) writes it.
set -euo pipefail
cd "$(dirname "$0")/../.."

find common schemas services tests \( -name '*.h' -o -name '*.cpp' \) -print0 |
  xargs -0 clang-format-14 --dry-run -Werror --style=file || {
  echo 'Run: find common schemas services tests -name "*.h" -o -name "*.cpp" | xargs clang-format-14 -i'
  exit 1
}
