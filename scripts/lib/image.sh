# shellcheck shell=bash
# Makes a container image of this machine's static busybox; source it.

# blob FILE FOLDER: adds a file to an OCI layout, and prints "sha256:HASH","size":SIZE.
blob() {
    local hash
    hash=$(sha256sum "$1" | cut -d ' ' -f 1)
    cp "$1" "$2/blobs/sha256/$hash"
    printf '"sha256:%s","size":%s' "$hash" "$(stat -c %s "$1")"
}

# root_folder FOLDER: what the containers see as /.
root_folder() {
    local applet
    mkdir -p "$1"/{bin,dev,etc,proc,sys,tmp,www}
    cp /bin/busybox "$1/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [ -e "$1/bin/$applet" ] || ln -s busybox "$1/bin/$applet"
    done
    echo "hello from a container" >"$1/www/index.html"
}

# write_image NAME ARCHIVE: for `ctr image import`.
write_image() {
    local work layer config manifest architecture
    local oci=application/vnd.oci.image
    case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    armv*) architecture=arm ;;
    *) architecture=$(uname -m) ;;
    esac
    work=$(mktemp -d "${TMPDIR:-/tmp}/circuit-image.XXXXXX")
    mkdir -p "$work"/{root,layout/blobs/sha256}
    root_folder "$work/root"
    tar -C "$work/root" --owner=0 --group=0 --numeric-owner -cf "$work/layer" .
    layer=$(blob "$work/layer" "$work/layout")

    printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},' \
        "$architecture" >"$work/config"
    printf '"rootfs":{"type":"layers","diff_ids":[%s]}}' "${layer%%,*}" >>"$work/config"
    config=$(blob "$work/config" "$work/layout")

    printf '{"schemaVersion":2,"config":{"mediaType":"%s","digest":%s},' \
        "$oci.config.v1+json" "$config" >"$work/manifest"
    printf '"layers":[{"mediaType":"%s","digest":%s}]}' "$oci.layer.v1.tar" "$layer" >>"$work/manifest"
    manifest=$(blob "$work/manifest" "$work/layout")

    printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s","digest":%s,' \
        "$oci.manifest.v1+json" "$manifest" >"$work/layout/index.json"
    printf '"annotations":{"io.containerd.image.name":"%s"}}]}' "$1" >>"$work/layout/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$work/layout/oci-layout"
    tar -C "$work/layout" -cf "$2" .
    rm -rf "$work"
}
