# What a person does with this repository; `make` alone lists it.

CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help demo test torture scenarios check fmt record

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

demo: ## see it work: throwaway servers, the real rules, every change and what it deletes; ends by itself
	@tests/setup.sh demo
	@$(CARGO) build --release --bin crieur --example demo
	@$(CARGO) run --quiet --release --example demo

test: ## install what is missing, then run every test, those against real servers included
	@tests/setup.sh
	$(CARGO) test --no-fail-fast
	$(CARGO) test --no-fail-fast --features failpoints --test torture -- --nocapture --test-threads=1

torture: ## real servers, load, and faults at random for HOURS (1); SEED repeats a run
	@tests/setup.sh
	TORTURE_SECONDS=$$(( $(or $(HOURS),1) * 3600 )) $(CARGO) test --features failpoints --test torture -- --nocapture --test-threads=1

scenarios: ## one fault each: stale keys, staleness and hit rate, beside those of an ungated delete
	@tests/setup.sh
	$(CARGO) test --features failpoints --test torture -- --ignored --nocapture every_scenario

check: ## formatting and lints, as strict as they go
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings

fmt: ## format the sources
	$(CARGO) fmt

record: ## record the workloads of tests/golden on every PostgreSQL anew, and show what that changes
	@tests/setup.sh
	$(CARGO) test --test live -- --ignored --nocapture record_every_workload_on_every_server
	UPDATE=1 $(CARGO) test --test main -- golden
	git diff --stat -- tests/golden
