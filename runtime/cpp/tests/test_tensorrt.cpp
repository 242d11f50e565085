// The TensorRT backend on a GPU and a library made of host memory, against the same sums on the host.
#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "fake_machine.hpp"

using namespace vcut_core;
using Names = std::vector<std::string>;

namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

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
  run.options.decode_chunk_size = 3;
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
