// What the TensorRT backend needs from TensorRT or TensorRT-RTX. Tests put engines of their own behind it. Functions
// that can fail return false or null, and the library's reason is in EngineRuntime::errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/driver.hpp"

namespace vcut_core {

struct EngineTensor {
  std::string name, dtype;     // dtype is empty for a type that no graph has
  std::vector<int64_t> shape;  // -1 for a free dimension
};

struct ContextOptions {
  bool captures = false;       // capture the work as a CUDA graph, if the library can do that by itself
  bool eager_kernels = false;  // specialise kernels for free sizes before the first run
  std::string kernels;         // those that an earlier program kept; may be empty
};

// An engine with memory to run. The memory for activations is the caller's.
class EngineContext {
 public:
  virtual ~EngineContext() = default;
  virtual bool captures() const = 0;  // whether the library captures the work by itself
  virtual bool can_be_captured(Handle stream) = 0;
  virtual void set_memory(Address address, size_t size) = 0;
  virtual bool set_address(const std::string& tensor, Address address) = 0;
  virtual bool set_shape(const std::string& input, const std::vector<int64_t>& shape) = 0;
  virtual std::vector<int64_t> shape(const std::string& tensor) = 0;
  virtual bool enqueue(Handle stream) = 0;
  // The kernels that were compiled so far, to be kept for the next program; none if the library keeps none.
  virtual std::optional<std::string> kernels() = 0;
};

class LoadedEngine {
 public:
  virtual ~LoadedEngine() = default;
  virtual std::vector<EngineTensor> tensors() = 0;
  virtual int64_t activation_bytes() = 0;
  // For an engine that was opened without weights. The data are the whole engine.
  virtual bool load_weights(const void* data, size_t size) = 0;
  virtual bool unload_weights() = 0;
  virtual std::unique_ptr<EngineContext> context(const ContextOptions& options) = 0;
};

// Makes engines of files. It outlives them.
class EngineRuntime {
 public:
  virtual ~EngineRuntime() = default;
  virtual bool can_defer_weights() const = 0;
  virtual std::unique_ptr<LoadedEngine> open(const void* data, size_t size, bool defer_weights) = 0;
  // Why an engine with this header cannot run on the current GPU; empty if it can, or if the library does not tell.
  virtual std::string refusal(const void* header, size_t size) = 0;

  std::vector<std::string> errors;  // what the library logged, each on one line
};

// A loaded library. It lives until the process ends.
class EngineLibrary {
 public:
  virtual ~EngineLibrary() = default;
  // Starts the library on the current GPU; null if it does not start. Throws Error if this build does not fit it.
  virtual std::unique_ptr<EngineRuntime> runtime() const = 0;

  std::string name;     // tensorrt or tensorrt-rtx
  std::string title;    // TensorRT or TensorRT-RTX
  std::string version;  // such as 10.16.1.11
  std::string full_title() const { return title + " " + version; }
};

}  // namespace vcut_core
