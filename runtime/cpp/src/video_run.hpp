// One video in the making, stage by stage: condition, the steps of a schedule, decode.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "backend.hpp"
#include "pipeline.hpp"
#include "plan.hpp"

namespace vcut_core {

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
  void wait(size_t behind = 0);
  std::vector<std::pair<std::string, double>> seconds();

 private:
  struct Piece {
    std::string stage;
    Mark start, end;
  };
  Backend& backend_;
  std::vector<Piece> marks_;
};

// Call condition, then denoise, then decode. What is passed in must outlive it.
class VideoRun {
 public:
  VideoRun(const Manifest& manifest, Backend& backend, const Plan& plan, uint64_t seed, const Request& request);

  // Encodes an image [1, 3, H, W]; noise of that shape is standard normal. Throws Error.
  void condition(const std::vector<float>& image, const std::vector<float>& noise);
  // Plays the schedule. A step is asked for while the step before it runs, so that the device never waits for this
  // loop. Progress reports steps that are done. Throws Error, also for latents that are not finite.
  std::vector<float> denoise(const std::vector<float>& start);
  // Decodes latents to frames [F, H, W, 3], a chunk at a time. Throws Error.
  void decode(const std::vector<float>& latents, uint8_t* frames);
  std::vector<std::pair<std::string, double>> seconds() { return clock_.seconds(); }

 private:
  void progress(const std::string& stage, int64_t done, int64_t total) const;
  void check(const std::string& what, const std::vector<float>& values) const;
  void look_at(const Step& row, int64_t number, Value& value);
  void step(const Step& row, int64_t number, Values& values);
  Value bias(const std::string& name);
  std::vector<float> both_biases();
  Value with_noise(const Value& latents, const Step& row, int64_t number);
  std::vector<float> floats(const Value& value, const std::vector<int64_t>& shape);
  Values run(const std::string& graph, const Values& values, int64_t n);
  std::vector<int64_t> shape_of(const std::string& graph, const std::string& input, int64_t n) const;
  Value fill(const std::string& graph, const std::string& input, int64_t n);

  const Manifest& manifest_;
  Backend& backend_;
  const Plan& plan_;
  uint64_t seed_;
  const Request& request_;
  StageClock clock_;
  bool is_on_host_;  // then every value is looked at; on a device they stay, unless a callback asks for them
  Values constants_, conditioned_, biases_, fills_;
  std::vector<int64_t> latent_shape_, image_latent_shape_;
};

}  // namespace vcut_core
