# shellcheck shell=bash disable=SC2016,SC2034
# What the scripts beside this file share: where things are, how they speak, and a private apt that
# leaves the host's own alone. Sourced, never run.

# The project's directory.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where big things that can be made again are kept between runs.
CACHE=${PANDABUILDD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pandabuildd}

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Ends a script that cannot do its work here through nobody's fault: one line, and success.
skip() {
    printf 'skipped: %s\n' "$*"
    exit 0
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "\"$*\" needs root: run this script as root, or install sudo and allow yourself to use it"
    fi
}

# Optimised programs for tests of many boots, which then take a fraction of the time: sets PANDA_TEST_BIN to their
# directory, unless it is set already.
release_programs() {
    [ -z "${PANDA_TEST_BIN:-}" ] || return 0
    cargo build --release --locked -p pandabuildd -p panda-twin -p panda-agent
    PANDA_TEST_BIN=$(cargo metadata --locked --no-deps --format-version 1 |
        sed -nE 's/.*"target_directory":"([^"]*)".*/\1/p')/release
    export PANDA_TEST_BIN
}

# One value of this system's os-release: ID, VERSION_ID, VERSION_CODENAME.
os_release() {
    (
        # shellcheck disable=SC1091
        . /etc/os-release
        printf '%s' "${!1:-}"
    )
}

# The host's Debian suite by its code name: bookworm, trixie.
host_suite() {
    local suite
    suite=$(os_release VERSION_CODENAME)
    printf '%s' "${suite:-unstable}"
}

# private_apt DIR ARCH TYPES: a package index of ARCH in DIR, from the host's own apt sources, read as
# TYPES ("deb", "deb-src", "deb deb-src"). The host's lists and architectures stay as they are. Sets the array
# APT, the options that make apt use it. Call `apt-get "${APT[@]}" update` next.
private_apt() {
    local dir=$1 arch=$2 types=$3 file type
    mkdir -p "$dir/etc/sources.list.d" "$dir/state/lists/partial" "$dir/cache/archives/partial"
    chmod 755 "$dir"
    : >"$dir/status"
    : >"$dir/etc/sources.list"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$file" ] || continue
        for type in $types; do
            sed -nE "s/^[[:space:]]*deb[[:space:]]+/$type /p" "$file" >>"$dir/etc/sources.list"
        done
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        sed -E "s/^Types:.*/Types: $types/" "$file" >"$dir/etc/sources.list.d/${file##*/}"
    done
    APT=(
        -o "Dir::Etc::SourceList=$dir/etc/sources.list"
        -o "Dir::Etc::SourceParts=$dir/etc/sources.list.d"
        -o "Dir::State=$dir/state"
        -o "Dir::State::Status=$dir/status"
        -o "Dir::Cache=$dir/cache"
        -o "APT::Architecture=$arch"
        -o "APT::Architectures=$arch"
        -o Acquire::Languages=none
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false
        -o Acquire::Retries=2
        -o Acquire::http::Timeout=30
        -o Acquire::https::Timeout=30
        -o APT::Sandbox::User=root
        -o quiet=1
    )
}

# The archive lines that builds of SUITE may use, one a line, from the private apt's index.
archive_lines() {
    local suite=$1
    apt-get "${APT[@]}" indextargets \
        --format '$(CODENAME) deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v suite="$suite" '$1 == suite || $1 == suite "-updates" || $1 == suite "-security"' |
        cut -d' ' -f2- | sort -u
}
