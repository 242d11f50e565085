#include "pipeline.hpp"

#include <algorithm>
#include <random>

#include "error.hpp"
#include "finite.hpp"
#include "graphs.hpp"
#include "noise.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

size_t count_of(const std::vector<int64_t>& shape) { return size_of(shape, "uint8"); }

// Returns the rows of sca_bias [2, N] that a step gets: their mean, or row 1.
Array select_bias(const std::vector<float>& both, const std::string& bias) {
  const size_t channels = both.size() / 2;
  Array result{{1, static_cast<int64_t>(channels)}, std::vector<float>(both.begin() + static_cast<std::ptrdiff_t>(channels), both.end())};
  if (bias == "mean") {
    for (size_t i = 0; i < channels; ++i) result.values[i] = (both[i] + both[channels + i]) / 2.0F;
  }
  return result;
}

// Times the stages of one video in the backend's own time.
class StageClock {
 public:
  explicit StageClock(Backend& backend) : backend_(backend) {}

  double loading = 0;  // seconds, on the host

  template <typename Work>
  auto time(const std::string& stage, const Work& work) {
    const Mark start = backend_.mark();
    auto result = work();
    marks_.push_back({stage, start, backend_.mark()});
    return result;
  }

  // Waits for everything timed so far, except the last pieces of work.
  void wait(size_t behind = 0) {
    if (marks_.size() > behind) backend_.wait(marks_[marks_.size() - 1 - behind].end);
  }

  std::vector<std::pair<std::string, double>> seconds() {
    std::vector<std::pair<std::string, double>> result{{"load", loading}};
    for (const auto& [stage, start, end] : marks_) {
      auto item = std::find_if(result.begin(), result.end(), [&s = stage](const auto& pair) { return pair.first == s; });
      if (item == result.end()) item = result.insert(result.end(), {stage, 0.0});
      item->second += backend_.seconds(start, end);
    }
    return result;
  }

 private:
  struct Piece {
    std::string stage;
    Mark start, end;
  };
  Backend& backend_;
  std::vector<Piece> marks_;
};

// One video in the making. Call condition, then denoise, then decode.
class VideoRun {
 public:
  VideoRun(const Manifest& manifest, Backend& backend, const Plan& plan, uint64_t seed, const Request& request)
      : manifest_(manifest), backend_(backend), plan_(plan), seed_(seed), request_(request), clock_(backend) {
    for (const auto& [name, array] : plan.constants) constants_[name] = backend.upload(array.shape, array.values.data());
    latent_shape_ = shape_of("semantic_binding", "latents", 0);
    image_latent_shape_ = shape_of("semantic_binding", "image_latents", 0);
  }

  void condition(const std::vector<float>& image, const std::vector<float>& noise) {
    progress("condition", 0, 1);
    Values values = constants_;
    const std::vector<int64_t> shape{1, 3, plan_.sizes.height, plan_.sizes.width};
    values["image"] = backend_.upload(shape, image.data());
    values["noise"] = backend_.upload(shape, noise.data());
    conditioned_ = run("condition", values, 0);
    clock_.wait();
    if (is_on_host()) {
      check("the image encoder gave image_latents", floats(conditioned_.at("image_latents"), image_latent_shape_));
      check("the image encoder gave sca_bias", both_biases());
    }
    progress("condition", 1, 1);
  }

  // Plays the schedule. A step is asked for while the step before it runs, so that the device never waits for this
  // loop. Progress reports steps that are done.
  std::vector<float> denoise(const std::vector<float>& start) {
    Values values = constants_;
    values["image_latents"] = conditioned_.at("image_latents");
    values["latents"] = backend_.upload(latent_shape_, start.data());
    const Schedule& rows = plan_.schedule;
    size_t first = 0;
    while (first < rows.size()) {
      const std::string& stage = graph_kind(rows[first].graph).stage();
      size_t end = first;
      while (end < rows.size() && graph_kind(rows[end].graph).stage() == stage) ++end;
      progress(stage, 0, static_cast<int64_t>(end - first));
      for (size_t i = first; i < end; ++i) {
        step(rows[i], static_cast<int64_t>(i) + 1, values);
        const bool last = i + 1 == end;
        clock_.wait(last ? 0 : 1);
        const auto done = static_cast<int64_t>(i + 1 - first);
        if (last || done > 1) progress(stage, last ? done : done - 1, static_cast<int64_t>(end - first));
        look_at(rows[i], static_cast<int64_t>(i) + 1, values["latents"]);
      }
      first = end;
    }
    const auto latents = floats(values["latents"], latent_shape_);
    check("one of " + std::to_string(rows.size()) + " steps gave latents", latents);
    return latents;
  }

  // Decodes latents to frames [F, H, W, 3], a chunk at a time.
  void decode(const std::vector<float>& latents, uint8_t* frames) {
    const size_t latent_frame = latents.size() / static_cast<size_t>(plan_.sizes.frames);
    const size_t frame = count_of({plan_.sizes.height, plan_.sizes.width, 3});
    progress("decode", 0, plan_.sizes.frames);
    std::vector<uint8_t> decoded;
    for (const Chunk& chunk : plan_.chunks) {
      const int64_t n = chunk.stop - chunk.start;
      Values values;
      values["latents"] = backend_.upload(shape_of("decode", "latents", n),
                                          latents.data() + static_cast<size_t>(chunk.start) * latent_frame);
      const Value output = run("decode", values, n).at("frames");
      decoded.resize(static_cast<size_t>(n) * frame);
      backend_.download(output, "uint8", decoded.data(), decoded.size());
      const auto from = decoded.begin() + static_cast<std::ptrdiff_t>((chunk.keep_from - chunk.start) * static_cast<int64_t>(frame));
      const auto to = decoded.begin() + static_cast<std::ptrdiff_t>((chunk.keep_to - chunk.start) * static_cast<int64_t>(frame));
      std::copy(from, to, frames + static_cast<size_t>(chunk.keep_from) * frame);
      progress("decode", chunk.keep_to, plan_.sizes.frames);
    }
  }

