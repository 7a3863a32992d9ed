.DEFAULT_GOAL := help
ARGS ?=

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: ## install what build and tests need (Debian packages by apt-get, npm packages under target/)
	@scripts/setup.sh tests

demo: ## a forge, pushes, trainings and a pull-request comment on this machine; ARGS=--exit ends by itself
	@scripts/setup.sh build
	@cargo build --locked --bin trainyard
	@target/debug/trainyard demo $(ARGS)

check: ## format and lints
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

test: ## every suite in its short form; ends with "N passed, N failed, N skipped"
	@scripts/test.sh

test-full: ## the long forms as well, and the container image
	@scripts/test-full.sh

bench: ## the numbers beside their peers, release build; ARGS="intake" measures only those that begin so
	@scripts/bench.sh $(ARGS)

pictures: ## take the pictures of the documentation anew
	@scripts/pictures.sh

.PHONY: help setup demo check test test-full bench pictures
