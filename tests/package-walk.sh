#!/usr/bin/env bash
# Runs inside the container of tests/package.sh: a person's walk through the package, under a real systemd.
set -euo pipefail
. /walk/servers

say() { echo "walk: $*"; }
trap 'echo "walk failed at line $LINENO"' ERR
fail() { trap - ERR; echo "walk failed: $*"; systemctl status --no-pager -l crieur 2>&1 | tail -n 20; journalctl --no-pager -u crieur 2>&1 | tail -n 40; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1 is \"$2\", not \"$3\""; }
show() { systemctl show -P "$1" "${2:-crieur}"; }
waits() { # what, command…
    local what=$1; shift
    for _ in $(seq 300); do if "$@"; then return; fi; sleep 0.1; done
    fail "in vain waited for: $what"
}
sql() { # over the host, which has psql
    rm -f /walk/answer; echo "$1" >/walk/ask.part; mv /walk/ask.part /walk/ask
    waits "an answer of the host" test -f /walk/answer
    cat /walk/answer
}
redis() { # one command, one line of answer
    exec 3<>"/dev/tcp/127.0.0.1/$redis"; printf '%s\r\n' "$*" >&3; head -n 1 <&3 | tr -d '\r'; exec 3>&-
}
streams() { [[ $(show StatusText) == streaming* ]]; }
gone() { [ "$(redis EXISTS "$1")" = ":0" ]; }
changes() { # a key goes with its row
    [ "$(redis SET "detail:1" old)" = +OK ]
    sql "INSERT INTO properties VALUES (1, 'Dakar') ON CONFLICT (id) DO UPDATE SET city = properties.city || '+'" >/dev/null
    waits "detail:1 is deleted" gone detail:1
}
now() { date +%s.%N; }
journal() { journalctl --no-pager -o short-unix "_SYSTEMD_UNIT=crieur.service" "$@"; }

# 1. Installed: not started, not enabled, and it says what to do.
dpkg -i /walk/first.deb >/walk/dpkg 2>&1 || { cat /walk/dpkg; fail "dpkg -i"; }
for words in "installed and not started" "systemctl enable --now crieur" "operate/install.md" "crieur init"; do
    grep -q "$words" /walk/dpkg || { cat /walk/dpkg; fail "the installation does not say: $words"; }
done
is "the state" "$(systemctl is-active crieur || true)" inactive
is "the start at boot" "$(systemctl is-enabled crieur || true)" disabled
is "crieur.env" "$(stat -c '%a %U' /etc/crieur/crieur.env)" "600 root"
getent passwd crieur >/dev/null || fail "there is no user crieur"
# Without a configuration a start fails at once, with its code, and is not tried again.
systemctl start crieur 2>/dev/null && fail "it starts without a configuration"
is "the exit code without a configuration" "$(show ExecMainStatus)" 66
sleep 3
is "restarts of what no restart mends" "$(show NRestarts)" 0
is "the state" "$(show ActiveState)" failed
journalctl --no-pager -u crieur -p err | grep -q 'cannot read "/etc/crieur/crieur.toml"' || fail "the journal has no error by priority"
systemctl reset-failed crieur
say "installed: not started, says what to do; a start without configuration fails with 66 and is not repeated"

# 2. Configured.
cat >/etc/crieur/crieur.toml <<'TOML'
[cache]
echo = []
[[rules]]
table = "public.properties"
keys = ["detail:{id}"]
TOML
cat >>/etc/crieur/crieur.env <<ENV
DATABASE_URL='postgres://postgres@127.0.0.1:$pg/postgres'
REDIS_URL='redis://127.0.0.1:$redis'
ENV
typed() { # the addresses as crieur.env has them
    (set -a; . /etc/crieur/crieur.env; "$@")
}
typed crieur setup --config /etc/crieur/crieur.toml >/walk/setup 2>&1 || { cat /walk/setup; fail "setup"; }
systemctl enable --now crieur 2>/dev/null || fail "it does not start"
waits "it streams" streams
is "its user" "$(stat -c %U "/proc/$(show MainPID)")" crieur
is "its folder" "$(stat -c '%a %U' /run/crieur)" "750 crieur"
changes
say "started: $(show StatusText)"

# 3. Reload: a mistake is said and changes nothing; mended, it is taken.
cp /etc/crieur/crieur.toml /walk/good.toml
echo '[nonsense]' >>/etc/crieur/crieur.toml
systemctl reload crieur
waits "the mistake is in the status" bash -c '[[ $(systemctl show -P StatusText crieur) == "the configuration file is wrong"* ]]'
changes
cp /walk/good.toml /etc/crieur/crieur.toml
systemctl reload crieur
waits "it is mended" streams

