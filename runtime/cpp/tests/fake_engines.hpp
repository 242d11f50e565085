// A TensorRT whose engines compute sums on the fake GPU, and a backend that computes the same on the host. The engines
// refuse what real ones would compute garbage from: memory that is missing or too small, weights that are not there.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>

#include "backends/engine.hpp"
#include "fake.hpp"
#include "fake_gpu.hpp"
#include "sha256.hpp"

namespace vcut_core {

using Arrays = std::map<std::string, std::vector<float>>;

// An element of an output: a sum of all inputs, different for each output.
inline float computed(const std::string& output, const Arrays& inputs, size_t element) {
  float sum = static_cast<float>(output.size());
  float weight = 0.5F;
  for (const auto& [name, values] : inputs) {
    sum += weight * values[element % values.size()];
    weight *= 0.8F;
  }
  return std::sin(sum);
}

inline void compute(const TensorSpec& output, const Arrays& inputs, void* target, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const float value = computed(output.name, inputs, i);
    if (output.dtype == "uint8") {
      static_cast<uint8_t*>(target)[i] = static_cast<uint8_t>(std::abs(value) * 255.0F);
    } else {
      static_cast<float*>(target)[i] = value;
    }
  }
}

// The values of the symbols in shapes that are given; a latent pixel is factor pixels.
inline Symbols symbols_of(const std::vector<TensorSpec>& tensors,
                          const std::map<std::string, std::vector<int64_t>>& shapes, int64_t factor) {
  Symbols result;
  for (const auto& tensor : tensors) {
    const auto shape = shapes.find(tensor.name);
    if (shape == shapes.end()) continue;
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      if (tensor.shape[i].free()) result[tensor.shape[i].symbol] = shape->second[i];
    }
  }
  for (const auto& [large, small] : {std::pair("H", "h"), std::pair("W", "w")}) {
    if (result.count(large) != 0) {
      result[small] = result[large] / factor;
    } else if (result.count(small) != 0) {
      result[large] = result[small] * factor;
    }
  }
  return result;
}

// Computes on the host what the engines compute.
class HostBackend final : public Backend {
 public:
  explicit HostBackend(const Bundle& bundle) : Backend("host"), bundle_(bundle) {}

  void load(const std::string&) override {}
  void check_run(const Sizes&, const std::set<std::string>&) override {}
  Value upload(const std::vector<int64_t>& shape, const float* data) override {
    auto value = std::make_shared<FakeValue>();
    value->shape = shape;
    value->floats.assign(data, data + size_of(shape, "uint8"));
    return value;
  }
  void download(const Value& value, const std::string& dtype, void* out, size_t bytes) override {
    const auto& fake = static_cast<FakeValue&>(*value);
    std::memcpy(out, dtype == "uint8" ? static_cast<const void*>(fake.bytes.data()) : fake.floats.data(), bytes);
  }
  Values run(const std::string& graph, const Values& given) override {
    Arrays inputs;
    std::map<std::string, std::vector<int64_t>> shapes;
    for (const auto& [name, value] : given) {
      inputs[name] = static_cast<FakeValue&>(*value).floats;
      shapes[name] = value->shape;
    }
    const Graph& entry = bundle_.manifest.graphs.at(graph);
    const Symbols symbols = symbols_of(entry.inputs, shapes, bundle_.manifest.vae_scale_factor);
    Values result;
    for (const auto& output : entry.outputs) {
      auto value = std::make_shared<FakeValue>();
      value->shape = sized(output.shape, symbols);
      const size_t count = size_of(value->shape, "uint8");
      value->bytes.resize(output.dtype == "uint8" ? count : 0);
      value->floats.resize(output.dtype == "uint8" ? 0 : count);
      void* target = output.dtype == "uint8" ? static_cast<void*>(value->bytes.data()) : value->floats.data();
      compute(output, inputs, target, count);
      result[output.name] = value;
    }
    return result;
  }

