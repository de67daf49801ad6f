#!/bin/sh
# Writes the units of the package into a folder: crieur.service with the program in /usr/bin, and from the same file the
# instance unit crieur@.service, for more daemons than one on a machine. systemd/crieur.service is the only original.
#
#   package/units.sh DIRECTORY
set -eu
out=${1:?usage: package/units.sh DIRECTORY}
unit=$(dirname "$0")/../systemd/crieur.service

mkdir -p "$out"
sed 's|/usr/local/bin/crieur|/usr/bin/crieur|' "$unit" >"$out/crieur.service"
# The instance "shop" has /etc/crieur/shop.toml, /etc/crieur/shop.env and /run/crieur-shop.
sed -e 's|^# crieur under systemd\..*|# crieur@NAME: one more daemon, with /etc/crieur/NAME.toml and /etc/crieur/NAME.env. Adjust by drop-in.|' \
    -e 's|^\(Description=.*\)|\1 (%i)|' \
    -e 's|/etc/crieur/crieur\.|/etc/crieur/%i.|' \
    -e 's|\(systemctl edit crieur\)\b|\1@NAME|' \
    -e 's|^RuntimeDirectory=crieur$|RuntimeDirectory=crieur-%i|' \
    "$out/crieur.service" >"$out/crieur@.service"

# A pattern that met nothing would make a unit that shares its files with the other.
fail() { echo "units: $1" >&2; exit 70; }
for unit in crieur.service crieur@.service; do
    grep -q '^ExecStart=/usr/bin/crieur run ' "$out/$unit" || fail "$unit does not start /usr/bin/crieur"
done
grep -q '^ExecStart=.*/etc/crieur/%i\.toml$' "$out/crieur@.service" || fail "an instance has no configuration of its own"
grep -q '^EnvironmentFile=-/etc/crieur/%i\.env$' "$out/crieur@.service" || fail "an instance has no addresses of its own"
grep -q '^RuntimeDirectory=crieur$' "$out/crieur@.service" && fail "an instance shares /run/crieur with the others"
exit 0
