#include "backends/cuda.hpp"

#include <array>
#include <atomic>

#include "error.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

constexpr int out_of_memory = 2;  // CUDA_ERROR_OUT_OF_MEMORY
constexpr int no_device = 100;    // CUDA_ERROR_NO_DEVICE
constexpr size_t alignment = 256;  // of addresses, for TensorRT

void start(Driver& driver) {
  const auto refuse = [&](int code) {
    return usage(std::string("CUDA does not start (") + driver.describe(code) + "): check nvidia-smi");
  };
  int count = 0;
  int code = driver.init();
  if (code == 0) code = driver.device_count(&count);
  if (code == no_device || (code == 0 && count < 1)) {
    throw usage("no NVIDIA GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES");
  }
  if (code == 0) code = driver.open();
  if (code != 0) throw refuse(code);
}

uint64_t next_serial() {
  static std::atomic<uint64_t> serial{0};
  return ++serial;
}

}  // namespace

Current::Current(Driver& driver) : driver_(driver) {
  const int code = driver.push();
  if (code != 0) {
    throw failed(std::string("CUDA failed in cuCtxPushCurrent (") + driver.describe(code) +
                 "): run nvidia-smi to see the GPU's state");
  }
}

Owned::~Owned() {
  if (driver_->push() != 0) return;
  (driver_.get()->*destroy_)(handle);  // work in flight is finished
  driver_->pop();
}

Memory::~Memory() {
  if (driver_->push() != 0) return;
  driver_->free(address);  // waits for work in flight
  driver_->pop();
}

Cuda::Cuda(std::shared_ptr<Driver> driver) : driver_(std::move(driver)) {
  start(*driver_);
  const Current current(*driver_);
  int major = 0;
  int minor = 0;
  check(driver_->capability(&major, &minor), "cuDeviceGetAttribute");
  capability_ = std::to_string(major) + "." + std::to_string(minor);
  std::array<char, 256> name{};
  check(driver_->name(name.data(), static_cast<int>(name.size()) - 1), "cuDeviceGetName");
  name_ = name.data();
  Handle stream = nullptr;
  check(driver_->stream_create(&stream), "cuStreamCreate");
  stream_ = std::make_shared<Owned>(driver_, &Driver::stream_destroy, stream);
}

size_t Cuda::free_memory() const {
  const Current current(*driver_);
  size_t free = 0;
  size_t total = 0;
  check(driver_->memory(&free, &total), "cuMemGetInfo");
  return free;
}

std::shared_ptr<Memory> Cuda::allocate(size_t size, const std::string& what) {
  const Current current(*driver_);
  Address address = 0;
  check(driver_->allocate(&address, std::max<size_t>(size, 1)), "cuMemAlloc", what, size);
  return std::make_shared<Memory>(driver_, address, size);
}

void Cuda::copy_in(Address target, const void* source, size_t size) {
  const Current current(*driver_);
  check(driver_->copy_in(target, source, size, stream()), "cuMemcpyHtoDAsync");
}

void Cuda::copy_out(void* target, Address source, size_t size) {
  const Current current(*driver_);
  check(driver_->copy_out(target, source, size, stream()), "cuMemcpyDtoHAsync");
  synchronize();
}

void Cuda::copy(Address target, Address source, size_t size) {
  const Current current(*driver_);
  check(driver_->copy(target, source, size, stream()), "cuMemcpyDtoDAsync");
}

void Cuda::synchronize() {
  const Current current(*driver_);
  check(driver_->stream_synchronize(stream()), "cuStreamSynchronize");
}

void Cuda::settle() noexcept {
  if (driver_->push() != 0) return;
  driver_->stream_synchronize(stream());
  driver_->pop();
}

Cuda::Event Cuda::event() {
  const Current current(*driver_);
  Handle handle = nullptr;
  check(driver_->event_create(&handle), "cuEventCreate");
  auto event = std::make_shared<Owned>(driver_, &Driver::event_destroy, handle);
  check(driver_->event_record(handle, stream()), "cuEventRecord");
  return event;
}

void Cuda::wait(const Event& event) {
  const Current current(*driver_);
  check(driver_->event_synchronize(event->handle), "cuEventSynchronize");
}

double Cuda::seconds(const Event& start, const Event& end) {
  const Current current(*driver_);
  wait(end);
  float milliseconds = 0;
  check(driver_->event_elapsed(&milliseconds, start->handle, end->handle), "cuEventElapsedTime");
  return static_cast<double>(milliseconds) / 1000;
}

std::shared_ptr<Owned> Cuda::capture(const std::function<void()>& body) {
  const Current current(*driver_);
  check(driver_->capture_begin(stream()), "cuStreamBeginCapture");
  Handle graph = nullptr;
  try {
    body();
  } catch (...) {
    // The stream must leave capture mode whatever went wrong.
    if (driver_->capture_end(stream(), &graph) == 0 && graph != nullptr) driver_->graph_destroy(graph);
    throw;
  }
  check(driver_->capture_end(stream(), &graph), "cuStreamEndCapture");
  Handle executable = nullptr;
  const int code = driver_->graph_instantiate(&executable, graph);
  driver_->graph_destroy(graph);
  check(code, "cuGraphInstantiate");
  return std::make_shared<Owned>(driver_, &Driver::executable_destroy, executable);
}

void Cuda::launch(const Owned& graph) {
  const Current current(*driver_);
  check(driver_->graph_launch(graph.handle, stream()), "cuGraphLaunch");
}

void Cuda::check(int code, const char* function, const std::string& what, size_t size) const {
  if (code == 0) return;
  if (code == out_of_memory) {
    size_t free = 0;
    size_t total = 0;
    driver_->memory(&free, &total);
    const auto words = [](size_t bytes) { return gigabytes(static_cast<double>(bytes), 2); };
    const std::string need = what.empty() ? "" : " for " + what + " (" + words(size) + " GB)";
    throw failed("the GPU is out of memory" + need + ", " + words(free) + " of " + words(total) +
                 " GB are free: use --low-memory, close other programs, or export smaller sizes");
  }
  throw failed(std::string("CUDA failed in ") + function + " (" + driver_->describe(code) +
               "): run nvidia-smi to see the GPU's state");
}

DeviceArray::DeviceArray(Address at, std::shared_ptr<void> owner)
    : address(at), serial(next_serial()), owner_(std::move(owner)) {}

std::shared_ptr<Memory> Pool::take(size_t size, const std::string& what) {
  size_t room = alignment;
  while (room < size) room *= 2;
  std::shared_ptr<Memory> memory;
  {
    const std::lock_guard<std::mutex> guard(unused_->lock);
    auto& list = unused_->memory[room];
    if (!list.empty()) {
      memory = list.back();
      list.pop_back();
    }
  }
  if (memory == nullptr) memory = cuda_->allocate(room, what);
  const auto give_back = [memory, unused = unused_](Memory*) {
    const std::lock_guard<std::mutex> guard(unused->lock);
    unused->memory[memory->size].push_back(memory);
  };
  return {memory.get(), give_back};
}

}  // namespace vcut_core
