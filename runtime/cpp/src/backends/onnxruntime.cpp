// ONNX Runtime on the CPU, through its C interface.
#include <onnxruntime_c_api.h>
#include <sched.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

#include "backends/factories.hpp"
#include "cpu_limits.hpp"
#include "error.hpp"
#include "graphs.hpp"
#include "library.hpp"
#include "text.hpp"

#ifndef VCUT_ONNXRUNTIME_LIBRARY
#define VCUT_ONNXRUNTIME_LIBRARY ""
#endif

namespace vcut_core {
namespace {

constexpr double large_step = 2147483648.0;  // bytes; blocks of such steps come straight from the system

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// ONNX Runtime as loaded once by this process, with its environment.
class Ort {
 public:
  explicit Ort(const std::string& file)
      : library_({file, VCUT_ONNXRUNTIME_LIBRARY, "libonnxruntime.so.1", "libonnxruntime.so"}, "ONNX Runtime",
                 "install it, or name the file in the option onnxruntime_library") {
    // From 1.32 on ONNX Runtime writes a device id and sends what it counts, unless the user said otherwise.
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // NOLINT(concurrency-mt-unsafe): before its environment exists
    const OrtApiBase* base = library_.symbol<const OrtApiBase*()>("OrtGetApiBase")();
    api_ = base->GetApi(ORT_API_VERSION);
    if (api_ == nullptr) {
      throw usage(std::string("ONNX Runtime ") + base->GetVersionString() + " is older than the one that this " +
                  "library was built for: update it");
    }
    check(api_->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "vcut", &env_), "ONNX Runtime does not start");
  }

  const OrtApi& api() const { return *api_; }
  OrtEnv* env() const { return env_; }
  const std::string& file() const { return library_.file(); }

  void check(OrtStatus* status, const std::string& what) const {
    if (status == nullptr) return;
    const std::string reason = first_line(api_->GetErrorMessage(status));
    api_->ReleaseStatus(status);
    throw failed(what + ": " + reason);
  }

 private:
  SharedLibrary library_;
  const OrtApi* api_ = nullptr;
  OrtEnv* env_ = nullptr;
};

// Returns the process's ONNX Runtime. It lives until the process ends: its threads must not outlive its library.
const Ort& ort(const std::string& file) {
  static std::mutex lock;
  static const Ort* loaded = nullptr;
  const std::lock_guard<std::mutex> guard(lock);
  if (loaded == nullptr) loaded = new Ort(file);
  if (!file.empty() && file != loaded->file()) {
    throw usage("this process uses ONNX Runtime from " + loaded->file() + ": name the same file for every pipeline");
  }
  return *loaded;
}

template <typename T>
using Handle = std::unique_ptr<T, void (*)(T*)>;

struct OrtTensor : DeviceValue {
  explicit OrtTensor(OrtValue* value, const OrtApi& api) : handle(value, api.ReleaseValue) {}
  Handle<OrtValue> handle;
};

std::vector<int> usable_cpus() {
  std::vector<int> result;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return result;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) result.push_back(cpu);
  }
  return result;
}

class OnnxRuntimeBackend final : public Backend {
 public:
  OnnxRuntimeBackend(const Bundle& bundle, const BackendOptions& options)
      : Backend("onnxruntime-cpu"),
        bundle_(bundle),
        threads_(options.threads),
        ort_(ort(options.onnxruntime_library)) {
    ort_.check(ort_.api().GetAllocatorWithDefaultOptions(&allocator_), "ONNX Runtime");
    int64_t weights = 0;
    for (const auto& [name, file] : bundle.manifest.weights) weights += file.bytes;
    keep_ = 4 * static_cast<double>(weights) < static_cast<double>(total_memory());
  }

  void check_run(const Sizes& sizes, const std::set<std::string>& graphs) override {
    check_cpu(bundle_.manifest, sizes, graphs);
  }

