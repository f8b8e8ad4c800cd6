# shellcheck shell=bash
# Finds a Go; source it after debian.sh, and set `go_version`, the oldest that will do,
# `work`, a folder to unpack one into, and `private`, the folder of apt's, first.
#
# scripts/setup gives all that it builds one folder more, GO_SHARED, and removes it
# afterwards: Go's own library is compiled once then, and a Go unpacked once.

# What is unpacked and compiled on the way goes here.
go_work() { printf '%s\n' "${GO_SHARED:-$work}"; }

# new_enough GO: whether this program is a Go that will do.
new_enough() {
    local found
    found=$("$1" env GOVERSION 2>/dev/null) || return
    found=${found#go}
    # shellcheck disable=SC2154 # the sourcing script sets it
    [ "$(printf '%s\n' "$go_version" "${found%% *}" | sort -V | head -n 1)" = "$go_version" ]
}

# Sets $go: one on PATH when it is new enough; else a newer Debian's, unpacked.
find_go() {
    # Never another toolchain than the one that is found.
    export GOTOOLCHAIN=local
    go=$(command -v go) && new_enough "$go" && return
    local debian
    debian=$(go_work)/debian
    unpacked && return
    step "no go $go_version or newer on PATH: unpacking Debian's"
    configure
    update
    local name package
    # The compiler's package is named by its version; this one depends on it.
    name=$(private_apt apt-cache depends golang-go | sed -n 's/^ *Depends: \(golang-[0-9.]*-go\)$/\1/p')
    name=$(sort -rV <<<"$name" | head -n 1)
    [ -n "$name" ] || die "no golang-go in a newer Debian"
    # shellcheck disable=SC2154 # the sourcing script sets it
    for package in "$name" "${name%-go}-src"; do
        (cd "$private/archives" && private_apt apt-get -q download "$package")
        dpkg -x "$private/archives/${package}"_*.deb "$debian"
    done
    unpacked || die "Debian's $name is older than $go_version, or does not run here"
}

# Sets $go to the one that was unpacked in $debian, if it will do.
unpacked() {
    local root
    for root in "$debian"/usr/lib/go-*; do
        go=$root/bin/go
        export GOROOT=$root
        new_enough "$go" && return
    done
    unset GOROOT
    return 1
}

# Where Go keeps what it needs on the way, from here on.
go_folders() {
    local shared
    shared=$(go_work)
    export CGO_ENABLED=0 GOPATH=$shared/go GOMODCACHE=$shared/modules GOCACHE=$shared/objects
}

# go_install FOLDER PROGRAM@VERSION…: builds programs of one module into a folder. What
# that takes stays in $work, and goes with both when it fails.
go_install() {
    local folder=$1
    shift
    local more=$(($# - 1)) what=$1
    [ "$more" -eq 0 ] || what="$what and $more more"
    step "building $what with $("$go" env GOVERSION)"
    go_folders
    GOBIN=$folder GOFLAGS="${GOFLAGS:-} -modcacherw" \
        "$go" install -trimpath -ldflags="-s -w" "$@" >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        rm -rf "$work" "$folder"
        die "cannot build $what"
    }
}
