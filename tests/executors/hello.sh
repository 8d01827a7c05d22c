#!/bin/sh
# Stands where chroot and sbuild would: makes a binary package, with the tools that every Debian machine has, and its
# .changes, in the directory that holds the build's files. It leaves a mark on the scratch disk's memory of boots:
# what an earlier boot left would show in the log.
set -eu
echo "build $PANDA_BUILD_ID for $PANDA_SUITE on $PANDA_ARCH"
test -s "$PANDA_CHROOT"
ls ./*.dsc >/dev/null
mkdir -p root/DEBIAN
cat >root/DEBIAN/control <<CONTROL
Package: panda-hello
Version: 1.0
Architecture: $PANDA_ARCH
Maintainer: pandabuildd <pandabuildd@example.org>
Description: greeting
CONTROL
deb=panda-hello_1.0_$PANDA_ARCH.deb
dpkg-deb --root-owner-group --build root "$deb"
rm -r root
cat >"panda-hello_1.0_$PANDA_ARCH.changes" <<CHANGES
Format: 1.8
Source: panda-hello
Version: 1.0
Architecture: $PANDA_ARCH
Distribution: $PANDA_SUITE
Files:
 $(md5sum "$deb" | cut -d' ' -f1) $(stat -c %s "$deb") misc optional $deb
CHANGES
echo "built $deb"
