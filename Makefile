# The front door. Everything real is in meson.build; each target sets up what it needs.
BUILD ?= build

.PHONY: all build demo test test-faults test-systemd gigabyte bench lint install clean
all: build

$(BUILD)/build.ninja:
	tools/deps
	meson setup $(BUILD)

build: $(BUILD)/build.ninja
	ninja -C $(BUILD)

demo: build
	tools/demo $(BUILD)

test:
	tools/deps --test
	tools/test

# What takes minutes where guests are translated: files of 1 GiB, there and back.
gigabyte: build
	HYPEMAN_COPY_MB=1024 HYPEMAN_BUILD=$(BUILD) /usr/bin/python3 -m pytest -q tests/e2e/test_cp.py -k large
	HYPEMAN_COPY_MB=1024 HYPEMAN_BUILD=$(BUILD) tests/sdk/run

# A daemon killed, a disk full, a VMM killed at every step of standby, restore and fork; about a quarter of an hour.
test-faults: build
	tools/deps --test
	HYPEMAN_EVERY_STEP=1 HYPEMAN_BUILD=$(BUILD) /usr/bin/python3 -m pytest -q tests/e2e/test_faults.py

# Debian's own systemd as a guest, out of its packages (fetched once); a few minutes.
test-systemd: build
	tools/deps --systemd
	HYPEMAN_SYSTEMD=1 HYPEMAN_BUILD=$(BUILD) /usr/bin/python3 -m pytest -q tests/e2e/test_systemd.py

bench: build
	tools/bench $(BUILD)

lint:
	tools/deps --lint
	tools/lint

install: build
	meson install -C $(BUILD)

clean:
	rm -rf $(BUILD)
