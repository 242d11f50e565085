#include "plan.hpp"

#include <algorithm>
#include <cmath>

#include "checks.hpp"
#include "error.hpp"
#include "resize.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

// The first option that says steps and is not the default.
const char* changed(const RunOptions& options, bool all) {
  if (all && options.num_inference_steps) return "num_inference_steps";
  if (all && (!options.sigmas.grid.empty() || !options.sigmas.levels.empty())) return "sigmas";
  if (all && options.solver != "euler") return "solver";
  if (!all && options.cut_step) return "cut_step";
  if (options.guide_from != 1) return "guide_from";
  if (options.cut_step) return "cut_step";
  if (all && options.cache_interval != 1) return "cache_interval";
  if (options.quality_bias != "mean") return "quality_bias";
  return nullptr;
}

int64_t choose_size(const Manifest& manifest, const char* name, const char* option, int64_t own,
                    std::optional<int64_t> value) {
  const SizeRange* range = manifest.dynamic.find(name);
  const bool possible = !value || (range != nullptr ? range->has(*value) : *value == own);
  if (possible) return value.value_or(own);
  const std::string can = range != nullptr ? range->words()
                                           : std::to_string(own) + " only: export it with --dynamic " + name +
                                                 "=MIN:MAX";
  throw usage(std::string(option) + " is " + std::to_string(*value) + ", this bundle makes " + can);
}

// Returns the possible height and width whose shape and area are nearest to the photograph's shape and the bundle's
// area. The shape counts most: a stretch by 1 % costs as much as a change of the area by 4 %.
Sizes size_of_shape(const Manifest& manifest, int64_t frames, double aspect) {
  const auto range = [&](const char* name, int64_t own) {
    const SizeRange* given = manifest.dynamic.find(name);
    return given != nullptr ? *given : SizeRange{own, own, 1};
  };
  const SizeRange heights = range("height", manifest.height);
  const SizeRange widths = range("width", manifest.width);
  const auto own_area = static_cast<double>(manifest.height * manifest.width);
  const auto cost = [&](int64_t height, int64_t width) {
    const double area = static_cast<double>(height * width) / own_area;
    return std::abs(std::log(static_cast<double>(width) / static_cast<double>(height) / aspect)) +
           0.25 * std::abs(std::log(area));
  };
  Sizes best{frames, 0, 0};
  double least = 0;
  // For one height the cost falls with the width up to the photograph's shape, and rises from there on.
  for (int64_t height = heights.min; height <= heights.max; height += heights.multiple) {
    const double wanted = std::floor(static_cast<double>(height) * aspect / static_cast<double>(widths.multiple));
    const double low = std::clamp(wanted * static_cast<double>(widths.multiple), static_cast<double>(widths.min),
                                  static_cast<double>(widths.max));
    const auto below = static_cast<int64_t>(low);
    for (const int64_t width : {below, std::min(below + widths.multiple, widths.max)}) {
      if (best.height != 0 && cost(height, width) >= least) continue;
      best = {frames, height, width};
      least = cost(height, width);
    }
  }
  return best;
}

std::vector<float> guidance_scale(const Manifest& manifest, const RunOptions& options, int64_t frames) {
  if (options.guidance_scales) {
    if (static_cast<int64_t>(options.guidance_scales->size()) != frames) {
      throw usage("guidance has " + std::to_string(options.guidance_scales->size()) + " numbers, the video " +
                  std::to_string(frames) + " frames: give one for each");
    }
    std::vector<float> scales;
    for (const double scale : *options.guidance_scales) scales.push_back(static_cast<float>(scale));
    return scales;
  }
  const double low = options.min_guidance_scale.value_or(manifest.guidance_min);
  const double high = options.max_guidance_scale.value_or(manifest.guidance_max);
  const auto parts = static_cast<double>(frames - 1);
  std::vector<float> scales;
  for (int64_t i = 0; i < frames; ++i) {
    const auto at = static_cast<double>(i);
    double scale = 0;
    if (options.guidance == "linear") {  // as numpy's linspace computes it
      scale = frames > 1 && i == frames - 1 ? high : low + (frames > 1 ? at * ((high - low) / parts) : 0.0);
    } else {
      const double x = frames > 1 ? at * (1.0 / parts) : 0.0;
      scale = low + (high - low) * 2 * std::abs(x - std::floor(x + 0.5));
    }
    scales.push_back(static_cast<float>(scale));
  }
  return scales;
}

void check_lcm(const RunOptions& options, bool guided) {
  if (guided && (options.max_guidance_scale || options.guidance_scales)) {
    throw usage("the solver lcm has no guidance: leave the guidance scales out, or give at most 1");
  }
  if (const char* name = changed(options, false)) {
    throw usage(std::string("the solver lcm has no guidance, so no ") + name + ": leave it out");
  }
}

Schedule given_schedule(const Manifest& manifest, const RunOptions& options) {
  if (const char* name = changed(options, true)) {
    throw usage(std::string("schedule and ") + name +
                " exclude each other, a schedule says all steps: leave one out");
  }
  if (!options.rows) {
    const Schedule* schedule = manifest.schedules.find(options.schedule);
    if (schedule == nullptr) {
      throw usage("unknown schedule " + repr(options.schedule) + ": choose " + joined(manifest.schedules.names()));
    }
    return *schedule;
  }
  try {
    check_schedule(*options.rows, manifest);
  } catch (const Wrong& error) {
    throw usage(std::string("this bundle cannot play the schedule: ") + error.what());
  }
  return *options.rows;
}

