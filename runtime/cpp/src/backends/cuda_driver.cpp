// NVIDIA's driver, loaded when an engine is going to run. Its interface keeps the types below for good, so no header of
// CUDA is needed.
#include <dlfcn.h>

#include <mutex>
#include <string>

#include "backends/driver.hpp"
#include "error.hpp"

namespace vcut_core {
namespace {

constexpr int capability_major = 75;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
constexpr int capability_minor = 76;
constexpr int relaxed = 2;  // CU_STREAM_CAPTURE_MODE_RELAXED

template <typename... Arguments>
class Function {
 public:
  Function(void* library, const char* name)
      : function_(reinterpret_cast<int (*)(Arguments...)>(dlsym(library, name))) {
    if (function_ == nullptr) {
      throw usage(std::string("the NVIDIA driver is too old, it lacks ") + name + ": update the driver");
    }
  }
  int operator()(Arguments... arguments) const { return function_(arguments...); }

 private:
  int (*function_)(Arguments...);
};

void* load() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw usage("no NVIDIA driver is installed: install one, or use --backend onnxruntime-cpu");
  }
  return library;
}

class CudaDriver final : public Driver {
 public:
  int init() override { return init_(0); }
  int version(int* version) override { return version_(version); }
  int device_count(int* count) override { return count_(count); }
  int open() override {
    const std::lock_guard<std::mutex> guard(lock_);
    if (context_ != nullptr) return 0;
    if (const int code = get_(&device_, 0)) return code;
    return retain_(&context_, device_);  // TensorRT works in the primary context, too
  }
  int name(char* name, int size) override { return name_(name, size, device_); }
  int capability(int* major, int* minor) override {
    if (const int code = attribute_(major, capability_major, device_)) return code;
    return attribute_(minor, capability_minor, device_);
  }
  int push() override { return push_(context_); }
  int pop() override {
    Handle popped = nullptr;
    return pop_(&popped);
  }

  int memory(size_t* free, size_t* total) override { return memory_(free, total); }
  int allocate(Address* address, size_t size) override { return allocate_(address, size); }
  int free(Address address) override { return free_(address); }
  int copy_in(Address target, const void* source, size_t size, Handle stream) override {
    return copy_in_(target, source, size, stream);
  }
  int copy_out(void* target, Address source, size_t size, Handle stream) override {
    return copy_out_(target, source, size, stream);
  }
  int copy(Address target, Address source, size_t size, Handle stream) override {
    return copy_(target, source, size, stream);
  }

  int stream_create(Handle* stream) override { return stream_create_(stream, 0); }
  int stream_destroy(Handle stream) override { return stream_destroy_(stream); }
  int stream_synchronize(Handle stream) override { return stream_synchronize_(stream); }
  int event_create(Handle* event) override { return event_create_(event, 0); }
  int event_record(Handle event, Handle stream) override { return event_record_(event, stream); }
  int event_synchronize(Handle event) override { return event_synchronize_(event); }
  int event_elapsed(float* milliseconds, Handle start, Handle end) override {
    return event_elapsed_(milliseconds, start, end);
  }
  int event_destroy(Handle event) override { return event_destroy_(event); }

  int capture_begin(Handle stream) override { return capture_begin_(stream, relaxed); }
  int capture_end(Handle stream, Handle* graph) override { return capture_end_(stream, graph); }
  int graph_instantiate(Handle* executable, Handle graph) override { return instantiate_(executable, graph, 0); }
  int graph_destroy(Handle graph) override { return graph_destroy_(graph); }
  int graph_launch(Handle executable, Handle stream) override { return launch_(executable, stream); }
  int executable_destroy(Handle executable) override { return executable_destroy_(executable); }

  const char* describe(int code) override {
    const char* text = nullptr;
    return describe_(code, &text) == 0 && text != nullptr ? text : "unknown error";
  }

 private:
  void* library_ = load();  // never closed
  std::mutex lock_;
  int device_ = 0;
  Handle context_ = nullptr;
  Function<unsigned> init_{library_, "cuInit"};
  Function<int*> version_{library_, "cuDriverGetVersion"};
  Function<int*> count_{library_, "cuDeviceGetCount"};
  Function<int*, int> get_{library_, "cuDeviceGet"};
  Function<Handle*, int> retain_{library_, "cuDevicePrimaryCtxRetain"};
  Function<char*, int, int> name_{library_, "cuDeviceGetName"};
  Function<int*, int, int> attribute_{library_, "cuDeviceGetAttribute"};
  Function<Handle> push_{library_, "cuCtxPushCurrent_v2"};
  Function<Handle*> pop_{library_, "cuCtxPopCurrent_v2"};
  Function<size_t*, size_t*> memory_{library_, "cuMemGetInfo_v2"};
  Function<Address*, size_t> allocate_{library_, "cuMemAlloc_v2"};
  Function<Address> free_{library_, "cuMemFree_v2"};
  Function<Address, const void*, size_t, Handle> copy_in_{library_, "cuMemcpyHtoDAsync_v2"};
  Function<void*, Address, size_t, Handle> copy_out_{library_, "cuMemcpyDtoHAsync_v2"};
  Function<Address, Address, size_t, Handle> copy_{library_, "cuMemcpyDtoDAsync_v2"};
  Function<Handle*, unsigned> stream_create_{library_, "cuStreamCreate"};
  Function<Handle> stream_destroy_{library_, "cuStreamDestroy_v2"};
  Function<Handle> stream_synchronize_{library_, "cuStreamSynchronize"};
  Function<Handle*, unsigned> event_create_{library_, "cuEventCreate"};
  Function<Handle, Handle> event_record_{library_, "cuEventRecord"};
  Function<Handle> event_synchronize_{library_, "cuEventSynchronize"};
  Function<float*, Handle, Handle> event_elapsed_{library_, "cuEventElapsedTime"};
  Function<Handle> event_destroy_{library_, "cuEventDestroy_v2"};
  Function<Handle, int> capture_begin_{library_, "cuStreamBeginCapture_v2"};
  Function<Handle, Handle*> capture_end_{library_, "cuStreamEndCapture"};
  Function<Handle*, Handle, unsigned long long> instantiate_{library_, "cuGraphInstantiateWithFlags"};
  Function<Handle> graph_destroy_{library_, "cuGraphDestroy"};
  Function<Handle, Handle> launch_{library_, "cuGraphLaunch"};
  Function<Handle> executable_destroy_{library_, "cuGraphExecDestroy"};
  Function<int, const char**> describe_{library_, "cuGetErrorString"};
};

}  // namespace

// The driver lives until the process ends. TensorRT keeps kernels in the primary context and does not see it go.
std::shared_ptr<Driver> installed_driver() {
  static const auto* driver = new std::shared_ptr<Driver>(std::make_shared<CudaDriver>());
  return *driver;
}

}  // namespace vcut_core
