# For scripts/setup and scripts/install: Debian's packages and its Python.  Sourced; `program` names who speaks.

build_packages=(gcc libc6-dev libnetfilter-queue-dev python3-dev python3-venv)
run_packages=(iptables iproute2)

say() { printf '%s: %s\n' "$program" "$*"; }
die() { printf '%s: %s\n' "$program" "$*" >&2; exit 1; }

# Those of the given packages that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        [[ $(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null) == ii* ]] || echo "$package"
    done
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --yes --no-install-recommends "$@" </dev/null >/dev/null
}

# Debian's own interpreter, before whatever stands first in PATH.
find_python() {
    local python
    for python in /usr/bin/python3 "$(command -v python3 || true)"; do
        if [[ -x $python ]] && "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    die "no Python 3.11 or later with venv found"
}
