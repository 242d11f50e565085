// The decoders of image files, and what they give.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "error.hpp"
#include "resize.hpp"

namespace vcut_core {

inline constexpr int64_t most_pixels = 256'000'000;  // a phone's 200 megapixels, 0.8 GB as RGB

// A decoded file: 8-bit RGB on white, not yet upright.
struct Decoded {
  Pixels pixels;
  std::vector<unsigned char> exif, profile;  // empty: the file has none
  bool is_cmyk = false;
};

// what names the file in messages. Each throws Error.
Decoded read_jpeg(const unsigned char* data, size_t size, const std::string& what);
Decoded read_png(const unsigned char* data, size_t size, const std::string& what);

// What is said of a file that cannot be decoded; without a reason it has too many pixels.
Error undecodable(const std::string& what, const std::string& reason);

}  // namespace vcut_core
