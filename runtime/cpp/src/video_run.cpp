#include "video_run.hpp"

#include <algorithm>

#include "finite.hpp"
#include "graphs.hpp"
#include "noise.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

// Returns the rows of sca_bias [2, N] that a step gets: their mean, or row 1.
Array select_bias(const std::vector<float>& both, const std::string& bias) {
  const size_t channels = both.size() / 2;
  const auto second = both.begin() + static_cast<std::ptrdiff_t>(channels);
  Array result{{1, static_cast<int64_t>(channels)}, std::vector<float>(second, both.end())};
  if (bias == "mean") {
    for (size_t i = 0; i < channels; ++i) result.values[i] = (both[i] + both[channels + i]) / 2.0F;
  }
  return result;
}

}  // namespace

void StageClock::wait(size_t behind) {
  if (marks_.size() > behind) backend_.wait(marks_[marks_.size() - 1 - behind].end);
}

std::vector<std::pair<std::string, double>> StageClock::seconds() {
  std::vector<std::pair<std::string, double>> result{{"load", loading}};
  for (const auto& [stage, start, end] : marks_) {
    auto item =
        std::find_if(result.begin(), result.end(), [&s = stage](const auto& pair) { return pair.first == s; });
    if (item == result.end()) item = result.insert(result.end(), {stage, 0.0});
    item->second += backend_.seconds(start, end);
  }
  return result;
}

VideoRun::VideoRun(const Manifest& manifest, Backend& backend, const Plan& plan, uint64_t seed, const Request& request)
    : manifest_(manifest),
      backend_(backend),
      plan_(plan),
      seed_(seed),
      request_(request),
      clock_(backend),
      is_on_host_(!backend.peak_memory()) {
  for (const auto& [name, array] : plan.constants) constants_[name] = backend.upload(array.shape, array.values.data());
  latent_shape_ = shape_of("semantic_binding", "latents", 0);
  image_latent_shape_ = shape_of("semantic_binding", "image_latents", 0);
}

void VideoRun::condition(const std::vector<float>& image, const std::vector<float>& noise) {
  progress("condition", 0, 1);
  Values values = constants_;
  const std::vector<int64_t> shape{1, 3, plan_.sizes.height, plan_.sizes.width};
  values["image"] = backend_.upload(shape, image.data());
  values["noise"] = backend_.upload(shape, noise.data());
  conditioned_ = run("condition", values, 0);
  clock_.wait();
  if (is_on_host_) {
    check("the image encoder gave image_latents", floats(conditioned_.at("image_latents"), image_latent_shape_));
    check("the image encoder gave sca_bias", both_biases());
  }
  progress("condition", 1, 1);
}

std::vector<float> VideoRun::denoise(const std::vector<float>& start) {
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
  auto latents = floats(values["latents"], latent_shape_);
  check("one of " + std::to_string(rows.size()) + " steps gave latents", latents);
  return latents;
}

void VideoRun::decode(const std::vector<float>& latents, uint8_t* frames) {
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
    const auto at = [&](int64_t number) {
      return decoded.begin() + static_cast<std::ptrdiff_t>((number - chunk.start) * static_cast<int64_t>(frame));
    };
    std::copy(at(chunk.keep_from), at(chunk.keep_to), frames + static_cast<size_t>(chunk.keep_from) * frame);
    progress("decode", chunk.keep_to, plan_.sizes.frames);
  }
}

void VideoRun::progress(const std::string& stage, int64_t done, int64_t total) const {
  if (request_.progress) request_.progress(stage, done, total);
}

void VideoRun::check(const std::string& what, const std::vector<float>& values) const {
  check_made(what, values, manifest_.precision);
}

// Checks the latents of a step and shows them to the callbacks, which may change them.
void VideoRun::look_at(const Step& row, int64_t number, Value& value) {
  if (!request_.after_step && !request_.change && !is_on_host_) return;
  auto latents = floats(value, latent_shape_);
  check("step " + std::to_string(number) + " of " + std::to_string(plan_.schedule.size()) + " gave latents", latents);
  if (request_.after_step) request_.after_step(number, row, latents);
  if (!request_.change) return;
  request_.change(number, row, latents);
  check_given("the callback's latents", latents);
  value = backend_.upload(latent_shape_, latents.data());
}

void VideoRun::step(const Step& row, int64_t number, Values& values) {
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

Value VideoRun::bias(const std::string& name) {
  if (biases_.empty()) biases_["both"] = conditioned_.at("sca_bias");
  if (biases_.count(name) == 0) {
    const auto both = both_biases();
    check("the image encoder gave sca_bias", both);
    const Array rows = select_bias(both, name);
    biases_[name] = backend_.upload(rows.shape, rows.values.data());
  }
  return biases_.at(name);
}

std::vector<float> VideoRun::both_biases() { return floats(conditioned_.at("sca_bias"), {2, manifest_.bias_channels()}); }

// Adds the fresh noise that a stochastic sampler asks for.
Value VideoRun::with_noise(const Value& latents, const Step& row, int64_t number) {
  if (row.noise == 0) return latents;
  std::vector<float> values = floats(latents, latent_shape_);
  const auto noise = normal(seed_, stream_after(static_cast<uint32_t>(number)), values.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] += static_cast<float>(row.noise) * noise[i];
  return backend_.upload(latent_shape_, values.data());
}

// The host's copy of a value.
std::vector<float> VideoRun::floats(const Value& value, const std::vector<int64_t>& shape) {
  std::vector<float> result(count_of(shape));
  backend_.download(value, "float32", result.data(), result.size() * sizeof(float));
  return result;
}

// Runs a graph on those values that it takes, and on its inputs' defaults; n frames are decoded.
Values VideoRun::run(const std::string& graph, const Values& values, int64_t n) {
  if (request_.cancelled && request_.cancelled()) throw Error(Code::cancelled, "the video was cancelled by its caller");
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

std::vector<int64_t> VideoRun::shape_of(const std::string& graph, const std::string& input, int64_t n) const {
  const auto& inputs = graph_kind(graph).inputs;
  const auto tensor =
      std::find_if(inputs.begin(), inputs.end(), [&](const Tensor& item) { return item.name == input; });
  return sized(tensor->shape, manifest_.values(plan_.sizes, n));
}

// The value of an input that a run does not set, uploaded once.
Value VideoRun::fill(const std::string& graph, const std::string& input, int64_t n) {
  const auto shape = shape_of(graph, input, n);
  Value& value = fills_[input + listed(shape)];
  if (value == nullptr) {
    const std::vector<float> zeros(count_of(shape), 0.0F);
    value = backend_.upload(shape, zeros.data());
  }
  return value;
}

}  // namespace vcut_core
