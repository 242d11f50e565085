// The C interface: handles around the library's objects. No exception leaves it.
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "c_convert.hpp"
#include "noise.hpp"
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
    auto bundle = std::make_shared<const Bundle>(open_bundle(folder, false));
    auto backend = open_backend(*bundle, text_or(given.backend, "auto"), backend_options(given));
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
