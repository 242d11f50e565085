// TensorRT or TensorRT-RTX through the headers of one of them. This source is compiled for each, with
// VCUT_NVINFER as the name of its function. A library's newer functions are used where its headers have them.
#define nvinfer1 VCUT_NVINFER_NAMESPACE  // a class of the two libraries has one name and two layouts
#include <NvInferRuntime.h>

#include <array>
#include <type_traits>

#include "backends/nvinfer.hpp"
#include "text.hpp"

#if defined(TRT_MAJOR_RTX) != VCUT_NVINFER_RTX
#error "TENSORRT_ROOT is for TensorRT and TENSORRT_RTX_ROOT for TensorRT-RTX: these headers are the other library's"
#endif

namespace vcut_core {
namespace {

namespace nv = nvinfer1;

// Declares HasNAME<Class>: whether this expression of an object x of the class can be compiled.
#define VCUT_DETECT(NAME, ...)                                \
  template <typename Class, typename = void>                  \
  struct Has##NAME : std::false_type {};                      \
  template <typename Class>                                   \
  struct Has##NAME<Class, std::void_t<decltype(__VA_ARGS__)>> \
      : std::true_type {};
VCUT_DETECT(Deferral, std::declval<Class&>().setDeferredWeightsLoading(true))
VCUT_DETECT(Loading, std::declval<Class&>().loadWeights(nullptr, int64_t{}))
VCUT_DETECT(Unloading, std::declval<Class&>().unloadWeights())
VCUT_DETECT(Validity, std::declval<Class&>().getEngineValidity(nullptr, int64_t{}, static_cast<uint64_t*>(nullptr)))
VCUT_DETECT(Config, std::declval<Class&>().createRuntimeConfig())
VCUT_DETECT(Cache, std::declval<Class&>().createRuntimeCache())
VCUT_DETECT(GraphStrategy, &Class::setCudaGraphStrategy)
VCUT_DETECT(KernelStrategy, &Class::setDynamicShapesKernelSpecializationStrategy)
VCUT_DETECT(Capturable, std::declval<Class&>().isStreamCapturable(cudaStream_t{}))

// The type that a setter takes. Its name would not compile with headers that lack it.
template <typename Class, typename Result, typename Argument>
Argument argument(Result (Class::*)(Argument) noexcept);

std::string type_of(nv::DataType type) {
  switch (type) {
    case nv::DataType::kFLOAT: return "float32";
    case nv::DataType::kHALF: return "float16";
    case nv::DataType::kUINT8: return "uint8";
    default: return "";
  }
}

std::vector<int64_t> listed_dims(const nv::Dims& dims) {
  return {dims.d, dims.d + (dims.nbDims > 0 ? dims.nbDims : 0)};
}

class Logger final : public nv::ILogger {
 public:
  std::vector<std::string>* errors = nullptr;
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR && errors != nullptr) errors->push_back(one_line(message));
  }
};

template <typename NvContext, typename NvCache>
class Context final : public EngineContext {
 public:
  Context(std::unique_ptr<NvCache> cache, std::unique_ptr<NvContext> context, bool captures)
      : cache_(std::move(cache)), context_(std::move(context)), captures_(captures) {}

  bool captures() const override { return captures_; }
  bool can_be_captured(Handle stream) override {
    if constexpr (HasCapturable<NvContext>::value) {
      return context_->isStreamCapturable(static_cast<cudaStream_t>(stream));
    }
    return true;
  }
  void set_memory(Address address, size_t size) override {
    context_->setDeviceMemoryV2(reinterpret_cast<void*>(address), static_cast<int64_t>(size));
  }
  bool set_address(const std::string& tensor, Address address) override {
    return context_->setTensorAddress(tensor.c_str(), reinterpret_cast<void*>(address));
  }
  bool set_shape(const std::string& input, const std::vector<int64_t>& shape) override {
    nv::Dims dims{};
    if (shape.size() > static_cast<size_t>(nv::Dims::MAX_DIMS)) return false;
    dims.nbDims = static_cast<int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    return context_->setInputShape(input.c_str(), dims);
  }
  std::vector<int64_t> shape(const std::string& tensor) override {
    return listed_dims(context_->getTensorShape(tensor.c_str()));
  }
  bool enqueue(Handle stream) override { return context_->enqueueV3(static_cast<cudaStream_t>(stream)); }
  std::optional<std::string> kernels() override {
    if constexpr (!std::is_same_v<NvCache, char>) {
      const std::unique_ptr<nv::IHostMemory> data(cache_ == nullptr ? nullptr : cache_->serialize());
      if (data != nullptr) return std::string(static_cast<const char*>(data->data()), data->size());
    }
    return std::nullopt;
  }

 private:
  std::unique_ptr<NvCache> cache_;
  std::unique_ptr<NvContext> context_;
  bool captures_;
};

template <typename NvEngine>
class LoadedNvEngine final : public LoadedEngine {
 public:
  explicit LoadedNvEngine(NvEngine* engine) : engine_(engine) {}

  std::vector<EngineTensor> tensors() override {
    std::vector<EngineTensor> result;
    for (int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* name = engine_->getIOTensorName(i);
      result.push_back({name, type_of(engine_->getTensorDataType(name)), listed_dims(engine_->getTensorShape(name))});
    }
    return result;
  }
  int64_t activation_bytes() override { return engine_->getDeviceMemorySizeV2(); }
  bool load_weights(const void* data, size_t size) override {
    if constexpr (HasLoading<NvEngine>::value) return engine_->loadWeights(data, static_cast<int64_t>(size));
    return false;
  }
  bool unload_weights() override {
    if constexpr (HasUnloading<NvEngine>::value) return engine_->unloadWeights();
    return false;
  }

