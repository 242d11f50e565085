#include "c_convert.hpp"

#include <cmath>
#include <memory>

#include "finite.hpp"
#include "image_file.hpp"
#include "resize.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

std::optional<int64_t> unless(int32_t value, int32_t standard) {
  if (value == standard) return std::nullopt;
  return value;
}

std::optional<double> unless_nan(double value) {
  if (std::isnan(value)) return std::nullopt;
  return value;
}

Step step_of(const vcut_step& given) {
  Step step;
  step.sigma = given.sigma;
  step.graph = text_or(given.graph, "");
  step.bias = text_or(given.bias, "");
  std::copy(std::begin(given.coefficients), std::end(given.coefficients), step.coefficients.begin());
  step.noise = given.noise;
  if (step.bias != "both" && step.bias != "mean" && step.bias != "cond") {
    throw usage("unknown bias " + repr(step.bias) + ": choose both, mean, cond");
  }
  return step;
}

Pixels pixels_of(const vcut_image& image, std::vector<std::string>& notes) {
  if (image.kind == VCUT_IMAGE_FILE) {
    require(image.path, "the image's path");
    return read_image(image.path, notes);
  }
  require(image.data, "the image's data");
  if (image.kind == VCUT_IMAGE_ENCODED) return decode_image(image.data, image.data_bytes, "the image's data", notes);
  const size_t count = size_of({image.height, image.width, 3}, "uint8");
  Pixels pixels{image.height, image.width, {}};
  if (image.kind == VCUT_IMAGE_RGB8) {
    const auto* data = static_cast<const uint8_t*>(image.data);
    pixels.data.assign(data, data + count);
  } else {
    pixels.data = to_levels(static_cast<const float*>(image.data), count);
  }
  return pixels;
}

// A tensor is of the video's size already.
std::vector<float> tensor_of(const vcut_image& image, int64_t height, int64_t width) {
  require(image.data, "the image's data");
  if (image.height != height || image.width != width) {
    throw usage("the image's tensor is " + std::to_string(image.height) + "x" + std::to_string(image.width) +
                ", the video " + std::to_string(height) + "x" + std::to_string(width) + ": resize it before");
  }
  const auto* data = static_cast<const float*>(image.data);
  std::vector<float> tensor(data, data + 3 * height * width);
  check_given("the image", tensor);
  return tensor;
}

[[noreturn]] void cancel() { throw Error(Code::cancelled, "the video was cancelled by its caller"); }

}  // namespace

std::string text_or(const char* text, const char* otherwise) { return text == nullptr ? otherwise : text; }

vcut_step view_of(const Step& step) {
  vcut_step result{step.sigma, step.graph.c_str(), step.bias.c_str(), {}, step.noise};
  std::copy(step.coefficients.begin(), step.coefficients.end(), std::begin(result.coefficients));
  return result;
}

RunOptions run_options(const vcut_run_options& given) {
  RunOptions options;
  options.schedule = text_or(given.schedule, "");
  if (given.schedule != nullptr && options.schedule.empty()) throw usage("schedule is empty: give a name or NULL");
  if (given.step_count > 0) {
    require(given.steps, "steps");
    options.rows.emplace();
    for (size_t i = 0; i < given.step_count; ++i) options.rows->push_back(step_of(given.steps[i]));
    if (given.schedule != nullptr) throw usage("schedule and steps exclude each other: leave one out");
  }
  options.auto_size = given.auto_size != 0;
  options.height = unless(given.height, 0);
  options.width = unless(given.width, 0);
  options.num_frames = unless(given.num_frames, 0);
  options.num_inference_steps = unless(given.num_inference_steps, 0);
  options.sigmas.grid = text_or(given.sigmas, "");
  if (given.sigma_count > 0) {
    require(given.sigma_levels, "sigma_levels");
    options.sigmas.levels.assign(given.sigma_levels, given.sigma_levels + given.sigma_count);
    if (given.sigmas != nullptr) throw usage("sigmas and sigma_levels exclude each other: leave one out");
  }
  options.solver = text_or(given.solver, "euler");
  options.guide_from = given.guide_from;
  if (given.cut_step != VCUT_DEFAULT) options.cut_step = given.cut_step == VCUT_NEVER ? never : given.cut_step;
  options.cache_interval = given.cache_interval;
  options.quality_bias = text_or(given.quality_bias, "mean");
  options.min_guidance_scale = unless_nan(given.min_guidance_scale);
  options.max_guidance_scale = unless_nan(given.max_guidance_scale);
  options.guidance = text_or(given.guidance, "linear");
  if (given.guidance_count > 0) {
    require(given.guidance_scales, "guidance_scales");
    options.guidance_scales.emplace(given.guidance_scales, given.guidance_scales + given.guidance_count);
  }
  options.fps = given.fps;
  options.output_fps = unless_nan(given.output_fps);
  options.motion_bucket_id = given.motion_bucket_id;
  options.noise_aug_strength = given.noise_aug_strength;
  if (given.has_seed != 0) options.seed = given.seed;
  options.decode_chunk_size = unless(given.decode_chunk_size, 0);
  options.decode_overlap = unless(given.decode_overlap, -1);
  options.fit = text_or(given.fit, "stretch");
  return options;
}

