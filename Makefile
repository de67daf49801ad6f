# What a person does with this repository; `make` alone lists it.

CARGO ?= cargo

.DEFAULT_GOAL := help
# One build for all tests: crash points and switched-off guards do nothing unless a test asks for them.
TEST = $(CARGO) test --features failpoints
# Tests on real servers wait more than they work.
THREADS = --test-threads=4
QUICK = delivery:: leases:: mistakes:: outbox_sql:: position:: reload:: tools::
BULK_TESTS = bulk -- --ignored --nocapture --test-threads=1
# Torture of these has servers of its own and mostly waits: two at a time, two minutes all together.
TOPOLOGIES = two sentinel cluster upstash languages pages region
# Of the mutants, so many in `make test`: each is a build. `make mutations` is all of them.
MUTANTS ?= 2
FUZZ_RUNS ?= 10000000
FUZZ_TARGETS ?= pgoutput copy_data frames recording config

.PHONY: help package package-test package-walk walk demo servers test tortured topologies clients quick torture schedules scenarios check fmt record bounds bench bulk day writers fuzz mutations

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

demo: ## see it work: throwaway servers, the real rules, every change and what it deletes; ends by itself
	@tests/setup.sh demo
	@$(CARGO) build --release --bin crieur --example demo
	@$(CARGO) run --quiet --release --example demo

servers: ## two throwaway servers for the quick start, until Ctrl-C
	@tests/setup.sh demo
	@$(CARGO) build --release --bin crieur --example demo
	@$(CARGO) run --quiet --release --example demo -- servers

test: check ## formatting, lints, then every test but measurements and some that take minutes, real servers and some mutants included; installs what is missing
	@tests/setup.sh
	$(TEST) --workspace --no-fail-fast --lib --test main --test live -- $(THREADS)
	$(TEST) --workspace --doc
	$(TEST) --no-run --test torture
	@# They mostly wait, so two of them wait together; their lines come mixed.
	@$(MAKE) --no-print-directory -j2 tortured clients topologies
	MUTANTS=$(MUTANTS) tests/mutations.sh

tortured:
	$(TEST) --no-fail-fast --test torture -- --nocapture --test-threads=1 $(TOPOLOGIES:%=--skip %::)

topologies:
	$(TEST) --no-fail-fast --test torture -- --nocapture --test-threads=2 $(TOPOLOGIES:%=%::)
	CRIEUR_MODE=outbox FAULTS=DaemonKilled,DaemonOvertaken TORTURE_SECONDS=30 \
	    $(TEST) --test torture -- --nocapture after_faults_at_random

clients: ## the TypeScript client's tests, on real servers and through a proxy that loses, holds and repeats; its Next.js example
	@tests/setup.sh
	cd clients/typescript && npm test
	$(CARGO) build --features failpoints --bin crieur
	cd clients/typescript && npm run test:next

quick: ## tests without servers, and those of the main road on real ones: less than three minutes behind the first build
	@tests/setup.sh
	SEEDS=100 $(TEST) --workspace --no-fail-fast --lib --test main
	$(TEST) --no-fail-fast --test live -- $(THREADS) $(QUICK)

package: ## a Debian package in target/package, looked at: contents, lintian, units, the glibc that it needs
	@tests/setup.sh package
	@CARGO="$(CARGO)" package/build.sh
	@tests/package.sh check

package-walk: ## install, upgrade, watchdog, remove, purge of that package in containers of Debian 12 and 13 and Ubuntu 22.04; root, minutes
	@tests/setup.sh package
	@tests/package.sh walk

walk: package ## a new user's first ten minutes in a clean Debian, typed from docs/guide/ten-minutes.md, with times; root
	@tests/setup.sh
	@tests/package.sh new-user

package-test: package package-walk ## make package, the walk, and the build steps of the Dockerfile in a clean clone
	@tests/package.sh image

torture: ## real servers, load, and faults at random for HOURS (1); SEED repeats a run
	@tests/setup.sh
	$(CARGO) test --test live -- --ignored slow
	TORTURE_SECONDS=$$(( $(or $(HOURS),1) * 3600 )) $(CARGO) test --features failpoints --test torture -- --nocapture --test-threads=1 $(TOPOLOGY:%=%::) $(if $(TOPOLOGY),--include-ignored)

schedules: ## other schedules of the simulation than those of `make test`, for HOURS (1); each failure says how it comes again
	@$(TEST) --release --no-run --test main
	@end=$$(( $$(date +%s) + $(or $(HOURS),1) * 3600 )); draw=$$(date +%s); failed=0; \
	while [ "$$(date +%s)" -lt "$$end" ]; do draw=$$((draw + 1)); \
	    DRAW=$$draw $(TEST) --release --quiet --test main no_schedule || failed=1; done; exit $$failed

scenarios: ## one fault each: stale keys, staleness and hit rate, beside those of an ungated delete
	@tests/setup.sh
	$(CARGO) test --features failpoints --test torture -- --ignored --nocapture every_scenario

bounds: ## size, idle memory and CPU, start, page, a hundred viewers: each measured beside its bound; fails past one
	@tests/setup.sh
	@$(CARGO) build --release --locked --bin crieur
	@CRIEUR=$${CRIEUR:-$${CARGO_TARGET_DIR:-target}/release/crieur} $(TEST) --quiet --test live bounds:: -- --ignored --nocapture

bench: ## what one change costs from its bytes to its keys, with three rules and with forty
	$(CARGO) bench --bench rules

check: ## formatting and lints, as strict as they go
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings

fmt: ## format the sources
	$(CARGO) fmt --all

record: ## record the workloads of tests/golden on every PostgreSQL anew, and show what that changes
	@tests/setup.sh
	$(CARGO) test --test live -- --ignored --nocapture record_every_workload_on_every_server
	UPDATE=1 $(CARGO) test --test main -- golden
	git diff --stat -- tests/golden

bulk: ## bounded memory and the time of a COMMIT at full size; takes minutes, prints what it measures
	@tests/setup.sh
	$(CARGO) test --release --test live $(BULK_TESTS)

day: ## a day of load on the outbox, as fast as the machine makes it: how large it becomes on disk
	@tests/setup.sh
	$(CARGO) test --release --test live day -- --ignored --nocapture

writers: ## what the outbox's triggers cost writers, beside a slot of logical replication; takes minutes, prints ratios
	@tests/setup.sh
	@tests/writers.sh

mutations: ## turn off each guard of the rules, the ledger, the mark and its meaning in turn: at least one test must notice
	tests/mutations.sh

# No sanitizer: what is fuzzed is safe Rust. Findings stay in target/fuzz; a seed with a name goes to tests/fuzz/corpus.
fuzz: ## fuzz each target FUZZ_RUNS times; needs `rustup toolchain install nightly` and `cargo install cargo-fuzz`
	@for target in $(FUZZ_TARGETS); do \
	    mkdir -p target/fuzz/corpus/$$target target/fuzz/found && \
	    $(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz -s none $$target \
	        target/fuzz/corpus/$$target tests/fuzz/corpus/$$target -- \
	        -runs=$(FUZZ_RUNS) -max_len=600 -artifact_prefix=target/fuzz/found/$$target- || exit; \
	done
