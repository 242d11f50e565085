// The TensorRT backend on a GPU and a library made of host memory, against the same sums on the host.
#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "fake_machine.hpp"

using namespace vcut_core;
using Names = std::vector<std::string>;

namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

BackendOptions low_memory() {
  BackendOptions options;
  options.low_memory = true;
  return options;
}

BackendOptions without_graphs() {
  BackendOptions options;
  options.cuda_graphs = false;
  return options;
}

EngineSettings settings(const std::string& library) {
  EngineSettings result;
  result.library = library;
  return result;
}

const std::vector<std::string> libraries{"tensorrt-rtx", "tensorrt"};
const std::vector<BackendOptions> ways{BackendOptions(), without_graphs(), low_memory()};

}  // namespace

TEST_CASE("the same video as on the host, in every way") {
  for (const auto& library : libraries) {
    for (const auto& options : ways) {
      for (const int64_t interval : {1, 2}) {
        Machine machine(settings(library));
        Run run;
        run.options.cache_interval = interval;
        const auto want = run(*machine.host());
        const auto pipeline = machine.pipeline(options);
        for (int i = 0; i < 3; ++i) CHECK(run(*pipeline) == want);
        CHECK(run(*pipeline, 6) != want);
        CHECK(run(*pipeline) == want);
        CHECK(machine.gpu->outside == 0);
      }
    }
  }
}

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

TEST_CASE("steps are captured once and launched from then on") {
  Machine machine(settings("tensorrt"));
  const auto pipeline = machine.pipeline();
  Run run;
  const auto want = run(*machine.host());
  CHECK(run(*pipeline) == want);  // two steps of each stage
  CHECK(machine.gpu->launches == 2);
  CHECK(run(*pipeline) == want);
  CHECK(machine.gpu->launches == 6);
  CHECK(machine.gpu->captures == 2);
  CHECK(machine.trt->count("enqueue semantic_binding") == 2);  // run once, captured once
  CHECK(run.notes.empty());
}

TEST_CASE("a step that cannot be captured runs without, and the user is told") {
  for (const bool is_known : {false, true}) {
    Machine machine(settings("tensorrt"));
    (is_known ? machine.trt->can_be_captured : machine.gpu->can_capture) = false;
    const auto pipeline = machine.pipeline();
    Run run;
    CHECK(run(*pipeline) == run(*machine.host()));
    CHECK(machine.gpu->launches == 0);
    REQUIRE(run.notes.size() == 2);
    const std::string why = is_known ? "it allocates as it runs"
                                     : "CUDA failed in cuStreamEndCapture (capture failed): run nvidia-smi to see the "
                                       "GPU's state";
    CHECK(run.notes[0] == "CUDA graph of semantic_binding could not be captured, running without: " + why);
    run(*pipeline);
    CHECK(run.notes.size() == 2);
  }
}

