#!/bin/sh
# Builds that are hard to end, a kind a slot, told apart by the board's host name.
echo begins
case $(hostname) in
panda01) # ignores signals
    trap '' TERM INT HUP QUIT
    echo resists
    while :; do sleep 1; done
    ;;
panda02) # many processes, in sessions of their own, none of which heeds a signal
    n=0
    while [ $n -lt 120 ]; do
        n=$((n + 1))
        setsid sh -c 'trap "" TERM INT HUP; while :; do sleep 1 & wait; done' &
    done
    echo resists
    wait
    ;;
panda03) # fills the disk
    dd if=/dev/zero of=full bs=64k 2>/dev/null
    echo resists
    while :; do sleep 1; done
    ;;
panda04) # runs until its board dies
    echo resists
    while :; do sleep 1; done
    ;;
*) exit 2 ;;
esac
