PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
KEYSTONE := .venv-keystone
DEB := .venv-deb
COMPILE := $(DEB)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header
BENCH := PYTHONPATH=tests $(BIN)/python -m bench
SOAK_MINUTES ?= 10
POWERCUT_SEED ?= 1
FUZZ_MINUTES ?= 3
CLUSTER_MINUTES ?= 0.5
CLUSTER_SEED ?= 1
# Memory, where there is room and programs may run: half of the disk's time is syncs. .ci/run has the tests write to a disk.
TEST_DIRECTORY ?= $(shell ! grep -q '^tmpfs /dev/shm .*noexec' /proc/mounts \
	&& [ "$$(df --output=avail /dev/shm 2>/dev/null | tail -1)" -gt 2000000 ] && echo /dev/shm || echo $${TMPDIR:-/tmp})
PYTHONS ?= 3.11 3.12 3.13

BENCHES := bench-overlap bench-delta bench-calls bench-transfer bench-fleet bench-hostile bench-pages bench-cluster

.PHONY: help demo test test-daemon test-page test-root test-hostile test-shippers test-cluster test-keystone test-deb test-pythons \
	torture damage powercut fuzz bench $(BENCHES) bench-soak lint schema lock clean deb

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## See it work, against a cloud on loopback; 10 seconds
	$(BIN)/ddslogd demo

test: lint ## Lint, types and tests; 2 minutes
	directory=$$(mktemp -d $(TEST_DIRECTORY)/XXXX) && trap 'rm -rf "$$directory"' EXIT && chmod 711 "$$directory" && \
		TMPDIR=$$directory $(BIN)/pytest -q -n auto --dist worksteal

test-daemon: $(INSTALLED) ## Start, reload, stop and harm it, each in a Python of its own, 1 minute
	$(BIN)/pytest -q -n auto --dist worksteal -m daemon

test-page: $(INSTALLED) ## Look at the page in Chromium (Debian's), 2 minutes; screenshots in build/screenshots
	$(BIN)/pytest -q -n auto -m slow tests/e2e/test_browser.py

test-hostile: $(INSTALLED) ## Attack the daemon as hostile clouds do: bounds of memory, pauses, journal and disk, 3 minutes
	$(BIN)/pytest -q -n auto -m slow tests/e2e/test_hostile_*.py

test-root: $(INSTALLED) ## Run its commands as root, in namespaces of their own, 1 minute
	$(BIN)/pytest -q -n auto -m slow tests/e2e/test_root.py

test-shippers: $(INSTALLED) build/syslog-ng/run ## Let rsyslog, syslog-ng (of Debian) and tail follow streams over rotations and kills, 1 minute
	$(BIN)/pytest -q -n auto -m slow tests/e2e/test_shippers.py

test-cluster: export CLUSTER_MINUTES := $(CLUSTER_MINUTES)
test-cluster: export CLUSTER_SEED := $(CLUSTER_SEED)
test-cluster: $(INSTALLED) ## Let collectors share a fleet through Debian's PostgreSQL, and die, pause, be cut off, 2 minutes; CLUSTER_SEED=2
	$(BIN)/pytest -q -n auto -m slow tests/e2e/test_cluster_*.py

test-keystone: $(INSTALLED) $(KEYSTONE)/.installed ## Log in to a real OpenStack Keystone, 3 minutes; it gets a virtualenv of its own
	$(BIN)/pytest -q -m slow tests/e2e/test_keystone.py

deb: $(DEB)/.installed ## Build a package in dist/ for this Debian or Ubuntu and its Python; needs git and binutils
	systemd/deb/build $(DEB)/bin/python $(DEB)/bin/nfpm

test-deb: $(INSTALLED) $(DEB)/.installed ## Install, run, upgrade and purge the package in a Debian, 8 minutes; needs root and debootstrap
	$(BIN)/pytest -q -m slow tests/e2e/test_deb.py

test-pythons: ## Test on Python 3.11, 3.12, 3.13, 5 minutes each; PYTHONS="3.12" PART="tests/unit" for some
	.ci/pythons "$(PYTHONS)" $(PART)

