// A GPU: memory, one stream, events and graph capture. Everything is ordered on the one stream, so memory may be reused
// as soon as the call that used it has returned.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend.hpp"
#include "backends/driver.hpp"

namespace vcut_core {

// The GPU is current in this thread while such an object lives.
class Current {
 public:
  explicit Current(Driver& driver);
  ~Current() { driver_.pop(); }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  Driver& driver_;
};

// Something of the driver's that is given back with the last reference. It may go in any thread.
class Owned {
 public:
  Owned(std::shared_ptr<Driver> driver, int (Driver::*destroy)(Handle), Handle given)
      : handle(given), driver_(std::move(driver)), destroy_(destroy) {}
  ~Owned();
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

  const Handle handle;

 private:
  std::shared_ptr<Driver> driver_;
  int (Driver::*destroy_)(Handle);
};

// Device memory, aligned to 256.
class Memory {
 public:
  Memory(std::shared_ptr<Driver> driver, Address at, size_t bytes)
      : address(at), size(bytes), driver_(std::move(driver)) {}
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  const Address address;
  const size_t size;

 private:
  std::shared_ptr<Driver> driver_;
};

// The first visible GPU; CUDA_VISIBLE_DEVICES chooses. All functions throw Error.
class Cuda {
 public:
  explicit Cuda(std::shared_ptr<Driver> driver);

  const std::string& name() const { return name_; }
  const std::string& capability() const { return capability_; }  // such as 8.6
  Handle stream() const { return stream_->handle; }
  Driver& driver() const { return *driver_; }

  // Free device memory, other programs' use included.
  size_t free_memory() const;
  // What names the memory in an error.
  std::shared_ptr<Memory> allocate(size_t size, const std::string& what);
  void copy_in(Address target, const void* source, size_t size);
  void copy_out(void* target, Address source, size_t size);
  void copy(Address target, Address source, size_t size);
  void synchronize();
  // Waits for the GPU, and lets no error out.
  void settle() noexcept;

  using Event = std::shared_ptr<Owned>;
  Event event();
  void wait(const Event& event);
  double seconds(const Event& start, const Event& end);

  // Records what the body asks of the stream as a graph to launch. The work itself is not done.
  std::shared_ptr<Owned> capture(const std::function<void()>& body);
  void launch(const Owned& graph);

 private:
  void check(int code, const char* function, const std::string& what = "", size_t size = 0) const;

  std::shared_ptr<Driver> driver_;
  std::string name_, capability_;
  std::shared_ptr<Owned> stream_;
};

// A value on the GPU. An output is valid until its graph runs again, deep features until any step runs.
struct DeviceArray : DeviceValue {
  DeviceArray(Address at, std::shared_ptr<void> owner);

  const Address address;
  const uint64_t serial;  // tells a value from the next at its address

 private:
  std::shared_ptr<void> owner_;  // keeps the memory alive
};

// Memory for uploads, by powers of two: a second video allocates nothing, and a video of another size little.
class Pool {
 public:
  explicit Pool(std::shared_ptr<Cuda> cuda) : cuda_(std::move(cuda)), unused_(std::make_shared<Unused>()) {}

  // Returns at least so many bytes. They come back to the pool with the last reference.
  std::shared_ptr<Memory> take(size_t size, const std::string& what);

 private:
  struct Unused {
    std::mutex lock;
    std::map<size_t, std::vector<std::shared_ptr<Memory>>> memory;
  };
  std::shared_ptr<Cuda> cuda_;
  std::shared_ptr<Unused> unused_;
};

}  // namespace vcut_core
