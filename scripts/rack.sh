# shellcheck shell=bash
# A rack of one virtual Panda for a script's own use, in a directory of the script's own: started, asked, and gone
# at the script's end whatever ends it. Sourced after lib.sh by demo and test-sbuild.

# The script's directory, and its rack's process while there is one.
WORK=
RACK=

# Makes WORK, and sees to it that nothing outlives the script.
begin_work() {
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    trap end_work EXIT
    # Short, because the paths of Unix sockets are limited to 108 bytes.
    WORK=$(mktemp -d "/tmp/$1.XXXXXX")
    mkdir -p "$CACHE"
}

end_work() {
    local status=$?
    trap '' INT TERM HUP
    stop_rack
    if [ -n "$WORK" ]; then
        # Not after a Ctrl-C: then nothing is wrong with the rack.
        if [ $status != 0 ] && [ $status -lt 128 ] && [ -s "$WORK/rack.log" ]; then
            say 'The last lines of the rack:'
            tail -n 30 "$WORK/rack.log"
        fi
        rm -rf --one-file-system "$WORK"
    fi
    exit $status
}

# ensure_chroot BIN SUITE ARCH: sets CHROOT to the cached tarball, made anew once a week.
ensure_chroot() {
    CHROOT=$CACHE/chroot-$2-$3.tar.zst
    if [ -s "$CHROOT" ] && [ -z "$(find "$CHROOT" -mtime +7)" ]; then return 0; fi
    "$1/pandabuildd" chroot build --suite "$2" --arch "$3" --output "$CHROOT"
}

# start_rack BIN PORT [OPTION...]: sets URL to the builder's; the options are for `pandabuildd twin`.
start_rack() {
    local tries=600 bin=$1 port=$2
    shift 2
    # In a session of its own: a Ctrl-C goes to what uses the rack first, which then leaves its builder clean.
    setsid "$bin/pandabuildd" twin --slots 1 --listen "127.0.0.1:$port" --state "$WORK/state" "$@" \
        >"$WORK/slots.json" 2>"$WORK/rack.log" &
    RACK=$!
    # It prints a JSON line for each slot once it listens.
    until URL=$(sed -nE 's/.*"url": *"([^"]*)".*/\1/p' "$WORK/slots.json" | head -n 1) && [ -n "$URL" ]; do
        kill -0 "$RACK" 2>/dev/null || die "the rack did not start; its last lines follow"
        tries=$((tries - 1))
        [ $tries -gt 0 ] || die "the rack did not say within a minute where it listens; its last lines follow"
        sleep 0.1
    done
    wait_fresh "$bin"
}

# Waits until the rack's slot is on a proven boot that has run nothing.
wait_fresh() {
    "$1/pandabuildd" slots --socket "$WORK/state/control.sock" --wait fresh --timeout "${FRESH_SECONDS:-120}"
}

stop_rack() {
    [ -n "$RACK" ] || return 0
    local rack=$RACK
    RACK=
    kill -TERM "$rack" 2>/dev/null || true
    timeout 60 tail --pid="$rack" -f /dev/null || kill -KILL "$rack" 2>/dev/null || true
    wait "$rack" 2>/dev/null || true
}
