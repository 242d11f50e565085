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
Offer offer_tensorrt(const Bundle& bundle, const std::string& library);  // throws Error

}  // namespace vcut_core
