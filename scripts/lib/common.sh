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

# commit: what the program is built from, as far as git can tell.
commit() {
    local dirty=
    [ -z "$(git -C "$repo" status --porcelain 2>/dev/null)" ] || dirty=-dirty
    printf '%s%s\n' "$(git -C "$repo" rev-parse --short HEAD 2>/dev/null || echo HEAD)" "$dirty"
}

# musl_target: rust's name for musl's programs on this kind of processor.
musl_target() {
    local host
    host=$(rustc -vV | sed -n 's/^host: //p')
    echo "${host/-gnu/-musl}"
}

# What compiling for it takes: its libraries for rust, and a compiler for C.
has_musl() {
    [ -d "$(rustc --print target-libdir --target "$(musl_target)" 2>/dev/null)" ] &&
        command -v musl-gcc >/dev/null
}

# Sets $target, what cargo compiles for from here on: musl, whose programs start
# much faster (docs/adr/0024), or this machine's own C library where that is all
# there is.
choose_target() {
    if has_musl; then
        target=$(musl_target)
        export "CC_${target//-/_}=musl-gcc"
    else
        target=$(rustc -vV | sed -n 's/^host: //p')
        warn "no musl here (scripts/setup says why): the program will start slower"
    fi
    export CARGO_BUILD_TARGET=$target
}

# The same, and the compiler's flags for the program as it is installed:
# everything in one file, at fixed addresses, so that nothing has to be loaded
# and relocated at each start. The flags are not for what runs while compiling,
# so cargo needs to be told the target.
release_flags() {
    choose_target
    export RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static -C relocation-model=static"
}