 private:
  const Bundle& bundle_;
};

// What is done to a fake library's engines, and how they misbehave.
struct FakeTensorRt {
  std::shared_ptr<FakeGpu> gpu;
  std::shared_ptr<const Bundle> bundle;
  std::string target;
  bool is_rtx = true;
  std::vector<std::string> events, ran;
  std::set<std::string> resident;
  size_t most_resident = 0;
  std::string refuses, fails_in, fails_with;  // words of its log
  std::string invalid;                        // why the library refuses an engine; empty: it does not
  bool can_be_captured = true, other_tensors = false;
  int64_t growth = 0;  // of activation memory, beyond what the manifest says
  ContextOptions last_options;

  const Engine& entry(const std::string& graph) const { return bundle->manifest.engines.at(target).engines.at(graph); }
  int64_t count(const std::string& event) const { return std::count(events.begin(), events.end(), event); }
};

class FakeContext final : public EngineContext {
 public:
  FakeContext(FakeTensorRt& trt, const std::string& graph, const ContextOptions& options)
      : trt_(trt), graph_(graph), entry_(trt.entry(graph)), captures_(trt.is_rtx && options.captures) {
    if (options.kernels != "kernels of " + graph) trt.events.push_back("compile " + graph);
    trt.last_options = options;
  }

  bool captures() const override { return captures_; }
  bool can_be_captured(Handle) override { return trt_.can_be_captured; }
  void set_memory(Address address, size_t size) override { memory_ = {address, size}; }
  bool set_address(const std::string& tensor, Address address) override {
    addresses_[tensor] = address;
    return address % 256 == 0;
  }
  bool set_shape(const std::string& input, const std::vector<int64_t>& shape) override {
    shapes_[input] = shape;
    return true;
  }
  std::vector<int64_t> shape(const std::string& tensor) override {
    const Symbols symbols = symbols_of(entry_.inputs, shapes_, trt_.bundle->manifest.vae_scale_factor);
    for (const auto* tensors : {&entry_.inputs, &entry_.outputs}) {
      for (const auto& spec : *tensors) {
        if (spec.name == tensor) return sized(spec.shape, symbols);
      }
    }
    return {-1};
  }
  std::optional<std::string> kernels() override {
    return trt_.is_rtx ? std::optional("kernels of " + graph_) : std::nullopt;
  }

  bool enqueue(Handle) override;

 private:
  FakeTensorRt& trt_;
  std::string graph_;
  const Engine& entry_;
  bool captures_;
  std::pair<Address, size_t> memory_{0, 0};
  std::map<std::string, Address> addresses_;
  std::map<std::string, std::vector<int64_t>> shapes_;
};

inline bool FakeContext::enqueue(Handle) {
  if (trt_.resident.count(graph_) == 0 || memory_.second < static_cast<size_t>(entry_.activation_bytes)) return false;
  if (trt_.fails_in == graph_) return false;
  trt_.events.push_back("enqueue " + graph_);
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto* tensors : {&entry_.inputs, &entry_.outputs}) {
    for (const auto& spec : *tensors) shapes[spec.name] = shape(spec.name);
  }
  trt_.gpu->work([this, shapes, addresses = addresses_, memory = memory_] {
    if (!trt_.gpu->holds(memory.first, memory.second)) throw std::logic_error("the activation memory is gone");
    Arrays inputs;
    for (const auto& spec : entry_.inputs) {
      const size_t bytes = size_of(shapes.at(spec.name), "float32");
      if (!trt_.gpu->holds(addresses.at(spec.name), bytes)) throw std::logic_error(spec.name + " is gone");
      const auto* data = reinterpret_cast<const float*>(addresses.at(spec.name));
      inputs[spec.name].assign(data, data + bytes / sizeof(float));
    }
    // Activations: nobody else's bytes may lie here.
    std::memset(reinterpret_cast<void*>(memory.first), 0xEE, std::min<size_t>(memory.second, 4096));
    for (const auto& spec : entry_.outputs) {
      if (!trt_.gpu->holds(addresses.at(spec.name), size_of(shapes.at(spec.name), spec.dtype))) {
        throw std::logic_error(spec.name + " is too small");
      }
      compute(spec, inputs, reinterpret_cast<void*>(addresses.at(spec.name)), size_of(shapes.at(spec.name), "uint8"));
    }
    trt_.ran.push_back(graph_);
  });
  return true;
}

