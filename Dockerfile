# crieur in an image: the program, the authorities of TLS, nothing else. Here, at the top, because `docker build .` and most
# services look nowhere else.
#
#   docker build -t crieur .
#   docker run -v ./crieur.toml:/etc/crieur/crieur.toml:ro -e DATABASE_URL -e REDIS_URL crieur
#
# Process 1 is crieur itself, and may be: it starts no process, so there is none to reap, and it has handlers for SIGTERM and
# SIGINT, without which process 1 would be deaf to them. SIGHUP reads the configuration again. It needs no volume and no port.

# The libraries of the last image are those of Debian 12, so the program is linked against the same.
FROM rust:1-bookworm AS build
WORKDIR /crieur
COPY . .
RUN cargo build --release --locked --bin crieur

# glibc and the authorities, no shell; its user nonroot is 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /crieur/target/release/crieur /usr/bin/crieur
COPY --from=build /crieur/LICENSE-MIT /crieur/LICENSE-APACHE /usr/share/doc/crieur/
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/crieur"]
CMD ["run", "--config", "/etc/crieur/crieur.toml"]
