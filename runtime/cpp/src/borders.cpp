#include "borders.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace vcut_core {
namespace {

constexpr int passes = 3;  // of a box, which come close to a Gaussian

// The radius of the box whose passes have the standard deviation of a Gaussian; in float32, as Pillow computes it.
float box_radius(float deviation) {
  const float variance = deviation * deviation / static_cast<float>(passes);
  const auto length = static_cast<float>(std::sqrt(12.0 * static_cast<double>(variance) + 1.0));
  const auto whole = static_cast<float>(std::floor((static_cast<double>(length) - 1.0) / 2.0));
  float part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance);
  part /= 6 * (variance - (whole + 1) * (whole + 1));
  return whole + part;
}

// Pillow's box blur of one line of pixels that are step bytes apart. The outermost pixels go on beyond the edges.
void blur_line(uint8_t* line, int64_t count, int64_t step, float radius, std::vector<uint8_t>& copy) {
  const auto whole = static_cast<int64_t>(radius);
  const auto weight = static_cast<uint32_t>(static_cast<float>(1 << 24) / (radius * 2 + 1));
  const uint32_t far = ((1U << 24) - static_cast<uint32_t>(whole * 2 + 1) * weight) / 2;
  copy.resize(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) copy[static_cast<size_t>(i)] = line[i * step];
  const auto at = [&](int64_t i) { return uint32_t{copy[static_cast<size_t>(std::clamp<int64_t>(i, 0, count - 1))]}; };
  uint32_t sum = 0;
  for (int64_t i = -whole - 1; i < whole; ++i) sum += at(i);
  for (int64_t i = 0; i < count; ++i) {
    sum += at(i + whole) - at(i - whole - 1);
    const uint32_t level = sum * weight + (at(i - whole - 1) + at(i + whole + 1)) * far;
    line[i * step] = static_cast<uint8_t>((level + (1U << 23)) >> 24);
  }
}

// Pillow's GaussianBlur.
void blur(Pixels& image, float deviation) {
  const float radius = box_radius(deviation);
  if (radius == 0) return;
  std::vector<uint8_t> copy;
  const int64_t row = image.width * 3;
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t c = 0; c < 3; ++c) {
      uint8_t* line = &image.data[static_cast<size_t>(y * row + c)];
      for (int i = 0; i < passes; ++i) blur_line(line, image.width, 3, radius, copy);
    }
  }
  for (int64_t x = 0; x < row; ++x) {
    for (int i = 0; i < passes; ++i) blur_line(&image.data[static_cast<size_t>(x)], image.height, row, radius, copy);
  }
}

int64_t scaled(int64_t pixels, double scale) {  // rounded to even, as Python rounds
  return std::max<int64_t>(1, static_cast<int64_t>(std::nearbyint(static_cast<double>(pixels) * scale)));
}

}  // namespace

Pixels with_borders(const Pixels& image, int64_t height, int64_t width, bool blurred) {
  const double scale = std::min(static_cast<double>(width) / static_cast<double>(image.width),
                                static_cast<double>(height) / static_cast<double>(image.height));
  const Pixels inner = fit_image(image, scaled(image.height, scale), scaled(image.width, scale), "stretch");
  Pixels whole{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
  if (blurred) {
    whole = fit_image(image, height, width, "crop");
    blur(whole, static_cast<float>(static_cast<double>(std::max(height, width)) / 40));  // no detail survives
  }
  const int64_t upper = (height - inner.height) / 2;
  const int64_t left = (width - inner.width) / 2;
  for (int64_t y = 0; y < inner.height; ++y) {
    std::memcpy(&whole.data[static_cast<size_t>(((upper + y) * width + left) * 3)],
                &inner.data[static_cast<size_t>(y * inner.width * 3)], static_cast<size_t>(inner.width * 3));
  }
  return whole;
}

}  // namespace vcut_core
