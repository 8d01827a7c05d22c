#!/bin/sh
# Fails where anything of an earlier build is left on the board's scratch disk, else leaves a mark there and builds as
# hello.sh does.
set -eu
disk=$PWD
while [ "$(basename "$disk")" != scratch ]; do
    [ "$disk" != / ] || { echo "the build does not run on the scratch disk: $PWD"; exit 1; }
    disk=$(dirname "$disk")
done
left=$(find "$disk" -name 'mark-of-a-build')
[ -z "$left" ] || { echo "an earlier build left $left"; exit 1; }
touch "$disk/mark-of-a-build" "$PWD/mark-of-a-build"
exec "$(dirname "$0")/hello.sh"
