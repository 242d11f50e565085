// What a backend is: it runs a bundle's graphs and keeps values where it computes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "options.hpp"

namespace vcut_core {

using Log = std::function<void(const std::string&)>;

// A tensor where the backend keeps it.
struct DeviceValue {
  virtual ~DeviceValue() = default;
  std::vector<int64_t> shape;
  std::string dtype;
};
using Value = std::shared_ptr<DeviceValue>;
using Values = std::map<std::string, Value>;

// A point in the work asked for so far: a time of the host, or an event of the device.
struct Mark {
  double seconds = 0;
  std::shared_ptr<void> event;
};

// Loads and runs the graphs of one bundle. One thread at a time uses it.
class Backend {
 public:
  virtual ~Backend() = default;

  const std::string& name() const { return name_; }
  // What a user should know about how the backend runs.
  const std::vector<std::string>& notes() const { return notes_; }
  void note_first(const std::string& note) { notes_.insert(notes_.begin(), note); }

  // Loads a graph now rather than at its first run.
  virtual void load(const std::string& graph) = 0;
  // Copies float32 numbers to where the graphs run.
  virtual Value upload(const std::vector<int64_t>& shape, const float* data) = 0;
  // Copies a value back, which has exactly this type and so many bytes.
  virtual void download(const Value& value, const std::string& dtype, void* out, size_t bytes) = 0;
  // Runs a graph and may return before it is done. The outputs are valid until the graph runs again.
  virtual Values run(const std::string& graph, const Values& inputs) = 0;
  virtual Mark mark();
  // Waits until the work before the mark is done.
  virtual void wait(const Mark&) {}
  virtual double seconds(const Mark& start, const Mark& end) { return end.seconds - start.seconds; }
  // The peak of device memory in bytes; none without a device.
  virtual std::optional<int64_t> peak_memory() { return std::nullopt; }
  // Throws Error if these graphs cannot make a video of these sizes here.
  virtual void check_run(const Sizes& sizes, const std::set<std::string>& graphs) = 0;
  // How many frames can be decoded at a time, none for any number.
  virtual std::optional<int64_t> max_decode_chunk() { return std::nullopt; }

 protected:
  explicit Backend(std::string name) : name_(std::move(name)) {}
  void note(const std::string& text) { notes_.push_back(text); }

 private:
  std::string name_;
  std::vector<std::string> notes_;
};

// Opens the named backend, or with "auto" the first that can run the bundle here. Throws Error.
std::unique_ptr<Backend> open_backend(const Bundle& bundle, const std::string& name, const BackendOptions& options);

// The bytes of a tensor. Throws Error if they are more than fit in memory.
size_t size_of(const std::vector<int64_t>& shape, const std::string& dtype);

// The numbers of a tensor. Throws Error as size_of does.
size_t count_of(const std::vector<int64_t>& shape);

}  // namespace vcut_core
