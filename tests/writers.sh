#!/usr/bin/env bash
# What crieur costs those who write: pgbench with 1, 8 and 32 clients, and an UPDATE of ROWS (100,000) rows, four ways:
#
#   plain     nothing watches, wal_level = replica
#   outbox    sql/install.sql watches the table, somebody empties the outbox every 50 ms
#   notify    the same, and each commit wakes a listener
#   logical   a slot of pgoutput publishes the table, somebody reads it, wal_level = logical
#
# Throwaway servers with PostgreSQL's own durability settings, in TMPDIR. Ways take turns in short rounds, so that
# whatever else the machine does meets all of them. Printed are ratios to "plain" in the same round, median (least to
# greatest): of transactions per second, which a busy machine blurs, and of the CPU time that each takes, of the server,
# pgbench and the one who reads together, which it blurs less.
#
# A rule reads a few columns, so those are watched: the key and one more, or CAPTURED=all. PROTOCOL is how pgbench sends its
# statements: simple, as it does by itself; prepared makes "plain" faster, and so the rest dearer.
#
#   ROUNDS=7 SECONDS_EACH=4 CLIENTS="1 8 32" ROWS=100000 WATCHED=one|all CAPTURED=few|all PROTOCOL=simple|extended|prepared \
#       tests/writers.sh
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-7} each=${SECONDS_EACH:-4} clients=${CLIENTS-1 8 32} watched=${WATCHED:-one}
captured=${CAPTURED:-few} rows=${ROWS:-100000} protocol=${PROTOCOL:-simple}
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
[ -x "$bin/pgbench" ] || { echo "writers: no pgbench in /usr/lib/postgresql: run tests/setup.sh" >&2; exit 69; }
case $watched in
    one) tables="pgbench_accounts" ;;
    all) tables="pgbench_accounts pgbench_tellers pgbench_branches pgbench_history" ;;
    *) echo "writers: WATCHED is one or all" >&2; exit 64 ;;
esac

case $protocol in simple | extended | prepared) ;; *) echo "writers: PROTOCOL is simple, extended or prepared" >&2; exit 64 ;; esac
case $captured in few | all) ;; *) echo "writers: CAPTURED is few or all" >&2; exit 64 ;; esac
# What a rule would read of a table.
columns_of() {
    case $captured/$1 in
        few/pgbench_accounts) echo "'{aid,bid}'" ;;
        few/pgbench_tellers | few/pgbench_history) echo "'{tid,bid}'" ;;
        few/pgbench_branches) echo "'{bid}'" ;;
        *) echo NULL ;;
    esac
}

dir=$(mktemp -d "${TMPDIR:-/tmp}/crieur-writers-XXXXXX")
helpers=()
if [ "$(id -u)" = 0 ]; then
    chown postgres "$dir"
    as() { runuser -u postgres -- "$@"; }
else
    as() { "$@"; }
