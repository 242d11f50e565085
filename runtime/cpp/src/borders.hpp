// Borders around an image of another shape than the video's.
#pragma once

#include "resize.hpp"

namespace vcut_core {

// Returns an image as large as fits into a size, centred on black, or on a blurred copy that fills it.
Pixels with_borders(const Pixels& image, int64_t height, int64_t width, bool blurred);

}  // namespace vcut_core
