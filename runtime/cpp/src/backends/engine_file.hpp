// An engine's file, mapped into memory.
#pragma once

#include <cstddef>

#include "bundle.hpp"

namespace vcut_core {

// Maps an engine and checks the very bytes that are going to be loaded. Throws Error.
class EngineFile {
 public:
  EngineFile(const Bundle& bundle, const Engine& entry);
  ~EngineFile();
  EngineFile(const EngineFile&) = delete;
  EngineFile& operator=(const EngineFile&) = delete;

  const void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace vcut_core
