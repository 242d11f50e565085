// Engines run.
#include <algorithm>
#include <utility>

#include "backends/kernel_cache.hpp"
#include "backends/tensorrt_backend.hpp"
#include "error.hpp"
#include "graphs.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

// A shape as Python writes it.
std::string words(const std::vector<Dimension>& shape) {
  std::vector<std::string> result;
  for (const auto& dimension : shape) {
    result.push_back(dimension.free() ? repr(dimension.symbol) : std::to_string(dimension.size));
  }
  return "[" + joined(result) + "]";
}

bool fits(const TensorSpec& spec, const DeviceValue& value) {
  if (spec.dtype != value.dtype || spec.shape.size() != value.shape.size()) return false;
  for (size_t i = 0; i < spec.shape.size(); ++i) {
    if (!spec.shape[i].free() && spec.shape[i].size != value.shape[i]) return false;
  }
  return true;
}

bool is_within(const Profile& profile, const std::vector<int64_t>& shape) {
  if (profile.min.size() != shape.size() || profile.max.size() != shape.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < profile.min[i] || shape[i] > profile.max[i]) return false;
  }
  return true;
}

Cuda::Event event_of(const Mark& mark) { return std::static_pointer_cast<Owned>(mark.event); }

}  // namespace

std::string advice(const std::string& message) {
  std::string text = message;
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  const std::vector<std::pair<std::vector<std::string>, std::string>> fixes{
      {{"memory", "alloc"}, "use --low-memory, or close other programs that use the GPU"},
      {{"version", "header"}, "build the engines again with the library installed here, 'vcut build'"},
      {{"compute capab", "unsupported_cc", "sm version"}, "build engines for this GPU, 'vcut build --gpu this'"},
      {{"driver"}, "update the NVIDIA driver"},
  };
  for (const auto& [words, fix] : fixes) {
    for (const auto& word : words) {
      if (text.find(word) != std::string::npos) return fix;
    }
  }
  return "build the engines again with 'vcut build --force', or use another --backend";
}

Error TensorRtBackend::failure(const std::string& what) const {
  const std::string reason = runtime_->errors.empty() ? "no reason given" : runtime_->errors.back();
  return failed(library_->title + " " + what + " (" + reason + "): " + advice(reason));
}

std::optional<int64_t> TensorRtBackend::max_decode_chunk() {
  const Profile* profile = entry("decode").profile.find("latents");
  return profile == nullptr ? bundle_.manifest.decode_frames() : profile->max[0];
}

Value TensorRtBackend::upload(const std::vector<int64_t>& shape, const float* data) {
  const size_t bytes = size_of(shape, "float32");
  const auto memory = pool_.take(bytes, "an input");
  cuda_->copy_in(memory->address, data, bytes);
  auto value = std::make_shared<DeviceArray>(memory->address, memory);
  value->shape = shape;
  value->dtype = "float32";
  return value;
}

void TensorRtBackend::download(const Value& value, const std::string& dtype, void* out, size_t bytes) {
  if (value->dtype != dtype || size_of(value->shape, dtype) != bytes) {
    throw failed("a graph gives a tensor " + listed(value->shape) + " of " + value->dtype +
                 ", and the manifest says otherwise: build the engines again with 'vcut build --force'");
  }
  cuda_->copy_out(out, static_cast<DeviceArray&>(*value).address, bytes);
}

Values TensorRtBackend::run(const std::string& graph, const Values& inputs) {
  const Current current(cuda_->driver());
  load(graph);
  Loaded& loaded = *loaded_.at(graph);
  intact(graph, [&] {
    bind(graph, loaded, inputs);
    enqueue(graph, loaded);
    if (++loaded.runs == 1) finish_first_run(graph, loaded);
  });
  Values result;
  for (const auto& [spec, memory] : loaded.outputs) {
    auto value = std::make_shared<DeviceArray>(memory->address, memory);
    value->shape = loaded.shapes.at(spec.name);
    value->dtype = spec.dtype;
    result[spec.name] = value;
  }
  return result;
}

