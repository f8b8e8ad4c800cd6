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

# timed NAME COMMAND [ARGUMENT…]: runs it without input, and prints how long it took.
timed() {
    local name=$1 start=$SECONDS code=0
    shift
    step "$name"
    "$@" </dev/null || code=$?
    if [ "$code" -ne 0 ]; then
        die "$name: failed with exit code $code after $((SECONDS - start)) s"
    fi
    step "$name: done in $((SECONDS - start)) s"
}

# Sets $target, and the compiler's flags for the program as it is installed:
# everything in one file, at fixed addresses, so that nothing has to be loaded
# and relocated at each start (docs/adr/0024). The flags are not for what runs
# while compiling, so cargo needs to be told the target.
release_flags() {
    # shellcheck disable=SC2034 # the sourcing scripts use it
    target=$(rustc -vV | sed -n 's/^host: //p')
    export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static -C relocation-model=static"
}