BackendOptions backend_options(const vcut_load_options& given) {
  BackendOptions options;
  options.threads = unless(given.threads, 0);
  if (given.low_memory >= 0) options.low_memory = given.low_memory != 0;
  options.cuda_graphs = given.cuda_graphs != 0;
  options.onnxruntime_library = text_or(given.onnxruntime_library, "");
  options.tensorrt_library = text_or(given.tensorrt_library, "");
  options.tensorrt_rtx_library = text_or(given.tensorrt_rtx_library, "");
  options.check();
  return options;
}

Photo open_photo(const vcut_image& image) {
  if (image.kind < VCUT_IMAGE_FILE || image.kind > VCUT_IMAGE_TENSOR) {
    throw usage("the image has an unknown kind: give one of vcut_image_kind");
  }
  const bool is_array = image.kind != VCUT_IMAGE_FILE && image.kind != VCUT_IMAGE_ENCODED;
  if (is_array && (image.height < 1 || image.width < 1)) {
    throw usage("an image array must be [height, width, 3], this one is [" + std::to_string(image.height) + ", " +
                std::to_string(image.width) + ", 3]");
  }
  Photo photo;
  if (image.kind == VCUT_IMAGE_TENSOR) {
    photo.height = image.height;
    photo.width = image.width;
    photo.fitted = [image](int64_t height, int64_t width, const std::string&) {
      return tensor_of(image, height, width);
    };
    return photo;
  }
  const auto pixels = std::make_shared<const Pixels>(pixels_of(image, photo.notes));
  photo.height = pixels->height;
  photo.width = pixels->width;
  photo.fitted = [pixels](int64_t height, int64_t width, const std::string& fit) {
    return to_tensor(fit_image(*pixels, height, width, fit));
  };
  return photo;
}

Request request_of(const vcut_run_options& given) {
  Request request;
  request.latents = given.latents;
  request.latents_count = given.latents_count;
  request.noise = given.noise;
  request.noise_count = given.noise_count;
  request.frames = given.frames;
  request.frames_bytes = given.frames_bytes;
  void* user_data = given.user_data;
  if (const auto callback = given.on_progress) {
    request.progress = [callback, user_data](const std::string& stage, int64_t done, int64_t total) {
      if (callback(user_data, stage.c_str(), static_cast<int32_t>(done), static_cast<int32_t>(total)) != 0) cancel();
    };
  }
  if (const auto callback = given.on_step) {
    request.after_step = [callback, user_data](int64_t number, const Step& step, const std::vector<float>& latents) {
      const vcut_step view = view_of(step);
      if (callback(user_data, static_cast<int32_t>(number), &view, latents.data(), latents.size()) != 0) cancel();
    };
  }
  if (const auto callback = given.on_latents) {
    request.change = [callback, user_data](int64_t number, const Step& step, std::vector<float>& latents) {
      const vcut_step view = view_of(step);
      if (callback(user_data, static_cast<int32_t>(number), &view, latents.data(), latents.size()) != 0) cancel();
    };
  }
  if (const auto* token = given.cancel) {
    request.cancelled = [token] { return token->requested.load(); };
  }
  return request;
}

}  // namespace vcut_core