// The first run compiles and allocates, and that counts.
void TensorRtBackend::finish_first_run(const std::string& graph, Loaded& loaded) {
  cuda_->synchronize();
  sample_memory();
  const auto kernels = loaded.context->kernels();
  if (!kernels) return;
  const std::string problem = keep_kernels(kernel_file(entry(graph), *library_, *cuda_), *kernels);
  if (!problem.empty()) note(problem);
}

// Copies what changed into the input buffers, which never move, and tells the engine of new shapes.
void TensorRtBackend::bind(const std::string& graph, Loaded& loaded, const Values& inputs) {
  bool is_new = loaded.shapes.empty();
  for (const auto& [spec, memory] : loaded.inputs) {
    const auto& value = static_cast<const DeviceArray&>(*inputs.at(spec.name));
    if (!fits(spec, value)) {
      throw failed(graph + " needs " + spec.name + " as " + words(spec.shape) + ", not " + listed(value.shape));
    }
    is_new = bind_shape(graph, loaded, spec, value.shape) || is_new;
    const size_t bytes = size_of(value.shape, value.dtype);
    if (spec.name == features) {  // other graphs write to this buffer too, and theirs are there already
      if (value.address != memory->address) cuda_->copy(memory->address, value.address, bytes);
    } else if (uint64_t& bound = loaded.bound[spec.name]; bound != value.serial) {
      cuda_->copy(memory->address, value.address, bytes);
      bound = value.serial;
    }
  }
  if (!is_new) return;
  loaded.captured.reset();  // the captured graph has the old shapes
  loaded.runs = 0;
  for (const auto& [spec, memory] : loaded.outputs) {
    loaded.shapes[spec.name] = loaded.context->shape(spec.name);
    if (size_of(loaded.shapes[spec.name], spec.dtype) > memory->size) {
      throw failure("gives " + spec.name + " of shape " + listed(loaded.shapes[spec.name]) + " in " + graph);
    }
  }
}

// Returns whether the shape of a dynamic input has changed.
bool TensorRtBackend::bind_shape(const std::string& graph, Loaded& loaded, const TensorSpec& spec,
                                 const std::vector<int64_t>& shape) {
  const Profile* profile = entry(graph).profile.find(spec.name);
  if (profile == nullptr) return false;
  auto& known = loaded.shapes[spec.name];
  if (known == shape) return false;
  if (!is_within(*profile, shape)) {
    throw usage(graph + " was built for " + spec.name + " from " + listed(profile->min) + " to " +
                listed(profile->max) + ", not " + listed(shape));
  }
  if (!loaded.context->set_shape(spec.name, shape)) {
    throw failure("refuses " + spec.name + " of shape " + listed(shape) + " in " + graph);
  }
  known = shape;
  return true;
}

// Launches the captured step, or captures it on its second run: the first may still compile and allocate.
void TensorRtBackend::enqueue(const std::string& graph, Loaded& loaded) {
  if (loaded.captured != nullptr) {
    cuda_->launch(*loaded.captured);
    return;
  }
  const std::string without = "CUDA graph of " + graph + " could not be captured, running without: ";
  const bool wanted = cuda_graphs_ && graph_kind(graph).is_step() && !loaded.context->captures() && loaded.runs == 1;
  if (wanted && loaded.context->can_be_captured(cuda_->stream())) {
    try {
      loaded.captured = cuda_->capture([&] { execute(graph, loaded); });
    } catch (const Error& error) {
      note(without + error.what());
    }
    if (loaded.captured != nullptr) {
      cuda_->launch(*loaded.captured);
      return;
    }
  } else if (wanted) {
    note(without + "it allocates as it runs");
  }
  execute(graph, loaded);
}

void TensorRtBackend::execute(const std::string& graph, Loaded& loaded) {
  runtime_->errors.clear();
  if (!loaded.context->enqueue(cuda_->stream())) throw failure("failed in " + graph);
}

Mark TensorRtBackend::mark() { return {0, cuda_->event()}; }

void TensorRtBackend::wait(const Mark& mark) { cuda_->wait(event_of(mark)); }

double TensorRtBackend::seconds(const Mark& start, const Mark& end) {
  return cuda_->seconds(event_of(start), event_of(end));
}

}  // namespace vcut_core
