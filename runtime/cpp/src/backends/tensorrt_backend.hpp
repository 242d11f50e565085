// TensorRT engines on a GPU: fixed buffers, one memory for activations, one CUDA graph for each step.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend.hpp"
#include "backends/cuda.hpp"
#include "backends/engine.hpp"
#include "backends/engine_file.hpp"
#include "bundle.hpp"
#include "error.hpp"

namespace vcut_core {

// The bytes of GPU memory that the engines of a set need.
struct MemoryNeed {
  size_t features = 0;  // deep features at their largest, those of a guided step
  size_t together = 0;  // with the weights of all engines
  size_t alone = 0;     // with the weights of one stage at a time
};
MemoryNeed memory_need(const Manifest& manifest, const EngineSet& engines);

// The bytes of a tensor at its largest.
size_t largest_bytes(const Manifest& manifest, const Engine& engine, const TensorSpec& tensor);

// A fix for an error that a TensorRT runtime reports.
std::string advice(const std::string& message);

class TensorRtBackend final : public Backend {
 public:
  // Runs the engines of a target. Throws Error if engines are missing, or not even one at a time fits.
  TensorRtBackend(const Bundle& bundle, const std::string& target, std::shared_ptr<const EngineLibrary> library,
                  std::shared_ptr<Cuda> cuda, const BackendOptions& options);
  ~TensorRtBackend() override;
  TensorRtBackend(const TensorRtBackend&) = delete;
  TensorRtBackend& operator=(const TensorRtBackend&) = delete;

  bool low_memory() const { return low_memory_; }

  // Brings a graph to the GPU; in low memory mode other stages' weights leave it first.
  void load(const std::string& graph) override;
  Value upload(const std::vector<int64_t>& shape, const float* data) override;
  void download(const Value& value, const std::string& dtype, void* out, size_t bytes) override;
  // All graphs share one memory for deep features. A full step writes it, and the shallow steps after it read it.
  Values run(const std::string& graph, const Values& inputs) override;
  Mark mark() override;
  void wait(const Mark& mark) override;
  double seconds(const Mark& start, const Mark& end) override;
  std::optional<int64_t> peak_memory() override;
  void check_run(const Sizes&, const std::set<std::string>&) override {}  // engines are built for all sizes
  std::optional<int64_t> max_decode_chunk() override;

 private:
  struct Buffer {
    TensorSpec spec;
    std::shared_ptr<Memory> memory;
  };

  // An engine ready to run. What is declared first goes last.
  struct Loaded {
    std::unique_ptr<EngineFile> file;
    std::unique_ptr<LoadedEngine> engine;
    std::unique_ptr<EngineContext> context;
    std::vector<Buffer> inputs, outputs;
    std::map<std::string, uint64_t> bound;                // the value that each input buffer holds a copy of
    std::map<std::string, std::vector<int64_t>> shapes;  // of the dynamic inputs and of the outputs
    int runs = 0;
    bool deferred = false;  // its weights can leave the GPU and come back
    bool resident = true;   // they are there
    std::shared_ptr<Owned> captured;
  };

  bool decide_low_memory(std::optional<bool> asked);
  std::unique_ptr<Loaded> open(const std::string& graph);
  void create_context(const std::string& graph, Loaded& loaded);
  Buffer buffer(const std::string& graph, const TensorSpec& spec);
  void check_tensors(const std::string& graph, LoadedEngine& engine);
  void unload(const std::string& graph);
  void reserve_activation(size_t need);

  void bind(const std::string& graph, Loaded& loaded, const Values& inputs);
  bool bind_shape(const std::string& graph, Loaded& loaded, const TensorSpec& spec, const std::vector<int64_t>& shape);
  void enqueue(const std::string& graph, Loaded& loaded);
  void execute(const std::string& graph, Loaded& loaded);
  void finish_first_run(const std::string& graph, Loaded& loaded);

  // Drops the engine if the work fails: its state is unknown, and its next run opens it anew.
  template <typename Work>
  void intact(const std::string& graph, const Work& work) {
    try {
      work();
    } catch (...) {
      cuda_->settle();  // nothing may be in flight when the engine goes
      loaded_.erase(graph);
      throw;
    }
  }
  void sample_memory();
  Error failure(const std::string& what) const;
  const Engine& entry(const std::string& graph) const { return set_.engines.at(graph); }

  const Bundle& bundle_;
  const EngineSet& set_;
  std::shared_ptr<const EngineLibrary> library_;
  std::shared_ptr<Cuda> cuda_;
  size_t free_before_, least_free_;
  MemoryNeed need_;
  bool low_memory_, cuda_graphs_;
  std::unique_ptr<EngineRuntime> runtime_;
  Pool pool_;
  std::shared_ptr<Memory> activation_, features_;
  std::map<std::string, std::unique_ptr<Loaded>> loaded_;
};

}  // namespace vcut_core
