# Every target sets up what it needs. PYTHON is only used to create the environments.
PYTHON ?= $(shell for p in python3.11 python3; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PORT ?= 3000
DEVICE ?= $(shell [ -e /dev/nvidia0 ] && echo gpu || echo cpu)
SERVING := requirements/serving$(if $(filter gpu,$(DEVICE)),-gpu).txt
export BENTOML_DO_NOT_TRACK = True
export ORT_DISABLE_TELEMETRY = 1
.PHONY: help serve train import study test test-thorough test-floods test-large elsewhere-test torch-test rolling-test bulk bulk-test check count fuzz bench soak container-test container-test-gpu sbom release-check bento bento-gpu lock other

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F '\t' '{printf "  make %-20s %s\n", $$1, $$2}'

serve: .venv/ready  ## the service with the committed models, on PORT
	exec env $$([ -n "$$BENTOML_HOME" ] || [ -w "$$HOME" ] || [ -w "$$HOME/bentoml" ] || echo BENTOML_HOME=$${TMPDIR:-/tmp}/bentoml-$$(id -u)) \
	  .venv/bin/bentoml serve serving.service:ImageClassifier --port $(PORT)

train: .venv-dev/ready  ## MODEL=conv_resnet_deep [ARGS="--dataset mnist …"]
	.venv-dev/bin/python -m training.fit $(MODEL) $(ARGS)

# On JOBS processes: a file's tests on one of them, the files that take longest first (tests/conftest.py). Many tests
# wait for a service, so that two cores have time for a third process; the thorough ones compute. Without
# bytecode every service that a test starts would compile all of its modules anew, and every process all tests.
test test-thorough test-floods: export PYTHONDONTWRITEBYTECODE =
test: .venv-dev/ready .venv/ready .venv-bento/ready check  ## lint, types, tests; says at its end what it left out
	.venv-dev/bin/python -m pytest -n $(or $(JOBS),3) --dist loadfile --no-loadscope-reorder

test-thorough: .venv-dev/ready .venv/ready .venv-bento/ready  ## the tests that `make test` leaves out for their time
	.venv-dev/bin/python -m pytest -n $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder -m thorough

test-floods: .venv-dev/ready .venv/ready  ## floods, attacks and a soak of a service, with nothing else running
	.venv-dev/bin/python -m pytest -m floods

test-large: .venv-dev/ready  ## large networks of others, published: minutes and gigabytes each
	.venv-dev/bin/python -m pytest -m large

elsewhere-test: .venv-dev/ready .venv-elsewhere/ready  ## what is published for MLflow, the Hub and Triton, loaded by their libraries
	.venv-dev/bin/python -m pytest -m elsewhere

torch-test: .venv-dev/ready .venv/ready .venv-torch/ready  ## networks of torchvision and timm, exported by PyTorch and brought here
	.venv-dev/bin/python -m pytest -m torch

rolling-test: .venv-dev/ready .venv/ready  ## three services behind HAProxy, killed and rolled one by one under load
	.venv-dev/bin/python -m pytest -m rolling

bulk: .venv-bulk/ready  ## ARGS="pictures/ --output answers.parquet": answers for many pictures, on Ray Data
	.venv-bulk/bin/python -m serving.bulk $(ARGS)

bulk-test: .venv-dev/ready .venv-bulk/ready  ## bulk work on Ray itself: a killed actor, a stopped run
	.venv-dev/bin/python -m pytest -m bulk

check: .venv-dev/ready  ## ruff, mypy, pip-audit
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy
	.venv-dev/bin/python requirements/audit.py

import: .venv-import/ready  ## MODEL=model.onnx ARGS="--name mine --labels labels.txt --input-range imagenet": no TensorFlow
	.venv-import/bin/python -m training.export $(MODEL) $(ARGS)

study: .venv-dev/ready  ## the notebook's claims put to the test; ARGS="--list" says what there is
	.venv-dev/bin/python -m study $(ARGS)

count: .venv-dev/ready  ## the lines of code there are to read
	.venv-dev/bin/python -m benchmarks.lines

fuzz: .venv-fuzz/ready .venv/ready  ## FUZZ_SECONDS=600 over all targets; what crashes lands in fuzz/found/
	.venv-fuzz/bin/python -m fuzz --seconds $(or $(FUZZ_SECONDS),600)

bench: .venv/ready .venv-bench/ready .venv-bench-mlserver/ready  ## speed beside peers and the bare runtime (needs wrk); ARGS="--quick"
	.venv-bench/bin/python -m benchmarks.run $(ARGS)

soak: .venv/ready .venv-dev/ready  ## MINUTES=10 of all kinds of requests at once: memory, errors; ARGS="--plot soak.png"
	.venv-dev/bin/python -m benchmarks.soak --minutes $(or $(MINUTES),10) $(ARGS)

container-test: .venv/ready .venv-dev/ready .venv-bento/ready  ## build the image and run it, with podman (root; needs podman, runc, debootstrap)
	.venv-dev/bin/python -m pytest -m container tests/deploy/test_container.py

container-test-gpu: .venv/ready .venv-dev/ready .venv-bento/ready  ## the same with the image for CUDA, 3 GB
	.venv-dev/bin/python -m pytest -m container_gpu tests/deploy/test_container_gpu.py

sbom: .venv-dev/ready  ## IMAGE=shortcut ENGINE=docker: what the image holds, as CycloneDX, in sbom.json
	set -e; root=$$(mktemp -d); container=$$($(or $(ENGINE),docker) create $(or $(IMAGE),shortcut)); \
	  trap "rm -rf $$root; $(or $(ENGINE),docker) rm $$container >/dev/null" EXIT; \
	  $(or $(ENGINE),docker) export $$container | tar -C $$root -x --exclude=dev; \
	  .venv-dev/bin/python -m deploy.sbom $$root --name $(or $(IMAGE),shortcut) > sbom.json.tmp; mv sbom.json.tmp sbom.json

release-check: .venv-dev/ready  ## a clean clone of what is committed: both README commands, the Bento, the image (root)
	.venv-dev/bin/python -m deploy.release_check

bento: .venv/ready .venv-bento/ready  ## a Bento of the service and models/; prints what is packed
	.venv/bin/python -m deploy.bento bentofile.yaml

bento-gpu: .venv/ready .venv-bento/ready  ## the same for CUDA
	.venv/bin/python -m deploy.bento bentofile.gpu.yaml

lock: .venv-bento/ready  ## compile requirements/*.txt from pyproject.toml
	for extra in serving serving-gpu training import bulk dev; do .venv-bento/bin/uv pip compile pyproject.toml --extra $$extra --universal \
	  --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --no-header -q -o requirements/$$extra.txt; done
	for name in bench bench-ray bench-mlserver fuzz bento elsewhere; do .venv-bento/bin/uv pip compile requirements/$$name.in --universal \
	  --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --no-header -q \
	  -o requirements/$$name.txt; done

.venv/ready: $(SERVING) $(shell cmp -s $(SERVING) .venv/ready || echo other)  # another DEVICE than last time
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed (or set PYTHON=…)"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(SERVING)
	cp $(SERVING) $@

.venv-dev/ready: requirements/dev.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed (or set PYTHON=…)"; exit 1; }
	$(PYTHON) -m venv --clear .venv-dev
	.venv-dev/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	cp requirements/dev.txt $@

.venv-import/ready: requirements/import.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed (or set PYTHON=…)"; exit 1; }
	$(PYTHON) -m venv --clear .venv-import
	.venv-import/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/import.txt
	cp requirements/import.txt $@

.venv-bulk/ready: requirements/bulk.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed (or set PYTHON=…)"; exit 1; }
	$(PYTHON) -m venv --clear .venv-bulk
	.venv-bulk/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bulk.txt
	cp requirements/bulk.txt $@

.venv-elsewhere/ready: requirements/elsewhere.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed (or set PYTHON=…)"; exit 1; }
	$(PYTHON) -m venv --clear .venv-elsewhere
	.venv-elsewhere/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/elsewhere.txt
	cp requirements/elsewhere.txt $@

.venv-torch/ready: requirements/torch.in  # not locked: which build of PyTorch there is depends on the machine
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed (or set PYTHON=…)"; exit 1; }
	$(PYTHON) -m venv --clear .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/torch.in
	cp requirements/torch.in $@

.venv-bento/ready: requirements/bento.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed (or set PYTHON=…)"; exit 1; }
	$(PYTHON) -m venv --clear .venv-bento
	.venv-bento/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bento.txt
	cp requirements/bento.txt $@

.venv-bench/ready: requirements/bench.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed (or set PYTHON=…)"; exit 1; }
	$(PYTHON) -m venv --clear .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	cp requirements/bench.txt $@

.venv-bench-mlserver/ready: requirements/bench-mlserver.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed (or set PYTHON=…)"; exit 1; }
	$(PYTHON) -m venv --clear .venv-bench-mlserver
	.venv-bench-mlserver/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench-mlserver.txt
	cp requirements/bench-mlserver.txt $@

.venv-fuzz/ready: requirements/fuzz.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed (or set PYTHON=…)"; exit 1; }
	$(PYTHON) -m venv --clear .venv-fuzz
	.venv-fuzz/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/fuzz.txt
	cp requirements/fuzz.txt $@
