# make demo   three nodes run a real job, one is killed, the answer is right
# make test   everything that CI checks
# make fix    formats

CARGO ?= cargo
SEEDS ?= 0..500
# One node runs no-op tasks at least so many times as fast as a bare wasmtime loop; 0.8 on a quiet machine.
OF_BARE ?= 0.3

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
	$${CARGO_TARGET_DIR:-target}/release/swarm-sim faults --seeds $(SEEDS) --nodes 3..=9
	$(CARGO) test --release --locked --workspace --features swarm-simulation/planted-bugs --test planted_bugs
	$${CARGO_TARGET_DIR:-target}/release/swarm-sim bench --only bare,noop --rounds 1 --at-least $(OF_BARE)
	@$(MAKE) --no-print-directory -C examples check

fix: setup
	$(CARGO) fmt --all
