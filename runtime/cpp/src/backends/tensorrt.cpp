// TensorRT and TensorRT-RTX as they are installed here.
#include <map>
#include <mutex>

#include "backends/engine_validity.hpp"
#include "backends/factories.hpp"
#include "backends/nvinfer.hpp"
#include "error.hpp"

namespace vcut_core {
namespace {

bool is_rtx(const std::string& name) { return name == "tensorrt-rtx"; }

class InstalledLibrary final : public EngineLibrary {
 public:
  // Loads the named file, or the system's.
  InstalledLibrary(const std::string& library, const std::string& file, const NvInfer& headers)
      : headers_(headers),
        library_({file, headers.file}, is_rtx(library) ? "TensorRT-RTX" : "TensorRT",
                 std::string("install it, or name the file in the option ") +
                     (is_rtx(library) ? "tensorrt_rtx_library" : "tensorrt_library")) {
    name = library;
    title = is_rtx(library) ? "TensorRT-RTX" : "TensorRT";
    for (const char* part : {"Major", "Minor", "Patch", "Build"}) {
      const auto number = library_.symbol<int32_t()>(("getInferLib" + std::string(part) + "Version").c_str());
      version += (version.empty() ? "" : ".") + std::to_string(number());
    }
  }

  const std::string& file() const { return library_.file(); }
  std::unique_ptr<EngineRuntime> runtime() const override {
    check_layout();
    return headers_.start(reinterpret_cast<void*>(library_.symbol<void()>("createInferRuntime_INTERNAL")));
  }

 private:
  // The library takes every program. TensorRT's classes grow at their end within a major version; TensorRT-RTX 1.5 laid
  // them out anew, so that library must be of the headers' minor version.
  void check_layout() const {
    const int installed = library_.symbol<int32_t()>("getInferLibVersion")() / 100;
    const int ours = headers_.version / 100;
    if (installed == ours || (!is_rtx(name) && installed / 100 == ours / 100 && installed > ours)) return;
    throw usage(full_title() + " does not fit the headers of " + headers_.words +
                " that this library was built with: install that version, or build this library with the headers of " +
                version);
  }

  const NvInfer& headers_;
  SharedLibrary library_;
};

const NvInfer& headers_of(const std::string& name) {
  const NvInfer* headers = is_rtx(name) ? nvinfer_rtx() : nvinfer();
  if (headers != nullptr) return *headers;
  const std::string title = is_rtx(name) ? "TensorRT-RTX" : "TensorRT";
  throw usage("this library was built without " + title + ": build it with -DVCUT_TENSORRT=ON and -D" +
              (is_rtx(name) ? "TENSORRT_RTX_ROOT" : "TENSORRT_ROOT") + "=FOLDER");
}

// Returns the process's library of this name.
std::shared_ptr<const EngineLibrary> load_library(const std::string& name, const std::string& file) {
  static std::mutex lock;
  static std::map<std::string, std::shared_ptr<const InstalledLibrary>> loaded;
  const NvInfer& headers = headers_of(name);
  const std::lock_guard<std::mutex> guard(lock);
  auto& library = loaded[name];
  if (library == nullptr) library = std::make_shared<InstalledLibrary>(name, file, headers);
  if (!file.empty() && file != library->file()) {
    throw usage("this process uses " + library->title + " from " + library->file() +
                ": name the same file for every pipeline");
  }
  return library;
}

}  // namespace

Offer offer_tensorrt(const Bundle& bundle, const std::string& name, const BackendOptions& options) {
  check_has_engines(bundle, name);
  const auto library = load_library(name, is_rtx(name) ? options.tensorrt_rtx_library : options.tensorrt_library);
  return choose_engines(bundle, library, std::make_shared<Cuda>(installed_driver()));
}

}  // namespace vcut_core