  std::vector<std::pair<std::string, double>> seconds() { return clock_.seconds(); }

 private:
  void progress(const std::string& stage, int64_t done, int64_t total) {
    if (request_.progress) request_.progress(stage, done, total);
  }

  // Every value can be looked at where there is no device. On a device they stay, unless a callback asks for them.
  bool is_on_host() { return !backend_.peak_memory(); }

  void check(const std::string& what, const std::vector<float>& values) const {
    check_made(what, values, manifest_.precision);
  }

  // Checks the latents of a step and shows them to the callbacks, which may change them.
  void look_at(const Step& row, int64_t number, Value& value) {
    if (!request_.after_step && !request_.change && !is_on_host()) return;
    auto latents = floats(value, latent_shape_);
    check("step " + std::to_string(number) + " of " + std::to_string(plan_.schedule.size()) + " gave latents", latents);
    if (request_.after_step) request_.after_step(number, row, latents);
    if (!request_.change) return;
    request_.change(number, row, latents);
    check_given("the callback's latents", latents);
    value = backend_.upload(latent_shape_, latents.data());
  }

  void step(const Step& row, int64_t number, Values& values) {
    const auto sigma = static_cast<float>(row.sigma);
    const std::vector<float> coefficients(row.coefficients.begin(), row.coefficients.end());
    values["sigma"] = backend_.upload({1}, &sigma);
    values["coefficients"] = backend_.upload({3}, coefficients.data());
    values["sca_bias"] = bias(row.bias);
    Values outputs = run(row.graph, values, 0);
    values["latents"] = with_noise(outputs.at("next_latents"), row, number);
    values["previous_denoised"] = outputs.at("denoised");
    if (const auto deep = outputs.find(features); deep != outputs.end()) values[features] = deep->second;
  }

  Value bias(const std::string& name) {
    if (biases_.empty()) biases_["both"] = conditioned_.at("sca_bias");
    if (biases_.count(name) == 0) {
      const auto both = both_biases();
      check("the image encoder gave sca_bias", both);
      const Array rows = select_bias(both, name);
      biases_[name] = backend_.upload(rows.shape, rows.values.data());
    }
    return biases_.at(name);
  }

  std::vector<float> both_biases() { return floats(conditioned_.at("sca_bias"), {2, manifest_.bias_channels()}); }

  // Adds the fresh noise that a stochastic sampler asks for.
  Value with_noise(const Value& latents, const Step& row, int64_t number) {
    if (row.noise == 0) return latents;
    std::vector<float> values = floats(latents, latent_shape_);
    const auto noise = normal(seed_, stream_after(static_cast<uint32_t>(number)), values.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] += static_cast<float>(row.noise) * noise[i];
    return backend_.upload(latent_shape_, values.data());
  }

  // The host's copy of a value.
  std::vector<float> floats(const Value& value, const std::vector<int64_t>& shape) {
    std::vector<float> result(count_of(shape));
    backend_.download(value, "float32", result.data(), result.size() * sizeof(float));
    return result;
  }

  // Runs a graph on those values that it takes, and on its inputs' defaults; n frames are decoded.
  Values run(const std::string& graph, const Values& values, int64_t n) {
    if (request_.cancelled && request_.cancelled()) throw Error(Code::cancelled, "the video was cancelled");
    const Mark start = backend_.Backend::mark();
    backend_.load(graph);
    clock_.loading += backend_.Backend::mark().seconds - start.seconds;
    Values inputs;
    for (const auto& spec : manifest_.graphs.at(graph).inputs) {
      const auto value = values.find(spec.name);
      inputs[spec.name] = value != values.end() ? value->second : fill(graph, spec.name, n);
    }
    return clock_.time(graph_kind(graph).stage(), [&] { return backend_.run(graph, inputs); });
  }

  std::vector<int64_t> shape_of(const std::string& graph, const std::string& input, int64_t n) const {
    const auto& inputs = graph_kind(graph).inputs;
    const auto tensor = std::find_if(inputs.begin(), inputs.end(), [&](const Tensor& t) { return t.name == input; });
    return sized(tensor->shape, manifest_.values(plan_.sizes, n));
  }

  // The value of an input that a run does not set, uploaded once.
  Value fill(const std::string& graph, const std::string& input, int64_t n) {
    const auto shape = shape_of(graph, input, n);
    Value& value = fills_[input + listed(shape)];
    if (value == nullptr) {
      const std::vector<float> zeros(count_of(shape), 0.0F);
      value = backend_.upload(shape, zeros.data());
    }
    return value;
  }

  const Manifest& manifest_;
  Backend& backend_;
  const Plan& plan_;
  uint64_t seed_;
  const Request& request_;
  StageClock clock_;
  Values constants_, conditioned_, biases_, fills_;
  std::vector<int64_t> latent_shape_, image_latent_shape_;
};

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
      throw usage("a callback cannot make another video with its own pipeline: make it afterwards");
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
  if (options.auto_size) plan = this->plan(options, static_cast<double>(photo.width) / static_cast<double>(photo.height));
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
