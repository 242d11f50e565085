# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
CPP := runtime/cpp
MAKEFLAGS += --jobs=2  # lint and the C++ library do not wait for each other

.PHONY: demo test cpp cpp-library cpp-fuzzer cpp-tidy cpp-sanitized serving-tools lower-bounds lint bench tables clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[export,tensorrt-rtx,dev]' --constraint constraints.txt
	touch $@

# Compiles svd-tiny and turns a photograph that scikit-image ships into a video.
demo: .venv/.installed
	@mkdir -p $(DEMO)
	@$(BIN)/python -c "from skimage import data, io; io.imsave('$(DEMO)/photo.png', data.chelsea(), check_contrast=False)"
	@$(BIN)/vcut-export --model svd-tiny --output $(DEMO)/svd-tiny
	@$(BIN)/vcut run $(DEMO)/svd-tiny $(DEMO)/photo.png --fit crop --motion-bucket-id 64 --seed 0 --output $(DEMO)/video.mp4
	@echo "$(DEMO)/video.mp4: a photograph that svd-tiny has not been trained on, animated."

# Two processes of one thread each: most of what tests wait for is tracing, which uses one.
test: lint cpp-fuzzer serving-tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The C++ runtime: its library and its tests. ONNX Runtime itself is that of the Python package.
cpp: cpp-fuzzer cpp-tidy cpp-sanitized
	$(BIN)/python -m pytest tests/cpp

cpp-library cpp-fuzzer cpp-sanitized: export CMAKE_C_COMPILER_LAUNCHER := ccache
cpp-library cpp-fuzzer cpp-sanitized: export CMAKE_CXX_COMPILER_LAUNCHER := ccache

cpp-library: .venv/.installed
	$(CPP)/prepare.sh $(CPP)/build/onnxruntime
	@library=$$($(BIN)/python -c "import onnxruntime, pathlib; print(*pathlib.Path(onnxruntime.__file__).parent.glob('capi/libonnxruntime.so.*'))"); \
	cd $(CPP) && \
	cmake --preset release -DONNXRUNTIME_ROOT=build/onnxruntime/usr -DVCUT_ONNXRUNTIME_LIBRARY="$$library" --log-level=WARNING && \
	cmake --build --preset release

cpp-fuzzer: cpp-library
	cd $(CPP) && cmake --preset fuzz --log-level=WARNING && cmake --build --preset fuzz --target vcut_fuzz

# clang's static analyzer and its checks for bugs.
cpp-tidy: cpp-library
	$(CPP)/packages.sh "C++ runtime" clang-tidy
	cd $(CPP) && run-clang-tidy -quiet -p build/release 'cpp/src/.*'

# Chromium, and a real Triton server with packages of its own.
serving-tools: .venv/.installed
	tests/serving/prepare.sh $(BIN)/python .venv/triton

# The same tests with AddressSanitizer and UBSan, and those of threads with ThreadSanitizer. Takes minutes to compile.
cpp-sanitized: cpp-library
	$(CPP)/sanitized.sh $(BIN)/python

# Runs the demo's bundle with the oldest releases that pyproject.toml allows, in a fresh environment without torch.
lower-bounds: demo
	$(BIN)/python tests/lower_bounds.py $(DEMO)/svd-tiny $(DEMO)/photo.png

lint: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

# Measures on this machine's CPU, one thread. tables writes the docs' tables from benchmarks/results and the graphs' records.
bench: .venv/.installed
	$(BIN)/vcut bench macs --output benchmarks/results/macs-$$(date +%F).json
	$(BIN)/vcut-export --model svd-tiny --deep-cache --output $(DEMO)/svd-tiny-deep
	$(BIN)/vcut bench latency $(DEMO)/svd-tiny-deep --cut-steps 17,none,10,20 --threads 1 \
		--output benchmarks/results/latency-cpu-$$(date +%F).json
	$(BIN)/python -m vcut_bench.seams --json benchmarks/results/seams-cpu-$$(date +%F).json
	$(BIN)/python -m vcut_bench.export_cost --json benchmarks/results/export-cpu-$$(date +%F).json

tables: .venv/.installed
	$(BIN)/python -m vcut_bench.results_page
	$(BIN)/python -m vcut_bench.tiny_numbers
	$(BIN)/python runtime/format_tables.py

clean:
	rm -rf .venv $(DEMO) $(CPP)/build
