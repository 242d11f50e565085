// The options of a run. They have the names and the meaning of the Python runtime's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "schedule.hpp"

namespace vcut_core {

inline constexpr int64_t never = -1;  // a cut step: guide every step

struct RunOptions {
  std::string schedule;                // of the bundle, by name
  std::optional<Schedule> rows;        // instead of a name
  bool auto_size = false;              // the possible size that is nearest to the photograph's shape
  std::optional<int64_t> height, width, num_frames, num_inference_steps;
  Sigmas sigmas;
  std::string solver = "euler";
  int64_t guide_from = 1;
  std::optional<int64_t> cut_step;     // or never
  int64_t cache_interval = 1;
  std::string quality_bias = "mean";
  std::optional<double> min_guidance_scale, max_guidance_scale;
  std::string guidance = "linear";
  std::optional<std::vector<double>> guidance_scales;  // of each frame, instead of a curve
  double fps = 7;
  std::optional<double> output_fps;  // that the video plays at; none: fps
  double motion_bucket_id = 127, noise_aug_strength = 0.02;
  std::optional<uint64_t> seed;
  std::optional<int64_t> decode_chunk_size, decode_overlap;
  std::string fit = "stretch";

  double played_fps() const { return output_fps.value_or(fps); }
  bool has_schedule() const { return rows.has_value() || !schedule.empty(); }
  // Throws Error for a value that is impossible in every bundle.
  void check() const;
};

struct BackendOptions {
  std::optional<int64_t> threads;
  std::optional<bool> low_memory;
  bool cuda_graphs = true;
  std::string onnxruntime_library, tensorrt_library, tensorrt_rtx_library;  // files; empty: the system's

  void check() const;  // throws Error
};

}  // namespace vcut_core
