// From the structures of the C interface to the library's own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <string>

#include "error.hpp"
#include "pipeline.hpp"
#include "vcut.h"

struct vcut_cancel {
  std::atomic<bool> requested{false};
};

namespace vcut_core {

template <typename T>
void require(const T* pointer, const char* name) {
  if (pointer == nullptr) throw usage(std::string(name) + " is NULL: give one");
}

// Returns a structure of the current size. What an older caller does not have keeps its default.
template <typename T>
T completed(const T* given, void (*init)(T*, size_t), const char* name) {
  T result;
  init(&result, sizeof result);
  if (given == nullptr) return result;
  if (given->size < sizeof(size_t) || given->size > 65536) {
    throw usage(std::string(name) + " has an impossible size: fill it with its init function");
  }
  std::memcpy(&result, given, std::min(given->size, sizeof result));
  result.size = sizeof result;
  return result;
}

// Writes defaults to a structure that may be shorter or longer than this library's.
template <typename T>
void copy_defaults(T* out, const T& defaults, size_t size) {
  if (out == nullptr || size < sizeof(size_t)) return;
  std::memset(static_cast<void*>(out), 0, size);
  std::memcpy(static_cast<void*>(out), &defaults, std::min(size, sizeof defaults));
  std::memcpy(static_cast<void*>(out), &size, sizeof size);
}

std::string text_or(const char* text, const char* otherwise);
vcut_step view_of(const Step& step);
RunOptions run_options(const vcut_run_options& given);  // throws Error
BackendOptions backend_options(const vcut_load_options& given);  // throws Error
Request request_of(const vcut_run_options& given);
Photo open_photo(const vcut_image& image);  // throws Error

}  // namespace vcut_core
