# Every target sets up .venv by itself: plain pip, a C++20 compiler, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: setup demo demo-kafka demo-list test test-slow-machine test-tenfold test-clients drills fuzz check check-native check-helm bench-table bench-tower bench-train bench-front bench-peers bench-serve bench-shadow bench-start bench-stream bench-sync evidence-table evidence-tower evidence-experts evidence-pool evidence-online evidence-negatives evidence-rounding evidence-sync format hooks clean

# List of modules: an editable install must be repeated when it changes.
MODULES := $(VENV)/.modules
$(shell mkdir -p $(VENV); find monolith_py streaming serving deploy/demo -name '*.py' | sort > $(MODULES).new; \
	cmp -s $(MODULES).new $(MODULES) || mv $(MODULES).new $(MODULES))

$(READY): $(MODULES) pyproject.toml constraints.txt CMakeLists.txt $(shell find protos monolith_py/core -type f)
	@echo "setting up $(VENV) (torch is large: a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) pip
	$(PIP) cmake ninja scikit-build-core nanobind grpcio-tools
	$(PIP) --no-build-isolation -e '.[dev]'
	$(PIP) --no-deps torchrec
	touch $@

setup: $(READY)

demo: $(READY)
	$(BIN)/python -m monolith_demo

demo-kafka: $(READY)
	$(BIN)/python -m monolith_demo --kafka

demo-list: $(READY)
	$(BIN)/python -m monolith_demo --list

# Processes that share the test files. Tests wait for other processes nearly half of the time.
TEST_PROCESSES ?= 2

# Two processes with a thread for each core: without the limit the threads that wait take the cores from those that work.
test: export GOMP_SPINCOUNT = 20000
# In the order of the folders: the long drills and flows come first, so both processes end at about the same time.
test: $(READY)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Tests with processes, threads or clocks: their results must not depend on the machine's speed. Without the drills: slow_machine.py would
# wake the processes that they stop.
RACING := tests/flow tests/contract tests/unit/tower/test_tower_stack.py tests/unit/table/test_threads.py \
	tests/unit/table/test_snapshot_killed.py tests/unit/test_cli.py tests/unit/observe \
	$(addprefix tests/unit/,serving streaming sync io deploy training bench)

# Clients, clocks and stores that misbehave, against real processes; also the drills that take minutes.
drills: $(READY)
	MONOLITH_LONG_DRILLS=1 $(BIN)/python -m pytest tests/drills
	MONOLITH_LATE_STREAMS=500 $(BIN)/python -m pytest tests/unit/streaming/replay/test_equal_however_read.py

test-slow-machine: $(READY)
	$(BIN)/python tests/slow_machine.py $(BIN)/python -m pytest --timeout 3000 $(RACING)

test-tenfold: $(READY)
	MONOLITH_TEST_WORK=10 $(BIN)/python -m pytest --timeout 3000 $(RACING)

# Clients in other languages against a genuine Kafka: Java, Go and Node with their package managers, downloads of some minutes the first time.
test-clients: $(READY)
	$(BIN)/python -m pytest tests/clients/check_clients.py tests/clients/check_rank_clients.py

# Seconds for each fuzzer; 600 give more than 100,000 inputs each on two cores.
FUZZ_SECONDS ?= 600

fuzz: $(READY)
	$(BIN)/python tests/fuzz/run.py $(FUZZ_SECONDS) $(FUZZ_SEED)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	find monolith_py/core tests/cpp -name '*.hpp' -o -name '*.cpp' | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/python tests/cpp/tidy.py
	$(BIN)/python -m pytest -q tests/test_floors.py tests/test_core_rooms.py tests/test_architecture.py tests/test_english.py tests/test_doctests.py

check-native: $(READY)
	tests/cpp/check.sh $(BIN)

check-helm: $(READY)
	$(BIN)/python helm/check.py

# Same setting as in `monolith train`.
bench-train bench-tower: export GOMP_SPINCOUNT = 20000
bench-table bench-tower bench-train bench-front bench-peers bench-serve bench-shadow bench-start bench-stream bench-sync: bench-%: $(READY)
	$(BIN)/python tests/bench/bench_$*.py

evidence-table evidence-experts evidence-pool evidence-negatives evidence-rounding evidence-sync: evidence-%: $(READY)
	$(BIN)/python tests/evidence/$*.py

# DATA: a folder with the Parquet files of MIND, Criteo and Open Bandit, which may not be shipped.
evidence-tower: $(READY)
	$(BIN)/python tests/evidence/tower.py
	$(BIN)/python tests/evidence/tower_many.py $(if $(DATA),--data $(DATA))

evidence-online: $(READY)
	$(BIN)/python tests/evidence/online.py --jobs 2

format: $(READY)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .
	find monolith_py/core tests/cpp -name '*.hpp' -o -name '*.cpp' | xargs $(BIN)/clang-format -i

# Enable the commit hook in this clone.
hooks:
	git config core.hooksPath githooks

clean:
	rm -rf $(VENV) build .run
