# What the scripts in this folder share: `. deploy/common.sh`, in bash. Sets $root, the checkout.
#
#   install_missing       the packages, and the account that the pool-manager runs as
#   build_release TARGET  with cmake and ninja, in build/release; the target `programs` leaves out the tests
# shellcheck shell=bash

root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
PATH=$PATH:/usr/sbin:/sbin        # Not everybody's has them; useradd and mkfs are there.
export CCACHE_BASEDIR=$root       # What one checkout has compiled need not be compiled in another,
export CCACHE_NOHASHDIR=1         # though debuggers are told the first one's folder.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

missing_packages() {
  local installed
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
  sed 's/#.*//' "$root/deploy/packages.txt" | tr -d ' \t' | grep . | grep -v -x -F "$installed" || true
}

install_missing() {
  local missing
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} > 0)); then
    if [[ $EUID -ne 0 ]]; then
      say "packages are missing, and only root can install them. Run: apt-get install --no-install-recommends ${missing[*]}"
      exit 1
    fi
    say "installing ${#missing[@]} packages"
    # The lists may be absent, or so old that the files they name are gone.
    if ! quiet_apt install "${missing[@]}"; then
      quiet_apt update || { say "apt-get update failed: $apt_output"; exit 1; }
      quiet_apt install "${missing[@]}" || { say "apt-get install failed: $apt_output"; exit 1; }
    fi
  fi
  if [[ $EUID -eq 0 ]] && ! getent passwd cowslip >/dev/null; then
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin cowslip
  fi
}

# quiet_apt COMMAND [PACKAGE...]: what it says is in $apt_output.
quiet_apt() {
  apt_output=$(DEBIAN_FRONTEND=noninteractive timeout 1800 \
    apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" </dev/null 2>&1)
}

build_release() { build release "$1" -DCMAKE_BUILD_TYPE=Release; }

# build FOLDER TARGET CMAKE-OPTION...: in build/FOLDER. Quick where nothing has changed.
build() {
  local folder=$root/build/$1 target=$2 output
  shift 2
  output=$(cmake -S "$root" -B "$folder" -G Ninja "$@" 2>&1) || { printf '%s\n' "$output" >&2; return 1; }
  if [[ -t 1 ]]; then ninja -C "$folder" "$target"; else ninja -C "$folder" --quiet "$target"; fi
}
