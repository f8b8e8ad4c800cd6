# shellcheck shell=bash
# Keeps packages from starting their services while they are installed, by a
# policy-rc.d of our own. Source it after common.sh, with `policy`, its path, set.

# By this ours is known, should the run that wrote it have been killed.
policy_mark='# by scripts/setup of circuit, while it installs packages'

is_there() { [ -e "$1" ] || [ -L "$1" ]; }

# is_ours FILE: runs of before wrote it without the mark.
is_ours() {
    # In a trap, a bare return has the status of what came before.
    grep -qxF "$policy_mark" "$1" 2>/dev/null && return 0
    is_there "$policy.circuit-saved" && [ "$(cat "$1" 2>/dev/null)" = $'#!/bin/sh\nexit 101' ]
}

# One run at a time: the lock ends with it, however it ends. What is started meanwhile
# must not have descriptor 9.
lock_policy() {
    exec 9>"${policy_lock:-/run/circuit-setup.lock}"
    flock 9
    allow_services
}
unlock_policy() { exec 9>&-; }

forbid_services() {
    local fresh=$policy.circuit-new
    trap allow_services EXIT
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$fresh"
    chmod 755 "$fresh"
    if is_there "$policy"; then
        mv "$policy" "$policy.circuit-saved"
    fi
    mv "$fresh" "$policy"
}

# As it was before, also before a run that was killed.
allow_services() {
    local saved=$policy.circuit-saved
    rm -f "$policy.circuit-new"
    if is_ours "$policy"; then
        rm -f "$policy"
    fi
    if is_there "$saved" && is_there "$policy"; then
        warn "$policy was written anew meanwhile: the one of before is $saved.old"
        mv "$saved" "$saved.old"
    elif is_there "$saved"; then
        mv "$saved" "$policy"
    fi
    trap - EXIT
}

# What must hold, tried in a folder; the machine's own policy is left alone.
test_services() {
    local dir policy policy_lock want=$'#!/bin/sh\n# theirs' wrong=0
    dir=$(mktemp -d)
    policy=$dir/policy-rc.d policy_lock=$dir/lock
    expect() {
        local found
        found=$(cat "$policy" 2>/dev/null) || found=none
        if [ "$found" = "$2" ] && [ "$(find "$dir" -name 'policy-rc.d?*' | wc -l)" -eq "$3" ]; then
            return
        fi
        warn "$1: policy-rc.d is $found, beside $(ls "$dir")"
        wrong=$((wrong + 1))
    }
    killed() { { (lock_policy && forbid_services && kill -9 "$BASHPID") || true; } 2>/dev/null; }
    for theirs in none "$want"; do
        [ "$theirs" = none ] || printf '%s\n' "$theirs" >"$policy"
        (lock_policy && forbid_services && allow_services)
        expect "after a run" "$theirs" 0
        (lock_policy && forbid_services && exit 1) || true
        expect "after one that failed" "$theirs" 0
        killed
        killed
        [ "$("$policy" >/dev/null 2>&1 || echo $?)" = 101 ] || wrong=$((wrong + 1))
        (lock_policy)
        expect "after two that were killed" "$theirs" 0
        (lock_policy && forbid_services && touch "$dir/begun" && sleep 0.2 && allow_services) &
        until [ -e "$dir/begun" ]; do sleep 0.01; done
        (lock_policy && forbid_services && allow_services)
        wait
        expect "after two at once" "$theirs" 0
        rm "$dir/begun"
    done
    # Of a run of before: without the mark.
    mv "$policy" "$policy.circuit-saved"
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    (lock_policy)
    expect "after one of before" "$want" 0
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    (lock_policy)
    expect "another's that forbids as well" $'#!/bin/sh\nexit 101' 0
    rm -rf "$dir"
    step "self-test: $wrong wrong"
    return "$wrong"
}