TEST_CASE("TensorRT-RTX captures steps by itself") {
  Machine machine;
  auto pipeline = machine.pipeline();
  for (const std::string graph : {"condition", "semantic_binding", "quality_improvement", "decode"}) {
    machine.backend->load(graph);
    CHECK(machine.trt->last_options.captures == graph_kind(graph).is_step());
    CHECK(machine.trt->last_options.eager_kernels == (graph == "decode"));  // it takes any number of frames
  }
  Run()(*pipeline);
  CHECK(machine.gpu->captures == 0);
  pipeline = machine.pipeline(without_graphs());
  machine.backend->load("semantic_binding");
  CHECK(!machine.trt->last_options.captures);
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

TEST_CASE("threads that share a pipeline get their own videos") {
  Machine machine(settings("tensorrt"));
  const auto pipeline = machine.pipeline();
  std::vector<std::vector<uint8_t>> want, got(4);
  for (uint64_t seed = 0; seed < 4; ++seed) want.push_back(Run()(*machine.host(), seed));
  std::vector<std::thread> threads;
  for (size_t i = 0; i < got.size(); ++i) threads.emplace_back([&, i] { got[i] = Run()(*pipeline, i); });
  for (auto& thread : threads) thread.join();
  CHECK(got == want);
  CHECK(machine.gpu->outside == 0);
}

TEST_CASE("timings are the GPU's") {
  Machine machine;
  const auto pipeline = machine.pipeline();
  Run run;
  run(*pipeline);
  double seconds = 0;
  for (const auto& [stage, time] : run.last.seconds) {
    if (stage == "semantic_binding") seconds = time;
  }
  // A millisecond for each copy and run: the eight inputs of the first step and its run, then those inputs that
  // changed. The default of previous_denoised is uploaded before the clock starts.
  CHECK(seconds > 0.0129);
  CHECK(seconds < 0.0151);
}

TEST_CASE("videos of every size run on the same engines") {
  for (const auto& library : libraries) {
    for (const auto& options : ways) {
      EngineSettings dynamic = settings(library);
      dynamic.is_dynamic = true;
      Machine machine(dynamic);
      const auto host = machine.host();
      const auto pipeline = machine.pipeline(options);
      const std::vector<std::pair<int64_t, int64_t>> sizes{{3, 24}, {4, 32}, {2, 16}};
      int before = 0;
      for (int turn = 0; turn < 2; ++turn) {
        before = machine.gpu->allocations;
        for (const auto& [frames, width] : sizes) {
          Run run;
          run.options.num_frames = frames;
          run.options.width = width;
          for (const int64_t interval : {1, 2}) {
            run.options.cache_interval = interval;
            CHECK(run(*pipeline) == run(*host));
          }
        }
      }
      const bool opens_again = library == "tensorrt" && machine.backend->low_memory();
      CHECK((machine.gpu->allocations == before) != opens_again);
      CHECK(machine.gpu->outside == 0);
    }
  }
}

TEST_CASE("a step is captured anew for another size") {
  EngineSettings dynamic = settings("tensorrt");
  dynamic.is_dynamic = true;
  Machine machine(dynamic);
  const auto pipeline = machine.pipeline();
  for (const auto& [launches, frames] : {std::pair(2, 3), std::pair(4, 4), std::pair(8, 4)}) {
    Run run;
    run.options.num_frames = frames;
    run(*pipeline);
    CHECK(machine.gpu->launches == launches);
  }
}

TEST_CASE("sizes that engines were not built for") {
  EngineSettings dynamic;
  dynamic.is_dynamic = true;
  Machine machine(dynamic);
  Engine engine = machine.trt->entry("semantic_binding");
  engine.profile["latents"].max[1] = 3;
  machine.engines().engines["semantic_binding"] = engine;
  const auto pipeline = machine.pipeline();
  Run run;
  run.options.num_frames = 4;
  CHECK(refusal_of([&] { run(*pipeline); }) ==
        "semantic_binding was built for latents from [1, 2, 4, 2, 2] to [1, 3, 4, 2, 4], not [1, 4, 4, 2, 3]");
  run.options.num_frames = 3;
  CHECK(run(*pipeline) == run(*machine.host()));
}

TEST_CASE("more frames than the decode engine takes") {
  EngineSettings few;
  few.decode_frames = 2;
  Machine machine(few);
  const auto pipeline = machine.pipeline();
  Run run;
  run.options.decode_chunk = 3;
  CHECK(has(refusal_of([&] { run(*pipeline); }), "the decode engine takes up to 2"));
}

TEST_CASE("an engine that was exchanged or does not fit the manifest is refused") {
  Machine machine;
  const auto pipeline = machine.pipeline();
  const std::string root = machine.bundle->root.string();
  std::ofstream(machine.file("condition"), std::ios::binary) << "engine of conditioN";
  CHECK(refusal_of([&] { Run()(*pipeline); }) == root + ": engines/condition.engine does not match its sha256 in the "
                                                        "manifest: run 'vcut build --force' on it");
  CHECK(machine.trt->events.empty());
  std::ofstream(machine.file("condition"), std::ios::binary) << "engine of condition";
  machine.trt->other_tensors = true;
  CHECK(refusal_of([&] { Run()(*pipeline); }) ==
        root + ": engines/condition.engine does not have the 'sca_bias' that the manifest gives condition: run 'vcut "
               "build --force' on the bundle");
  machine.trt->other_tensors = false;
  std::filesystem::remove(machine.file("condition"));
  CHECK(has(refusal_of([&] { Run()(*pipeline); }), "engines/condition.engine cannot be read ("));
}

TEST_CASE("what the library refuses is one line with advice") {
  const std::vector<std::pair<std::string, std::string>> cases{{"CUDA out of memory", "--low-memory"},
                                                               {"engine header version mismatch", "'vcut build'"},
                                                               {"unsupported_cc: no kernels", "--gpu this"},
                                                               {"CUDA driver insufficient", "driver"},
                                                               {"something else", "--force"}};
  for (const auto& [said, fix] : cases) {
    Machine machine;
    machine.trt->refuses = said;
    const auto pipeline = machine.pipeline();
    const std::string message = refusal_of([&] { Run()(*pipeline); });
    CHECK(has(message, "TensorRT-RTX cannot load engines/condition.engine (" + said + "): "));
    CHECK(has(message, fix));
  }
}

TEST_CASE("a failing step names its graph, and the engine is opened anew") {
  Machine machine;
  const auto pipeline = machine.pipeline();
  machine.trt->fails_in = "quality_improvement";
  CHECK(has(refusal_of([&] { Run()(*pipeline); }), "TensorRT-RTX failed in quality_improvement (no reason given)"));
  machine.trt->fails_in.clear();
  CHECK(Run()(*pipeline) == Run()(*machine.host()));
  CHECK(machine.trt->count("open quality_improvement") == 2);
  CHECK(machine.trt->count("open semantic_binding") == 1);
}

TEST_CASE("compiled kernels are kept for the next program") {
  Machine machine;
  Run()(*machine.pipeline());
  CHECK(machine.trt->count("compile decode") == 1);
  Run()(*machine.pipeline());
  CHECK(machine.trt->count("compile decode") == 1);
  machine.gpu->title = "Other A10";
  Run()(*machine.pipeline());
  CHECK(machine.trt->count("compile decode") == 2);
}

TEST_CASE("a cache that cannot be written is no failure") {
  Machine machine;
  const auto file = machine.bundle->root / "file";
  std::ofstream(file) << "x";
  setenv("VCUT_CACHE", file.c_str(), 1);  // NOLINT(concurrency-mt-unsafe)
  const auto pipeline = machine.pipeline();
  Run run;
  run(*pipeline);
  REQUIRE(!run.notes.empty());
  CHECK(has(run.notes[0], "compiled kernels could not be kept in " + file.string()));
}
