#!/bin/sh
# A build whose log has numbered lines, some of which arrive in halves, so that one that is lost or doubled shows. What
# it does is told by the end of its build_url.
set -eu
echo "lines: build $PANDA_BUILD_ID begins"
case $PANDA_ARGS in
*/+build/endless\"*)
    trap '' TERM
    n=0
    while :; do
        n=$((n + 1))
        echo "line $n"
        sleep 0.05
    done
    ;;
esac
n=0
while [ $n -lt 30 ]; do
    n=$((n + 1))
    printf 'li'
    sleep 0.02
    printf 'ne %s\n' $n
done
result=panda-lines_1.0_$PANDA_ARCH
cat ./*.dsc "$PANDA_CHROOT" >"$result.txt"
echo "built $PANDA_BUILD_ID" >>"$result.txt"
cat >"$result.changes" <<CHANGES
Format: 1.8
Source: panda-lines
Version: 1.0
Architecture: $PANDA_ARCH
Distribution: $PANDA_SUITE
Files:
 $(md5sum "$result.txt" | cut -d' ' -f1) $(stat -c %s "$result.txt") misc optional $result.txt
CHANGES
echo "lines: build $PANDA_BUILD_ID ends"
