# For scripts/setup, scripts/package and scripts/install: Debian's packages and its Python.  Sourced; `program` names who speaks.

build_packages=(gcc libc6-dev libnetfilter-queue-dev python3-dev python3-venv)
run_packages=(iptables iproute2)
runtime_packages=(iptables libnetfilter-queue1 passwd systemd)      # what the installed daemon and its package's scripts run

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

require_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    ((EUID == 0)) || die "Debian packages are missing; run as root, or install them: ${missing[*]}"
    say "installing ${missing[*]}"
    apt_install "${missing[@]}"
}

# The comment at the script's top.
usage() { sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//p}' "scripts/$program"; }

# A path as the caller's directory has it.
absolute() { case $1 in /*) echo "$1" ;; *) echo "$caller/$1" ;; esac; }

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
