# `make demo` and `make test` need nothing but Python 3.11+, make and a package registry: they make their own environment.
PYTHON ?= python3
SEED   ?= 0
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EVAL   ?= build/eval-env
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable chrome
JOBS   ?= 2
AV     ?= 15 16 17.0 17 18
CODE   := configuration modeling_ntlbg processors ntlbg tests train.py app.py

AV_TESTS := $(addprefix tests/test_,decoding.py exactness.py sources.py attacks.py scan.py probe.py \
             fuzz_decode.py select_frames.py processors.py batch_decoding.py)

LOWEST_TESTS := $(addprefix tests/test_,decoding.py processors.py select_frames.py choosing.py model.py cli.py report.py)

.DEFAULT_GOAL := help
.PHONY: help demo app test test-app test-eval test-av test-lowest dist test-distributed fuzz-decode quality style tiny tiny-withheld tiny-package tiny-smoke bench readme bench-demo bench-recipe bench-selectors bench-decode bench-losses bench-memory bench-frames bench-splits bench-seeds bench-needles bench-efficiency bench-grounding clean

help:                   ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(STAMP)          ## render a ten-minute video, watch it once, ask it questions, write a report (SEED=n for another)
	$(BIN)/python -m ntlbg.demo --seed $(SEED)

app: $(STAMP)           ## the demo page on ntlbg-tiny, with two sample videos rendered on the spot; http://127.0.0.1:7860
	$(BIN)/python -m pip install --quiet --editable '.[app]'
	OMP_NUM_THREADS=1 $(BIN)/python app.py --max-new-tokens 8

test: $(STAMP)          ## the whole test suite, in two processes (JOBS=n for another number)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

$(EVAL)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(EVAL)
	$(EVAL)/bin/python -m pip install --quiet --upgrade pip
	$(EVAL)/bin/python -m pip install --quiet --editable '.[eval]' pytest
	touch $@

test-eval: $(EVAL)/.installed ## the lmms-eval plug-in on toy copies of its tasks, in an environment of its own (minutes)
	$(EVAL)/bin/python -m pytest -q tests/test_lmms_eval.py tests/test_harness_questions.py tests/test_metric_modules.py

test-app: $(STAMP)      ## the demo page in a headless browser; installs Chromium where that is allowed, fails without one
	$(BIN)/python -m pip install --quiet --editable '.[app,app-test]'
	for name in $(BROWSERS); do command -v $$name && exit 0; done; \
	  apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium
	NTLBG_NEEDS_BROWSER=1 $(BIN)/python -m pytest -q tests/test_app.py

test-av: $(STAMP)       ## decoding with every PyAV that is supported, each beside the environment (AV="15 16" for some)
	set -e; for version in $(AV); do rm -rf build/av; \
	  $(BIN)/python -m pip install --quiet --no-deps --target build/av "av==$$version.*"; \
	  PYTHONPATH=build/av $(BIN)/python -c 'import av; print("PyAV", av.__version__)'; \
	  PYTHONPATH=build/av $(BIN)/python -m pytest -q $(AV_TESTS); done

fuzz-decode: $(STAMP)   ## 2,000 mutated files through probe and select (a few minutes)
	$(BIN)/python tests/fuzz_decode.py --files 2000 --out docs/benchmarks/decode_fuzz

test-lowest:            ## dependencies at the lower bounds of setup.cfg (most: see tests/lowest.py), in an environment of its own (gigabytes, minutes)
	$(PYTHON) -m venv build/lowest
	$(PYTHON) tests/lowest.py > build/lowest.txt
	build/lowest/bin/python -m pip install --quiet --requirement build/lowest.txt
	build/lowest/bin/python -m pip install --quiet --no-deps --editable .
	build/lowest/bin/python -m pytest -q $(LOWEST_TESTS)

dist: $(STAMP)          ## sdist and wheel in dist/, built in an environment of their own, after a look at what they hold
	$(BIN)/python -m pytest -q tests/test_packaging.py
	rm -rf dist
	$(BIN)/python -m build

test-distributed: $(STAMP) ## DDP, ZeRO-2 and ZeRO-3 with two processes; every file in ds_configs and configuration/accelerate (minutes)
	$(BIN)/python -m pytest -q tests/test_distributed.py tests/test_uneven_batches.py \
	  -m "distributed or not distributed"

quality: $(STAMP)       ## check style
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

style: $(STAMP)         ## fix style
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

tiny: $(STAMP)          ## train checkpoints/ntlbg-tiny from scratch (about an hour and a half of CPU; the same command goes on where it stopped)
	$(BIN)/python -m ntlbg.training.tiny_base --work build/tiny
	OMP_NUM_THREADS=1 $(BIN)/python train.py --config configuration/tiny.json
	$(BIN)/python -m ntlbg.training.tiny_package --source build/tiny/selection --out checkpoints/ntlbg-tiny

tiny-withheld: $(STAMP) ## its base without six pairs of colour and shape, for bench-splits; in build/tiny-withheld (an hour and a half of CPU)
	$(BIN)/python -m ntlbg.training.tiny_base --work build/tiny-withheld --withhold

build/tiny-withheld/untrained/config.json:
	$(MAKE) tiny-withheld

tiny-package: $(STAMP)  ## give checkpoints/ntlbg-tiny today's code and card, after either changed
	$(BIN)/python -m ntlbg.training.tiny_package --figures docs/benchmarks/frames.json

tiny-smoke: $(STAMP)    ## the same recipe at a tiny scale, in two minutes
	$(BIN)/python -m ntlbg.training.tiny_base --work build/tiny --smoke
	OMP_NUM_THREADS=1 $(BIN)/python train.py --config configuration/tiny.json --model_name_or_path build/tiny/smoke/untrained \
	  --output_dir build/tiny/smoke/selection --feature_cache build/tiny/smoke/features --dataset_config smoke --max_steps 20
	$(BIN)/python -m ntlbg.training.tiny_package --source build/tiny/smoke/selection --out build/tiny/smoke/package