Schedule choose_schedule(const Manifest& manifest, const RunOptions& options, bool guided) {
  if (options.has_schedule()) return given_schedule(manifest, options);
  if (options.cache_interval > 1 && manifest.deep_features == 0) {
    throw usage("cache_interval is " + std::to_string(options.cache_interval) +
                ", this bundle has no shallow steps: export it with --deep-cache");
  }
  const Levels sigmas =
      choose_sigmas(manifest.scheduler, options.sigmas, options.solver, options.num_inference_steps,
                    static_cast<int64_t>(manifest.schedule().size()));
  const auto levels = static_cast<int64_t>(sigmas.size());
  RowOptions rows;
  rows.solver = options.solver;
  rows.cache_interval = options.cache_interval;
  if (options.solver == "lcm") {
    check_lcm(options, guided);
    rows.cut_step = levels;
    rows.guided = false;
    return make_schedule(sigmas, rows);
  }
  if (!options.cut_step) {
    rows.cut_step = default_cut_step(manifest.schedule(), sigmas);
  } else {
    rows.cut_step = *options.cut_step == never ? levels : check_cut_step(*options.cut_step, levels - 1);
  }
  if (options.guide_from > 1 && options.guide_from >= rows.cut_step) {
    throw usage("guide_from is " + std::to_string(options.guide_from) + ", and guidance ends before step " +
                std::to_string(rows.cut_step) + ": give 1.." + std::to_string(rows.cut_step - 1) +
                ", or a later cut_step");
  }
  rows.guide_from = options.guide_from;
  rows.guided = guided;
  rows.quality_bias = options.quality_bias;
  return make_schedule(sigmas, rows);
}

std::vector<Chunk> choose_chunks(const Manifest& manifest, const RunOptions& options, const Sizes& sizes,
                                 std::optional<int64_t> most) {
  const int64_t usual = most ? std::min(manifest.decode_chunk, *most) : manifest.decode_chunk;
  const int64_t chunk = options.decode_chunk_size.value_or(usual);
  const auto fixed = manifest.decode_frames();
  const std::string words = std::to_string(chunk);
  if (fixed && chunk != *fixed) {
    throw usage("decode_chunk_size is " + words + ", this bundle decodes " + std::to_string(*fixed) +
                " frames at a time: export it with --decode-chunk " + words);
  }
  if (most && chunk > *most) {
    throw usage("decode_chunk_size is " + words + ", the decode engine takes up to " + std::to_string(*most) +
                " frames: give at most " + std::to_string(*most) + ", or run 'vcut build --decode-chunk " + words +
                "'");
  }
  const int64_t overlap = options.decode_overlap.value_or(std::min(manifest.decode_overlap, (chunk - 1) / 2));
  return decode_chunks(sizes.frames, chunk, overlap, fixed.has_value());
}

}  // namespace

std::vector<Chunk> decode_chunks(int64_t frames, int64_t size, int64_t overlap, bool full) {
  if (size >= frames) return {{0, frames, 0, frames}};
  if (size / 2 < overlap || size <= 2 * overlap) {
    throw usage("chunks of " + std::to_string(size) + " frames are too small for " + std::to_string(overlap) +
                " frames of overlap on both sides: decode at least " + std::to_string(2 * overlap + 1) +
                " at a time, or lower the overlap");
  }
  std::vector<Chunk> chunks;
  int64_t done = 0;
  while (done < frames) {
    int64_t start = std::max<int64_t>(0, done - overlap);
    if (full) start = std::min(start, frames - size);  // the last chunk has all the context that it can have
    const int64_t stop = std::min(frames, start + size);
    const int64_t keep_to = stop == frames ? frames : stop - overlap;
    chunks.push_back({start, stop, done, keep_to});
    done = keep_to;
  }
  return chunks;
}

Plan plan_run(const Manifest& manifest, const RunOptions& options, std::optional<int64_t> most_decoded,
              Aspect aspect) {
  options.check();
  Plan plan;
  plan.sizes.frames = choose_size(manifest, "frames", "num_frames", manifest.frames, options.num_frames);
  plan.sizes.height = choose_size(manifest, "height", "height", manifest.height, options.height);
  plan.sizes.width = choose_size(manifest, "width", "width", manifest.width, options.width);
  if (options.auto_size && aspect) plan.sizes = size_of_shape(manifest, plan.sizes.frames, *aspect);
  const auto scales = guidance_scale(manifest, options, plan.sizes.frames);
  const bool guided = *std::max_element(scales.begin(), scales.end()) > 1;
  const auto strength = static_cast<float>(options.noise_aug_strength);
  plan.constants["noise_aug_strength"] = {{1}, {strength}};
  plan.constants["added_time_ids"] = {
      {1, 3}, {static_cast<float>(options.fps - 1), static_cast<float>(options.motion_bucket_id), strength}};
  plan.constants["guidance_scale"] = {{plan.sizes.frames}, scales};
  if (manifest.has_free_size()) {
    const int64_t seen = manifest.encoder_size;
    plan.constants["resize_rows"] = {{seen, plan.sizes.height}, resize_matrix(plan.sizes.height, seen)};
    plan.constants["resize_columns"] = {{plan.sizes.width, seen},
                                        transposed(resize_matrix(plan.sizes.width, seen), seen, plan.sizes.width)};
  }
  plan.schedule = choose_schedule(manifest, options, guided);
  plan.chunks = choose_chunks(manifest, options, plan.sizes, most_decoded);
  return plan;
}

}  // namespace vcut_core
