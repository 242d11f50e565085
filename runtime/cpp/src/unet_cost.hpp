// What a denoising step of a folded UNet costs in parameters, from its configuration alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vcut_core {

// diffusers' UNetSpatioTemporalConditionModel, with its defaults. A list of one number holds for all levels.
struct UnetConfig {
  std::vector<int64_t> channels{320, 640, 1280, 1280};
  std::vector<int64_t> layers{2}, transformers{1}, heads{5};
  std::vector<bool> down{true, true, true, false}, up{false, true, true, true};  // levels with attention
  int64_t embedding = 768, in_channels = 8, out_channels = 4;
};

// Returns the number of a folded UNet's weights; biases and normalisations are left out.
double unet_parameters(const UnetConfig& config);

}  // namespace vcut_core
