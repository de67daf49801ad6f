#!/usr/bin/env bash
# `make package`: a Debian package for each architecture that this machine can build for, in target/package/.
#
# The program is linked with glibc, against the oldest symbols that it needs, and the end of the build looks whether those are
# no newer than those of Ubuntu 22.04. Whatever is in the package is made here from the repository; `cargo deb` only packs.
set -euo pipefail
cd "$(dirname "$0")/.."

# glibc of Ubuntu 22.04, the oldest system that is promised. Debian 12 has 2.36.
glibc_max=2.35
binary_bytes_max=9000000

CARGO=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}
out=target/package # Where Cargo.toml looks for what is made here.

say() { echo "package: $*"; }
fail() { echo "package: $*" >&2; exit 69; }

# The program of this machine makes the pages and the completions, whatever it is packed for.
make_files() {
    rm -rf "$out"
    mkdir -p "$out/man" "$out/completions"
    "$1" man "$out/man"
    "$1" completions bash >"$out/completions/crieur"
    "$1" completions zsh >"$out/completions/_crieur"
    "$1" completions fish >"$out/completions/crieur.fish"
    package/units.sh "$out/units"
    cp systemd/crieur.sysusers "$out/units/crieur.sysusers"
    # The addresses of an example are nobody's: in the package each line waits for its owner.
    sed 's/^\([A-Z_]*=\)/# \1/' systemd/crieur.env >"$out/crieur.env"
    ! grep -q '^[A-Z_]*=' "$out/crieur.env" || fail "crieur.env of the package would set an address"
    changelog >"$out/changelog"
    printf '%s\n' "crieur: initial-upload-closes-no-bugs" "# It holds passwords." "crieur: non-standard-file-perm 0600 != 0644 [etc/crieur/crieur.env]" >"$out/lintian-overrides"
}

# Debian's form of the changelog: which version, and where to read what it brings. Its time is that of the last commit, so that
# the same commit makes the same package.
changelog() {
    local version
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    cat <<TEXT
crieur ($version-1) unstable; urgency=medium

  * What this version brings is in /usr/share/doc/crieur/docs/CHANGELOG.md.

 -- $maintainer  $(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" '+%a, %d %b %Y %H:%M:%S +0000')
TEXT
}
# Who made the package and answers for it: as other tools of Debian know them, else Cargo.toml's name for a build of nobody in
# particular. It is the same on each machine.
unnamed=$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)
maintainer="${DEBFULLNAME:-${unnamed% <*}} <${DEBEMAIL:-$(echo "$unnamed" | sed 's/.*<\(.*\)>/\1/')}>"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

# What the dynamic linker must find, as the newest version of glibc that a symbol names.
glibc_of() { objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | cut -d_ -f2 | sort -Vu | tail -n 1; }

judge() {
    local needs bytes
    needs=$(glibc_of "$1")
    [ -n "$needs" ] || fail "$1 names no symbol of glibc: objdump cannot read it"
    [ "$(printf '%s\n' "$needs" "$glibc_max" | sort -V | tail -n 1)" = "$glibc_max" ] ||
        fail "the program needs glibc $needs, which Ubuntu 22.04 does not have ($glibc_max): build it on an older system"
    bytes=$(stat -c %s "$1")
    [ "$bytes" -le "$binary_bytes_max" ] || fail "the program has $bytes bytes, more than $binary_bytes_max"
    say "$1: $bytes bytes, needs glibc $needs"
}

host=$(rustc -vV | sed -n 's/^host: //p')
case $host in
    x86_64-unknown-linux-gnu) other=aarch64-unknown-linux-gnu linker=aarch64-linux-gnu-gcc name=arm64 ;;
    aarch64-unknown-linux-gnu) other=x86_64-unknown-linux-gnu linker=x86_64-linux-gnu-gcc name=amd64 ;;
    *) fail "$host is no system that packages are made for" ;;
esac

"$CARGO" build --release --locked --bin crieur
judge "$target/release/crieur"
make_files "$target/release/crieur"
"$CARGO" deb --quiet --no-build --no-strip --maintainer "$maintainer" --output "$out/"

if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$other" ]; then
    say "no package for $name: this toolchain has no target $other (rustup target add $other)"
elif ! command -v "$linker" >/dev/null; then
    say "no package for $name: $linker is not here (apt install gcc-${linker%-gcc})"
else
    variable=CARGO_TARGET_$(echo "$other" | tr a-z- A-Z_)_LINKER
    env "$variable=$linker" "$CARGO" build --release --locked --bin crieur --target "$other"
    judge "$target/$other/release/crieur"
    "$CARGO" deb --quiet --no-build --no-strip --maintainer "$maintainer" --target "$other" --output "$out/"
fi
ls -l "$out"/*.deb
