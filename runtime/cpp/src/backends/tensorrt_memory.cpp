// How much GPU memory engines need, and what to do where it is short.
#include <algorithm>

#include "backends/tensorrt_backend.hpp"
#include "error.hpp"
#include "graphs.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

constexpr size_t reserve = size_t{512} << 20;  // kernels, growth of the CUDA context, and what the desktop may take

size_t as_size(int64_t bytes) { return static_cast<size_t>(std::max<int64_t>(bytes, 0)); }

}  // namespace

size_t largest_bytes(const Manifest& manifest, const Engine& engine, const TensorSpec& tensor) {
  int64_t chunk = manifest.decode_chunk;
  for (const auto& dimension : tensor.shape) {
    if (dimension.symbol == "n") chunk = engine.profile.at("latents").max[0];
  }
  return size_of(sized(tensor.shape, manifest.values(manifest.largest(), chunk)), tensor.dtype);
}

MemoryNeed memory_need(const Manifest& manifest, const EngineSet& engines) {
  MemoryNeed need;
  size_t activation = 0, buffers = 0, weights = 0, heaviest = 0, shallow = 0;
  for (const auto& [name, engine] : engines.engines) {
    activation = std::max(activation, as_size(engine.activation_bytes));
    weights += as_size(engine.weight_bytes);
    heaviest = std::max(heaviest, as_size(engine.weight_bytes));
    if (!graph_kind(name).full.empty()) shallow = std::max(shallow, as_size(engine.weight_bytes));
    for (const auto* tensors : {&engine.inputs, &engine.outputs}) {
      for (const auto& tensor : *tensors) {
        const size_t bytes = largest_bytes(manifest, engine, tensor);
        if (tensor.name != features) buffers += bytes;
        if (tensor.name == features && tensors == &engine.outputs) need.features = std::max(need.features, bytes);
      }
    }
  }
  const size_t common = activation + buffers + need.features + reserve;
  need.together = common + weights;
  need.alone = common + heaviest + shallow;
  return need;
}

bool TensorRtBackend::decide_low_memory(std::optional<bool> asked) {
  const std::string free = gigabytes(static_cast<double>(free_before_), 1) + " GB are free";
  if (need_.alone > free_before_) {
    throw failed("these engines need " + gigabytes(static_cast<double>(need_.alone), 1) + " GB of GPU memory, " + free +
                 " on " + cuda_->name() + ": close other programs, or export a smaller --height, --width or --frames");
  }
  const bool is_short = need_.together > free_before_;
  if (!asked && is_short) {
    note("low memory mode: all engines need " + gigabytes(static_cast<double>(need_.together), 1) + " GB, " + free +
         ", so weights are loaded stage by stage");
  }
  return asked.value_or(is_short);
}

// One memory serves all engines, as they run one after the other. It grows to what the largest engine needs.
void TensorRtBackend::reserve_activation(size_t need) {
  for (const auto& [name, engine] : set_.engines) need = std::max(need, as_size(engine.activation_bytes));
  if (activation_ != nullptr && need <= activation_->size) return;
  auto others = std::move(loaded_);  // without memory none of them can run
  loaded_.clear();
  activation_.reset();  // given back first
  activation_ = cuda_->allocate(need, "activations");
  for (auto& [name, loaded] : others) {
    loaded->context->set_memory(activation_->address, activation_->size);
    loaded->captured.reset();  // it points at the old memory
    loaded->runs = 0;
  }
  loaded_ = std::move(others);
}

void TensorRtBackend::sample_memory() { least_free_ = std::min(least_free_, cuda_->free_memory()); }

std::optional<int64_t> TensorRtBackend::peak_memory() {
  sample_memory();
  return static_cast<int64_t>(free_before_ - least_free_);
}

}  // namespace vcut_core
