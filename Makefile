# What a person types. `make` alone lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Where `make install` puts the program.
PREFIX ?= /usr/local
# How long `make demo` trains.
MINUTES ?= 10

.PHONY: help deps build demo test bench lint install clean

help: ## list the targets
	@echo "minke: a small DeepSeek-V3, from text to a trained model that talks"
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18
	@echo
	@echo "  make demo MINUTES=3            a shorter demo"
	@echo "  make install PREFIX=$$HOME/.local   install without root"

deps: ## install the Debian packages that are missing
	@scripts/deps build

build: deps ## build the program: build/minke
	@scripts/build minke

demo: ## build, train on Jane Austen's novels for MINUTES=10, write, report
	@scripts/demo $(MINUTES)

test: deps ## build and run every test
	@scripts/build all
	@ctest --preset release --parallel "$$(nproc)"

bench: build ## measure the kernels on this machine
	build/minke bench kernels

lint: ## check the format, clang-tidy and layers of what changed (LINT_ALL=1: of everything)
	@scripts/lint

install: build ## install the program under PREFIX=/usr/local
	cmake --install build --prefix "$(PREFIX)"

clean: ## remove what was built; data/ and runs/ stay
	rm -rf build
