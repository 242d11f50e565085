#include "options.hpp"

#include <cmath>
#include <initializer_list>

#include "error.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

void choice(const char* name, const std::string& value, std::initializer_list<std::string> words) {
  for (const auto& word : words) {
    if (value == word) return;
  }
  throw usage(std::string("unknown ") + name + " " + repr(value) + ": choose " + joined(words));
}

void least(const char* name, std::optional<int64_t> value, int64_t smallest) {
  if (value && *value < smallest) {
    throw usage(std::string(name) + " is " + std::to_string(*value) + ": give at least " + std::to_string(smallest));
  }
}

void finite(const char* name, std::optional<double> value) {
  if (value && !std::isfinite(*value)) {
    throw usage(std::string(name) + " is " + number(*value) + ": give a finite number");
  }
}

}  // namespace

void RunOptions::check() const {
  choice("solver", solver, {"euler", "dpmpp-2m", "lcm"});
  choice("quality_bias", quality_bias, {"mean", "cond"});
  choice("fit", fit, {"stretch", "crop"});
  least("num_inference_steps", num_inference_steps, 1);
  least("guide_from", guide_from, 1);
  least("cache_interval", cache_interval, 1);
  finite("min_guidance_scale", min_guidance_scale);
  finite("max_guidance_scale", max_guidance_scale);
  least("fps", fps, 1);
  finite("motion_bucket_id", motion_bucket_id);
  finite("noise_aug_strength", noise_aug_strength);
  if (noise_aug_strength < 0) {
    throw usage("noise_aug_strength is " + number(noise_aug_strength) + ": give at least 0");
  }
  least("decode_chunk", decode_chunk, 1);
  least("decode_overlap", decode_overlap, 0);
  if (fps > 1000) throw usage("fps is " + std::to_string(fps) + ": give at most 1000");
  if (num_inference_steps.value_or(0) > most_steps) {
    throw usage("num_inference_steps is " + std::to_string(*num_inference_steps) + ": give at most " +
                std::to_string(most_steps));
  }
  check_sigmas(sigmas);
  if (!guidance_scales) {
    if (guidance != "linear" && guidance != "triangle") {
      throw usage("unknown guidance " + repr(guidance) + ": choose linear, triangle, or give a number for each frame");
    }
    return;
  }
  for (const double scale : *guidance_scales) {
    if (!std::isfinite(scale) || std::abs(scale) >= 3.4028235677973366e38) {
      throw usage("guidance has a number that is not finite in float32, or none: give a number for each frame");
    }
  }
  if (min_guidance_scale || max_guidance_scale) {
    throw usage("a guidance of each frame excludes min_guidance_scale and max_guidance_scale: leave them out");
  }
}

}  // namespace vcut_core
