#include "resize.hpp"

#include <algorithm>
#include <cmath>

#include "borders.hpp"

namespace vcut_core {
namespace {

constexpr double pi = 3.14159265358979323846;
constexpr int precision_bits = 32 - 8 - 2;  // of Pillow's fixed-point weights
constexpr double lanczos_support = 3.0;

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= pi;
  return std::sin(x) / x;
}

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

// The pixels that one output pixel takes, and their weights.
struct Taps {
  int64_t first = 0;
  std::vector<int32_t> weights;
};

// Pillow's precompute_coeffs and normalize_coeffs_8bpc, for pixels from..to of one axis. The box is float32 there.
std::vector<Taps> make_taps(int64_t pixels, float from, float to, int64_t size) {
  const double scale = static_cast<double>(to - from) / static_cast<double>(size);
  const double filter_scale = std::max(scale, 1.0);
  const double support = lanczos_support * filter_scale;
  std::vector<Taps> result(static_cast<size_t>(size));
  std::vector<double> weights;
  for (int64_t i = 0; i < size; ++i) {
    const double center = static_cast<double>(from) + (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(center - support + 0.5));
    const auto last = std::min(pixels, static_cast<int64_t>(center + support + 0.5));
    double sum = 0;
    weights.clear();
    for (int64_t x = first; x < last; ++x) {
      weights.push_back(lanczos((static_cast<double>(x) - center + 0.5) * (1.0 / filter_scale)));
      sum += weights.back();
    }
    Taps& taps = result[static_cast<size_t>(i)];
    taps.first = first;
    for (double weight : weights) {
      if (sum != 0.0) weight /= sum;
      const double fixed = weight * (1 << precision_bits);
      taps.weights.push_back(static_cast<int32_t>(fixed < 0 ? fixed - 0.5 : fixed + 0.5));
    }
  }
  return result;
}

uint8_t clip(int32_t sum) {
  const int32_t level = sum >> precision_bits;
  return static_cast<uint8_t>(std::clamp(level, 0, 255));
}

Pixels resize_columns(const Pixels& image, const std::vector<Taps>& taps) {
  Pixels result{image.height, static_cast<int64_t>(taps.size()), {}};
  result.data.resize(static_cast<size_t>(result.height * result.width * 3));
  uint8_t* out = result.data.data();
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* row = image.data.data() + y * image.width * 3;
    for (const Taps& tap : taps) {
      int32_t sums[3] = {1 << (precision_bits - 1), 1 << (precision_bits - 1), 1 << (precision_bits - 1)};
      const uint8_t* pixel = row + tap.first * 3;
      for (const int32_t weight : tap.weights) {
        for (int c = 0; c < 3; ++c) sums[c] += *pixel++ * weight;
      }
      for (const int32_t sum : sums) *out++ = clip(sum);
    }
  }
  return result;
}

Pixels resize_rows(const Pixels& image, const std::vector<Taps>& taps) {
  Pixels result{static_cast<int64_t>(taps.size()), image.width, {}};
  const auto stride = static_cast<size_t>(image.width * 3);
  result.data.resize(taps.size() * stride);
  std::vector<int32_t> sums(stride);
  uint8_t* out = result.data.data();
  for (const Taps& tap : taps) {
    std::fill(sums.begin(), sums.end(), 1 << (precision_bits - 1));
    const uint8_t* pixel = image.data.data() + static_cast<size_t>(tap.first) * stride;
    for (const int32_t weight : tap.weights) {
      for (int32_t& sum : sums) sum += *pixel++ * weight;
    }
    for (const int32_t sum : sums) *out++ = clip(sum);
  }
  return result;
}

// A part of an image, in pixels from its left and upper edge.
struct Box {
  float left = 0, upper = 0, right = 0, lower = 0;
};

// Pillow's Image.resize with Lanczos.
Pixels resize(const Pixels& image, int64_t height, int64_t width, const Box& box) {
  const auto whole = [](float from, float to, int64_t pixels, int64_t size) {
    return size == pixels && from == 0 && to == static_cast<float>(size);
  };
  const bool same_width = whole(box.left, box.right, image.width, width);
  const bool same_height = whole(box.upper, box.lower, image.height, height);
  const auto in_width = [&](const Pixels& part) {
    return same_width ? part : resize_columns(part, make_taps(image.width, box.left, box.right, width));
  };
  const auto in_height = [&](const Pixels& part) {
    return same_height ? part : resize_rows(part, make_taps(image.height, box.upper, box.lower, height));
  };
  // From 13 on Pillow begins with the height if that takes away far more. Each pass rounds, so the order matters.
  const bool height_first = height < image.height && image.height - height > 2 * (image.width - width);
  return height_first ? in_width(in_height(image)) : in_height(in_width(image));
}

