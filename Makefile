# make demo     see it work, against a cloud on loopback    make test   lint, types and tests
# make torture  kill it 200 times under load, 5 minutes     make schema renew config/ddslogd.schema.json
# make lock     renew the locks in .ci                      make clean  remove what make made
# make deb      a Debian package in dist/                   make test-deb  install it into a Debian, upgrade, purge
# make bench    all that is measured:
#   make bench-overlap  how fast an export's new part is found
#   make bench-delta    how many bytes are fetched with delta and without
#   make bench-calls    how many calls a cycle takes, and how long a ready file waits
#   make bench-transfer  whole files beside curl (needs nginx, curl, openssl); FULL=--full: 2 GiB a set, 50 GB of disk
#   make bench-fleet    what 10,000 instances take, 4 minutes
# make bench-soak     whether memory stays what it is over days, 10 minutes; SOAK_MINUTES=60 for an hour
# make test-page      look at the page in Chromium (Debian's), 2 minutes; screenshots in build/screenshots
# make test-keystone  log in to a real OpenStack Keystone, 3 minutes; it gets a virtualenv of its own

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
KEYSTONE := .venv-keystone
DEB := .venv-deb
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header
BENCH := PYTHONPATH=tests $(BIN)/python -m bench
SOAK_MINUTES ?= 10

BENCHES := bench-overlap bench-delta bench-calls bench-transfer bench-fleet

.PHONY: demo test test-page test-keystone torture bench $(BENCHES) bench-soak lint schema lock clean deb test-deb

demo: $(INSTALLED)
	$(BIN)/ddslogd demo

test: lint
	$(BIN)/pytest -q -n auto --dist worksteal

test-page: $(INSTALLED)
	$(BIN)/pytest -q -n auto -m slow tests/test_browser.py

test-keystone: $(INSTALLED) $(KEYSTONE)/.installed
	$(BIN)/pytest -q -m slow tests/test_keystone.py

deb: $(DEB)/.installed
	systemd/deb/build $(DEB)/bin/python $(DEB)/bin/nfpm

test-deb: $(INSTALLED) $(DEB)/.installed
	$(BIN)/pytest -q -m slow tests/test_deb.py

torture: $(INSTALLED)
	$(BIN)/pytest -q -n auto -m slow tests/test_torture.py

bench: $(BENCHES)

bench-calls: $(INSTALLED)
	$(BENCH).bench_calls

bench-transfer: $(INSTALLED)
	$(BENCH).bench_transfer $(FULL)

bench-overlap: $(INSTALLED)
	$(BENCH).bench_overlap

bench-fleet: $(INSTALLED)
	$(BENCH).bench_fleet

bench-soak: $(INSTALLED)
	MALLOC_ARENA_MAX=2 $(BENCH).bench_soak $(SOAK_MINUTES)

bench-delta: $(INSTALLED)
	$(BENCH).bench_delta

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

schema: $(INSTALLED)
	$(BIN)/ddslogd schema > config/ddslogd.schema.json

$(INSTALLED): pyproject.toml .ci/requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r .ci/requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(KEYSTONE)/.installed: .ci/keystone.lock
	$(PYTHON) -m venv $(KEYSTONE)
	$(KEYSTONE)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r .ci/keystone.lock
	touch $@

$(DEB)/.installed: .ci/deb.lock
	$(PYTHON) -m venv $(DEB)
	$(DEB)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r .ci/deb.lock
	touch $@

lock: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(COMPILE) --extra dev --extra speed --upgrade pyproject.toml -o .ci/requirements.lock
	$(COMPILE) --extra speed --constraint .ci/requirements.lock pyproject.toml -o .ci/runtime.lock
	$(COMPILE) --no-annotate --upgrade .ci/keystone.txt -o .ci/keystone.lock
	$(COMPILE) --no-annotate --upgrade .ci/deb.txt -o .ci/deb.lock

clean:
	rm -rf $(VENV) $(KEYSTONE) $(DEB) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
