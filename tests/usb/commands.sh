#!/bin/busybox sh
# shellcheck shell=dash
# Runs in the guest of scripts/usb-commands: the commands that look at real USB and boot a board over it, on a hub whose
# ports this switches. Every check that fails says what it wanted.
set -eu
HUB=/sys/bus/usb/devices/1-1/1-1:1.0
PANDABUILDD=./pandabuildd

main() {
    until [ -e $HUB/1-1-port3/disable ]; do sleep 0.1; done
    # The kernel gives a hub's ports power once more while it takes the hub on.
    sleep 3
    for port in 1 2 3; do off "$port"; done
    step "usb list: a ROM, an empty port, one without power"
    on 1
    on 3
    until [ -e /sys/bus/usb/devices/1-1.1/descriptors ]; do sleep 0.1; done
    $PANDABUILDD usb list >shown 2>&1
    cat shown
    wants shown 'hub 1-1: .*switches the power of each port'
    wants shown '  1-1.1: boot ROM of an OMAP4430 (0451:d00f); chip OMAP4430, .*all zeros, which is normal'
    wants shown '  1-1.2 (power off): empty'
    wants shown '  1-1.4: empty'
    $PANDABUILDD usb list --json >list.json
    wants list.json '"power_switching":"individual"'

    step "usb list as a user who may not open devices"
    off 1
    on 1
    until [ -e /sys/bus/usb/devices/1-1.1/descriptors ]; do sleep 0.1; done
    chmod go-rwx /dev/bus/usb/*/*
    echo 'user:x:1000:1000::/:/bin/sh' >/etc/passwd
    if su user -s /bin/sh -c true 2>/dev/null; then
        su user -s /bin/sh -c "$PANDABUILDD usb list" >shown 2>&1
        cat shown
        wants shown '1-1.1: boot ROM .*permission denied; be root, or put this line into /etc/udev/rules.d'
        wants shown 'hub 1-1: .*power switching is not known: permission denied'
    else
        echo "left out: this busybox cannot become another user"
    fi

    step "boot: one board that gets power while it waits"
    files
    off 1
    $PANDABUILDD boot --port 1-1.1 --second-stage aboot --kernel zimage --dtb dtb --ramdisk ramdisk \
        --cmdline console=ttyS2,115200 >booted 2>told &
    boot=$!
    sleep 1
    on 1
    wait $boot
    cat told booted
    wants booted '^1-1.1: OMAP4430, .*: booted in .* MB/s; SHA-256 [0-9a-f]*$'

    step "boot --monitor: three boards, and one of them again"
    for port in 1 2 3; do off "$port"; done
    $PANDABUILDD boot --second-stage aboot --kernel zimage --dtb dtb --ramdisk ramdisk --monitor >booted 2>told &
    boot=$!
    sleep 1
    for port in 1 2 3; do on "$port"; done
    lines booted 3
    off 2
    sleep 1
    on 2
    lines booted 4
    kill $boot
    wait $boot || [ $? = 130 ]
    cat told booted
    for port in 1 2 3; do wants booted "^1-1.$port: .*booted in"; done

    step "what cannot be booted"
    refused 'no such port' 'port 1-9 does not exist; this machine has 1-1, ' \
        --port 1-9 --second-stage aboot --kernel zimage
    refused 'no kernel' 'no ARM zImage' --port 1-1.1 --second-stage aboot --kernel aboot

    step "usb learn: cut, asked, cut again, recorded"
    for port in 1 2 3; do off "$port"; done
    configure 1-1.2 2
    $PANDABUILDD usb learn panda01 --config rack.toml >learnt 2>&1
    cat learnt
    wants learnt 'panda01: OMAP4430, .*no public ID: recorded in rack.toml'
    wants learnt 'all zeros, which is normal'
    wants rack.toml 'chip = "omap4430"'
    [ "$(cat $HUB/1-1-port2/disable)" = 1 ] || fail "the board still has power"
    $PANDABUILDD usb learn panda01 --config rack.toml | tee learnt
    wants learnt 'recorded already'
    sed -i 's/omap4430/omap4460/' rack.toml
    if $PANDABUILDD usb learn panda01 --config rack.toml >learnt 2>&1; then fail "another chip was taken"; fi
    tail -n 1 learnt
    wants learnt 'it is OMAP4430, no public ID, and recorded is OMAP4460'

    step "what is on a guarded bus"
    cat /sys/bus/usb/devices/usb1/authorized_default
    [ "$(cat /sys/bus/usb/devices/usb1/authorized_default)" = 0 ] || fail "the bus is open"
    echo "all is as it should be"
}

step() { echo "== $1"; }
fail() { echo "FAILED: $1" && exit 1; }
off() { echo 1 >"$HUB/1-1-port$1/disable"; }
on() { echo 0 >"$HUB/1-1-port$1/disable"; }
wants() { grep -q "$2" "$1" || { cat "$1" && fail "$1 has no line \"$2\""; }; }

# lines FILE N: waits until it has so many.
lines() {
    local tries=0
    until [ "$(wc -l <"$1")" -ge "$2" ]; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { cat told "$1" && fail "$1 has no $2 lines"; }
        sleep 0.1
    done
}

# refused WHAT WORDS ARGUMENT...
refused() {
    local what=$1 words=$2
    shift 2
    if $PANDABUILDD boot "$@" >said 2>&1; then fail "$what was booted"; fi
    cat said
    wants said "$words"
}

# Something like a zImage of 4 MiB, a device tree, a ramdisk and a second stage.
files() {
    dd if=/dev/zero of=aboot bs=1000 count=14 2>/dev/null
    dd if=/dev/zero of=zimage bs=1M count=4 2>/dev/null
    at zimage 36 '\030\050\157\001\000\000\000\000\000\000\100\000\001\002\003\004'
    printf '\320\015\376\355\000\000\000\020\000\000\000\000\000\000\000\000' >dtb
    dd if=/dev/urandom of=ramdisk bs=1M count=2 2>/dev/null
}

# shellcheck disable=SC2059
at() { printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null; }

configure() {
    mkdir -p state
    cat >rack.toml <<TOML
[rack]
name = "guest"
state_dir = "state"
image = "image"

[front]
listen = "127.0.0.1:8221"

[depot]
listen = "127.0.0.1:8300"

[boot]
cut_hold_ms = 500

[[slot]]
name = "panda01"
link = "127.0.0.1:8222"
pipe = { driver = "usb", port = "$1" }
power = { driver = "hub-port", hub = "1-1", port = $2 }
TOML
}

main