  void load(const std::string& graph) override {
    if (sessions_.count(graph) != 0) return;
    if (!keep_) {  // each session holds its own copy of the weights, except those that alternate within a stage
      for (auto item = sessions_.begin(); item != sessions_.end();) {
        const bool shares = graph_kind(item->first).stage() == graph_kind(graph).stage();
        item = shares ? std::next(item) : sessions_.erase(item);
      }
    }
    const Graph& entry = bundle_.manifest.graphs.at(graph);
    const auto path = bundle_.path(entry.contrib ? *entry.contrib : static_cast<const File&>(entry));
    const auto options = session_options(graph);
    OrtSession* session = nullptr;
    ort_.check(ort_.api().CreateSession(ort_.env(), path.c_str(), options.get(), &session),
               "ONNX Runtime cannot load " + path.filename().string());
    Handle<OrtSession> owned(session, ort_.api().ReleaseSession);
    check_tensors(graph, path.filename().string(), session);
    sessions_.emplace(graph, std::move(owned));
  }

  Value upload(const std::vector<int64_t>& shape, const float* data) override {
    OrtValue* handle = nullptr;
    ort_.check(ort_.api().CreateTensorAsOrtValue(allocator_, shape.data(), shape.size(),
                                                 ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &handle),
               "ONNX Runtime has no memory");
    auto value = std::make_shared<OrtTensor>(handle, ort_.api());
    value->shape = shape;
    value->dtype = "float32";
    std::memcpy(data_of(*value), data, size_of(shape, value->dtype));
    return value;
  }

  void download(const Value& value, const std::string& dtype, void* out, size_t bytes) override {
    if (value->dtype != dtype || size_of(value->shape, dtype) != bytes) {
      throw failed("a graph gives a tensor " + listed(value->shape) + " of " + value->dtype +
                   ", and the manifest says otherwise: export the bundle again with --force");
    }
    std::memcpy(out, data_of(static_cast<OrtTensor&>(*value)), bytes);
  }

  Values run(const std::string& graph, const Values& inputs) override {
    load(graph);
    std::vector<const char*> input_names;
    std::vector<const OrtValue*> input_values;
    for (const auto& [name, value] : inputs) {
      input_names.push_back(name.c_str());
      input_values.push_back(static_cast<const OrtTensor&>(*value).handle.get());
    }
    const auto& specs = bundle_.manifest.graphs.at(graph).outputs;
    std::vector<const char*> output_names;
    for (const auto& spec : specs) output_names.push_back(spec.name.c_str());
    std::vector<OrtValue*> outputs(specs.size(), nullptr);
    OrtStatus* status = ort_.api().Run(sessions_.at(graph).get(), nullptr, input_names.data(), input_values.data(),
                                       input_values.size(), output_names.data(), output_names.size(), outputs.data());
    Values result;
    for (size_t i = 0; i < specs.size(); ++i) {
      if (outputs[i] != nullptr) result[specs[i].name] = std::make_shared<OrtTensor>(outputs[i], ort_.api());
    }
    ort_.check(status, "ONNX Runtime failed in " + graph);
    for (auto& [name, value] : result) describe(static_cast<OrtTensor&>(*value));
    return result;
  }

 private:
  void* data_of(OrtTensor& value) const {
    void* data = nullptr;
    ort_.check(ort_.api().GetTensorMutableData(value.handle.get(), &data), "ONNX Runtime");
    return data;
  }

  // Compares the graph's own inputs and outputs with the manifest's, which the step loop goes by. Throws Error.
  void check_tensors(const std::string& graph, const std::string& file, const OrtSession* session) const {
    const Graph& entry = bundle_.manifest.graphs.at(graph);
    const OrtApi& api = ort_.api();
    auto name = unlike(tensors_of(session, api.SessionGetInputCount, api.SessionGetInputName,
                                  api.SessionGetInputTypeInfo),
                       entry.inputs);
    if (!name) {
      name = unlike(tensors_of(session, api.SessionGetOutputCount, api.SessionGetOutputName,
                               api.SessionGetOutputTypeInfo),
                    entry.outputs);
    }
    if (name) {
      throw bad_bundle(bundle_.root.string() + ": " + file + " does not have the " + repr(*name) +
                       " that the manifest gives " + graph + ": export the bundle again with --force");
    }
  }

