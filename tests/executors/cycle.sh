#!/bin/sh
# A small build for the runs of many: what it does is told by the end of its build_url. It fails where anything of an
# earlier build is left on the board's scratch disk.
set -eu
echo "cycle: build $PANDA_BUILD_ID"
disk=$PWD
while [ "$(basename "$disk")" != scratch ]; do
    [ "$disk" != / ] || { echo "the build does not run on the scratch disk: $PWD"; exit 1; }
    disk=$(dirname "$disk")
done
left=$(find "$disk" -name 'mark-of-a-build')
[ -z "$left" ] || { echo "an earlier build left $left"; exit 1; }
touch "$disk/mark-of-a-build"
case $PANDA_ARGS in
*/+build/endless\"*)
    trap '' TERM
    while :; do sleep 1; done
    ;;
*/+build/fails\"*)
    echo "it does not compile"
    exit 2
    ;;
esac
result=panda-cycle_1.0_$PANDA_ARCH
{
    cat ./*.dsc
    head -n 1 "$PANDA_CHROOT"
} >"$result.txt"
echo "built $PANDA_BUILD_ID" >>"$result.txt"
cat >"$result.changes" <<CHANGES
Format: 1.8
Source: panda-cycle
Version: 1.0
Architecture: $PANDA_ARCH
Distribution: $PANDA_SUITE
Files:
 $(md5sum "$result.txt" | cut -d' ' -f1) $(stat -c %s "$result.txt") misc optional $result.txt
CHANGES
echo "built $PANDA_BUILD_ID"
