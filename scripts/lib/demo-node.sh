#!/usr/bin/env bash
# The steps of scripts/demo. Runs as process 1 of its own namespaces: when it
# ends, the kernel ends everything that it started.
set -Eeuo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "$0")/common.sh"

dir=$1
cgroup=$2
image=docker.io/demo/busybox:latest
patience=30
output=

fail() {
    printf 'error: %s\n' "$*" >&2
    echo '--- the last lines of the daemon' >&2
    tail -n 30 "$dir/circuit.log" >&2 || true
    echo '--- the last lines of containerd' >&2
    tail -n 10 "$dir/containerd.log" >&2 || true
    exit 1
}
trap 'fail "line $LINENO failed"' ERR
trap 'exit 130' INT TERM HUP

# show COMMAND…: prints a command as a person would type it, runs it, and keeps
# what it prints.
show() {
    local code=0
    printf '$ %s\n' "$*"
    output=$("$@" 2>&1) || code=$?
    [ -z "$output" ] || printf '%s\n' "$output"
    [ "$code" -eq 0 ] || fail "$1 ended with exit code $code"
}

# expect PATTERN: what was shown must match.
expect() {
    grep -qE -- "$1" <<<"$output" || fail "this should have matched: $1"
}

# wait_until WHAT COMMAND…: asks until the command succeeds.
wait_until() {
    local what=$1 end=$((SECONDS + patience))
    shift
    until output=$("$@" 2>&1); do
        [ "$SECONDS" -lt "$end" ] || fail "not within $patience s: $what: $* says: $output"
        sleep 0.1
    done
}

log_says() { grep -qE -- "$1" "$dir/circuit.log"; }
pid_of() { ctr task ls | awk -v name="$1" '$1 == name && $3 == "RUNNING" { print $2 }'; }
runs_anew() {
    local pid
    pid=$(pid_of "$1")
    [ -n "$pid" ] && [ "$pid" != "$2" ]
}
has_address() { circuit network ips "$1" | grep -qF " $2 "; }

serves_or_ended() { circuit network ls || ! kill -0 "$daemon"; }

private_mounts() {
    local resolv
    hostname demo
    resolv=$(readlink -f /etc/resolv.conf)
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/lock /var/lib/cni /var/lib/circuit "$(dirname "$resolv")"
    [ -e "$resolv" ] || : >"$resolv"
    # The name server of this machine is not reached from here, and its address
    # could lie in the demo's subnet.
    : >"$dir/resolv.conf"
    mount --bind "$dir/resolv.conf" "$resolv"
    mount --bind "$dir/cni" /var/lib/cni
    mount --bind "$dir/circuit" /var/lib/circuit
    ip link set lo up
}

start_containerd() {
    cat >"$dir/containerd.toml" <<CONF
version = 2
root = "$dir/containerd/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/containerd/opt"
CONF
    # Overlays do not stack, where this machine is itself a container.
    if [ "$(stat -f -c %T "$dir")" = overlayfs ]; then
        export CONTAINERD_SNAPSHOTTER=native
    fi
    containerd --config "$dir/containerd.toml" >"$dir/containerd.log" 2>&1 &
    wait_until "containerd serves" ctr version
    ctr image import "$dir/image.tar" >/dev/null
}

network_file() {
    cat >ctr0.conflist <<'CONF'
{
  "cniVersion": "1.0.0",
  "name": "ctr0",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "ctr0",
      "isGateway": true,
      "ipMasq": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{ "subnet": "10.255.0.0/16" }]],
        "routes": [{ "dst": "0.0.0.0/0" }]
      }
    }
  ]
}
CONF
}

the_daemon() {
    step "the daemon, with nothing but its defaults"
    printf '$ circuit server &\n'
    circuit server >"$dir/circuit.log" 2>&1 &
    daemon=$!
    wait_until "the daemon serves or has ended" serves_or_ended
    kill -0 "$daemon" 2>/dev/null || fail "the daemon has ended"
    output=$(cat "$dir/circuit.log")
    printf '%s\n' "$output"
    expect 'serves node demo'
}

a_network() {
    step "a network from a CNI file"
    network_file
    show cat ctr0.conflist
    show circuit network create ctr0 ctr0.conflist
    show circuit network ls
    expect '^NAME +TYPE'
    expect '^ctr0 +bridge'
}

