// vcut: plays the bundles of the vcut compiler. C++17 over the C interface of vcut.h, header only.
//
//   auto pipeline = vcut::Pipeline::load("bundle");
//   vcut::RunOptions options;
//   options.seed = 0;
//   vcut::Video video = pipeline.run(vcut::Image::file("photo.jpg"), options);
//
// Handles are move-only. What fails throws vcut::Error. Threads and shutdown: see vcut.h. An exception that a callback
// throws cancels the video and leaves run() as it is.
#pragma once

#include <cmath>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "vcut.h"

namespace vcut {

class Error : public std::runtime_error {
 public:
  Error(vcut_code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  vcut_code code() const noexcept { return code_; }

 private:
  vcut_code code_;
};

namespace detail {

template <auto destroy>
struct Deleter {
  template <typename T>
  void operator()(T* handle) const noexcept {
    destroy(handle);
  }
};

template <typename T, auto destroy>
using Handle = std::unique_ptr<T, Deleter<destroy>>;

inline void check(vcut_error* error) {
  if (error == nullptr) return;
  const Handle<vcut_error, vcut_error_destroy> owned(error);
  throw Error(vcut_error_code(error), vcut_error_message(error));
}

inline const char* text(const std::string& value) { return value.empty() ? nullptr : value.c_str(); }

}  // namespace detail

// Throws if the library does not fit this header.
inline void check_version() { detail::check(vcut_check_version(VCUT_VERSION)); }

// Cancels videos from another thread. Keep it alive until they have ended.
class Cancel {
 public:
  Cancel() {
    vcut_cancel* handle = nullptr;
    detail::check(vcut_cancel_create(&handle));
    handle_.reset(handle);
  }
  void request() noexcept { vcut_cancel_request(handle_.get()); }
  const vcut_cancel* get() const noexcept { return handle_.get(); }

 private:
  detail::Handle<vcut_cancel, vcut_cancel_destroy> handle_;
};

// An image. It does not own the data that it is made of.
class Image {
 public:
  static Image file(std::string path) {
    Image image(VCUT_IMAGE_FILE, nullptr, 0, 0, 0);
    image.path_ = std::move(path);
    return image;
  }
  static Image encoded(const void* data, size_t bytes) { return {VCUT_IMAGE_ENCODED, data, bytes, 0, 0}; }
  static Image rgb(const uint8_t* data, int height, int width) { return {VCUT_IMAGE_RGB8, data, 0, height, width}; }
  static Image rgb(const float* data, int height, int width) { return {VCUT_IMAGE_RGBF, data, 0, height, width}; }
  static Image tensor(const float* data, int height, int width) { return {VCUT_IMAGE_TENSOR, data, 0, height, width}; }

  // The C structure. It is valid as long as this object.
  vcut_image get() const {
    vcut_image image = image_;
    image.path = path_.c_str();
    return image;
  }

 private:
  Image(vcut_image_kind kind, const void* data, size_t bytes, int height, int width) {
    vcut_image_init(&image_);
    image_.kind = kind;
    image_.data = data;
    image_.data_bytes = bytes;
    image_.height = height;
    image_.width = width;
  }
  vcut_image image_{};
  std::string path_;
};

// What a video is made with; the fields of vcut_run_options.
struct RunOptions {
  std::string schedule;
  bool auto_size = false;
  std::optional<int> height, width, num_frames, num_inference_steps;
  std::string sigmas;
  std::vector<double> sigma_levels;
  std::string solver = "euler";
  int guide_from = 1;
  std::optional<int> cut_step;  // or VCUT_NEVER
  int cache_interval = 1;
  std::string quality_bias = "mean";
  std::optional<double> min_guidance_scale, max_guidance_scale;
  std::string guidance = "linear";
  std::vector<double> guidance_scales;
  double fps = 7;
  std::optional<double> output_fps;
  double motion_bucket_id = 127, noise_aug_strength = 0.02;
  std::optional<uint64_t> seed;
  std::optional<int> decode_chunk_size, decode_overlap;
  std::string fit = "stretch";
  std::vector<float> latents, noise;  // empty: drawn from the seed
  uint8_t* frames = nullptr;          // where to write the frames, instead of into the video
  size_t frames_bytes = 0;
  const Cancel* cancel = nullptr;
  std::function<bool(const char* stage, int done, int total)> on_progress;  // false cancels
  // Called after each step; it may change the latents. false cancels.
  std::function<bool(int number, const vcut_step& step, float* latents, size_t count)> on_latents;
  std::function<void(const char* message)> log;

