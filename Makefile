# Each target sets up what it needs; a second run is quick. KEEP=1 leaves the demo's servers up.
.DEFAULT_GOAL := help
KEPT := $(filter 1 yes true,$(KEEP))
# The one whose faults the demo's study does not meet: docs/hazards.md.
VIEWER := 3.13.2
.PHONY: help demo demo-stop demo-clean test lint unit house bundle clean

help:
	@echo "make demo          a brain MRI from a PACS through an approved AI and back (KEEP=1: servers stay up)"
	@echo "make demo-stop     stop the servers that KEEP=1 left up"
	@echo "make demo-clean    stop them, and forget the demo's PACS, data and results"
	@echo "make test          static checks and every test, with the real Orthanc"
	@echo "make lint          static checks alone"
	@echo "make unit          the quick tests alone"
	@echo "make house         the house rules alone"
	@echo "make bundle        the one file for an installation without internet, into dist/ (docs/installing.md)"
	@echo "make bench-NAME    one benchmark: benchmarks/NAME.py"

demo:
	@scripts/setup.sh demo
	@$(if $(KEPT),scripts/viewer.sh $(VIEWER))
	@.venv/bin/zhiying demo $(if $(KEPT),--keep --viewer .tools/ohif/$(VIEWER)/dist)

demo-stop:
	@test ! -d .demo || .venv/bin/python -m service.demo.stop .demo

demo-clean: demo-stop
	@rm -rf .demo demo-output

test:
	@scripts/setup.sh test
	@scripts/check.sh

lint:
	@scripts/setup.sh lint
	@scripts/check.sh lint

unit:
	@scripts/setup.sh test
	@.venv/bin/pytest tests/unit -m "not slow" -n 4 --dist loadfile

house:
	@scripts/setup.sh lint
	@.venv/bin/pytest tests/house

bundle:
	@scripts/bundle.sh

bench-%:
	@scripts/setup.sh test
	@.venv/bin/python benchmarks/$*.py

clean: demo-clean
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build
