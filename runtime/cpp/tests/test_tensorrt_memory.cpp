// How the TensorRT backend uses a GPU's memory, on a GPU and a library made of host memory.
#include <doctest/doctest.h>

#include "fake_machine.hpp"

using namespace vcut_core;
using Names = std::vector<std::string>;

TEST_CASE("all engines share a memory for activations, and graphs one for deep features") {
  EngineSettings large;
  large.activation_bytes = 3 << 20;
  Machine machine(large);
  const auto pipeline = machine.pipeline();
  Run run;
  run.options.cache_interval = 2;
  run(*pipeline);
  const auto sizes = machine.gpu->sizes();
  const size_t deep = 2 * 3 * 7 * 2 * 3 * sizeof(float);  // features of a guided step
  std::vector<size_t> activations;
  for (const size_t size : sizes) {
    if (size >= 3 << 20) activations.push_back(size);
  }
  CHECK(activations == std::vector<size_t>{6 << 20});  // decode's
  CHECK(std::count(sizes.begin(), sizes.end(), deep) == 1);
  const auto& copies = machine.gpu->copies;  // deep features stay where they are
  CHECK(std::count(copies.begin(), copies.end(), deep) == 0);
  CHECK(std::count(copies.begin(), copies.end(), deep / 2) == 0);
}

TEST_CASE("the memory for activations grows to what an engine says itself") {
  Machine machine(settings("tensorrt"));
  const auto want = Run()(*machine.host());
  machine.trt->growth = 4 << 20;
  const auto pipeline = machine.pipeline();
  for (int i = 0; i < 2; ++i) CHECK(Run()(*pipeline) == want);
  const auto sizes = machine.gpu->sizes();
  CHECK(*std::max_element(sizes.begin(), sizes.end()) == 6 << 20);
}

TEST_CASE("a second video allocates nothing, and all memory is given back with the pipeline") {
  for (const auto& library : libraries) {
    Machine machine(settings(library));
    auto pipeline = machine.pipeline();
    Run run;
    run(*pipeline);
    CHECK(run.last.peak_memory == static_cast<int64_t>(machine.gpu->used()));
    const int before = machine.gpu->allocations;
    run(*pipeline, 1);
    CHECK(machine.gpu->allocations == before);
    CHECK(machine.trt->count("open decode") == 1);
    CHECK(machine.gpu->used() > 0);
    pipeline.reset();
    CHECK(machine.gpu->used() == 0);
    CHECK(machine.gpu->handles == 0);
    CHECK(machine.gpu->outside == 0);
  }
}

TEST_CASE("low memory keeps the weights of one stage") {
  Machine machine;
  const auto pipeline = machine.pipeline(low_memory());
  Run run;
  run(*pipeline);
  run(*pipeline);
  CHECK(machine.trt->most_resident == 1);
  CHECK(machine.trt->count("open semantic_binding") == 1);  // contexts, and kernels compiled for them, stay
  CHECK(machine.trt->count("load semantic_binding") == 2);
  CHECK(machine.trt->count("unload semantic_binding") == 2);
  CHECK(run.notes.empty());
  CHECK(machine.backend->notes() ==
        Names{"CUDA graphs are off: in low memory mode the weights move between steps"});
  run.options.cache_interval = 2;
  run(*pipeline);
  CHECK(machine.trt->most_resident == 2);  // a step and its shallow step
}

TEST_CASE("low memory opens engines again where weights cannot be unloaded") {
  Machine machine(settings("tensorrt"));
  const auto pipeline = machine.pipeline(low_memory());
  Run()(*pipeline);
  Run()(*pipeline);
  CHECK(machine.trt->most_resident == 1);
  CHECK(machine.trt->count("open semantic_binding") == 2);
  CHECK(machine.trt->count("unload semantic_binding") == 0);
}

TEST_CASE("low memory is chosen where not all engines fit, and too small a GPU is refused") {
  EngineSettings heavy;
  heavy.weight_bytes = 300 << 20;
  Machine machine(heavy);
  machine.gpu->total = size_t{1600} << 20;
  auto pipeline = machine.pipeline();
  CHECK(machine.backend->low_memory());
  REQUIRE(machine.backend->notes().size() == 2);
  CHECK(machine.backend->notes()[0] ==
        "low memory mode: all engines need 2.4 GB, 1.7 GB are free, so weights are loaded stage by stage");
  machine.gpu->total *= 2;
  pipeline = machine.pipeline();
  CHECK(!machine.backend->low_memory());
  CHECK(machine.backend->notes().empty());
  machine.gpu->total = size_t{1} << 30;
  pipeline.reset();
  CHECK(refusal_of([&] { machine.pipeline(); }) ==
        "these engines need 1.2 GB of GPU memory, 1.1 GB are free on Fake A10: close other programs, or export a "
        "smaller --height, --width or --frames");
}

TEST_CASE("memory that runs out is an error with its fix, and the next try may succeed") {
  Machine machine;
  const auto pipeline = machine.pipeline();
  machine.gpu->total = machine.gpu->used() + (1 << 20);  // another program took the rest
  CHECK(refusal_of([&] { Run()(*pipeline); }) ==
        "the GPU is out of memory for activations (0.00 GB), 0.00 of 0.00 GB are free: use --low-memory, close other "
        "programs, or export smaller sizes");
  machine.gpu->total = size_t{24} << 30;
  CHECK(Run()(*pipeline) == Run()(*machine.host()));
  CHECK(machine.gpu->outside == 0);
}