  // The C structure without callbacks. It is valid as long as this object.
  vcut_run_options get() const {
    vcut_run_options options;
    vcut_run_options_init(&options);
    options.schedule = detail::text(schedule);
    options.auto_size = auto_size ? 1 : 0;
    options.height = height.value_or(VCUT_DEFAULT);
    options.width = width.value_or(VCUT_DEFAULT);
    options.num_frames = num_frames.value_or(VCUT_DEFAULT);
    options.num_inference_steps = num_inference_steps.value_or(VCUT_DEFAULT);
    options.sigmas = detail::text(sigmas);
    options.sigma_levels = sigma_levels.data();
    options.sigma_count = sigma_levels.size();
    options.solver = solver.c_str();
    options.guide_from = guide_from;
    options.cut_step = cut_step.value_or(VCUT_DEFAULT);
    options.cache_interval = cache_interval;
    options.quality_bias = quality_bias.c_str();
    options.min_guidance_scale = min_guidance_scale.value_or(std::nan(""));
    options.max_guidance_scale = max_guidance_scale.value_or(std::nan(""));
    options.guidance = guidance.c_str();
    options.guidance_scales = guidance_scales.data();
    options.guidance_count = guidance_scales.size();
    options.fps = fps;
    options.output_fps = output_fps.value_or(std::nan(""));
    options.motion_bucket_id = motion_bucket_id;
    options.noise_aug_strength = noise_aug_strength;
    options.seed = seed.value_or(0);
    options.has_seed = seed ? 1 : 0;
    options.decode_chunk_size = decode_chunk_size.value_or(VCUT_DEFAULT);
    options.decode_overlap = decode_overlap.value_or(-1);
    options.fit = fit.c_str();
    options.latents = latents.empty() ? nullptr : latents.data();
    options.latents_count = latents.size();
    options.noise = noise.empty() ? nullptr : noise.data();
    options.noise_count = noise.size();
    options.frames = frames;
    options.frames_bytes = frames_bytes;
    options.cancel = cancel == nullptr ? nullptr : cancel->get();
    return options;
  }
};

class Video {
 public:
  explicit Video(vcut_video* handle) : handle_(handle) {}

  const uint8_t* frames() const noexcept { return vcut_video_frames(get()); }  // [frame_count, height, width, 3]
  const uint8_t* frame(int index) const noexcept {
    return frames() + static_cast<size_t>(index) * static_cast<size_t>(height()) * static_cast<size_t>(width()) * 3;
  }
  int frame_count() const noexcept { return vcut_video_frame_count(get()); }
  int height() const noexcept { return vcut_video_height(get()); }
  int width() const noexcept { return vcut_video_width(get()); }
  double fps() const noexcept { return vcut_video_fps(get()); }
  std::optional<uint64_t> seed() const {
    if (vcut_video_has_seed(get()) == 0) return std::nullopt;
    return vcut_video_seed(get());
  }
  double seconds(const std::string& stage) const { return vcut_video_seconds(get(), stage.c_str()); }
  const vcut_video* get() const noexcept { return handle_.get(); }

 private:
  detail::Handle<vcut_video, vcut_video_destroy> handle_;
};

// The sizes and the steps of a run.
class Plan {
 public:
  explicit Plan(vcut_plan* handle) : handle_(handle) {}

  int frames() const noexcept { return vcut_plan_frames(get()); }
  int height() const noexcept { return vcut_plan_height(get()); }
  int width() const noexcept { return vcut_plan_width(get()); }
  size_t video_bytes() const noexcept { return vcut_plan_video_bytes(get()); }
  size_t step_count() const noexcept { return vcut_plan_step_count(get()); }
  const vcut_step& step(size_t index) const { return *vcut_plan_step(get(), index); }
  const vcut_plan* get() const noexcept { return handle_.get(); }

 private:
  detail::Handle<vcut_plan, vcut_plan_destroy> handle_;
};

struct LoadOptions {
  std::string backend = "auto";
  std::optional<int> threads;
  std::optional<bool> low_memory;
  bool cuda_graphs = true;
  std::string onnxruntime_library, tensorrt_library, tensorrt_rtx_library;
  std::function<void(const char* message)> log;
};

class Pipeline {
 public:
  // Called after each step with its number (1-based), the step, its latents [1, F, C, h, w] and their count.
  // false cancels.
  using OnStep = std::function<bool(int number, const vcut_step& step, const float* latents, size_t count)>;