torture: $(INSTALLED) ## Kill it 200 times under load, and a stream at every step, 5 minutes
	$(BIN)/pytest -q -n auto -m slow tests/torture/test_kills.py tests/torture/test_stream_crashes.py \
		tests/integration/test_random_faults.py

damage: $(INSTALLED) ## Start it on 300 damaged ledgers and on old copies of one, 1 minute
	$(BIN)/pytest -q -n auto -m slow tests/torture/test_damaged_ledgers.py \
		tests/integration/test_restored_ledger.py

powercut: export POWERCUT_SEED := $(POWERCUT_SEED)
powercut: $(INSTALLED) ## Cut the power 400 times in a model of the disk, 5 minutes; needs strace; POWERCUT_SEED=2 for others
	$(BIN)/pytest -q -m slow tests/torture/test_power_cuts.py

fuzz: $(INSTALLED) ## Run the whole daemon against a model of a cloud, 3 minutes; FUZZ_MINUTES=30, FUZZ_SEEDS=7 or 1-20
	PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(FUZZ_MINUTES) $(if $(FUZZ_SEEDS),--seeds $(FUZZ_SEEDS)) $(FUZZ)

bench: $(BENCHES) ## Measure all of the following, but for the soak

bench-calls: $(INSTALLED) ## How many calls a cycle takes, and how long a ready file waits
	$(BENCH).bench_calls

bench-transfer: $(INSTALLED) ## Whole files compared with curl; needs nginx, curl, openssl; FULL=--full: 2 GiB a set, 50 GB of disk
	$(BENCH).bench_transfer $(FULL)

bench-overlap: $(INSTALLED) ## How fast an export's new part is found
	$(BENCH).bench_overlap

bench-fleet: $(INSTALLED) ## What 10,000 instances take, 4 minutes
	$(BENCH).bench_fleet

bench-hostile: $(INSTALLED) ## The loop's longest pause under the worst replies of a hostile cloud
	$(BENCH).bench_hostile

bench-pages: $(INSTALLED) ## How long the page and the metrics of a thousand instances take
	$(BENCH).bench_pages

bench-cluster: $(INSTALLED) ## What 10 collectors of 10,000 instances cost their PostgreSQL, 3 minutes; needs Debian's postgresql
	$(BENCH).bench_cluster

bench-soak: $(INSTALLED) ## Whether memory stays what it is over days, 10 minutes; SOAK_MINUTES=60 for an hour
	MALLOC_ARENA_MAX=2 $(BENCH).bench_soak $(SOAK_MINUTES)

bench-delta: $(INSTALLED) ## How many bytes are fetched with delta and without
	$(BENCH).bench_delta

lint: $(INSTALLED) ## Linter, formatter and type checker alone
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

schema: $(INSTALLED) ## Write config/README.md and config/ddslogd.schema.json again, from the models
	$(BIN)/ddslogd schema > config/ddslogd.schema.json
	$(BIN)/python systemd/deb/settings_readme.py > config/README.md

$(INSTALLED): pyproject.toml .ci/requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r .ci/requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-index --no-build-isolation --no-deps --editable .
	touch $@

build/syslog-ng/run: .ci/syslog-ng
	.ci/syslog-ng build/syslog-ng

$(KEYSTONE)/.installed: .ci/keystone.lock
	$(PYTHON) -m venv $(KEYSTONE)
	$(KEYSTONE)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r .ci/keystone.lock
	touch $@

$(DEB)/.installed: .ci/deb.lock
	$(PYTHON) -m venv $(DEB)
	$(DEB)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r .ci/deb.lock
	touch $@

lock: $(DEB)/.installed ## Renew the locks in .ci
	$(COMPILE) --extra cluster --extra dev --upgrade pyproject.toml -o .ci/requirements.lock
	$(COMPILE) --constraint .ci/requirements.lock pyproject.toml -o .ci/runtime.lock
	$(COMPILE) --no-annotate --upgrade .ci/keystone.txt -o .ci/keystone.lock
	$(COMPILE) --no-annotate --constraint .ci/requirements.lock --upgrade .ci/deb.txt -o .ci/deb.lock

clean: ## Remove what make made
	rm -rf $(VENV) $(KEYSTONE) $(DEB) .venv-3.* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
