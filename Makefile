# make run    fuzz the embedded kernel model with the shipped corpus; needs Python >= 3.11 only
# make test   everything: lint, types, and all tests with real iasl, QEMU and kernels
# make check  lint, types and the tests that need no external tool
# make docs   write the generated parts of docs/ anew
# make bench  cases and boots a second on this machine
# make compiled  the optional build with the hot modules compiled by mypyc, in .venv-compiled; needs gcc or clang
# make check-compiled  the tests of what is compiled on that build, and one campaign digest from both builds

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
COMPILED ?= $(VENV)-compiled
KERNELS ?= v6.1 v7.3
MORE_KERNELS ?= v5.10 v6.12
TOOLS := iasl qemu-system-x86_64 chromium
PACKAGES := acpica-tools qemu-system-x86 chromium

.PHONY: run test check lint docs bench compiled check-compiled tools kernels clean
.DELETE_ON_ERROR:

run: $(VENV)/.installed
	@$(BIN)/acpitk fuzz --iterations 5000 --seed 1 --out out/findings || [ $$? -eq 1 ]

test: lint tools kernels
	@ACPITK_REQUIRE=iasl,qemu,kernel,chromium $(BIN)/pytest -q -n auto

check: lint
	@$(BIN)/pytest -q -m "not iasl and not qemu and not kernel and not chromium"

lint: $(VENV)/.developer
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(VENV)/.installed
	@$(BIN)/python docs/generate.py

bench: $(VENV)/.installed
	@echo "model: $$($(BIN)/acpitk fuzz --iterations 10000 --seed 1 --out out/bench | head -n 1)"
	@command -v qemu-system-x86_64 >/dev/null || { echo "boots: no QEMU here"; exit 0; }; \
	echo "boots: $$($(BIN)/acpitk fuzz --iterations 60 --seed 1 --boot all --out out/bench | head -n 1)"

compiled: $(COMPILED)/.installed

check-compiled: $(COMPILED)/.installed $(VENV)/.developer
	@plain=$$($(BIN)/python tests/benchmarks/digest.py) && \
	compiled=$$($(COMPILED)/bin/python tests/benchmarks/digest.py) && \
	echo "campaign digest: plain $$plain, compiled $$compiled" && test "$$plain" = "$$compiled"
	@$(COMPILED)/bin/pytest -q tests/kernel tests/checks tests/fuzz tests/corpus tests/quality tests/test_machine.py \
	tests/test_ranges.py -m "not iasl and not qemu and not kernel and not chromium"

# From a copy, so that no shared object ends up beside the plain sources, where Python would prefer it.
$(COMPILED)/.installed: pyproject.toml $(shell find acpitk -name '*.py')
	@command -v cc gcc clang >/dev/null || { echo "make compiled needs a C compiler: install gcc" >&2; exit 3; }
	@test -x $(COMPILED)/bin/python || $(PYTHON) -m venv $(COMPILED)
	@rm -rf out/compiled && mkdir -p out/compiled && cp -r acpitk corpus pyproject.toml README.md LICENSE out/compiled
	@$(COMPILED)/bin/python -m pip install -q --disable-pip-version-check './out/compiled[dev,compiled]'
	@cd out/compiled && HATCH_BUILD_HOOK_ENABLE_MYPYC=true $(abspath $(COMPILED))/bin/hatchling build -t wheel >/dev/null
	@$(COMPILED)/bin/python -m pip install -q --disable-pip-version-check --force-reinstall --no-deps \
	out/compiled/dist/*.whl
	@rm -rf out/compiled
	@touch $@

tools:
	@for tool in $(TOOLS); do command -v $$tool >/dev/null || missing=1; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ]; then root=; elif sudo -n true 2>/dev/null; then root=sudo; \
	else echo "make test needs $(TOOLS): install $(PACKAGES)" >&2; exit 3; fi; \
	command -v apt-get >/dev/null || { echo "make test needs $(TOOLS): install ACPICA tools and QEMU" >&2; exit 3; }; \
	$$root apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $$root apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null

kernels: $(VENV)/.installed
	@$(BIN)/acpitk kernel fetch $(KERNELS)
	@$(BIN)/acpitk kernel fetch $(MORE_KERNELS) || echo "going on without $(MORE_KERNELS): their tests skip" >&2

$(VENV)/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	{ echo "cannot make $(VENV): Python >= 3.11 with venv is needed (Debian: python3-venv)" >&2; exit 3; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.developer: $(VENV)/.installed
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(COMPILED) out dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
