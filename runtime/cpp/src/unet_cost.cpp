#include "unet_cost.hpp"

namespace vcut_core {
namespace {

using std::size_t;

double per_level(const std::vector<int64_t>& values, size_t level) {
  if (values.empty()) return 0;
  return static_cast<double>(values[level < values.size() ? level : values.size() - 1]);
}

// A residual block in space and time, and the transformer behind it.
double unit(double entering, double width, double transformers, double time) {
  const double shortcut = entering != width ? entering * width : 0;
  double weights = 9 * (entering + width) * width + shortcut + 6 * width * width + 2 * time * width;
  if (transformers > 0) weights += 2 * width * width + transformers * (2 * 4 + 3 * 12) * width * width;
  return weights;
}

}  // namespace

double unet_parameters(const UnetConfig& config) {
  const auto levels = config.channels.size();
  if (levels == 0) return 0;
  const auto width = [&](size_t level) { return static_cast<double>(config.channels[level]); };
  const auto attention = [&](const std::vector<bool>& kinds, size_t place, size_t level) {
    return place < kinds.size() && kinds[place] ? per_level(config.transformers, level) : 0.0;
  };
  const double time = 4 * width(0);
  double total = (width(0) + static_cast<double>(config.embedding) + 2 * time) * time +
                 9 * static_cast<double>(config.in_channels) * width(0);
  std::vector<double> skips{width(0)};
  double current = width(0);
  for (size_t level = 0; level < levels; ++level) {
    for (int i = 0; i < per_level(config.layers, level) && i < 1000; ++i) {
      total += unit(current, width(level), attention(config.down, level, level), time);
      skips.push_back(width(level));
      current = width(level);
    }
    if (level + 1 < levels) {
      total += 9 * current * current;
      skips.push_back(current);
    }
  }
  total += unit(current, current, per_level(config.transformers, levels - 1), time) + unit(current, current, 0, time);
  for (size_t place = 0; place < levels; ++place) {
    const size_t level = levels - 1 - place;
    for (int i = 0; i < per_level(config.layers, level) + 1 && !skips.empty(); ++i) {
      total += unit(current + skips.back(), width(level), attention(config.up, place, level), time);
      skips.pop_back();
      current = width(level);
    }
    if (level > 0) total += 9 * current * current;
  }
  return total + 9 * current * static_cast<double>(config.out_channels);
}

}  // namespace vcut_core
