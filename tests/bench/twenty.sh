#!/bin/sh
# The program with nineteen caches besides the one of its configuration: databases 1 to 19 of the server at CACHES. What
# they are told is what `contenders/crieur.toml` of the shared benchmarks tells the first one.
# PROGRAM is the program, CACHES the address: redis://127.0.0.1:6372
set -eu
for database in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do
    name=CRIEUR__CACHES__C${database}
    export "${name}__URL=${CACHES:?the address of a server with twenty databases}/${database}" \
        "${name}__ECHO=" "${name}__ON_GAP=warn"
done
exec "${PROGRAM:?the program to be measured}" "$@"
