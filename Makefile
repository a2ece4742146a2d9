# The two commands of the README: `make demo` and `make test`. Both install what they need and can be run again.

CARGO ?= cargo
PREFIX ?= /usr/local

.PHONY: demo test lint build bench install packages

# A pod from YAML, in one go: builds podd, runs the example, shows it, takes it away again.
demo: packages
	$(CARGO) build --release -p podd
	manifests/demo.sh target/release/podd

# Everything that is checked: format, lints, unit tests, black-box tests on the real kernel (as root).
test: packages lint build
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --workspace --no-fail-fast; \
	else \
		$(CARGO) test --workspace --no-fail-fast; \
	fi
	$(CARGO) test --locked --manifest-path tests/schema/Cargo.toml --target-dir target/schema

lint:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/schema/Cargo.toml --check
	$(CARGO) metadata --locked --format-version 1 --manifest-path tests/schema/Cargo.toml >/dev/null
	$(CARGO) clippy --workspace --all-targets -- -D warnings

build:
	$(CARGO) build -p podd

# Ratios to the kernel's floor and to the peers that are installed; docs/performance.md says how to read them.
bench: packages
	$(CARGO) build --release -p podd
	$(CARGO) bench -p podd-tests

install: packages
	$(CARGO) build --release -p podd
	install -D -m 0755 target/release/podd $(DESTDIR)$(PREFIX)/bin/podd

packages:
	tests/install-packages
