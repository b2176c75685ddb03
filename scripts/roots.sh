# Sourced after lib.sh by the scripts that work in a Debian root of their own.
# shellcheck shell=sh

lent=/etc/lent.crt # the certificates that this machine trusts, in a root while it is made

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