  static Pipeline load(const std::string& bundle, const LoadOptions& options = {}) {
    check_version();
    vcut_load_options given;
    vcut_load_options_init(&given);
    given.backend = options.backend.c_str();
    given.threads = options.threads.value_or(0);
    given.low_memory = options.low_memory ? (*options.low_memory ? 1 : 0) : -1;
    given.cuda_graphs = options.cuda_graphs ? 1 : 0;
    given.onnxruntime_library = detail::text(options.onnxruntime_library);
    given.tensorrt_library = detail::text(options.tensorrt_library);
    given.tensorrt_rtx_library = detail::text(options.tensorrt_rtx_library);
    Callbacks callbacks{nullptr, nullptr, nullptr, options.log ? &options.log : nullptr, nullptr};
    given.user_data = &callbacks;
    if (options.log) given.log = on_log;
    vcut_pipeline* handle = nullptr;
    vcut_error* error = vcut_pipeline_load(bundle.c_str(), &given, &handle);
    Pipeline pipeline(handle);
    finish(callbacks, error);
    return pipeline;
  }

  std::string backend() const { return vcut_pipeline_backend(handle_.get()); }

  Plan plan(const RunOptions& options = {}) {
    const vcut_run_options given = options.get();
    vcut_plan* handle = nullptr;
    detail::check(vcut_pipeline_plan(handle_.get(), &given, &handle));
    return Plan(handle);
  }

  Video run(const Image& image, const RunOptions& options = {}, const OnStep& on_step = {}) {
    vcut_run_options given = options.get();
    Callbacks callbacks{options.on_progress ? &options.on_progress : nullptr, on_step ? &on_step : nullptr,
                        options.on_latents ? &options.on_latents : nullptr, options.log ? &options.log : nullptr,
                        nullptr};
    given.user_data = &callbacks;
    if (options.on_progress) given.on_progress = on_progress;
    if (on_step) given.on_step = after_step;
    if (options.on_latents) given.on_latents = change;
    if (options.log) given.log = on_log;
    const vcut_image photo = image.get();
    vcut_video* handle = nullptr;
    vcut_error* error = vcut_pipeline_run(handle_.get(), &photo, &given, &handle);
    Video video(handle);
    finish(callbacks, error);
    return video;
  }

 private:
  struct Callbacks {
    const std::function<bool(const char*, int, int)>* progress;
    const OnStep* step;
    const std::function<bool(int, const vcut_step&, float*, size_t)>* latents;
    const std::function<void(const char*)>* log;
    std::exception_ptr thrown;
  };

  explicit Pipeline(vcut_pipeline* handle) : handle_(handle) {}

  // No exception may cross the C interface: it is kept, and thrown again when the call has returned.
  template <typename Body>
  static int32_t kept(void* user_data, const Body& body) noexcept {
    auto& callbacks = *static_cast<Callbacks*>(user_data);
    try {
      return body(callbacks) ? 0 : 1;
    } catch (...) {
      callbacks.thrown = std::current_exception();
      return 1;
    }
  }
  static int32_t on_progress(void* user_data, const char* stage, int32_t done, int32_t total) {
    return kept(user_data, [&](Callbacks& c) { return (*c.progress)(stage, done, total); });
  }
  static int32_t after_step(void* user_data, int32_t number, const vcut_step* step, const float* latents,
                            size_t count) {
    return kept(user_data, [&](Callbacks& c) { return (*c.step)(number, *step, latents, count); });
  }
  static int32_t change(void* user_data, int32_t number, const vcut_step* step, float* latents, size_t count) {
    return kept(user_data, [&](Callbacks& c) { return (*c.latents)(number, *step, latents, count); });
  }
  static void on_log(void* user_data, const char* message) {
    kept(user_data, [&](Callbacks& c) {
      (*c.log)(message);
      return true;
    });
  }
  static void finish(Callbacks& callbacks, vcut_error* error) {
    if (callbacks.thrown) {
      vcut_error_destroy(error);
      std::rethrow_exception(callbacks.thrown);
    }
    detail::check(error);
  }

  detail::Handle<vcut_pipeline, vcut_pipeline_destroy> handle_;
};

}  // namespace vcut
