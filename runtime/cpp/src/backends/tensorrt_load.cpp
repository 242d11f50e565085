// Engines come to the GPU and leave it.
#include <algorithm>
#include <set>

#include "backends/kernel_cache.hpp"
#include "backends/tensorrt_backend.hpp"
#include "error.hpp"
#include "graphs.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

// The name of a tensor that is not as the manifest lists it; empty if all are.
std::string unlike(const std::vector<EngineTensor>& actual, const Engine& entry) {
  using Kind = std::pair<std::string, std::vector<int64_t>>;  // of a free dimension, -1
  std::map<std::string, Kind> right, real;
  std::set<std::string> names;
  for (const auto* tensors : {&entry.inputs, &entry.outputs}) {
    for (const auto& tensor : *tensors) {
      Kind& kind = right[tensor.name];
      kind.first = tensor.dtype;
      for (const auto& dimension : tensor.shape) kind.second.push_back(dimension.free() ? -1 : dimension.size);
      names.insert(tensor.name);
    }
  }
  for (const auto& tensor : actual) {
    Kind& kind = real[tensor.name];
    kind.first = tensor.dtype;
    for (const int64_t size : tensor.shape) kind.second.push_back(size > 0 ? size : -1);
    names.insert(tensor.name);
  }
  for (const auto& name : names) {
    if (right.count(name) == 0 || real.count(name) == 0 || right.at(name) != real.at(name)) return name;
  }
  return "";
}

bool share_stage(const std::string& graph, const std::string& other) {
  return graph_kind(graph).stage() == graph_kind(other).stage();
}

}  // namespace

TensorRtBackend::TensorRtBackend(const Bundle& bundle, const std::string& target,
                                 std::shared_ptr<const EngineLibrary> library, std::shared_ptr<Cuda> cuda,
                                 const BackendOptions& options)
    : Backend(library->name),
      bundle_(bundle),
      set_(bundle.manifest.engines.at(target)),
      library_(std::move(library)),
      cuda_(std::move(cuda)),
      free_before_(cuda_->free_memory()),
      least_free_(free_before_),
      pool_(cuda_) {
  for (const auto& [name, graph] : bundle.manifest.graphs) {
    if (set_.engines.has(name)) continue;
    throw bad_bundle("the engines " + target + " lack " + name + ": run 'vcut build " + bundle.root.string() + "'");
  }
  need_ = memory_need(bundle.manifest, set_);
  low_memory_ = decide_low_memory(options.low_memory);
  cuda_graphs_ = options.cuda_graphs && !low_memory_;
  if (low_memory_ && options.cuda_graphs) {
    note("CUDA graphs are off: in low memory mode the weights move between steps");
  }
  const Current current(cuda_->driver());
  runtime_ = library_->runtime();
  if (runtime_ == nullptr) {
    throw failed(library_->title + " does not start on " + cuda_->name() + ": update the NVIDIA driver");
  }
}

TensorRtBackend::~TensorRtBackend() {
  cuda_->settle();
  const bool is_current = cuda_->driver().push() == 0;  // for the library's objects
  loaded_.clear();
  runtime_.reset();
  if (is_current) cuda_->driver().pop();
}

void TensorRtBackend::load(const std::string& graph) {
  const Current current(cuda_->driver());
  if (low_memory_) {
    std::vector<std::string> others;
    for (const auto& [name, loaded] : loaded_) {
      if (name != graph && !share_stage(name, graph)) others.push_back(name);
    }
    for (const auto& name : others) unload(name);
  }
  const auto item = loaded_.find(graph);
  Loaded* loaded = item == loaded_.end() ? nullptr : item->second.get();
  if (loaded != nullptr && loaded->resident) return;  // each step comes here, and asking for free memory takes time
  intact(graph, [&] {
    if (loaded == nullptr) {
      auto opened = open(graph);
      loaded_[graph] = std::move(opened);
    } else if (loaded->engine->load_weights(loaded->file->data(), loaded->file->size())) {
      loaded->resident = true;
    } else {
      throw failure("cannot load the weights of " + graph + " again");
    }
  });
  sample_memory();
}

// Checks, deserializes and wires an engine.
std::unique_ptr<TensorRtBackend::Loaded> TensorRtBackend::open(const std::string& graph) {
  auto loaded = std::make_unique<Loaded>();
  loaded->file = std::make_unique<EngineFile>(bundle_, entry(graph));
  const auto& file = *loaded->file;
  runtime_->errors.clear();
  loaded->deferred = low_memory_ && runtime_->can_defer_weights();  // only such engines can give their weights back
  loaded->engine = runtime_->open(file.data(), file.size(), loaded->deferred);
  if (loaded->engine == nullptr) throw failure("cannot load " + entry(graph).file);
  if (loaded->deferred && !loaded->engine->load_weights(file.data(), file.size())) {
    throw failure("cannot load the weights of " + graph);
  }
  check_tensors(graph, *loaded->engine);
  reserve_activation(static_cast<size_t>(std::max<int64_t>(loaded->engine->activation_bytes(), 0)));
  create_context(graph, *loaded);
  for (const auto& spec : entry(graph).inputs) loaded->inputs.push_back(buffer(graph, spec));
  for (const auto& spec : entry(graph).outputs) loaded->outputs.push_back(buffer(graph, spec));
  for (const auto* buffers : {&loaded->inputs, &loaded->outputs}) {
    for (const auto& [spec, memory] : *buffers) {
      if (!loaded->context->set_address(spec.name, memory->address)) {
        throw failure("refuses the address of " + spec.name + " in " + graph);
      }
    }
  }
  return loaded;
}

void TensorRtBackend::create_context(const std::string& graph, Loaded& loaded) {
  ContextOptions options;
  options.captures = cuda_graphs_ && graph_kind(graph).is_step();
  // Lazily specialised kernels come after the first run, when the kernels have been kept already.
  options.eager_kernels = !entry(graph).profile.empty();
  options.kernels = kept_kernels(kernel_file(entry(graph), *library_, *cuda_));
  loaded.context = loaded.engine->context(options);
  if (loaded.context == nullptr) throw failure("cannot create an execution context of " + graph);
  loaded.context->set_memory(activation_->address, activation_->size);
}

TensorRtBackend::Buffer TensorRtBackend::buffer(const std::string& graph, const TensorSpec& spec) {
  if (spec.name == features) {
    if (features_ == nullptr) features_ = cuda_->allocate(need_.features, "deep features");
    return {spec, features_};
  }
  const size_t bytes = largest_bytes(bundle_.manifest, entry(graph), spec);
  return {spec, cuda_->allocate(bytes, spec.name + " of " + graph)};
}

// Compares the engine's own tensors with the manifest's, because the manifest sizes the buffers.
void TensorRtBackend::check_tensors(const std::string& graph, LoadedEngine& engine) {
  const std::string name = unlike(engine.tensors(), entry(graph));
  if (name.empty()) return;
  throw bad_bundle(bundle_.root.string() + ": " + entry(graph).file + " does not have the " + repr(name) +
                   " that the manifest gives " + graph + ": run 'vcut build --force' on the bundle");
}

// Takes an engine's weights off the GPU. If the library cannot do that, the whole engine goes.
void TensorRtBackend::unload(const std::string& graph) {
  Loaded& loaded = *loaded_.at(graph);
  if (!loaded.resident) return;
  cuda_->synchronize();
  intact(graph, [&] {
    if (loaded.deferred && loaded.engine->unload_weights()) {
      loaded.resident = false;
    } else {
      loaded_.erase(graph);
    }
  });
}

}  // namespace vcut_core
