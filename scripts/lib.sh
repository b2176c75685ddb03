# Shared by the other scripts, which source it as root in a clone: what they need of Debian and of Python.
# shellcheck shell=sh

PATH=$PATH:/usr/sbin:/sbin # nft and its kin; plain `su` leaves these out
unset PYTHONDONTWRITEBYTECODE # else each of a thousand programs that the tests start compiles its modules again
root=$(cd "$(dirname "$0")/.." && pwd -P)
python=$root/.venv/bin/python
stamp=$root/.venv/.doorward
# Who publishes the packages, and where: NAME <ADDRESS> HOMEPAGE.
publisher=${DOORWARD_PUBLISHER:-doorward developers <doorward@example.org> https://doorward.example.org/}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
    say "$@"
    exit 2
}

require_root() {
    [ "$(id -u)" -eq 0 ] || die "installs Debian packages and makes network namespaces; run it as root: sudo $0"
}

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# need_packages PACKAGE…: installs those that are missing.
need_packages() {
    command -v dpkg-query >/dev/null || die "needs Debian or a relative of it; install these yourself: $*"
    missing=
    for package in "$@"; do
        installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing from Debian:$missing"
    export DEBIAN_FRONTEND=noninteractive
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then # Debian's way to install a daemon (knockd) without starting it
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT HUP TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    else
        policy=
    fi
    apt-get -qq update >&2
    # shellcheck disable=SC2086 # a list of words
    apt-get -qq install --yes --no-install-recommends $missing >&2 || say "apt-get failed; checking whether the programs are there"
    for package in $missing; do # a package whose service failed to start is there nevertheless
        dpkg -L "$package" >/dev/null 2>&1 || die "could not install $package"
    done
    [ -z "$policy" ] || rm -f "$policy"
    trap - EXIT INT HUP TERM
}

# find_python: prints a Python that can make environments; Debian's own first, since a shim may lead nowhere.
find_python() {
    for candidate in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "needs Python 3.11 or newer with venv and ensurepip (Debian 12: python3-venv)"
}

# need_venv runtime|dev|docs|fuzz: makes .venv where it is missing, broken or was moved, and installs this clone into it.
need_venv() {
    want="$root $(cksum <"$root/pyproject.toml")"
    usable=$("$python" -c 'import sys, pip; print(sys.version_info >= (3, 11))' 2>/dev/null || true)
    if [ "$usable" = True ] && grep -qsx "$want" "$stamp-$1"; then
        return 0
    fi
    if [ "$usable" != True ] || { [ -e "$stamp-runtime" ] && ! grep -qsF "$root " "$stamp-runtime"; }; then
        interpreter=$(find_python)
        say "making .venv with $interpreter"
        "$interpreter" -m venv --clear "$root/.venv"
    fi
    say "installing doorward ($1) into .venv"
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    "$python" -m pip install --quiet --upgrade 'pip>=25.1' # the first that knows --group
    if [ "$1" = runtime ]; then
        "$python" -m pip install --quiet --editable "$root"
    else
        (cd "$root" && "$python" -m pip install --quiet --editable . --group "$1")
        echo "$want" >"$stamp-$1"
    fi
    echo "$want" >"$stamp-runtime"
}

# record SYSTEM VERSION HOW: replaces the row of that system in docs/dev/what-runs-where.md.
record() {
    page=$root/docs/dev/what-runs-where.md
    { grep -vF "| $1 |" "$page" && echo "| $1 | $2 | $3 | $(date -u +%F) |"; } >"$page.new"
    mv "$page.new" "$page"
    say "$1: ran"
}
