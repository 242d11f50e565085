// The C interface: handles around the library's objects. No exception leaves it.
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "error.hpp"
#include "finite.hpp"
#include "image_file.hpp"
#include "noise.hpp"
#include "pipeline.hpp"
#include "resize.hpp"
#include "text.hpp"
#include "vcut.h"

using namespace vcut_core;  // NOLINT(google-build-using-namespace): this file is the library's outer side

struct vcut_error {
  vcut_code code;
  std::string message;
};

struct vcut_bundle {
  std::shared_ptr<const Bundle> bundle;
};

struct vcut_plan {
  Plan plan;
  std::vector<vcut_step> steps;
};

struct vcut_pipeline {
  std::shared_ptr<const Bundle> bundle;
  std::unique_ptr<Pipeline> pipeline;
};

struct vcut_video {
  Video video;
};

struct vcut_cancel {
  std::atomic<bool> requested{false};
};

namespace {

// What is said when there is no memory for an error.
vcut_error no_memory{VCUT_INTERNAL, "out of memory: choose a smaller video, or close other programs"};

vcut_error* made(vcut_code code, const std::string& message) {
  try {
    return new vcut_error{code, printable(message)};
  } catch (...) {
    return &no_memory;
  }
}

// Runs the body of a function of the interface and turns whatever it throws into an error.
template <typename Body>
vcut_error* guarded(const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Error& error) {
    return made(static_cast<vcut_code>(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    return &no_memory;
  } catch (const std::exception& error) {
    return made(VCUT_INTERNAL, error.what());
  } catch (...) {
    return made(VCUT_INTERNAL, "an unknown fault");
  }
}

template <typename T>
void require(const T* pointer, const char* name) {
  if (pointer == nullptr) throw usage(std::string(name) + " is NULL: give one");
}

// Returns a structure of the current size. What an older caller does not have keeps its default.
template <typename T>
T completed(const T* given, void (*init)(T*, size_t), const char* name) {
  T result;
  init(&result, sizeof result);
  if (given == nullptr) return result;
  if (given->size < sizeof(size_t) || given->size > 65536) {
    throw usage(std::string(name) + " has an impossible size: fill it with its init function");
  }
  std::memcpy(&result, given, std::min(given->size, sizeof result));
  result.size = sizeof result;
  return result;
}

// Writes defaults to a structure that may be shorter or longer than this library's.
template <typename T>
void copy_defaults(T* out, const T& defaults, size_t size) {
  if (out == nullptr || size < sizeof(size_t)) return;
  std::memset(static_cast<void*>(out), 0, size);
  std::memcpy(static_cast<void*>(out), &defaults, std::min(size, sizeof defaults));
  std::memcpy(static_cast<void*>(out), &size, sizeof size);
}

std::string text_or(const char* text, const char* otherwise) { return text == nullptr ? otherwise : text; }

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
    photo.fitted = [image](int64_t height, int64_t width, const std::string&) { return tensor_of(image, height, width); };
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

[[noreturn]] void cancel() { throw Error(Code::cancelled, "the video was cancelled"); }

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

vcut_plan* planned(Plan plan) {
  auto result = std::make_unique<vcut_plan>();
  result->plan = std::move(plan);
  for (const Step& step : result->plan.schedule) result->steps.push_back(view_of(step));
  return result.release();
}

}  // namespace

extern "C" {

vcut_code vcut_error_code(const vcut_error* error) { return error == nullptr ? VCUT_OK : error->code; }

const char* vcut_error_message(const vcut_error* error) { return error == nullptr ? "" : error->message.c_str(); }

void vcut_error_destroy(vcut_error* error) {
  if (error != &no_memory) delete error;
}

int32_t vcut_version(void) { return VCUT_VERSION; }

vcut_error* vcut_check_version(int32_t header) {
  return guarded([&] {
    if (header / 1000000 != VCUT_VERSION_MAJOR || header / 1000 > VCUT_VERSION / 1000) {
      const auto words = [](int32_t v) {
        return std::to_string(v / 1000000) + "." + std::to_string(v / 1000 % 1000) + "." + std::to_string(v % 1000);
      };
      throw usage("this program was compiled for vcut " + words(header) + ", the library is " + words(VCUT_VERSION) +
                  ": install the library that belongs to the header");
    }
  });
}

vcut_error* vcut_bundle_open(const char* folder, int32_t hashes, vcut_bundle** bundle) {
  return guarded([&] {
    require(folder, "folder");
    require(bundle, "bundle");
    *bundle = new vcut_bundle{std::make_shared<const Bundle>(open_bundle(folder, hashes != 0))};
  });
}

void vcut_bundle_destroy(vcut_bundle* bundle) { delete bundle; }

const char* vcut_bundle_model(const vcut_bundle* bundle) { return bundle->bundle->manifest.model_id.c_str(); }

size_t vcut_bundle_schedule_count(const vcut_bundle* bundle) { return bundle->bundle->manifest.schedules.size(); }

const char* vcut_bundle_schedule_name(const vcut_bundle* bundle, size_t index) {
  for (const auto& entry : bundle->bundle->manifest.schedules) {
    if (index-- == 0) return entry.first.c_str();
  }
  return nullptr;
}

vcut_error* vcut_bundle_plan(const vcut_bundle* bundle, const vcut_run_options* options, vcut_plan** plan) {
  return guarded([&] {
    require(bundle, "bundle");
    require(plan, "plan");
    const auto given = completed(options, vcut_run_options_init_sized, "options");
    *plan = planned(plan_run(bundle->bundle->manifest, run_options(given), std::nullopt));
  });
}

void vcut_plan_destroy(vcut_plan* plan) { delete plan; }

int32_t vcut_plan_frames(const vcut_plan* plan) { return static_cast<int32_t>(plan->plan.sizes.frames); }

int32_t vcut_plan_height(const vcut_plan* plan) { return static_cast<int32_t>(plan->plan.sizes.height); }

int32_t vcut_plan_width(const vcut_plan* plan) { return static_cast<int32_t>(plan->plan.sizes.width); }

size_t vcut_plan_video_bytes(const vcut_plan* plan) {
  const Sizes& sizes = plan->plan.sizes;
  return static_cast<size_t>(sizes.frames) * static_cast<size_t>(sizes.height) * static_cast<size_t>(sizes.width) * 3;
}

size_t vcut_plan_step_count(const vcut_plan* plan) { return plan->steps.size(); }

const vcut_step* vcut_plan_step(const vcut_plan* plan, size_t index) {
  return index < plan->steps.size() ? &plan->steps[index] : nullptr;
}

void vcut_load_options_init_sized(vcut_load_options* options, size_t size) {
  vcut_load_options defaults{};
  defaults.backend = "auto";
  defaults.low_memory = -1;
  defaults.cuda_graphs = 1;
  copy_defaults(options, defaults, size);
}

void vcut_run_options_init_sized(vcut_run_options* options, size_t size) {
  vcut_run_options defaults{};
  defaults.solver = "euler";
  defaults.guide_from = 1;
  defaults.cache_interval = 1;
  defaults.quality_bias = "mean";
  defaults.min_guidance_scale = std::nan("");
  defaults.max_guidance_scale = std::nan("");
  defaults.guidance = "linear";
  defaults.fps = 7;
  defaults.output_fps = std::nan("");
  defaults.motion_bucket_id = 127;
  defaults.noise_aug_strength = 0.02;
  defaults.decode_overlap = -1;
  defaults.fit = "stretch";
  copy_defaults(options, defaults, size);
}

void vcut_image_init_sized(vcut_image* image, size_t size) { copy_defaults(image, vcut_image{}, size); }

vcut_error* vcut_pipeline_load(const char* folder, const vcut_load_options* options, vcut_pipeline** pipeline) {
  return guarded([&] {
    require(folder, "folder");
    require(pipeline, "pipeline");
    const auto given = completed(options, vcut_load_options_init_sized, "options");
    BackendOptions backend_options;
    backend_options.threads = unless(given.threads, 0);
    if (given.low_memory >= 0) backend_options.low_memory = given.low_memory != 0;
    backend_options.check();
    backend_options.cuda_graphs = given.cuda_graphs != 0;
    backend_options.onnxruntime_library = text_or(given.onnxruntime_library, "");
    backend_options.tensorrt_library = text_or(given.tensorrt_library, "");
    backend_options.tensorrt_rtx_library = text_or(given.tensorrt_rtx_library, "");
    auto bundle = std::make_shared<const Bundle>(open_bundle(folder, false));
    auto backend = open_backend(*bundle, text_or(given.backend, "auto"), backend_options);
    if (given.log != nullptr) {
      for (const auto& note : backend->notes()) given.log(given.user_data, note.c_str());
    }
    auto result = std::make_unique<vcut_pipeline>();
    result->bundle = bundle;
    result->pipeline = std::make_unique<Pipeline>(bundle, std::move(backend));
    *pipeline = result.release();
  });
}

void vcut_pipeline_destroy(vcut_pipeline* pipeline) { delete pipeline; }

const char* vcut_pipeline_backend(const vcut_pipeline* pipeline) {
  return pipeline->pipeline->backend().name().c_str();
}

vcut_error* vcut_pipeline_plan(vcut_pipeline* pipeline, const vcut_run_options* options, vcut_plan** plan) {
  return guarded([&] {
    require(pipeline, "pipeline");
    require(plan, "plan");
    const auto given = completed(options, vcut_run_options_init_sized, "options");
    *plan = planned(pipeline->pipeline->plan(run_options(given)));
  });
}

vcut_error* vcut_pipeline_run(vcut_pipeline* pipeline, const vcut_image* image, const vcut_run_options* options,
                              vcut_video** video) {
  return guarded([&] {
    require(pipeline, "pipeline");
    require(image, "image");
    require(video, "video");
    const auto given = completed(options, vcut_run_options_init_sized, "options");
    const auto photo = completed(image, vcut_image_init_sized, "image");
    const auto source = [&photo] { return open_photo(photo); };
    const auto log = [&given](const std::string& note) {
      if (given.log != nullptr) given.log(given.user_data, printable(note).c_str());
    };
    auto result = std::make_unique<vcut_video>();
    result->video = pipeline->pipeline->run(source, run_options(given), request_of(given), log);
    *video = result.release();
  });
}

vcut_error* vcut_cancel_create(vcut_cancel** cancel) {
  return guarded([&] {
    require(cancel, "cancel");
    *cancel = new vcut_cancel;
  });
}

void vcut_cancel_request(vcut_cancel* cancel) { cancel->requested = true; }

void vcut_cancel_destroy(vcut_cancel* cancel) { delete cancel; }

const uint8_t* vcut_video_frames(const vcut_video* video) { return video->video.frames; }

int32_t vcut_video_frame_count(const vcut_video* video) { return static_cast<int32_t>(video->video.sizes.frames); }

int32_t vcut_video_height(const vcut_video* video) { return static_cast<int32_t>(video->video.sizes.height); }

int32_t vcut_video_width(const vcut_video* video) { return static_cast<int32_t>(video->video.sizes.width); }

double vcut_video_fps(const vcut_video* video) { return video->video.fps; }

int32_t vcut_video_has_seed(const vcut_video* video) { return video->video.seed ? 1 : 0; }

uint64_t vcut_video_seed(const vcut_video* video) { return video->video.seed.value_or(0); }

double vcut_video_seconds(const vcut_video* video, const char* stage) {
  for (const auto& [name, seconds] : video->video.seconds) {
    if (stage != nullptr && name == stage) return seconds;
  }
  return 0;
}

int64_t vcut_video_peak_memory(const vcut_video* video) { return video->video.peak_memory.value_or(-1); }

void vcut_video_destroy(vcut_video* video) { delete video; }

vcut_error* vcut_noise(uint64_t seed, uint32_t stream, float* out, size_t count) {
  return guarded([&] {
    if (count > 0) require(out, "out");
    normal(seed, stream, out, count);
  });
}

vcut_error* vcut_image_read(const vcut_image* image, int32_t height, int32_t width, const char* fit, float* out) {
  return guarded([&] {
    require(image, "image");
    require(out, "out");
    const auto photo = completed(image, vcut_image_init_sized, "image");
    const std::string words = text_or(fit, "stretch");
    RunOptions options;
    options.fit = words;
    options.check();
    if (height < 1 || width < 1) throw usage("an image cannot be fitted to a size below 1: give pixels");
    const auto tensor = open_photo(photo).fitted(height, width, words);
    std::memcpy(out, tensor.data(), tensor.size() * sizeof(float));
  });
}

}  // extern "C"
