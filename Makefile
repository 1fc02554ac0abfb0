# make demo   three nodes run a real job, one is killed, the answer is right
# make test   everything that CI checks
# make fix    formats

CARGO ?= cargo
SEEDS ?= 0..200

.PHONY: setup build demo test fix
setup:
	@.ci/setup

build: setup
	$(CARGO) build --release --locked --workspace --bins

demo: setup
	$(CARGO) build --release --locked --workspace --bins
	examples/demo.sh $${CARGO_TARGET_DIR:-target}/release/swarm

test: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	$(CARGO) build --release --locked --workspace --bins
	$(CARGO) test --release --locked --workspace
	$${CARGO_TARGET_DIR:-target}/release/swarm-sim run --seeds $(SEEDS) --nodes 5
	@$(MAKE) --no-print-directory -C examples check

fix: setup
	$(CARGO) fmt --all
