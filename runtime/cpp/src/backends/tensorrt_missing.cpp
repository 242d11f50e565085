#include "backends/factories.hpp"
#include "error.hpp"

namespace vcut_core {

Offer offer_tensorrt(const Bundle&, const std::string& library, const BackendOptions&) {
  const bool is_rtx = library == "tensorrt-rtx";
  throw usage(std::string("this library was built without ") + (is_rtx ? "TensorRT-RTX" : "TensorRT") +
              ": build it with -DVCUT_TENSORRT=ON and -D" + (is_rtx ? "TENSORRT_RTX_ROOT" : "TENSORRT_ROOT") +
              "=FOLDER");
}

}  // namespace vcut_core
