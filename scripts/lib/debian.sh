# shellcheck shell=bash
# Packages of newer Debian releases, unpacked instead of installed: apt runs with
# sources, lists and caches of its own. Source it after common.sh, and set
# `private`, the folder of apt's, first.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# find_mirror [FOLDER]: sets $mirror to the host that this machine itself gets its packages
# from, by what is in the folder (default /etc/apt).
find_mirror() {
    local apt=${1:-/etc/apt} listed
    mirror=$(cat "$apt"/sources.list.d/*.sources 2>/dev/null |
        awk '$1 == "URIs:" && $2 ~ /\/debian\/?$/ { print $2; exit }')
    if [ -z "$mirror" ]; then
        mirror=$(cat "$apt/sources.list" "$apt"/sources.list.d/*.list 2>/dev/null |
            grep -E '^deb ' | grep -oE '[a-z+]+://[^ ]+/debian/? ' | head -n 1 | tr -d ' ') || true
    fi
    # Images for clouds name a file with a list of hosts instead.
    if [ -z "$mirror" ]; then
        listed=$(cat "$apt"/sources.list.d/*.sources "$apt/sources.list" 2>/dev/null |
            grep -oE 'mirror\+file:[^ ]+debian\.list' | head -n 1) || true
        [ -z "$listed" ] ||
            mirror=$(grep -oE '^[a-z+]+://[^[:space:]]+' "${listed#mirror+file:}" | head -n 1) || true
    fi
    [ -n "$mirror" ] || die "no source of Debian's packages in $apt; add one, then run this again"
}

private_apt() {
    # shellcheck disable=SC2154 # the sourcing script sets it
    APT_CONFIG=$private/apt.conf "$@"
}

configure() {
    mkdir -p "$private"/{state,none,lists/partial,archives/partial}
    : >"$private/status"
    cat >"$private/apt.conf" <<CONF
Dir::State "$private/state";
Dir::State::Lists "$private/lists";
Dir::State::Status "$private/status";
Dir::Cache "$private";
Dir::Cache::Archives "$private/archives";
Dir::Etc::SourceList "$private/sources.list";
Dir::Etc::SourceParts "$private/none";
Dir::Etc::Preferences "$private/none";
Dir::Etc::PreferencesParts "$private/none";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
CONF
    sources
}

sources() {
    local suite
    find_mirror
    for suite in testing unstable; do
        printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite"
    done >"$private/sources.list"
}

# The suites may be signed with a key younger than this machine's keyring. The
# stable release's keyring package carries it, and is signed with a known one.
update() {
    private_apt apt-get -q update -o APT::Update::Error-Mode=any && return
    step "fetching a newer keyring"
    find_mirror
    printf 'deb [signed-by=%s] %s stable main\n' "$keyring" "$mirror" >"$private/sources.list"
    private_apt apt-get -q update -o APT::Update::Error-Mode=any
    (cd "$private/archives" && private_apt apt-get -q download debian-archive-keyring)
    rm -rf "$private/keyring"
    dpkg -x "$private"/archives/debian-archive-keyring_*.deb "$private/keyring"
    keyring=$private/keyring$keyring
    sources
    private_apt apt-get -q update -o APT::Update::Error-Mode=any
}

# What must hold, tried in a folder.
test_mirror() {
    local apt uri=https://packages.example/debian found
    apt=$(mktemp -d)
    mkdir "$apt/sources.list.d"
    # expect HOW FILE TEXT: the host is found in that file alone.
    expect() {
        printf '%b' "$3" >"$apt/$2"
        found=$(find_mirror "$apt" && printf '%s' "$mirror") || true
        rm "$apt/$2"
        [ "$found" = "$uri" ] || die "the host of packages is not found in $1: '$found'"
    }
    printf '# theirs\n%s\tpriority:1\n' "$uri" >"$apt/debian.list"
    expect "sources of now" sources.list.d/debian.sources "Types: deb\nURIs: $uri\n"
    expect "sources of before" sources.list "# none\ndeb $uri bookworm main\n"
    expect "a list of hosts" sources.list.d/debian.sources "URIs: mirror+file://$apt/debian.list\n"
    if (find_mirror "$apt") 2>/dev/null; then
        die "a host of packages is found where there is none"
    fi
    rm -rf "$apt"
    step "the host of packages is found"
}
