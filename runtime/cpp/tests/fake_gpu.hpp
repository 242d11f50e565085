// A GPU made of host memory. Captured work is really deferred, and every copy must lie in live memory.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "backends/driver.hpp"

namespace vcut_core {

class FakeGpu final : public Driver {
 public:
  using Work = std::function<void()>;
  enum : int { success = 0, invalid = 1, full = 2, no_device = 100, not_current = 201, not_captured = 901 };

  int major = 8, minor = 6, count = 1, start = success;
  size_t total = size_t{24} << 30, weights = 0;
  std::string title = "Fake A10";
  bool can_capture = true;
  int allocations = 0, launches = 0, captures = 0;
  int outside = 0;  // calls while the GPU was not current
  int handles = 0;  // streams, events and graphs that live
  double clock = 0;  // seconds; moves with work

  size_t used() const {
    size_t sum = weights;
    for (const auto& [address, room] : rooms_) sum += room.size;
    return sum;
  }
  std::vector<size_t> sizes() const {
    std::vector<size_t> result;
    for (const auto& [address, room] : rooms_) result.push_back(room.size);
    return result;
  }
  bool holds(Address address, size_t size) const {
    auto room = rooms_.upper_bound(address);
    if (room == rooms_.begin()) return false;
    --room;
    return address + size <= room->first + room->second.size;
  }
  // Does work now, or notes it while a graph is captured.
  void work(const Work& work) {
    if (recording_) {
      recorded_.push_back(work);
    } else {
      clock += 0.001;
      work();
    }
  }

  int init() override { return start; }
  int version(int* version) override { return *version = 13000, success; }
  int device_count(int* devices) override { return *devices = count, success; }
  int open() override { return success; }
  int name(char* name, int size) override {
    std::strncpy(name, title.c_str(), static_cast<size_t>(size));
    return success;
  }
  int capability(int* high, int* low) override { return *high = major, *low = minor, success; }
  int push() override { return ++depth(), success; }
  int pop() override { return --depth(), success; }

  int memory(size_t* free, size_t* all) override {
    const size_t taken = used();
    *free = total > taken ? total - taken : 0;
    *all = total;
    return current();
  }
  int allocate(Address* address, size_t size) override {
    if (used() + size > total) return full;
    ++allocations;
    Room room{std::vector<uint8_t>(size + 256, 0xFF), size};  // NaN, where someone reads what nobody wrote
    *address = (reinterpret_cast<Address>(room.bytes.data()) + 255) / 256 * 256;
    rooms_.emplace(*address, std::move(room));
    return current();
  }
  int free(Address address) override { return rooms_.erase(address) == 1 ? current() : invalid; }
  int copy_in(Address target, const void* source, size_t size, Handle) override {
    return copied(reinterpret_cast<void*>(target), source, size, holds(target, size));
  }
  int copy_out(void* target, Address source, size_t size, Handle) override {
    return copied(target, reinterpret_cast<const void*>(source), size, holds(source, size));
  }
  int copy(Address target, Address source, size_t size, Handle) override {
    copies.push_back(size);
    return copied(reinterpret_cast<void*>(target), reinterpret_cast<const void*>(source), size,
                  holds(source, size) && holds(target, size));
  }
  std::vector<size_t> copies;  // on the GPU

  int stream_create(Handle* stream) override { return *stream = this, ++handles, current(); }
  int stream_destroy(Handle) override { return --handles, current(); }
  int stream_synchronize(Handle) override { return recording_ ? invalid : current(); }
  int event_create(Handle* event) override { return *event = new double(-1), ++handles, current(); }
  int event_record(Handle event, Handle) override { return *static_cast<double*>(event) = clock, current(); }
  int event_synchronize(Handle event) override { return *static_cast<double*>(event) < 0 ? invalid : current(); }
  int event_elapsed(float* milliseconds, Handle from, Handle to) override {
    *milliseconds = static_cast<float>((*static_cast<double*>(to) - *static_cast<double*>(from)) * 1000);
    return current();
  }
  int event_destroy(Handle event) override {
    delete static_cast<double*>(event);
    return --handles, current();
  }

  int capture_begin(Handle) override { return recording_ = true, recorded_.clear(), current(); }
  int capture_end(Handle, Handle* graph) override {
    recording_ = false;
    if (!can_capture) return not_captured;
    ++captures;
    ++handles;
    *graph = new std::vector<Work>(recorded_);
    return current();
  }
  int graph_instantiate(Handle* executable, Handle graph) override {
    *executable = new std::vector<Work>(*static_cast<std::vector<Work>*>(graph));
    return ++handles, current();
  }
  int graph_destroy(Handle graph) override {
    delete static_cast<std::vector<Work>*>(graph);
    return --handles, current();
  }
  int graph_launch(Handle executable, Handle) override {
    ++launches;
    for (const Work& item : *static_cast<std::vector<Work>*>(executable)) work(item);
    return current();
  }
  int executable_destroy(Handle executable) override { return graph_destroy(executable); }

  const char* describe(int code) override { return code == not_captured ? "capture failed" : "fake error"; }

 private:
  struct Room {
    std::vector<uint8_t> bytes;
    size_t size;
  };

  static int& depth() {
    thread_local int value = 0;
    return value;
  }
  int current() {
    if (depth() > 0) return success;
    ++outside;
    return not_current;
  }
  int copied(void* target, const void* source, size_t size, bool is_live) {
    if (!is_live) return invalid;
    // What comes from the host may change after the call.
    work([target, source, size] { std::memcpy(target, source, size); });
    return current();
  }

  std::map<Address, Room> rooms_;
  std::vector<Work> recorded_;
  bool recording_ = false;
};

}  // namespace vcut_core
