// The backends that this library was built with, in order of preference, and the choice between them.
#include <chrono>

#include "backend.hpp"
#include "backends/factories.hpp"
#include "error.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

constexpr const char* last = "onnxruntime-cpu";
const std::vector<std::string> known{"tensorrt", "tensorrt-rtx", last};

Offer offer(const Bundle& bundle, const std::string& name, const BackendOptions& options) {
  if (name == "tensorrt" || name == "tensorrt-rtx") return offer_tensorrt(bundle, name, options);
  return offer_onnxruntime(bundle);
}

// The offer of the best backend that can run the bundle here.
Offer best(const Bundle& bundle, const BackendOptions& options) {
  std::vector<std::string> refusals;  // of the libraries that the bundle has engines for
  std::string cpu_refusal;
  for (const auto& name : known) {
    try {
      Offer result = offer(bundle, name, options);
      if (name == last) {
        std::string why = refusals.empty() ? "the bundle has no engines" : refusals[0];
        for (size_t i = 1; i < refusals.size(); ++i) why += "; " + refusals[i];
        result.reason = "nothing faster can run here, " + why;
      }
      return result;
    } catch (const Error& error) {
      bool has_engines = name == last;
      for (const auto& [target, set] : bundle.manifest.engines) has_engines = has_engines || set.library == name;
      if (has_engines) refusals.emplace_back(error.what());
    }
  }
  std::string message;
  for (const auto& refusal : refusals) message += (message.empty() ? "" : "; ") + refusal;
  throw failed(message);
}

}  // namespace

Mark Backend::mark() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return {std::chrono::duration<double>(now).count(), nullptr};
}

std::unique_ptr<Backend> open_backend(const Bundle& bundle, const std::string& name, const BackendOptions& options) {
  if (options.threads && *options.threads < 1) {
    throw usage("threads is " + std::to_string(*options.threads) + ": give at least 1");
  }
  if (name == "auto") {
    const Offer choice = best(bundle, options);
    auto backend = choice.open(options);
    backend->note_first(backend->name() + ": " + choice.reason);
    return backend;
  }
  for (const auto& candidate : known) {
    if (name == candidate) return offer(bundle, name, options).open(options);
  }
  throw usage("unknown backend " + repr(name) + ": choose auto, " + joined(known));
}

size_t size_of(const std::vector<int64_t>& shape, const std::string& dtype) {
  size_t bytes = dtype == "uint8" ? 1 : dtype == "float16" ? 2 : 4;
  for (const int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(bytes, static_cast<size_t>(dimension), &bytes) ||
        bytes > (size_t{1} << 46)) {
      throw failed("a tensor of shape " + listed(shape) + " does not fit in memory: choose a smaller size");
    }
  }
  return bytes;
}

size_t count_of(const std::vector<int64_t>& shape) { return size_of(shape, "uint8"); }

}  // namespace vcut_core
