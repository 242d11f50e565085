#include "pipeline.hpp"

#include <algorithm>
#include <random>

#include "error.hpp"
#include "finite.hpp"
#include "noise.hpp"
#include "text.hpp"
#include "video_run.hpp"

namespace vcut_core {
namespace {

// Returns an injected array; empty if none is injected.
std::vector<float> injected(const char* name, const float* values, size_t count, const std::vector<int64_t>& shape) {
  if (values == nullptr) return {};
  if (count != count_of(shape)) {
    throw usage(std::string(name) + " has " + std::to_string(count) + " numbers, this bundle needs " + listed(shape) +
                " for each video");
  }
  std::vector<float> result(values, values + count);
  check_given(name, result);
  return result;
}

// What a user should know about a photograph that is stretched by more than 2 %.
std::optional<std::string> stretch_note(const Photo& photo, const Sizes& sizes, const std::string& fit) {
  const double wider = static_cast<double>(sizes.width) / static_cast<double>(photo.width) /
                       (static_cast<double>(sizes.height) / static_cast<double>(photo.height));
  const double factor = std::max(wider, 1 / wider);
  if (fit != "stretch" || factor <= 1.02) return std::nullopt;
  const auto words = [](int64_t width, int64_t height) { return std::to_string(width) + "x" + std::to_string(height); };
  return "the image of " + words(photo.width, photo.height) + " is stretched " + formatted("%.2f", factor) + " x in " +
         (wider > 1 ? "width" : "height") + " to " + words(sizes.width, sizes.height) +
         ": --fit crop, pad or blur keeps its shape";
}

// A decoder whose numbers are not finite gives 0. Throws Error if that is so in every frame of an image.
void check_frames(const uint8_t* frames, size_t bytes, const std::vector<float>& image) {
  const bool is_dark = std::all_of(image.begin(), image.end(), [](float value) { return value == 0.0F; });
  if (is_dark || std::any_of(frames, frames + bytes, [](uint8_t level) { return level != 0; })) return;
  throw failed("every frame is black, because the decoder's numbers are not finite or its weights are damaged: compare "
               "the bundle with a reference, 'vcut verify --graphs decode', or export it again");
}

uint64_t random_seed() {
  std::random_device device;
  return device() & 0x7fffffffU;
}

std::set<std::string> step_graphs(const Schedule& schedule) {
  std::set<std::string> graphs;
  for (const Step& step : schedule) graphs.insert(step.graph);
  return graphs;
}

}  // namespace

class Pipeline::Turn {
 public:
  explicit Turn(Pipeline& pipeline) : pipeline_(pipeline) {
    if (pipeline.busy_ == std::this_thread::get_id()) {
      throw usage("a callback cannot use its own pipeline for another video: do it afterwards");
    }
    pipeline.lock_.lock();
    pipeline.busy_ = std::this_thread::get_id();
  }
  ~Turn() {
    pipeline_.busy_ = std::thread::id();
    pipeline_.lock_.unlock();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Pipeline& pipeline_;
};

Plan Pipeline::plan(const RunOptions& options, Aspect aspect) {
  Plan plan = plan_run(bundle_->manifest, options, backend_->max_decode_chunk(), aspect);
  backend_->check_run(plan.sizes, step_graphs(plan.schedule));
  return plan;
}

Video Pipeline::run(const ImageSource& image, const RunOptions& options, const Request& request, const Log& log) {
  const Turn turn(*this);
  Plan plan = this->plan(options);
  const Manifest& manifest = bundle_->manifest;
  const Photo photo = image();
  if (options.auto_size) {
    plan = this->plan(options, static_cast<double>(photo.width) / static_cast<double>(photo.height));
  }
  const std::vector<int64_t> latent_shape{1, plan.sizes.frames, manifest.latent_channels,
                                          plan.sizes.height / manifest.vae_scale_factor,
                                          plan.sizes.width / manifest.vae_scale_factor};
  const std::vector<int64_t> image_shape{1, 3, plan.sizes.height, plan.sizes.width};
  auto latents = injected("latents", request.latents, request.latents_count, latent_shape);
  auto noise = injected("noise", request.noise, request.noise_count, image_shape);
  const std::vector<float> pixels = photo.fitted(plan.sizes.height, plan.sizes.width, options.fit);
  for (const auto& note : photo.notes) log(note);
  if (const auto note = stretch_note(photo, plan.sizes, options.fit)) log(*note);

  Video video;
  video.sizes = plan.sizes;
  video.fps = options.played_fps();
  const bool adds_noise =
      std::any_of(plan.schedule.begin(), plan.schedule.end(), [](const Step& step) { return step.noise != 0; });
  const bool draws = request.latents == nullptr || request.noise == nullptr || adds_noise;
  if (draws) video.seed = options.seed ? *options.seed : random_seed();
  const uint64_t seed = video.seed.value_or(0);

  const size_t bytes = size_of({plan.sizes.frames, plan.sizes.height, plan.sizes.width, 3}, "uint8");
  if (request.frames != nullptr && request.frames_bytes < bytes) {
    throw usage("the buffer for frames has " + std::to_string(request.frames_bytes) + " bytes, the video needs " +
                std::to_string(bytes));
  }
  VideoRun run(manifest, *backend_, plan, seed, request);
  if (noise.empty()) noise = normal(seed, image_stream, count_of(image_shape));
  run.condition(pixels, noise);
  if (latents.empty()) latents = normal(seed, latents_stream, count_of(latent_shape));
  const auto scale = static_cast<float>(manifest.scheduler.noise_scale(plan.schedule[0].sigma));
  for (float& value : latents) value *= scale;
  check_given("the latents times the first noise level", latents);
  latents = run.denoise(latents);
  uint8_t* frames = request.frames;
  if (frames == nullptr) {
    video.own.resize(bytes);
    frames = video.own.data();
  }
  run.decode(latents, frames);
  check_frames(frames, bytes, pixels);
  video.frames = frames;
  video.seconds = run.seconds();
  video.peak_memory = backend_->peak_memory();
  for (; logged_ < backend_->notes().size(); ++logged_) log(backend_->notes()[logged_]);
  return video;
}

}  // namespace vcut_core
