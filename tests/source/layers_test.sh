#!/bin/bash
# Who may include whom, and which file may use which library: a service knows itself, schemas and common, these two know
# no service, and each library stands in the files named here. First the check is shown a tree where all is wrong.
set -euo pipefail
cd "$(dirname "$0")/../.."

# What may stand at the top, besides files that begin with a dot. (build is made here and not part of the project.)
top_level='CMakeLists.txt README.md LICENSE common schemas services tests deploy debian build'

# Library header (the beginning of its name) and its files. Tests use what they test through our own headers.
libraries='
libdevmapper.h  common/device_mapper.cpp tests/bench/bare.cpp
zmq             common/bus.cpp tests/bench/echo.cpp tests/unit/bus_failures_test.cpp
sqlite3         common/sqlite.h common/sqlite.cpp common/memory_disk.cpp tests/fakes/fake_disk.cpp
msgpack         common/codec.h
libmount
zlib.h          common/compress.cpp
'

# includes TREE: every include in it as "file:name", name with its quotes or brackets.
includes() {
  cd "$1"
  grep -rHE --include='*.h' --include='*.cpp' '^[[:space:]]*#[[:space:]]*include' common schemas services tests |
    sed -E 's/^([^:]*):[[:space:]]*#[[:space:]]*include[[:space:]]*(["<][^">]*[">]).*/\1:\2/' | sort -s -t : -k 1,1
}

# violations TREE: one line each.
violations() {
  local file name own allowed entry library files
  for entry in $(cd "$1" && ls); do
    [[ " $top_level " == *" $entry "* ]] || echo "$entry: not one of the entries that the top level has"
  done
  while IFS=: read -r file name; do
    case $name in
      \"*)
        name=${name//\"/}
        own=$(cut -d / -f 1-2 <<<"$file")
        case $file in
          common/*|schemas/*) allowed='common schemas' ;;
          services/*) allowed="common schemas $own store_sql.h" ;;
          *) allowed='common schemas services tests store_sql.h' ;;
        esac
        for entry in $allowed; do
          if [[ $name == "$entry" || $name == "$entry"/* ]]; then continue 2; fi
        done
        echo "$file: may not include \"$name\", only what is in: $allowed"
        ;;
      *)
        name=${name//[<>]/}
        while read -r library files; do
          [[ -n $library && $name == "$library"* ]] || continue
          [[ " $files " == *" $file "* ]] || echo "$file: may not include <$name>, which is used through: ${files:-nothing}"
        done <<<"$libraries"
        ;;
    esac
  done < <(includes "$1")
}

wrong=$(mktemp -d)
trap 'rm -rf "$wrong"' EXIT
mkdir -p "$wrong"/{common,schemas,services/{one,two},tests/unit,helpers}
echo '#include "services/one/a.h"' >"$wrong/common/a.h"
echo '  #  include "services/one/a.h"  // why' >"$wrong/schemas/a.h"
printf '#include "%s"\n' common/a.h schemas/a.h services/one/a.h services/two/a.h a.h store_sql.h >"$wrong/services/one/a.cpp"
printf '#include <%s>\n' zmq.hpp zmq.h sqlite3.h vector >"$wrong/services/two/b.cpp"
printf '#include <%s>\n' msgpack.hpp libmount/libmount.h libdevmapper.h >"$wrong/tests/unit/c.cpp"
expected='helpers: not
common/a.h: may not include "services/one/a.h"
schemas/a.h: may not include "services/one/a.h"
services/one/a.cpp: may not include "services/two/a.h"
services/one/a.cpp: may not include "a.h"
services/two/b.cpp: may not include <zmq.hpp>
services/two/b.cpp: may not include <zmq.h>
services/two/b.cpp: may not include <sqlite3.h>
tests/unit/c.cpp: may not include <msgpack.hpp>
tests/unit/c.cpp: may not include <libmount/libmount.h>
tests/unit/c.cpp: may not include <libdevmapper.h>'
found=$(violations "$wrong" | sed -E 's/(: not) .*|,.*/\1/')
if [[ $found != "$expected" ]]; then
  echo 'The check does not find what is wrong:'
  diff <(echo "$expected") <(echo "$found") || true
  exit 1
fi

found=$(violations .)
[[ -z $found ]] || { echo "$found"; exit 1; }