  std::unique_ptr<EngineContext> context(const ContextOptions& options) override {
    const auto strategy = nv::ExecutionContextAllocationStrategy::kUSER_MANAGED;
    if constexpr (HasConfig<NvEngine>::value) {
      const std::unique_ptr<std::remove_pointer_t<decltype(engine_->createRuntimeConfig())>> config(
          engine_->createRuntimeConfig());
      if (config == nullptr) return nullptr;
      config->setExecutionContextAllocationStrategy(strategy);
      return configured(*config, options);
    } else {
      return wrapped(std::unique_ptr<char>(), engine_->createExecutionContext(strategy), false);
    }
  }

 private:
  template <typename NvConfig>
  std::unique_ptr<EngineContext> configured(NvConfig& config, const ContextOptions& options) {
    bool captures = false;
    if constexpr (HasGraphStrategy<NvConfig>::value) {
      using Strategy = decltype(argument(&NvConfig::setCudaGraphStrategy));
      captures = options.captures && config.setCudaGraphStrategy(Strategy::kWHOLE_GRAPH_CAPTURE);
    }
    if constexpr (HasKernelStrategy<NvConfig>::value) {
      using Strategy = decltype(argument(&NvConfig::setDynamicShapesKernelSpecializationStrategy));
      if (options.eager_kernels) config.setDynamicShapesKernelSpecializationStrategy(Strategy::kEAGER);
    }
    if constexpr (HasCache<NvConfig>::value) {
      std::unique_ptr<std::remove_pointer_t<decltype(config.createRuntimeCache())>> cache(config.createRuntimeCache());
      if (cache != nullptr) {
        if (!options.kernels.empty()) cache->deserialize(options.kernels.data(), options.kernels.size());
        config.setRuntimeCache(*cache);
      }
      return wrapped(std::move(cache), engine_->createExecutionContext(&config), captures);
    } else {
      return wrapped(std::unique_ptr<char>(), engine_->createExecutionContext(&config), captures);
    }
  }

  template <typename NvCache, typename NvContext>
  static std::unique_ptr<EngineContext> wrapped(std::unique_ptr<NvCache> cache, NvContext* context, bool captures) {
    if (context == nullptr) return nullptr;
    return std::make_unique<Context<NvContext, NvCache>>(std::move(cache), std::unique_ptr<NvContext>(context),
                                                         captures);
  }

  std::unique_ptr<NvEngine> engine_;
};

template <typename NvRuntime>
class Runtime final : public EngineRuntime {
 public:
  explicit Runtime(std::unique_ptr<Logger> logger, NvRuntime* runtime) : logger_(std::move(logger)), runtime_(runtime) {
    logger_->errors = &errors;
  }
  ~Runtime() override { logger_->errors = nullptr; }

  bool can_defer_weights() const override { return HasDeferral<NvRuntime>::value; }
  std::unique_ptr<LoadedEngine> open(const void* data, size_t size, bool defer_weights) override {
    if constexpr (HasDeferral<NvRuntime>::value) runtime_->setDeferredWeightsLoading(defer_weights);
    auto* engine = runtime_->deserializeCudaEngine(data, size);
    if (engine == nullptr) return nullptr;
    return std::make_unique<LoadedNvEngine<std::remove_pointer_t<decltype(engine)>>>(engine);
  }

  std::string refusal(const void* header, size_t size) override {
    if constexpr (HasValidity<NvRuntime>::value) {
      uint64_t reasons = 0;
      const auto validity = runtime_->getEngineValidity(header, static_cast<int64_t>(size), &reasons);
      if (static_cast<int>(validity) != 2) return "";  // INVALID
      // The names of EngineInvalidityDiagnostics, by its bits.
      const std::array<const char*, 7> names{"version mismatch", "unsupported cc",          "old cuda driver",
                                             "old cuda runtime", "insufficient gpu memory", "malformed engine",
                                             "cuda error"};
      std::vector<std::string> words;
      for (size_t i = 0; i < names.size(); ++i) {
        if ((reasons >> i & 1U) != 0) words.emplace_back(names[i]);
      }
      if (!words.empty()) return joined(words);
      return errors.empty() ? "no reason given" : errors.back();
    }
    return "";
  }

 private:
  std::unique_ptr<Logger> logger_;
  std::unique_ptr<NvRuntime> runtime_;
};

std::unique_ptr<EngineRuntime> start(void* create) {
  auto logger = std::make_unique<Logger>();
  const auto make = reinterpret_cast<void* (*)(void*, int32_t)>(create);
  auto* runtime = static_cast<nv::IRuntime*>(make(static_cast<nv::ILogger*>(logger.get()), NV_TENSORRT_VERSION));
  if (runtime == nullptr) return nullptr;
  return std::make_unique<Runtime<nv::IRuntime>>(std::move(logger), runtime);
}

#define VCUT_WORD(x) #x
#define VCUT_WORDS(x) VCUT_WORD(x)

}  // namespace

#if VCUT_NVINFER_RTX
const NvInfer* nvinfer_rtx() {
  constexpr const char* file = "libtensorrt_rtx.so." VCUT_WORDS(NV_TENSORRT_MAJOR);
#else
const NvInfer* nvinfer() {
  constexpr const char* file = "libnvinfer.so." VCUT_WORDS(NV_TENSORRT_MAJOR);
#endif
  static const NvInfer result{file, static_cast<int>(NV_TENSORRT_VERSION),
                              VCUT_WORDS(NV_TENSORRT_MAJOR) "." VCUT_WORDS(NV_TENSORRT_MINOR), start};
  return &result;
}

}  // namespace vcut_core