bench: bench-demo bench-frames bench-splits bench-seeds bench-needles bench-grounding bench-efficiency bench-recipe bench-selectors bench-decode bench-losses bench-memory readme ## rebuild docs/benchmarks, and with them the README's tables

readme: $(STAMP)        ## the README's table of benches, from their JSON
	$(BIN)/python -m ntlbg.evaluation.readme_rows README.md

bench-demo: $(STAMP)    ## the demo's setting over 50 unseen videos (about ten minutes)
	$(BIN)/python -m ntlbg.demo --seed 1000 --many 50 --json docs/benchmarks/demo.json

bench-frames: $(STAMP)  ## accuracy against groups shown for every selector, 200 videos (about an hour; resumable)
	$(BIN)/python -m ntlbg.evaluation.frames_benchmark --videos 200 --out docs/benchmarks/frames
	$(BIN)/python -m ntlbg.evaluation.frames_report docs/benchmarks/frames.json --readme README.md

SEEDS := 1 2
SOME := ntlbg uniform top_k temporal_nms aks coselect k_means "ntlbg, other question" oracle all

bench-splits: $(STAMP) build/tiny-withheld/untrained/config.json ## longer videos, unseen backgrounds, colours and shapes never shown together (about an hour after tiny-withheld)
	set -e; for seconds in 512 1024; do $(BIN)/python -m ntlbg.evaluation.frames_benchmark --videos 60 \
	  --seconds $$seconds --groups 8 16 32 --selectors $(SOME) --out docs/benchmarks/frames_$${seconds}s; done
	$(BIN)/python -m ntlbg.evaluation.frames_benchmark --videos 60 --split test-background \
	  --groups 8 16 32 --selectors $(SOME) --out docs/benchmarks/frames_background
	$(BIN)/python -m ntlbg.evaluation.checkpoint_comparison checkpoints/ntlbg-tiny build/tiny-withheld/untrained \
	  --videos 100 --split test test-pairs --selectors oracle --out docs/benchmarks/pairs

build/seeds/%/selection/config.json: | $(STAMP)
	$(BIN)/python -m ntlbg.training.fresh_selector checkpoints/ntlbg-tiny --seed $* --out build/seeds/$*/untrained
	OMP_NUM_THREADS=1 $(BIN)/python train.py --config configuration/tiny.json --model_name_or_path build/seeds/$*/untrained \
	  --output_dir build/seeds/$*/selection --feature_cache build/seeds/features --seed $*

bench-seeds: $(STAMP) $(SEEDS:%=build/seeds/%/selection/config.json) ## the selector trained from two seeds more (about three quarters of an hour of CPU)
	$(BIN)/python -m ntlbg.evaluation.training_seeds checkpoints/ntlbg-tiny $(SEEDS:%=build/seeds/%/selection) --out docs/benchmarks/seeds

bench-needles: $(STAMP) ## needles in videos of up to an hour, length by depth (about half an hour; resumable)
	$(BIN)/python -m ntlbg.evaluation.needle_grid --seeds 20 --out docs/benchmarks/needles

bench-efficiency: $(STAMP) ## seconds, operations and memory against groups shown, at bench-frames' accuracies, and against candidates (about an hour and a half on a quiet machine, 9 GB; resumable)
	$(BIN)/python -m ntlbg.evaluation.efficiency --out docs/benchmarks/efficiency
	$(BIN)/python -m ntlbg.evaluation.candidates_cost --shape small-224 --candidates 64 128 256 --groups 8 --out docs/benchmarks/candidates

build/tiny/selection/config.json:
	$(MAKE) tiny

bench-recipe: $(STAMP) build/tiny/selection/config.json ## what `make tiny` made in build/tiny beside the committed checkpoint (about half an hour)
	$(BIN)/python -m ntlbg.evaluation.checkpoint_comparison checkpoints/ntlbg-tiny build/tiny/selection --out docs/benchmarks/tiny_recipe

bench-selectors: $(STAMP) ## every frame selector on synthetic worlds of descriptors (about 15 minutes; VIDEOS=folder: on films cut from it, too)
	$(BIN)/python -m ntlbg.evaluation.selector_bench --videos 20 --out docs/benchmarks/selectors
	$(if $(VIDEOS),$(BIN)/python -m ntlbg.evaluation.footage_bench $(VIDEOS) --out docs/benchmarks/selectors_footage)

bench-decode: $(STAMP)  ## decoding beside torchcodec and decord, two passes beside a grid, on films made here (about 40 minutes)
	-$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m ntlbg.evaluation.decode_bench --films build/films --out docs/benchmarks/decode

bench-losses: $(STAMP)  ## what each training loss is worth to the selector (about three quarters of an hour of CPU; resumable)
	$(BIN)/python -m ntlbg.evaluation.loss_ablation --out docs/benchmarks/losses

bench-memory: $(STAMP)  ## estimated against measured training memory (about 20 minutes, 5 GB; what is measured already is kept)
	$(BIN)/python -m ntlbg.evaluation.memory_bench --out docs/benchmarks/memory

bench-grounding: $(STAMP) ## numbers, tokens, text and a span head on unseen videos, trained on the spot (about three quarters of an hour; resumable)
	OMP_NUM_THREADS=1 $(BIN)/python -m ntlbg.evaluation.grounding_bench --out docs/benchmarks/grounding

clean:                  ## remove the environment and everything made
	rm -rf $(VENV) build dist out *.egg-info
