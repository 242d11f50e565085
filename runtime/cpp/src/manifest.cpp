#include "manifest.hpp"

#include <algorithm>

namespace vcut_core {

bool TensorSpec::has_free() const {
  for (const auto& dimension : shape) {
    if (dimension.free()) return true;
  }
  return false;
}

std::string SizeRange::words() const {
  const std::string steps = multiple == 1 ? "" : " in steps of " + std::to_string(multiple);
  return std::to_string(min) + ".." + std::to_string(max) + steps;
}

namespace {

Sizes extreme(const Manifest& manifest, int64_t SizeRange::* side) {
  Sizes result = manifest.sizes();
  if (const auto* range = manifest.dynamic.find("frames")) result.frames = range->*side;
  if (const auto* range = manifest.dynamic.find("height")) result.height = range->*side;
  if (const auto* range = manifest.dynamic.find("width")) result.width = range->*side;
  return result;
}

}  // namespace

Sizes Manifest::smallest() const { return extreme(*this, &SizeRange::min); }

Sizes Manifest::largest() const { return extreme(*this, &SizeRange::max); }

int64_t Manifest::bias_channels() const {
  int64_t sum = 0;
  constexpr int64_t most = int64_t{1} << 61;  // a sum beyond it is too large whatever it is
  for (const auto& slice : sca_bias) sum = std::clamp(sum + std::clamp(slice.channels, -most, most), -most, most);
  return sum;
}

std::optional<int64_t> Manifest::decode_frames() const {
  if (decode_chunk < largest().frames) return decode_chunk;
  return std::nullopt;
}

Symbols Manifest::values(const Sizes& sizes, int64_t chunk) const {
  return {{"F", sizes.frames},
          {"H", sizes.height},
          {"W", sizes.width},
          {"h", sizes.height / vae_scale_factor},
          {"w", sizes.width / vae_scale_factor},
          {"n", chunk},
          {"C", latent_channels},
          {"D", deep_features},
          {"S", encoder_size},
          {"N", bias_channels()}};
}

Symbols Manifest::bound() const {
  Symbols result = values(sizes(), decode_chunk);
  if (dynamic.has("frames")) result.erase("F");
  if (dynamic.has("height")) {
    result.erase("H");
    result.erase("h");
  }
  if (dynamic.has("width")) {
    result.erase("W");
    result.erase("w");
  }
  if (!decode_frames()) result.erase("n");
  return result;
}

std::vector<const File*> Manifest::graph_files() const {
  std::vector<const File*> files;
  for (const auto& [name, graph] : graphs) {
    files.push_back(&graph);
    if (graph.contrib) files.push_back(&*graph.contrib);
  }
  return files;
}

std::vector<const File*> Manifest::onnx_files() const {
  std::vector<const File*> files = graph_files();
  for (const auto& [name, file] : weights) files.push_back(&file);
  return files;
}

std::vector<const File*> Manifest::engine_files() const {
  std::vector<const File*> files;
  for (const auto& [target, set] : engines) {
    for (const auto& [name, engine] : set.engines) files.push_back(&engine);
  }
  return files;
}

}  // namespace vcut_core