# 4. Upgrade: the configuration and the position stay, nothing is swept, and the stream stands for less than a second.
# The first mark is written behind the first sweep: without it nobody knows what the cache has.
marked() { [ "$(redis EXISTS crieur:mark:crieur)" = ":1" ]; }
waits "the cache has a mark" marked
pid=$(show MainPID)
sum=$(cat /etc/crieur/* | sha256sum)
slot() { sql "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = 'crieur'"; }
before=$(slot)
kept=$(redis SET other:1 kept)
is "an answer" "$kept" +OK
redis SET detail:2 kept >/dev/null
dpkg -i /walk/second.deb >/walk/dpkg 2>&1 || { cat /walk/dpkg; fail "the upgrade"; }
waits "it streams again" streams
[ "$(show MainPID)" != "$pid" ] || fail "the old program runs on"
is "the configuration" "$(cat /etc/crieur/* | sha256sum)" "$sum"
[ "$(slot)" -ge "$before" ] || fail "the position went back"
! gone detail:2 || fail "the upgrade swept"
journal "_PID=$(show MainPID)" | grep -q 'id=gap\|id=sweep\|id=slot.anew' && fail "the upgrade found a gap"
stopped=$(journal "_PID=$pid" | grep 'id=run.stopping' | tail -n 1 | cut -d' ' -f1)
started=$(journal "_PID=$(show MainPID)" | grep 'id=stream.started' | head -n 1 | cut -d' ' -f1)
pause=$(awk -v a="$stopped" -v b="$started" 'BEGIN { printf "%.3f", b - a }')
awk -v pause="$pause" 'BEGIN { exit !(pause > 0 && pause < 1) }' || fail "the stream stood for $pause s"
changes
say "upgraded: configuration and position kept, no sweep, $pause s without a stream"

# 5. The watchdog ends a process that stands still, and none whose cache is away is meant: only the loop counts.
mkdir -p /run/systemd/system/crieur.service.d
printf '[Service]\nWatchdogSec=2s\nRestartSec=100ms\n' >/run/systemd/system/crieur.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart crieur
waits "it streams" streams
pid=$(show MainPID)
sleep 5
is "the process with a watchdog of two seconds" "$(show MainPID)" "$pid"
kill -STOP "$pid"
waits "another process streams" bash -c "[ \"\$(systemctl show -P MainPID crieur)\" != $pid ] && [[ \$(systemctl show -P StatusText crieur) == streaming* ]]"
changes
rm -r /run/systemd/system/crieur.service.d
say "watchdog: a stopped process was ended and started again"

# 6. DynamicUser, by drop-in.
mkdir -p /etc/systemd/system/crieur.service.d
printf '[Service]\nUser=\nGroup=\nDynamicUser=yes\n' >/etc/systemd/system/crieur.service.d/dynamic.conf
systemctl daemon-reload
systemctl restart crieur
waits "it streams as a dynamic user" streams
changes
rm -r /etc/systemd/system/crieur.service.d
systemctl daemon-reload
systemctl restart crieur
waits "it streams" streams
say "DynamicUser=yes works"

# 7. A second daemon, of the instance unit.
sed 's|^|# |' /etc/crieur/crieur.env >/dev/null
grep URL= /etc/crieur/crieur.env | grep -v '^#' >/etc/crieur/two.env
{ printf '[postgres]\nslot = "two"\npublication = "two"\n'; cat /etc/crieur/crieur.toml; } >/etc/crieur/two.toml
typed crieur setup --config /etc/crieur/two.toml >/walk/setup 2>&1 || { cat /walk/setup; fail "setup of two"; }
systemctl start crieur@two || fail "the instance does not start"
is "the instance" "$(systemctl is-active crieur@two)" active
[ -d /run/crieur-two ] || fail "the instance has no folder of its own"
say "an instance runs beside it: $(show StatusText crieur@two)"

# 8. teardown refuses while the daemon works.
typed crieur teardown --config /etc/crieur/crieur.toml --yes >/walk/teardown 2>&1 && fail "teardown under a working daemon"
grep -q 'is active for PID' /walk/teardown || { cat /walk/teardown; fail "teardown does not say who has the slot"; }

# 9. Removed: stopped, it says that the slot stays; the configuration stays until the purge.
dpkg -r crieur >/walk/dpkg 2>&1 || { cat /walk/dpkg; fail "dpkg -r"; }
for words in 'replication slot "crieur"' "pg_drop_replication_slot('crieur')" "crieur teardown"; do
    grep -qF "$words" /walk/dpkg || { cat /walk/dpkg; fail "the removal does not say: $words"; }
done
is "processes" "$(pgrep -c -x crieur || true)" 0
[ -f /etc/crieur/crieur.toml ] && [ -f /etc/crieur/crieur.env ] || fail "the removal took the configuration"
is "slots" "$(sql "SELECT count(*) FROM pg_replication_slots WHERE slot_name IN ('crieur', 'two')")" 2
dpkg -P crieur >/walk/dpkg 2>&1 || { cat /walk/dpkg; fail "dpkg -P"; }
[ ! -e /etc/crieur ] || fail "the purge left $(find /etc/crieur)"
left=$(find / -xdev -name '*crieur*' -not -path '/proc/*' -not -path '/walk/*' -not -path '/var/log/*' -not -path '/var/lib/systemd/deb-systemd-helper-*' -not -path '/run/*' 2>/dev/null || true)
is "what the purge leaves" "$left" ""
say "removed: says that the slot stays and how to drop it; purged: nothing is left"
