// Reads photographs: JPEG and PNG.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "resize.hpp"

namespace vcut_core {

// Decodes a JPEG or PNG to 8-bit RGB on white, upright as its EXIF data says. what names it in messages. Adds notes
// about what had to be assumed, each on one line. Throws Error.
Pixels decode_image(const void* data, size_t size, const std::string& what, std::vector<std::string>& notes);
Pixels read_image(const std::string& path, std::vector<std::string>& notes);

// Rounds floats in [0, 1] to 8 bits, row by row as they come. Throws Error for other values.
std::vector<uint8_t> to_levels(const float* values, size_t count);

}  // namespace vcut_core