# forever: a container's command that ends at once when it is told to.
forever=(sh -c "trap 'exit 0' TERM; httpd -h /www; while :; do sleep 1000 & wait; done")

# run_container NAME LABEL…: shows `ctr run` with the command left out.
run_container() {
    local name=$1 labels=() label
    shift
    for label in "$@"; do
        labels+=(--label "$label")
    done
    # The cgroup is only named so that the demo can share a machine with others.
    printf '$ ctr run -d %s%s %s …\n' "${labels[*]:+${labels[*]} }" "$image" "$name"
    ctr run -d --null-io --cgroup "/$cgroup/$name" "${labels[@]}" "$image" "$name" "${forever[@]}" ||
        fail "ctr run ended with exit code $?"
}

by_hand() {
    step "a running container, connected by hand"
    run_container shell
    show circuit network connect shell ctr0
    expect '^connected shell to ctr0 with ip=10\.255\.0\.2$'
    show circuit network ips shell
    expect '^ctr0 +10\.255\.0\.2 +eth0'
    show ctr task exec --exec-id addr shell ip -4 addr show eth0
    expect 'inet 10\.255\.0\.2/16'
}

by_label() {
    step "a labelled container, connected by itself"
    run_container web io.circuit.network=ctr0 io.circuit.restart=always
    wait_until "web has its address" has_address web 10.255.0.3
    show grep -F 'connected web' circuit.log
    show circuit network ips web
    expect '^ctr0 +10\.255\.0\.3 +eth0'
    show ctr task exec --exec-id ping shell ping -c 2 -W 5 10.255.0.3
    expect ' 0% packet loss'
    show ctr task exec --exec-id get shell wget -q -O - http://10.255.0.3/
    expect 'hello from a container'
}

comes_back() {
    local before
    step "killed, and back, connected"
    before=$(pid_of web)
    show ctr task ls
    show ctr task kill -s KILL web
    wait_until "web runs again" runs_anew web "$before"
    wait_until "web has its address again" has_address web 10.255.0.3
    show ctr task ls
    expect '^web +[0-9]+ +RUNNING'
    show circuit network ips web
    expect '^ctr0 +10\.255\.0\.3 +eth0'
    # At once, although web's hardware address may be a new one.
    show ctr task exec --exec-id ping shell ping -c 2 -W 5 10.255.0.3
    expect ' 0% packet loss'
}

disconnected() {
    step "disconnected"
    show circuit network disconnect shell ctr0
    expect '^disconnected shell from ctr0$'
    show circuit network ips shell
    if grep -qF 10.255.0.2 <<<"$output"; then
        fail "shell still has its address"
    fi
    if ctr task exec --exec-id alone shell ping -c 1 -W 1 10.255.0.3 >/dev/null 2>&1; then
        fail "shell still reaches web"
    fi
}

stopped() {
    step "stopped for good, in spite of its policy, and deleted"
    show circuit container stop web
    show ctr container rm web
    ctr task kill -s KILL shell
    wait_until "shell is deleted" ctr task rm shell
    show ctr container rm shell
    show circuit network delete ctr0
    expect '^ctr0$'
}

# Those that this machine may have: nothing of the demo needs them.
hide_plugins() {
    local folder
    for folder in /opt/containerd/bin /opt/cni/bin /usr/lib/cni /usr/libexec/cni; do
        [ ! -d "$folder" ] || mount -t tmpfs tmpfs "$folder"
    done
}

no_links() { [ -z "$(ip -o link show type veth)" ]; }
no_leases() { [ -z "$(find /var/lib/cni/networks -name '10.*')" ]; }
no_pins() { [ -z "$(find /run/circuit/netns -type f)" ]; }

nothing_left() {
    local code=0
    step "nothing is left behind"
    wait_until "no container's interface is left" no_links
    wait_until "no leased address is left" no_leases
    wait_until "no pinned namespace is left" no_pins
    kill -TERM "$daemon"
    wait "$daemon" || code=$?
    [ "$code" -eq 0 ] || fail "the daemon ended with exit code $code"
    show tail -n 2 circuit.log
}

private_mounts
cd "$dir"
export PATH=$dir/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset RUST_LOG
step "a private node: its own network, containerd $(containerd --version | awk '{ print $3 }')" \
    "and no CNI plugins"
hide_plugins
start_containerd
the_daemon
a_network
by_hand
by_label
comes_back
disconnected
stopped
nothing_left