  template <typename Count, typename Name, typename Type>
  std::vector<TensorSpec> tensors_of(const OrtSession* session, Count count_of, Name name_of, Type type_of) const {
    size_t total = 0;
    ort_.check(count_of(session, &total), "ONNX Runtime");
    std::vector<TensorSpec> result(total);
    for (size_t i = 0; i < total; ++i) {
      char* text = nullptr;
      ort_.check(name_of(session, i, allocator_, &text), "ONNX Runtime");
      result[i].name = text;
      ort_.check(ort_.api().AllocatorFree(allocator_, text), "ONNX Runtime");
      OrtTypeInfo* raw = nullptr;
      ort_.check(type_of(session, i, &raw), "ONNX Runtime");
      const Handle<OrtTypeInfo> info(raw, ort_.api().ReleaseTypeInfo);
      const OrtTensorTypeAndShapeInfo* tensor = nullptr;
      ort_.check(ort_.api().CastTypeInfoToTensorInfo(raw, &tensor), "ONNX Runtime");
      if (tensor == nullptr) continue;  // no tensor at all
      DeviceValue value;
      describe(tensor, value);
      result[i].dtype = value.dtype;
      for (const int64_t size : value.shape) result[i].shape.push_back({size, ""});
    }
    return result;
  }

  // Takes over the shape and the type that the graph really gave.
  void describe(OrtTensor& value) const {
    OrtTensorTypeAndShapeInfo* raw = nullptr;
    ort_.check(ort_.api().GetTensorTypeAndShape(value.handle.get(), &raw), "ONNX Runtime");
    const Handle<OrtTensorTypeAndShapeInfo> info(raw, ort_.api().ReleaseTensorTypeAndShapeInfo);
    describe(raw, value);
  }

  void describe(const OrtTensorTypeAndShapeInfo* raw, DeviceValue& value) const {
    size_t rank = 0;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    ort_.check(ort_.api().GetDimensionsCount(raw, &rank), "ONNX Runtime");
    value.shape.resize(rank);
    ort_.check(ort_.api().GetDimensions(raw, value.shape.data(), rank), "ONNX Runtime");
    ort_.check(ort_.api().GetTensorElementType(raw, &type), "ONNX Runtime");
    value.dtype = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT     ? "float32"
                  : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? "float16"
                  : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8   ? "uint8"
                                                                  : "another type";
  }

  Handle<OrtSessionOptions> session_options(const std::string& graph) const {
    const OrtApi& api = ort_.api();
    OrtSessionOptions* raw = nullptr;
    ort_.check(api.CreateSessionOptions(&raw), "ONNX Runtime");
    Handle<OrtSessionOptions> options(raw, api.ReleaseSessionOptions);
    ort_.check(api.SetSessionLogSeverityLevel(raw, ORT_LOGGING_LEVEL_ERROR), "ONNX Runtime");
    // Each graph's session has its own threads. After a run they would spin on their cores and slow the next graph.
    ort_.check(api.AddSessionConfigEntry(raw, "session.force_spinning_stop", "1"), "ONNX Runtime");
    if (threads_) {
      ort_.check(api.SetIntraOpNumThreads(raw, static_cast<int>(*threads_)), "ONNX Runtime");
      bind_threads(raw);
    }
    if (graph_kind(graph).is_step() && step_memory(bundle_.manifest, graph, bundle_.manifest.sizes()) > large_step) {
      ort_.check(api.DisableCpuMemArena(raw), "ONNX Runtime");  // an arena keeps freed memory and rounds blocks up
      ort_.check(api.DisableMemPattern(raw), "ONNX Runtime");
    }
    return options;
  }

  // Binds each thread to a core if there are as many; otherwise two threads can end up on one core and stay there.
  void bind_threads(OrtSessionOptions* options) const {
    const auto cpus = usable_cpus();
    if (cpus.size() < 2 || *threads_ != static_cast<int64_t>(cpus.size())) return;
    std::string affinities;
    for (size_t i = 1; i < cpus.size(); ++i) affinities += (i > 1 ? ";" : "") + std::to_string(cpus[i] + 1);
    ort_.check(ort_.api().AddSessionConfigEntry(options, "session.intra_op_thread_affinities", affinities.c_str()),
               "ONNX Runtime");
  }

  const Bundle& bundle_;
  std::optional<int64_t> threads_;
  const Ort& ort_;
  OrtAllocator* allocator_ = nullptr;
  std::map<std::string, Handle<OrtSession>> sessions_;
  bool keep_ = true;
};

}  // namespace

Offer offer_onnxruntime(const Bundle& bundle) {
  check_cpu(bundle.manifest, bundle.manifest.smallest(), {"quality_improvement"});
  return {"runs anywhere", [&bundle](const BackendOptions& options) {
            check_hashes(bundle, bundle.manifest.onnx_files());
            return std::make_unique<OnnxRuntimeBackend>(bundle, options);
          }};
}

}  // namespace vcut_core
