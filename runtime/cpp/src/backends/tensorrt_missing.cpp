#include "backends/factories.hpp"
#include "error.hpp"

namespace vcut_core {

Offer offer_tensorrt(const Bundle&, const std::string& library) {
  const bool is_rtx = library == "tensorrt-rtx";
  throw usage(std::string("this library was built without ") + (is_rtx ? "TensorRT-RTX" : "TensorRT") +
              ": build it with " + (is_rtx ? "-DVCUT_TENSORRT_RTX=ON" : "-DVCUT_TENSORRT=ON"));
}

}  // namespace vcut_core
