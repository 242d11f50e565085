// What each backend offers for a bundle. One that was not built says so.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "backend.hpp"

namespace vcut_core {

// A reason to take a backend, and a function that opens it.
struct Offer {
  std::string reason;
  std::function<std::unique_ptr<Backend>(const BackendOptions&)> open;
};

Offer offer_onnxruntime(const Bundle& bundle);                          // throws Error
// The library is loaded to ask it, so the options that name its file belong to the question.
Offer offer_tensorrt(const Bundle& bundle, const std::string& library, const BackendOptions& options);  // throws Error

}  // namespace vcut_core