fi
stop() {
    for pid in "${helpers[@]}"; do kill "$pid" 2>/dev/null || true; done
    for way in replica logical; do as "$bin/pg_ctl" -D "$dir/$way" -m immediate stop >/dev/null 2>&1 || true; done
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT TERM

# Both servers are the same but for wal_level; only a unix socket, in their own directory.
serve() {
    as "$bin/initdb" -D "$dir/$1" -U postgres -A trust -E UTF8 --locale=C --no-sync >/dev/null
    as mkdir "$dir/$1.socket"
    cat >>"$dir/$1/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$dir/$1.socket'
wal_level = $1
shared_buffers = 256MB
max_wal_size = 8GB
checkpoint_timeout = 1h
CONF
    as "$bin/pg_ctl" -D "$dir/$1" -l "$dir/$1/log" -w start >/dev/null || { cat "$dir/$1/log" >&2; exit 1; }
    "$bin/pgbench" -h "$dir/$1.socket" -U postgres -i -s 40 -q postgres >/dev/null 2>&1
}
server_of() { if [ "$1" = logical ]; then echo logical; else echo replica; fi; }
# sql SERVER: statements from standard input or arguments.
sql() {
    local server=$1
    shift
    psql -XqAt -v ON_ERROR_STOP=1 -h "$dir/$server.socket" -U postgres postgres "$@" 2>/dev/null
}

prepare() {
    serve replica
    serve logical
    sql replica -f sql/install.sql >/dev/null
    for table in $tables; do
        sql replica -c "SELECT crieur.watch('$table', columns => $(columns_of "$table"))" >/dev/null
    done
    # A worker's part of the work: what a snapshot saw is removed, each transaction once. Waits without a process for it.
    mkfifo "$dir/never"
    (exec 9<>"$dir/never"
    echo "SET synchronous_commit = off; LISTEN crieur; SELECT pg_snapshot_xmin(pg_current_snapshot()) AS seen \\gset"
    while ! read -r -t 0.05 -u 9; do
        echo "SELECT pg_snapshot_xmin(pg_current_snapshot()) AS now \\gset"
        echo "DELETE FROM crieur.outbox WHERE xid >= :'seen' AND xid < :'now';"
        echo "\\set seen :now"
    done) | sql replica >/dev/null &
    helpers+=($!)
    sql logical -c "CREATE PUBLICATION crieur FOR TABLE ${tables// /, }" \
        -c "SELECT pg_create_logical_replication_slot('crieur', 'pgoutput')" >/dev/null
    "$bin/pg_recvlogical" -h "$dir/logical.socket" -U postgres -d postgres -S crieur --start -f /dev/null \
        -o proto_version=1 -o publication_names=crieur >/dev/null 2>&1 &
    helpers+=($!)
}

# The server as a way wants it.
become() {
    local way=$1 table trigger state
    [ "$way" != logical ] || return 0
    state=$([ "$way" = plain ] && echo "DISABLE" || echo "ENABLE ALWAYS")
    for table in $tables; do
        for trigger in insert update delete truncate; do echo "ALTER TABLE $table $state TRIGGER crieur_$trigger;"; done
    done | sql replica
    [ "$way" = plain ] || sql replica -c "SELECT crieur.notify('$way' = 'notify')" >/dev/null
}

# Hundredths of a second of CPU: the server's processes, those that ended and those that live, and what ran beside it.
cpu() {
    local postmaster
    postmaster=$(head -1 "$dir/$1/postmaster.pid")
    { cat "/proc/$postmaster/stat"; for pid in $(pgrep -P "$postmaster"); do cat "/proc/$pid/stat"; done; } 2>/dev/null |
        awk '{ sub(/.*\) /, ""); sum += $12 + $13; if (NR == 1) sum += $14 + $15 } END { print sum }'
}

# Transactions per second, and microseconds of CPU for each.
transactions() {
    local server before after TIMEFORMAT='%U %S'
    server=$(server_of "$1")
    before=$(cpu "$server")
    { time "$bin/pgbench" -n -h "$dir/$server.socket" -U postgres -M "$protocol" -c "$2" -j 2 -T "$each" postgres \
        >"$dir/pgbench" 2>/dev/null; } 2>"$dir/time"
    sleep 0.2 # The last of its sessions end.
    after=$(cpu "$server")
    awk -v ticks=$((after - before)) -v client="$(cat "$dir/time")" '
        /actually processed/ { split($6, done, "/") }
        /^tps/ { tps = $3 }
        END { split(client, t, " "); print tps, (ticks / 100 + t[1] + t[2]) * 1e6 / done[1] }' "$dir/pgbench"
}

# Milliseconds, of an UPDATE that no later vacuum has to share the time with.
bulk() {
    local server
    server=$(server_of "$1")
    sql "$server" -c "VACUUM pgbench_accounts" -c CHECKPOINT
    sql "$server" -v rows="$rows" <<'SQL' | tail -1
SELECT clock_timestamp() AS start \gset
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= :rows;
SELECT round(extract(epoch FROM clock_timestamp() - :'start'::timestamptz) * 1000, 1);
SQL
}

# measure LABEL COMMAND [ARGUMENT]: every way once in each round, each round beginning with another one.
measure() {
    local label=$1 ways=(plain outbox notify logical) round step way
    shift
    for ((round = 0; round < rounds; round++)); do
        for ((step = 0; step < 4; step++)); do
            way=${ways[$(((round + step) % 4))]}
            become "$way"
            echo "$round $way $("$1" "$way" "${@:2}")"
        done
    done | awk -v label="$label" '
        { value[$1, $2, 1] = $3; value[$1, $2, 2] = $4; metrics = NF - 2 }
        function summary(metric, way, base,   n, i, j, t, v) {
            for (n = 0; (n, way, metric) in value; n++) {
                v[n] = value[n, way, metric] / (base ? value[n, "plain", metric] : 1)
            }
            for (i = 0; i < n; i++) for (j = i + 1; j < n; j++) if (v[j] < v[i]) { t = v[i]; v[i] = v[j]; v[j] = t }
            return sprintf(base ? "%.2f (%.2f to %.2f)" : "%.0f (%.0f to %.0f)", v[int(n / 2)], v[0], v[n - 1])
        }
        END {
            for (metric = 1; metric <= metrics; metric++) {
                printf "%-22s plain %-22s outbox %-22s notify %-22s logical %s\n",
                    metric == 1 ? label : "  us of CPU for each", summary(metric, "plain", 0),
                    summary(metric, "outbox", 1), summary(metric, "notify", 1), summary(metric, "logical", 1)
            }
        }'
}

prepare
load=$(cut -d' ' -f1 /proc/loadavg)
echo "PostgreSQL $(sql replica -c 'SHOW server_version'), $(nproc) cores, load $load, watched: $tables, $captured columns, $protocol protocol"
for count in $clients; do measure "TPS, $count clients" transactions "$count"; done
measure "ms, $rows rows" bulk

# Somebody did read: otherwise these were not the costs of it.
left=$(sql replica -c "SELECT count(*) FROM crieur.outbox")
size=$(sql replica -c "SELECT pg_total_relation_size('crieur.outbox') / 1024")
echo "left in the outbox: $left rows, $size kB on disk"
[ "$left" -lt 10000 ] || { echo "writers: nobody emptied the outbox" >&2; exit 1; }
