# make demo   reports -> labels -> channel -> fit -> test on the embedded phantom data
# make test   the tests
# make check  ruff, mypy --strict, import contracts
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
DATA := $(DEMO)/data
STUDIES ?= 4000

.PHONY: demo test check clean
.DELETE_ON_ERROR:

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hybridpt needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

test: .venv/.installed
	$(BIN)/python -m pytest

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(DEMO)/results.csv
	@echo "results: $(DEMO)/results.csv and $(DEMO)/results.png"

$(DATA)/manifest.csv: | .venv/.installed
	$(BIN)/hybridpt data phantom --studies $(STUDIES) --size 112 --seed 1 --jobs 2 -o $(DATA)

$(DEMO)/labels.parquet: $(DATA)/manifest.csv
	$(BIN)/labelers run $(DATA)/reports.csv --labeler context -o $@

$(DEMO)/channels.json: $(DEMO)/labels.parquet
	$(BIN)/labelers noise $(DEMO)/labels.parquet $(DATA)/labels.csv --gold $(DATA)/gold.csv --truth images -o $@

$(DEMO)/.fitted: $(DEMO)/channels.json
	rm -rf $(DEMO)/fit
	$(BIN)/hybridpt fit --config configs/fit/hybrid.yaml --trainer.default_root_dir $(DEMO)/fit
	@touch $@

$(DEMO)/results.csv: $(DEMO)/.fitted
	$(BIN)/hybridpt test --config configs/fit/hybrid.yaml --trainer.default_root_dir $(DEMO) --ckpt_path $(DEMO)/fit/best.ckpt \
		--data.gold $(DATA)/truth.csv

clean:
	rm -rf $(DEMO)
