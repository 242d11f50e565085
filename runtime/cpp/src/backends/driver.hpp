// The functions of NVIDIA's driver that the TensorRT backend uses. Tests put host memory behind them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace vcut_core {

using Address = uint64_t;  // on the GPU
using Handle = void*;      // of a stream, an event or a graph

// The functions have the driver's names and meaning. Each returns its code, 0 for success. The driver keeps no error
// for a later call, so none has to be taken back after a failure.
class Driver {
 public:
  virtual ~Driver() = default;

  virtual int init() = 0;
  virtual int version(int* version) = 0;
  virtual int device_count(int* count) = 0;
  // Takes the first visible GPU; the calls below belong to it.
  virtual int open() = 0;
  virtual int name(char* name, int size) = 0;
  virtual int capability(int* major, int* minor) = 0;
  // Makes the GPU current in this thread, until what was current before is restored. Pairs may nest.
  virtual int push() = 0;
  virtual int pop() = 0;

  virtual int memory(size_t* free, size_t* total) = 0;
  virtual int allocate(Address* address, size_t size) = 0;
  virtual int free(Address address) = 0;
  virtual int copy_in(Address target, const void* source, size_t size, Handle stream) = 0;
  virtual int copy_out(void* target, Address source, size_t size, Handle stream) = 0;
  virtual int copy(Address target, Address source, size_t size, Handle stream) = 0;

  virtual int stream_create(Handle* stream) = 0;
  virtual int stream_destroy(Handle stream) = 0;
  virtual int stream_synchronize(Handle stream) = 0;
  virtual int event_create(Handle* event) = 0;
  virtual int event_record(Handle event, Handle stream) = 0;
  virtual int event_synchronize(Handle event) = 0;
  virtual int event_elapsed(float* milliseconds, Handle start, Handle end) = 0;
  virtual int event_destroy(Handle event) = 0;

  virtual int capture_begin(Handle stream) = 0;
  virtual int capture_end(Handle stream, Handle* graph) = 0;
  virtual int graph_instantiate(Handle* executable, Handle graph) = 0;
  virtual int graph_destroy(Handle graph) = 0;
  virtual int graph_launch(Handle executable, Handle stream) = 0;
  virtual int executable_destroy(Handle executable) = 0;

  virtual const char* describe(int code) = 0;
};

// The installed driver. Throws Error if there is none.
std::shared_ptr<Driver> installed_driver();

}  // namespace vcut_core
