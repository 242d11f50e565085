// The libraries that this one was built for: TensorRT, TensorRT-RTX or both.
#pragma once

#include <memory>
#include <string>

#include "backends/engine.hpp"
#include "library.hpp"

namespace vcut_core {

// What a library's headers say, and how to start it. Both libraries are written in the same names, so one source is
// compiled for each of them.
struct NvInfer {
  const char* file;    // to load
  int version;         // of the headers, as the library counts it
  const char* words;   // such as 10.16
  std::unique_ptr<EngineRuntime> (*start)(void* create);  // create is createInferRuntime_INTERNAL; null on failure
};

const NvInfer* nvinfer();      // null if this library was built without it
const NvInfer* nvinfer_rtx();  // likewise

}  // namespace vcut_core
