#!/bin/sh
# Run by mmdebstrap beside the root file system that it is making: fetches the packages of the kernel, by the same
# apt settings and with the same checks of signatures, into $PANDA_KERNEL_DIR; they are unpacked there later and never
# installed. Also lists what the root file system is made of.
#
#   $1                      the root file system
#   $PANDA_KERNEL_PACKAGE   linux-image-amd64: depends on the one with the kernel in it, by its version
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$PANDA_KERNEL_DIR"

needs() {
    apt-cache depends --no-recommends --no-suggests "$1" |
        sed -nE 's/^ *(Pre)?Depends: (linux-(image|modules|binary)-[^ <>]+)$/\2/p'
}

if ! apt-cache show "$PANDA_KERNEL_PACKAGE" >/dev/null 2>&1; then
    echo "E: the archive has no package $PANDA_KERNEL_PACKAGE; images are made from Debian's" >&2
    exit 1
fi
wanted=
new=$(needs "$PANDA_KERNEL_PACKAGE")
while [ -n "$new" ]; do
    found=
    for package in $new; do
        case " $wanted " in
        *" $package "*) ;;
        *)
            wanted="$wanted $package"
            found="$found $(needs "$package")"
            ;;
        esac
    done
    new=$(echo $found)
done
if [ -z "$wanted" ]; then
    echo "E: $PANDA_KERNEL_PACKAGE depends on no package of a kernel" >&2
    exit 1
fi
echo "I: fetching$wanted..." >&2
apt-get -q -o APT::Sandbox::User=root download $wanted >&2
dpkg-query --admindir="$1/var/lib/dpkg" -W -f '${Package} ${Version} ${Architecture}\n' >packages
for file in *.deb; do
    dpkg-deb -W --showformat='${Package} ${Version} ${Architecture}\n' "$file" >>packages
done
