#include "options.hpp"

#include <cmath>
#include <initializer_list>
#include <limits>
#include <type_traits>

#include "error.hpp"
#include "manifest.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

constexpr uint64_t most_seed = std::numeric_limits<int64_t>::max();
constexpr int64_t most_threads = 1024;

void choice(const char* name, const std::string& value, std::initializer_list<std::string> words) {
  for (const auto& word : words) {
    if (value == word) return;
  }
  throw usage(std::string("unknown ") + name + " " + repr(value) + ": choose " + joined(words));
}

constexpr double largest = std::numeric_limits<float>::max();

template <typename Number>
std::string said(Number value) {
  if constexpr (std::is_floating_point_v<Number>) return formatted("%.15g", value);  // 7 and not 7.0
  return std::to_string(value);
}

// Checks that a number, if it is given, lies between two others and is finite in float32, in which graphs compute.
template <typename Number>
void bounds(const char* name, std::optional<Number> value, std::optional<Number> least = std::nullopt,
            std::optional<Number> most = std::nullopt) {
  if (!value) return;
  const auto refuse = [&](const std::string& words, const std::string& fix) {
    throw usage(std::string(name) + " is " + words + ": give " + fix);
  };
  if (!std::isfinite(static_cast<double>(*value))) refuse(number(static_cast<double>(*value)), "a finite number");
  if (least && *value < *least) refuse(said(*value), "at least " + said(*least));
  if (most && *value > *most) refuse(said(*value), "at most " + said(*most));
  if (std::abs(static_cast<double>(*value)) > largest) refuse(said(*value), "a number that is finite in float32");
}

}  // namespace

void RunOptions::check() const {
  choice("solver", solver, {"euler", "dpmpp-2m", "lcm"});
  choice("quality_bias", quality_bias, {"mean", "cond"});
  choice("fit", fit, {"stretch", "crop", "pad", "blur"});
  bounds<int64_t>("height", height, 1, most_sizes.height);
  bounds<int64_t>("width", width, 1, most_sizes.width);
  bounds<int64_t>("num_frames", num_frames, 1, most_sizes.frames);
  bounds<int64_t>("num_inference_steps", num_inference_steps, 1, most_steps);
  bounds<int64_t>("guide_from", guide_from, 1, most_steps);
  bounds<int64_t>("cache_interval", cache_interval, 1, most_steps);
  bounds("min_guidance_scale", min_guidance_scale);
  bounds("max_guidance_scale", max_guidance_scale);
  bounds<double>("fps", fps, 1, 1000);
  bounds<double>("output_fps", output_fps, 1, 1000);
  bounds<double>("motion_bucket_id", motion_bucket_id);
  bounds<double>("noise_aug_strength", noise_aug_strength, 0);
  bounds<uint64_t>("seed", seed, std::nullopt, most_seed);
  bounds<int64_t>("decode_chunk_size", decode_chunk_size, 1, most_sizes.frames);
  bounds<int64_t>("decode_overlap", decode_overlap, 0, most_sizes.frames);
  if (auto_size && (height || width)) throw usage("size excludes height and width: leave one of them out");
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

void BackendOptions::check() const { bounds<int64_t>("threads", threads, 1, most_threads); }

}  // namespace vcut_core
