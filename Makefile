# The front door. Everything real is in meson.build; each target sets up what it needs.
BUILD ?= build

.PHONY: all build demo test bench lint install clean
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

bench: build
	tools/bench $(BUILD)

lint:
	tools/deps --lint
	tools/lint

install: build
	meson install -C $(BUILD)

clean:
	rm -rf $(BUILD)
