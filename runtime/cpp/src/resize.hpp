// Resizing: Pillow's Lanczos filter on 8-bit RGB, and the matrices of the image encoder's own resize.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vcut_core {

// 8-bit RGB, row by row.
struct Pixels {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> data;
};

// Fits an image to a size. "stretch" resizes it whatever its aspect ratio; "crop" keeps the aspect ratio and cuts what
// hangs over, centred; "pad" adds black borders, "blur" borders of the blurred image. Bit by bit what Pillow gives.
Pixels fit_image(const Pixels& image, int64_t height, int64_t width, const std::string& fit);

// Returns float32 [3, height, width] in [0, 1].
std::vector<float> to_tensor(const Pixels& image);

// One axis of diffusers' antialiased resize, from pixels to size, as a matrix [size, pixels]; see runtime/README.md.
std::vector<float> resize_matrix(int64_t pixels, int64_t size);

std::vector<float> transposed(const std::vector<float>& matrix, int64_t rows, int64_t columns);

}  // namespace vcut_core
