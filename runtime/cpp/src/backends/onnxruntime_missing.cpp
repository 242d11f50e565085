#include "backends/factories.hpp"
#include "error.hpp"

namespace vcut_core {

Offer offer_onnxruntime(const Bundle&) {
  throw usage("this library was built without ONNX Runtime: build it with -DVCUT_ONNXRUNTIME=ON");
}

}  // namespace vcut_core
