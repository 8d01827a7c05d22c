#!/bin/busybox sh
# shellcheck shell=dash
# Runs in the guest: each line that comes is a command; its output is followed by "#done STATUS".
# A drill's first words may come before anybody listens.
echo '#ready'
while read -r line; do
    case $line in '#end') exit 0 ;; esac
    sh -c "$line" </dev/null 2>&1
    printf '\n#done %d\n' $?
done
