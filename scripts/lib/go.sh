# shellcheck shell=bash
# Finds a Go; source it after debian.sh, and set `go_version`, the oldest that will do,
# `work`, a folder to unpack one into, and `private`, the folder of apt's, first.

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
    step "no go $go_version or newer on PATH: unpacking Debian's"
    configure
    update
    local name package
    # The compiler's package is named by its version; this one depends on it.
    name=$(private_apt apt-cache depends golang-go | sed -n 's/^ *Depends: \(golang-[0-9.]*-go\)$/\1/p')
    name=$(sort -rV <<<"$name" | head -n 1)
    [ -n "$name" ] || die "no golang-go in a newer Debian"
    # shellcheck disable=SC2154 # the sourcing script sets them
    for package in "$name" "${name%-go}-src"; do
        (cd "$private/archives" && private_apt apt-get -q download "$package")
        dpkg -x "$private/archives/${package}"_*.deb "$work/debian"
    done
    export GOROOT=$work/debian/usr/lib/${name%-go}
    GOROOT=${GOROOT/golang-/go-}
    go=$GOROOT/bin/go
    new_enough "$go" || die "Debian's $name is older than $go_version, or does not run here"
}

# go_install FOLDER PROGRAM@VERSION…: builds programs of one module into a folder. What
# that takes stays in $work, and goes with both when it fails.
go_install() {
    local folder=$1
    shift
    local more=$(($# - 1)) what=$1
    [ "$more" -eq 0 ] || what="$what and $more more"
    step "building $what with $("$go" env GOVERSION)"
    CGO_ENABLED=0 GOPATH=$work/go GOMODCACHE=$work/modules GOCACHE=$work/objects \
        GOBIN=$folder GOFLAGS="${GOFLAGS:-} -modcacherw" \
        "$go" install -trimpath -ldflags="-s -w" "$@" >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        rm -rf "$work" "$folder"
        die "cannot build $what"
    }
}
