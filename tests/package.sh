#!/usr/bin/env bash
# Tries the package that `make package` made, and the image's build, as far as a machine without a container engine can.
#
#   tests/package.sh check            what is in it, lintian, the units, the program: seconds, nothing is installed
#   tests/package.sh walk [SUITE…]    install, start, upgrade, watchdog, remove, purge under a real systemd in a container of
#                                     each SUITE (bookworm, trixie and jammy unless told otherwise); needs root; minutes
#   tests/package.sh new-user [SUITE] a new user's first ten minutes in such a container (bookworm), from
#                                     docs/guide/ten-minutes.md, with the time of each step; needs root
#   tests/package.sh image            the Dockerfile linted, its build steps in a clean clone, and the program as process 1
#
# Servers of the walk are throwaway ones on loopback, which a container without a network of its own reaches.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
target=${CARGO_TARGET_DIR:-$top/target}
out=$top/target/package

say() { echo "package: $*"; }
fail() { echo "package: $*" >&2; exit 1; }

scratch=$(mktemp -d)
servers=()
clean() {
    for pid in "${servers[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${servers[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap clean EXIT

package() { ls "$out"/crieur_*_"$(dpkg --print-architecture)".deb 2>/dev/null || fail "there is no package: make package"; }

# --- What is in it ---------------------------------------------------------------------------------------------------

check() {
    local deb root=$scratch/root missing=0
    deb=$(package)
    dpkg-deb -x "$deb" "$root"
    dpkg-deb -e "$deb" "$root/DEBIAN"
    # Every page, statement and example of the repository is there, and so are those that are made.
    while read -r file place; do
        [ -s "$root/$place" ] || [ -s "$root/$place.gz" ] || { echo "missing: $file as /$place"; missing=1; }
    done < <(
        git ls-files docs | sed 's|.*|& usr/share/doc/crieur/&|'
        git ls-files sql | sed 's|.*|& usr/share/crieur/&|'
        git ls-files systemd | grep '\.toml$' | sed 's|systemd/\(.*\)|& usr/share/doc/crieur/examples/\1|'
        (cd "$out/man" && ls) | sed 's|\(.*\)\.\([15]\)$|& usr/share/man/man\2/&|'
        for place in usr/bin/crieur usr/lib/systemd/system/crieur.service usr/lib/systemd/system/crieur@.service \
            usr/lib/sysusers.d/crieur.conf etc/crieur/crieur.env usr/share/doc/crieur/README.md \
            usr/share/doc/crieur/README.fr.md usr/share/doc/crieur/copyright usr/share/doc/crieur/changelog.Debian \
            usr/share/bash-completion/completions/crieur usr/share/zsh/vendor-completions/_crieur \
            usr/share/fish/vendor_completions.d/crieur.fish; do
            echo "made $place"
        done
    )
    [ $missing = 0 ] || fail "files are missing"
    [ "$(cat "$root/DEBIAN/conffiles")" = /etc/crieur/crieur.env ] || fail "conffiles: $(cat "$root/DEBIAN/conffiles")"
    [ "$(stat -c %a "$root/etc/crieur/crieur.env")" = 600 ] || fail "everybody may read /etc/crieur/crieur.env"
    ! grep -q '^[A-Z_]*=' "$root/etc/crieur/crieur.env" || fail "crieur.env names servers that are nobody's"
    [ -d docs/operate/monitoring ] || say "no alerts and no dashboard: docs/operate/monitoring does not exist yet"
    "$root/usr/bin/crieur" --version | grep -q "^crieur $(dpkg-deb -f "$deb" Version | cut -d- -f1)$" ||
        fail "the program has another version than the package"
    said=$(completed "$root" | sort -u | tr '\n' ' ')
    [ "$said" = 'bash:--dry-run fish:--dry-run zsh:--dry-run ' ] || fail "crieur sweep --dr is completed to: $said"
    mkdir "$scratch/units"
    cp "$root"/usr/lib/systemd/system/*.service "$scratch/units/"
    sed -i "s|/usr/bin/crieur|$root/usr/bin/crieur|" "$scratch"/units/*.service
    # systemd before 254 passes RestartSteps and RestartMaxDelaySec over, as the unit says.
    said=$(systemd-analyze verify --man=no "$scratch"/units/crieur.service "$scratch/units/crieur@.service" 2>&1 |
        grep 'crieur' | grep -v 'Unknown key.*Restart' || true)
    [ -z "$said" ] || fail "systemd says of the units: $said"
    # Errors and warnings; what is only informative is shown.
    lintian --fail-on error,warning --display-info --allow-root "$deb" || fail "lintian is not content"
    say "$(basename "$deb"): $(dpkg-deb -c "$deb" | wc -l) entries, $(stat -c %s "$deb") bytes, all there, lintian is content"
}

# What each shell makes of `crieur sweep --dr` and Tab, with the scripts and the program of the package.
completed() {
    local share=$1/usr/share said
    bash --norc -c 'source "$1"; COMP_WORDS=(crieur sweep --dr) COMP_CWORD=2
        _crieur crieur --dr sweep; printf "bash:%s\n" "${COMPREPLY[@]}"' - "$share/bash-completion/completions/crieur"
    PATH=$1/usr/bin:$PATH fish --no-config -c "source $share/fish/vendor_completions.d/crieur.fish
        complete -C 'crieur sweep --dr'" | sed 's/^/fish:/; s/\t.*//'
    # zsh completes at a terminal only: zpty is one.
    said=$(PATH=$1/usr/bin:$PATH timeout 30 zsh -f -c 'zmodload zsh/zpty; zpty shell zsh -f -i
        zpty -w shell "fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; bindkey ^I complete-word; print re\ady"
        zpty -r shell said "*ready*"
        zpty -w -n shell $'\''crieur sweep --dr\t'\''; zpty -r shell said "*sweep --dry*run*"; print -r -- "$said"
        zpty -d shell' - "$share/zsh/vendor-completions" || true)
    grep -ao -- '--dry-run' <<<"$said" | sed 's/^/zsh:/'
}

# --- The walk --------------------------------------------------------------------------------------------------------

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start_servers() {
    local bin
    bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    pg=$(free_port)
    redis=$(free_port)
    chmod 755 "$scratch"
    install -d -o postgres "$scratch/pg"
    as() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
    as "$bin/initdb" -D "$scratch/pg/data" -A trust -U postgres >/dev/null
    as "$bin/postgres" -D "$scratch/pg/data" -p "$pg" -c wal_level=logical -c fsync=off -k "$scratch/pg" \
        >"$scratch/pg.log" 2>&1 &
    servers+=($!)
    redis-server --port "$redis" --save '' --bind 127.0.0.1 --dir "$scratch" >"$scratch/redis.log" 2>&1 &
    servers+=($!)
    for _ in $(seq 100); do psql_ 'SELECT 1' >/dev/null 2>&1 && break || sleep 0.1; done
    psql_ 'CREATE TABLE properties (id int PRIMARY KEY, city text)' >/dev/null
}
psql_() { psql -XAtq -h 127.0.0.1 -p "$pg" -U postgres -v ON_ERROR_STOP=1 -c "$1"; }

# A fresh system, made once; each walk gets a copy.
root_of() {
    local suite=$1 root=$target/package-roots/$1
    if [ ! -d "$root" ]; then
        command -v debootstrap >/dev/null || fail "debootstrap is not here: tests/setup.sh package"
        say "making a fresh $suite"
        mkdir -p "$(dirname "$root")"
        local mirror
        # Debian comes from where this machine has it, Ubuntu from where debootstrap does. Debian has no key of Ubuntu's:
        # what is fetched is unpacked in a container, and nowhere else.
        case $suite in
            jammy) mirror=$(sed -n 's/^.*default_mirror \(.*archive.*\)/\1/p' /usr/share/debootstrap/scripts/jammy | head -n 1) ;;
            *) mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/*$' | head -n 1) ;;
        esac
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,init-system-helpers,procps "$suite" "$root.part" \
            ${mirror:+"$mirror"} >"$scratch/debootstrap.log" 2>&1 || { tail -n 5 "$scratch/debootstrap.log" >&2; fail "no $suite"; }
        mv "$root.part" "$root"
    fi
    cp -a --reflink=auto "$root" "$scratch/$suite"
}

# Boots a fresh system of the suite, with the package in it, and runs a script there until its end.
walk() {
    local suite=$1 script=$2 deb root
    deb=$(package)
    root_of "$suite"
    root=$scratch/$suite
    mkdir "$root/walk"
    cp "$deb" "$root/walk/first.deb"
    # The next version is the same with another number.
    dpkg-deb -R "$deb" "$scratch/next-$suite"
    sed -i 's/^\(Version: .*\)-1$/\1-2/' "$scratch/next-$suite/DEBIAN/control"
    dpkg-deb -Zgzip -z1 -b "$scratch/next-$suite" "$root/walk/second.deb" >/dev/null
    printf 'pg=%s\nredis=%s\n' "$pg" "$redis" >"$root/walk/servers"
    cp "$script" "$root/walk/walk.sh"
    cp docs/guide/ten-minutes.md "$root/walk/page.md"
    if [ -f "$scratch/pg/ca.crt" ]; then
        cp "$scratch/pg/ca.crt" "$root/walk/"
        echo "127.0.0.1 $host" >>"$root/etc/hosts"
    fi
    # What is not in the root is not to be had: nothing is fetched while it is measured.
    rm -rf "$root"/var/lib/apt/lists/* "$root"/etc/apt/sources.list*
    cat >"$root/etc/systemd/system/walk.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
Environment=HOME=/root
ExecStart=/bin/sh -c 'bash /walk/walk.sh >/walk/log 2>&1; echo $? >/walk/result'
ExecStopPost=/bin/systemctl poweroff --force
UNIT
    mkdir -p "$root/etc/systemd/system/default.target.wants"
    ln -sf ../walk.service "$root/etc/systemd/system/default.target.wants/walk.service"
    systemd-nspawn --quiet --keep-unit --register=no --directory="$root" --boot </dev/null >"$scratch/$suite.boot" 2>&1 &
    local container=$! waited=0
    # The walk asks for SQL by a file, because a fresh system has no psql.
    while [ ! -s "$root/walk/result" ] && kill -0 "$container" 2>/dev/null && [ $waited -lt 3000 ]; do
        if [ -f "$root/walk/ask" ]; then
            psql_ "$(cat "$root/walk/ask")" >"$root/walk/answer.part" 2>&1 || true
            rm "$root/walk/ask"
            mv "$root/walk/answer.part" "$root/walk/answer"
        fi
        sleep 0.1
        waited=$((waited + 1))
    done
    kill "$container" 2>/dev/null || true
    wait "$container" 2>/dev/null || true
    if [ "$(cat "$root/walk/result" 2>/dev/null)" != 0 ]; then
        cat "$root/walk/log" >&2 || tail -n 30 "$scratch/$suite.boot" >&2
        fail "the walk through $suite failed"
    fi
    grep '^walk: ' "$root/walk/log" | sed "s/^walk/package: $suite/"
}

# What a walk leaves in the database.
forget() {
    psql_ "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots" >/dev/null
    psql_ "SET client_min_messages = warning; DROP SCHEMA IF EXISTS crieur CASCADE; DROP PUBLICATION crieur, two" >/dev/null
}

# --- A new user ------------------------------------------------------------------------------------------------------

# As in the page that is typed.
host=db.abcdefgh.supabase.co

# As at Supabase: only TLS, with an authority of its own; a role that owns the tables and is no superuser; row level security.
start_hosted() {
    local bin=$target/servers/postgresql-17/bin valkey=$target/servers/valkey-9/valkey-server dir=$scratch/pg
    [ -x "$bin/postgres" ] && [ -x "$valkey" ] || fail "PostgreSQL 17 or Valkey 9 is not here: tests/setup.sh"
    pg=$(free_port)
    redis=$(free_port)
    chmod 755 "$scratch"
    install -d -o postgres "$dir"
    as() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=Authority of a walk' -keyout "$dir/ca.key" -out "$dir/ca.crt" 2>/dev/null
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$host" -keyout "$dir/server.key" -out "$dir/server.csr" 2>/dev/null
    openssl x509 -req -in "$dir/server.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days 2 \
        -extfile <(printf 'subjectAltName=DNS:%s' "$host") -out "$dir/server.crt" 2>/dev/null || fail "openssl signs nothing"
    chown postgres "$dir"/*
    (cd "$dir" && as "$bin/initdb" -D "$dir/data" -A trust -U supabase_admin -E UTF8 --locale=C >/dev/null)
    printf 'local all all trust\nhostssl all,replication all 127.0.0.1/32 scram-sha-256\n' >"$dir/data/pg_hba.conf"
    (cd "$dir" && exec setpriv --reuid=postgres --regid=postgres --clear-groups "$bin/postgres" -D "$dir/data" -p "$pg" \
        -c wal_level=logical -c fsync=off -k "$dir" -c ssl=on -c ssl_cert_file="$dir/server.crt" -c ssl_key_file="$dir/server.key") \
        >"$scratch/pg.log" 2>&1 &
    servers+=($!)
    "$valkey" --port "$redis" --save '' --bind 127.0.0.1 --dir "$scratch" >"$scratch/redis.log" 2>&1 &
    servers+=($!)
    admin() { psql -XAtq -h "$dir" -p "$pg" -U supabase_admin -d postgres -v ON_ERROR_STOP=1 -c "$1"; }
    for _ in $(seq 100); do admin 'SELECT 1' >/dev/null 2>&1 && break || sleep 0.1; done
    admin "CREATE ROLE postgres LOGIN CREATEROLE CREATEDB REPLICATION BYPASSRLS PASSWORD 'secret';
        GRANT CREATE ON DATABASE postgres TO postgres; GRANT CREATE ON SCHEMA public TO postgres" >/dev/null
    # The SQL editor.
    psql_() {
        PGPASSWORD=secret PGSSLMODE=require psql -XAtq -h 127.0.0.1 -p "$pg" -U postgres -d postgres -v ON_ERROR_STOP=1 -c "$1"
    }
    psql_ "CREATE TABLE properties (id int PRIMARY KEY, city text NOT NULL, owner_id int NOT NULL);
        CREATE TABLE leases (id int PRIMARY KEY, property_id int NOT NULL REFERENCES properties);
        CREATE TABLE rental_payments (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, lease_id int NOT NULL REFERENCES leases, amount int);
        ALTER TABLE properties ENABLE ROW LEVEL SECURITY; ALTER TABLE leases ENABLE ROW LEVEL SECURITY;
        ALTER TABLE rental_payments ENABLE ROW LEVEL SECURITY;
        INSERT INTO properties VALUES (1, 'Dakar', 41), (2, 'Mbour', 42); INSERT INTO leases VALUES (71, 1), (72, 2)" >/dev/null
    for key in properties:detail:1 properties:detail:2 properties:city:Dakar properties:city:Mbour dashboard:41 session:9; do
        (exec 3<>"/dev/tcp/127.0.0.1/$redis" && printf 'SET %s x\r\n' "$key" >&3 && head -n 1 <&3 >/dev/null)
    done
}

# --- The image -------------------------------------------------------------------------------------------------------

image() {
    local clone=$scratch/clone root=$scratch/image run
    git clone --quiet --no-hardlinks . "$clone"
    # The context of the build, as .dockerignore has it.
    while read -r name; do rm -rf "${clone:?}/$name"; done < <(cd "$clone" && ls -A | grep -vxF -f <(kept))
    local lint=$target/servers/hadolint/hadolint
    if [ -x "$lint" ]; then
        "$lint" Dockerfile || fail "hadolint is not content with the Dockerfile"
        say "hadolint is content with the Dockerfile"
    else
        say "hadolint is not here: the Dockerfile is not linted"
    fi
    run=$(sed -n 's/^RUN //p' Dockerfile)
    say "in a clean clone: $run"
    (cd "$clone" && CARGO_TARGET_DIR=$target sh -c "$run")
    # What `COPY --from=build` takes, with the libraries that the last image brings.
    install -D "$target/release/crieur" "$root/usr/bin/crieur"
    ldd "$root/usr/bin/crieur" | grep -o '/[^ ]*' | while read -r library; do install -D "$library" "$root$library"; done
    mkdir -p "$root/etc/crieur" "$root/proc"
    printf '[postgres]\nurl = "postgres://nobody@127.0.0.1:1/none"\n[cache]\nurl = "redis://127.0.0.1:1"\n[[rules]]\ntable = "t"\nkeys = ["k:{id}"]\n' \
        >"$root/etc/crieur/crieur.toml"
    # As process 1 of a namespace of its own, as nobody in particular, in an image that cannot be written: until SIGTERM.
    local log=$scratch/image.log
    unshare --fork --pid --mount-proc="$root/proc" --kill-child=KILL \
        chroot --userspec=65532:65532 "$root" /usr/bin/crieur run --config /etc/crieur/crieur.toml 2>"$log" &
    local outer=$! inner='' code=0
    for _ in $(seq 100); do
        inner=$(pgrep -P "$outer" || true)
        [ -n "$inner" ] && grep -q 'session.failing\|stream.interrupted\|stopped\|error' "$log" && break || sleep 0.1
    done
    [ "$(awk '/^NSpid:/ { print $NF }' "/proc/$inner/status")" = 1 ] || fail "crieur is not process 1: $(cat "$log")"
    [ "$(awk '/^Uid:/ { print $2 }' "/proc/$inner/status")" = 65532 ] || fail "crieur is not user 65532"
    # Another command in the same container: it ends, and nothing is left of it that process 1 would have to reap.
    nsenter --target "$inner" --pid --root --wd=/ /usr/bin/crieur explain --config /etc/crieur/crieur.toml \
        --table public.t --op insert --new '{"id": 1}' >"$scratch/image.said" 2>&1 || fail "$(cat "$scratch/image.said")"
    grep -q 'k:1' "$scratch/image.said" || fail "a command in the container says: $(cat "$scratch/image.said")"
    kill -HUP "$inner"
    for _ in $(seq 100); do grep -q 'id=reload' "$log" && break || sleep 0.1; done
    grep -q 'id=reload' "$log" || fail "process 1 does not hear SIGHUP: $(cat "$log")"
    [ -z "$(pgrep -P "$inner" || true)" ] || fail "process 1 has children: $(ps --ppid "$inner" -o pid,stat,args)"
    kill -TERM "$inner"
    wait "$outer" || code=$?
    [ $code = 0 ] || fail "SIGTERM ended process 1 with $code: $(cat "$log")"
    say "as process 1 and user 65532 crieur tried its servers, read its configuration again at SIGHUP, had no child, and ended with 0 at SIGTERM"
}
kept() { sed -n 's/^!\([A-Za-z.-]*\).*/\1/p' .dockerignore | sed 's/LICENSE-/LICENSE-MIT\nLICENSE-APACHE/'; }

case ${1:-} in
    check) check ;;
    walk)
        shift
        [ $# -gt 0 ] || set -- bookworm trixie jammy
        [ "$(id -u)" = 0 ] || fail "a container needs root"
        start_servers
        for suite; do
            walk "$suite" tests/package-walk.sh
            forget
        done
        ;;
    new-user)
        [ "$(id -u)" = 0 ] || fail "a container needs root"
        start_hosted
        walk "${2:-bookworm}" tests/package-new-user.sh
        ;;
    image) image ;;
    *) echo "usage: tests/package.sh check | walk [SUITE…] | new-user [SUITE] | image" >&2; exit 64 ;;
esac
