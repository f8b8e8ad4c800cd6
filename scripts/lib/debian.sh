# shellcheck shell=bash
# Packages of newer Debian releases, unpacked instead of installed: apt runs with
# sources, lists and caches of its own. Source it after common.sh, and set
# `private`, the folder of apt's, first.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The host that this machine itself gets its packages from.
mirror() {
    local uri
    uri=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
        awk '$1 == "URIs:" && $2 ~ /\/debian\/?$/ { print $2; exit }')
    if [ -z "$uri" ]; then
        uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
            grep -E '^deb ' | grep -oE '[a-z+]+://[^ ]+/debian/? ' | head -n 1 | tr -d ' ')
    fi
    [ -n "$uri" ] || die "no source of Debian's packages in /etc/apt; add one, then run this again"
    printf '%s\n' "$uri"
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
    for suite in testing unstable; do
        printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$(mirror)" "$suite"
    done >"$private/sources.list"
}

# The suites may be signed with a key younger than this machine's keyring. The
# stable release's keyring package carries it, and is signed with a known one.
update() {
    private_apt apt-get -q update -o APT::Update::Error-Mode=any && return
    step "fetching a newer keyring"
    printf 'deb [signed-by=%s] %s stable main\n' "$keyring" "$(mirror)" >"$private/sources.list"
    private_apt apt-get -q update -o APT::Update::Error-Mode=any
    (cd "$private/archives" && private_apt apt-get -q download debian-archive-keyring)
    rm -rf "$private/keyring"
    dpkg -x "$private"/archives/debian-archive-keyring_*.deb "$private/keyring"
    keyring=$private/keyring$keyring
    sources
    private_apt apt-get -q update -o APT::Update::Error-Mode=any
}
