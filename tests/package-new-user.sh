#!/usr/bin/env bash
# Runs inside the container of tests/package.sh new-user: types docs/guide/ten-minutes.md, block by block, as somebody does who
# has never seen crieur, makes three mistakes on the way, and mends them by what `crieur check` says. Prints the time of each step.
set -euo pipefail
. /walk/servers
mkdir -p /walk/home /walk/blocks
cd /walk/home
cp /walk/first.deb ./crieur_1_"$(dpkg --print-architecture)".deb
cp /walk/ca.crt prod-ca-2021.crt

say() { echo "walk: $*"; }
trap 'echo "walk failed at line $LINENO"; cat /walk/said 2>/dev/null' ERR
fail() { trap - ERR; echo "walk failed: $*"; cat /walk/said 2>/dev/null; journalctl --no-pager -u crieur 2>&1 | tail -n 30; exit 1; }
waits() { # what, command…
    local what=$1; shift
    for _ in $(seq 300); do if "$@"; then return; fi; sleep 0.1; done
    fail "in vain waited for: $what"
}
sql() { # in the SQL editor: the host has psql
    rm -f /walk/answer; echo "$1" >/walk/ask.part; mv /walk/ask.part /walk/ask
    waits "an answer of the host" test -f /walk/answer
    cat /walk/answer
    ! grep -q '^ERROR:' /walk/answer || fail "SQL is refused: $1: $(cat /walk/answer)"
}
redis() { # one command, one line of answer
    exec 3<>"/dev/tcp/127.0.0.1/$redis"; printf '%s\r\n' "$*" >&3; head -n 1 <&3 | tr -d '\r'; exec 3>&-
}
page() { exec 3<>/dev/tcp/127.0.0.1/9186; printf 'GET / HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3; cat <&3; exec 3>&-; }
page_shows() { page >/walk/page.html && grep -q "$1" /walk/page.html; }

# What the page has to type, in its order: one file for each block, with the addresses of these servers.
awk '/^```/ { if (open) { open = 0; close(file); next }
              open = 1; file = "/dev/null"
              if (/test=package-new-user\.sh/) { n++; file = sprintf("/walk/blocks/%02d", n) } next }
     open { print >file }' /walk/page.md
sed -i "s/supabase\.co:5432/supabase.co:$pg/; s/127\.0\.0\.1:6379/127.0.0.1:$redis/" /walk/blocks/*
next=0
block() { next=$((next + 1)); printf '/walk/blocks/%02d' $next; }
# Here everybody is root, and the editor adds the block that follows.
sudo() { [ "$1" != -E ] || shift; "$@"; }
sudoedit() { local text; next=$((next + 1)); text=$(printf '/walk/blocks/%02d' $next); { echo; cat "$text"; } >>"$1"; }
typed() { # what it must do; what it prints is in /walk/said
    local file code=0
    next=$((next + 1)); file=$(printf '/walk/blocks/%02d' $next)
    [ -f "$file" ] || fail "the page has no block $next"
    . "$file" >/walk/said 2>&1 </dev/null || code=$?
    [ $code = "${1:-0}" ] || fail "block $next ends with $code: $(cat "$file")"
}
in_the_editor() { next=$((next + 1)); sql "$(cat "$(printf '/walk/blocks/%02d' $next)")"; }
says() { grep -qF -- "$1" /walk/said || fail "it does not say: $1"; }

begun=$(date +%s.%N); last=$begun
step() {
    local now; now=$(date +%s.%N)
    say "$(awk -v a="$last" -v b="$now" 'BEGIN { printf "%6.1f s", b - a }')  $1"
    last=$now
}
check() { code=0; crieur check --config /etc/crieur/crieur.toml --quiet >/walk/said 2>&1 || code=$?; }

typed
step "1. installed"
in_the_editor
step "2. a role"
typed
step "3. the certificate of the authority"
typed
says "wrote /etc/crieur/crieur.toml"
grep -q "^DATABASE_URL='" /etc/crieur/crieur.env || fail "crieur.env has no address"
grep -q 'mode = "replication"' /etc/crieur/crieur.toml || fail "another mode: $(cat /etc/crieur/crieur.toml)"
grep -q '"properties:city:{city}"' /etc/crieur/crieur.rules.toml || fail "init did not see the keys: $(cat /etc/crieur/crieur.rules.toml)"
typed
typed
grep -q '^listen = ' /etc/crieur/crieur.toml || fail "the page is not switched on"
step "4. a configuration"
typed
step "5. the database prepared"

# Three mistakes, each mended by what check says.
right=$DATABASE_URL
export DATABASE_URL=${right%&sslrootcert=*}
check
[ $code != 0 ] || fail "check trusts an authority that nobody named"
says "trusted" # Without the package ca-certificates no authority is known at all.
says "sslrootcert"
export DATABASE_URL=$right
sed -i 's/{city}/{citty}/' /etc/crieur/crieur.rules.toml
check
[ $code = 1 ] || fail "check takes a column that does not exist: $code"
says 'has no column "citty"'
sed -i 's/{citty}/{city}/' /etc/crieur/crieur.rules.toml
typed 1
says "row-level security"
mend=$(sed -n 's/^ *mend: \(ALTER ROLE .* BYPASSRLS;\)$/\1/p' /walk/said | head -n 1)
[ -n "$mend" ] || fail "check does not say how rows become visible"
sql "$mend"
check
[ $code = 0 ] && [ ! -s /walk/said ] || fail "check is not content: $code"
step "6. three mistakes: an authority that is not named, a column that does not exist, rows that are hidden"

typed
says "active (running)"
streams() { [[ $(systemctl show -P StatusText crieur) == streaming* ]]; }
waits "it streams" streams
marked() { [ "$(redis EXISTS crieur:mark:crieur)" = ":1" ]; }
waits "the first sweep is done" marked
step "7. the service runs: $(systemctl show -P StatusText crieur)"

for key in properties:detail:1 properties:city:Dakar dashboard:41 session:9; do redis SET $key old >/dev/null; done
in_the_editor
waits "the page shows the change" page_shows "properties:detail:1"
page_shows "properties:city:Dakar" && page_shows "public.properties" || fail "the page does not show the old city"
[ "$(redis EXISTS properties:detail:1)" = ":0" ] || fail "properties:detail:1 is still there"
[ "$(redis EXISTS session:9)" = ":1" ] || fail "session:9 is gone"
. "$(block)" >/walk/said 2>&1 </dev/null &
next=$((next + 1))
follower=$!
tailed() { # Again and again: one of them comes when tail listens.
    sql "INSERT INTO rental_payments (lease_id, amount) VALUES (71, 1)" >/dev/null
    grep -q 'dashboard:41' /walk/said
}
waits "tail shows what a lookup found" tailed
kill -INT "$(pgrep -P $follower)" && wait $follower || fail "tail does not end by Ctrl-C"
step "8. a change seen on the page, and one in the terminal"
[ ! -f "$(block)" ] || fail "the page has blocks that this walk does not type"

words=$(sed '/^```/,/^```/d' /walk/page.md | wc -w)
blocks=$(ls /walk/blocks | wc -l)
say "$(awk -v a="$begun" -v b="$last" -v words="$words" -v blocks="$blocks" 'BEGIN {
    machine = b - a; person = words / 200 * 60 + blocks * 10
    printf "%.0f s of the machine; with reading (%d words, 200 a minute) and pasting (%d blocks, 10 s each): %.1f minutes", machine, words, blocks, (machine + person) / 60
    exit !(machine + person < 600) }')" || fail "it takes more than ten minutes"
