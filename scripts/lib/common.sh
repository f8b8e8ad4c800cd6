# shellcheck shell=bash
# Shared by the scripts of this folder; source it after `set -euo pipefail`.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Downloads and the Python environment, kept between runs and ignored by git.
# shellcheck disable=SC2034 # the sourcing scripts use it
cache=${CIRCUIT_CACHE:-$repo/.cache}

step() { printf '==> %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" -eq 0 ] || die "run this as root: it makes network namespaces and installs packages"
}
