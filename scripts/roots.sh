# Sourced after lib.sh by the scripts that work in a Debian root of their own.
# shellcheck shell=sh

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/doorward-deb # may be removed at any time
lent=/etc/lent.crt # the certificates that this machine trusts, in a root while it is made

# lock_roots: one script at a time uses the roots.
lock_roots() {
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
}

# set_date: that of the commit, in all that is built.
set_date() {
    commit_s=$(git -C "$root" log -1 --format=%ct 2>/dev/null || stat -c %Y "$root/CHANGELOG.md")
    export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$commit_s}"
}

# make_root DIRECTORY PACKAGE,… [OPTION…]: Debian in a directory, kept until it needs other packages.
make_root() {
    place=$1 packages=$2
    shift 2
    [ "$(cat "$place.recipe" 2>/dev/null)" != "$packages $*" ] || return 0
    command -v mmdebstrap >/dev/null || need_packages mmdebstrap
    say "making $place"
    rm -rf "$place" "$place.recipe"
    # A mirror may be a snapshot, whose date has passed; its signature is checked in any case.
    mmdebstrap --quiet --variant=apt --aptopt='Acquire::Check-Valid-Until "false"' --include="$packages" "$@" \
        "$release" "$place" >&2
    echo "$packages $*" >"$place.recipe"
}

# inside ROOT COMMAND…: in that root, with nothing of this environment but the way to the network. What it mounts and
# starts ends with it.
inside() (
    place=$1
    shift
    set -- PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore "$@"
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL PIP_TRUSTED_HOST PIP_PROXY; do
        eval "value=\${$name:-}"
        [ -z "$value" ] || set -- "$name=$value" "$@"
    done
    [ ! -s "$place$lent" ] || set -- "PIP_CERT=$lent" "$@"
    # shellcheck disable=SC2016 # for the inner shell
    exec unshare --mount --pid --fork --kill-child \
        sh -euc 'mount -t proc proc "$0/proc"; exec chroot "$0" env -i "$@"' "$place" "$@" </dev/null
)

# lend_network ROOT: the certificates and the package index that pip uses here.
lend_network() {
    for certificates in "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt; do
        [ -s "$certificates" ] || continue
        cp -L "$certificates" "$1$lent"
        break
    done
    for settings in /etc/pip.conf "${HOME:-/}/.config/pip/pip.conf"; do
        [ ! -s "$settings" ] || cat "$settings"
    done | awk -F ' *= *' '/^(index-url|extra-index-url|trusted-host|proxy) *=/ && !/file:/ { last[$1] = $0 }
        END { print "[global]"; for (name in last) print last[name] }' >"$1/etc/pip.conf"
}

# make_systems_root DIRECTORY: a Debian with the build and service tools of other systems.
make_systems_root() {
    release=bookworm
    make_root "$1" rpm,makepkg,fakeroot,libarchive-tools,zstd,openrc,runit,iproute2,nftables,netbase,python3-hatchling,python3-installer,python3-cryptography,python3-segno,python3-shtab
}

# make_sdist DIRECTORY: of the working tree, built in the root for other systems.
make_sdist() {
    rm -rf "$cache/systems/tree" # of a run that was interrupted
    mkdir "$cache/systems/tree"
    tar --exclude='./.?*' --exclude=./build --exclude=./dist --exclude=__pycache__ -cf - -C "$root" . |
        tar -C "$cache/systems/tree" -xf -
    inside "$cache/systems" SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" sh -euc 'cd /tree; python3 -m hatchling build -t sdist -d dist' >&2
    cp "$cache"/systems/tree/dist/*.tar.gz "$1/"
    rm -rf "$cache/systems/tree"
}
