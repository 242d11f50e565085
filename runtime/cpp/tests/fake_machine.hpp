// A bundle with engines in a folder of its own, a GPU and a library.
#pragma once

#include <unistd.h>

#include <cstdlib>

#include "backends/engine_validity.hpp"
#include "backends/tensorrt_backend.hpp"
#include "error.hpp"
#include "fake_engines.hpp"
#include "pipeline.hpp"

namespace vcut_core {

struct EngineSettings {
  std::string library = "tensorrt-rtx";
  std::optional<std::string> capability = "8.6";
  std::string version = "1.2.3";
  int64_t activation_bytes = 1 << 20, weight_bytes = 1 << 20;  // decode needs twice the activation memory
  std::optional<int64_t> decode_frames;
  bool is_dynamic = false;  // widths from 16 to 32, and 2 to 4 frames
};

class Machine {
 public:
  explicit Machine(const EngineSettings& settings = {}) : bundle(fake_bundle()) {
    std::string name = (std::filesystem::temp_directory_path() / "vcut-tests-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    bundle->root = name;
    setenv("VCUT_CACHE", (bundle->root / "cache").c_str(), 1);  // NOLINT(concurrency-mt-unsafe)
    make_graphs(settings.is_dynamic);
    trt->gpu = gpu;
    trt->bundle = bundle;
    trt->is_rtx = settings.library == "tensorrt-rtx";
    trt->target = add_engines(settings);
    library = std::make_shared<FakeLibrary>(trt);
    library->version = "1.2.3";
  }
  ~Machine() {
    std::error_code ignored;
    std::filesystem::remove_all(bundle->root, ignored);
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  std::shared_ptr<Bundle> bundle;
  std::shared_ptr<FakeGpu> gpu = std::make_shared<FakeGpu>();
  std::shared_ptr<FakeTensorRt> trt = std::make_shared<FakeTensorRt>();
  std::shared_ptr<FakeLibrary> library;
  TensorRtBackend* backend = nullptr;  // of the last pipeline

  EngineSet& engines() {  // Ordered gives references to change by its operator alone
    return bundle->manifest.engines[trt->target];
  }
  std::filesystem::path file(const std::string& graph) const { return bundle->path(trt->entry(graph)); }

  std::unique_ptr<Pipeline> pipeline(const BackendOptions& options = {}) {
    auto owned = std::make_unique<TensorRtBackend>(*bundle, trt->target, library, std::make_shared<Cuda>(gpu), options);
    backend = owned.get();
    return std::make_unique<Pipeline>(bundle, std::move(owned));
  }
  std::unique_ptr<Pipeline> host() const {
    return std::make_unique<Pipeline>(bundle, std::make_unique<HostBackend>(*bundle));
  }

 private:
  void make_graphs(bool is_dynamic) {
    Manifest& manifest = bundle->manifest;
    manifest.deep_features = 7;  // no other tensor has their size
    manifest.decode_chunk = 3;   // all, so decode takes any number of frames
    if (is_dynamic) {
      manifest.dynamic["width"] = {16, 32, 8};
      manifest.dynamic["frames"] = {2, 4, 1};
      manifest.decode_chunk = 4;
    }
    for (const auto& [name, tensors] : bundle_graphs(manifest)) {
      Graph graph;
      graph.inputs = tensors.inputs;
      graph.outputs = tensors.outputs;
      manifest.graphs[name] = graph;
    }
  }

  std::string add_engines(const EngineSettings& settings) {
    Manifest& manifest = bundle->manifest;
    std::string target = settings.library + "-sm86";
    EngineSet& set = manifest.engines[target];
    set.library = settings.library;
    set.version = settings.version;
    set.compute_capability = settings.capability;
    const Symbols least = manifest.values(manifest.smallest(), 1);
    const Symbols most = manifest.values(manifest.largest(), settings.decode_frames.value_or(manifest.decode_chunk));
    std::filesystem::create_directories(bundle->root / "engines");
    for (const auto& [name, graph] : manifest.graphs) {
      Engine engine;
      engine.is_engine = true;
      engine.file = "engines/" + name + ".engine";
      const std::string content = "engine of " + name;
      std::ofstream(bundle->root / engine.file, std::ios::binary) << content;
      engine.sha256 = sha256(content.data(), content.size());
      engine.inputs = graph.inputs;
      engine.outputs = graph.outputs;
      for (const auto& tensor : graph.inputs) {
        if (!tensor.has_free()) continue;
        const auto high = sized(tensor.shape, most);
        engine.profile[tensor.name] = {sized(tensor.shape, least), high, high};
      }
      engine.activation_bytes = settings.activation_bytes * (name == "decode" ? 2 : 1);
      engine.weight_bytes = settings.weight_bytes;
      set.engines[name] = engine;
    }
    return target;
  }
};

struct Run {
  RunOptions options;
  Request request;
  std::vector<std::string> notes;

  std::vector<uint8_t> operator()(Pipeline& pipeline, uint64_t seed = 5) {
    options.seed = seed;
    const auto grey = [] {
      return Photo{32, 48, {}, [](int64_t height, int64_t width, const std::string&) {
                     return std::vector<float>(static_cast<size_t>(3 * height * width), 0.5F);
                   }};
    };
    last = pipeline.run(grey, options, request, [&](const std::string& text) { notes.push_back(text); });
    return last.own;
  }
  Video last;
};

inline BackendOptions low_memory() {
  BackendOptions options;
  options.low_memory = true;
  return options;
}

inline BackendOptions without_graphs() {
  BackendOptions options;
  options.cuda_graphs = false;
  return options;
}

inline EngineSettings settings(const std::string& library) {
  EngineSettings result;
  result.library = library;
  return result;
}

inline const std::vector<std::string> libraries{"tensorrt-rtx", "tensorrt"};

template <typename Call>
std::string refusal_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace vcut_core
