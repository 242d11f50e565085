// In the place of the library whose headers were not given.
#include "backends/nvinfer.hpp"

namespace vcut_core {

#if VCUT_NVINFER_RTX
const NvInfer* nvinfer_rtx() { return nullptr; }
#else
const NvInfer* nvinfer() { return nullptr; }
#endif

}  // namespace vcut_core
