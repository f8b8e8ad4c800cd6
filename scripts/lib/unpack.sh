# shellcheck shell=bash
# Debian's packages of this release unpacked instead of installed, which would start
# what is in them; sourced after lib/common.sh.

# download PACKAGE…: into the folder that this is called in. Lists of packages that are
# old name archives that are gone.
download() {
    apt-get -q -o APT::Sandbox::User=root download "$@" && return
    need_root
    apt-get -q update && apt-get -q -o APT::Sandbox::User=root download "$@"
}

# unpack_packages WORK FOLDER PACKAGE…: downloads into WORK, and unpacks into FOLDER.
unpack_packages() {
    local work=$1 folder=$2 archive
    shift 2
    mkdir -p "$work" "$folder"
    (cd "$work" && download "$@") || die "no package of ${1} to be had from /etc/apt"
    for archive in "$work"/*.deb; do
        dpkg -x "$archive" "$folder"
    done
}