class FakeEngine final : public LoadedEngine {
 public:
  FakeEngine(FakeTensorRt& trt, const std::string& graph, bool deferred) : trt_(trt), graph_(graph) {
    if (!deferred) take();
  }
  ~FakeEngine() override { drop(); }

  std::vector<EngineTensor> tensors() override {
    std::vector<EngineTensor> result;
    for (const auto* tensors : {&trt_.entry(graph_).inputs, &trt_.entry(graph_).outputs}) {
      for (const auto& spec : *tensors) {
        EngineTensor tensor{spec.name, spec.dtype, {}};
        for (const auto& dimension : spec.shape) tensor.shape.push_back(dimension.free() ? -1 : dimension.size);
        result.push_back(tensor);
      }
    }
    if (trt_.other_tensors) result.back().shape.back() += 1;
    return result;
  }
  int64_t activation_bytes() override { return trt_.entry(graph_).activation_bytes + trt_.growth; }
  bool load_weights(const void* data, size_t size) override {
    if (std::string(static_cast<const char*>(data), size) != "engine of " + graph_) return false;
    trt_.events.push_back("load " + graph_);
    take();
    return true;
  }
  bool unload_weights() override {
    trt_.events.push_back("unload " + graph_);
    drop();
    return true;
  }
  std::unique_ptr<EngineContext> context(const ContextOptions& options) override {
    return std::make_unique<FakeContext>(trt_, graph_, options);
  }

 private:
  void take() {
    trt_.gpu->weights += static_cast<size_t>(trt_.entry(graph_).weight_bytes);
    trt_.resident.insert(graph_);
    trt_.most_resident = std::max(trt_.most_resident, trt_.resident.size());
  }
  void drop() {
    if (trt_.resident.erase(graph_) == 1) trt_.gpu->weights -= static_cast<size_t>(trt_.entry(graph_).weight_bytes);
  }

  FakeTensorRt& trt_;
  std::string graph_;
};

class FakeRuntime final : public EngineRuntime {
 public:
  explicit FakeRuntime(FakeTensorRt& trt) : trt_(trt) {}

  bool can_defer_weights() const override { return trt_.is_rtx; }
  std::unique_ptr<LoadedEngine> open(const void* data, size_t size, bool defer_weights) override {
    if (!trt_.refuses.empty()) {
      errors.push_back(trt_.refuses);
      return nullptr;
    }
    const std::string content(static_cast<const char*>(data), size);
    const std::string graph = content.substr(std::string("engine of ").size());
    trt_.events.push_back("open " + graph);
    return std::make_unique<FakeEngine>(trt_, graph, defer_weights);
  }
  std::string refusal(const void*, size_t size) override { return size > 0 ? trt_.invalid : "no header"; }

 private:
  FakeTensorRt& trt_;
};

class FakeLibrary final : public EngineLibrary {
 public:
  explicit FakeLibrary(std::shared_ptr<FakeTensorRt> trt) : trt_(std::move(trt)) {
    name = trt_->is_rtx ? "tensorrt-rtx" : "tensorrt";
    title = trt_->is_rtx ? "TensorRT-RTX" : "TensorRT";
    version = "1.2.3";
  }
  std::unique_ptr<EngineRuntime> runtime() const override { return std::make_unique<FakeRuntime>(*trt_); }

 private:
  std::shared_ptr<FakeTensorRt> trt_;
};

}  // namespace vcut_core