// Pillow's ImageOps.fit.
Box centred(const Pixels& image, int64_t height, int64_t width) {
  const auto own_width = static_cast<double>(image.width);
  const auto own_height = static_cast<double>(image.height);
  const double own_ratio = own_width / own_height;
  const double ratio = static_cast<double>(width) / static_cast<double>(height);
  double crop_width = own_width;
  double crop_height = own_height;
  if (own_ratio > ratio) crop_width = ratio * own_height;
  if (own_ratio < ratio) crop_height = own_width / ratio;
  const double left = (own_width - crop_width) * 0.5;
  const double upper = (own_height - crop_height) * 0.5;
  return {static_cast<float>(left), static_cast<float>(upper), static_cast<float>(left + crop_width),
          static_cast<float>(upper + crop_height)};
}

}  // namespace

Pixels fit_image(const Pixels& image, int64_t height, int64_t width, const std::string& fit) {
  if (fit == "pad" || fit == "blur") return with_borders(image, height, width, fit == "blur");
  const Box whole{0, 0, static_cast<float>(image.width), static_cast<float>(image.height)};
  return resize(image, height, width, fit == "crop" ? centred(image, height, width) : whole);
}

std::vector<float> to_tensor(const Pixels& image) {
  const auto plane = static_cast<size_t>(image.height * image.width);
  std::vector<float> result(3 * plane);
  for (size_t i = 0; i < plane; ++i) {
    for (size_t c = 0; c < 3; ++c) result[c * plane + i] = static_cast<float>(image.data[3 * i + c]) / 255.0F;
  }
  return result;
}

std::vector<float> resize_matrix(int64_t pixels, int64_t size) {
  const double sigma = std::max((static_cast<double>(pixels) / static_cast<double>(size) - 1.0) / 2.0, 0.001);
  const int64_t taps = static_cast<int64_t>(std::max(4.0 * sigma, 3.0)) | 1;
  std::vector<double> kernel;
  double sum = 0;
  for (int64_t i = 0; i < taps; ++i) {
    const auto offset = static_cast<double>(i - taps / 2);
    kernel.push_back(std::exp(-(offset * offset) / (2.0 * sigma * sigma)));
    sum += kernel.back();
  }
  const auto columns = static_cast<size_t>(pixels);
  std::vector<float> result(static_cast<size_t>(size) * columns);
  std::vector<double> row(columns);
  const float step = size > 1 ? static_cast<float>(static_cast<double>(pixels - 1) / static_cast<double>(size - 1)) : 0;
  for (int64_t j = 0; j < size; ++j) {
    std::fill(row.begin(), row.end(), 0.0);
    const float position = static_cast<float>(j) * step;  // in float32, as torch computes it
    for (int64_t k = -1; k < 3; ++k) {
      const int64_t place = static_cast<int64_t>(std::floor(position)) + k;
      const double x = std::abs(static_cast<double>(position) - static_cast<double>(place));
      const double bicubic = x <= 1.0 ? (1.25 * x - 2.25) * x * x + 1.0 : ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0;
      const int64_t pixel = std::clamp<int64_t>(place, 0, pixels - 1);
      for (int64_t i = 0; i < taps; ++i) {
        int64_t reflected = std::abs(pixel + i - taps / 2);
        reflected = pixels - 1 - std::abs(pixels - 1 - reflected);
        if (reflected < 0) reflected += pixels;  // as an index of numpy counts from the end
        row[static_cast<size_t>(reflected) % columns] += bicubic * kernel[static_cast<size_t>(i)] / sum;
      }
    }
    for (size_t p = 0; p < columns; ++p) result[static_cast<size_t>(j) * columns + p] = static_cast<float>(row[p]);
  }
  return result;
}

std::vector<float> transposed(const std::vector<float>& matrix, int64_t rows, int64_t columns) {
  std::vector<float> result(matrix.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      result[static_cast<size_t>(j * rows + i)] = matrix[static_cast<size_t>(i * columns + j)];
    }
  }
  return result;
}

}  // namespace vcut_core
