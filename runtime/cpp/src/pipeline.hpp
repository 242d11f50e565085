// Image to video: condition, the step loop that plays a schedule, decode.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backend.hpp"
#include "plan.hpp"

namespace vcut_core {

// An opened image.
struct Photo {
  int64_t height = 0, width = 0;
  std::vector<std::string> notes;  // what had to be assumed to read it
  // Gives it as float32 [1, 3, height, width] in [0, 1].
  std::function<std::vector<float>(int64_t height, int64_t width, const std::string& fit)> fitted;
};
using ImageSource = std::function<Photo()>;

// What belongs to one video besides its options. Callbacks run in the caller's thread.
struct Request {
  std::function<void(const std::string& stage, int64_t done, int64_t total)> progress;
  std::function<void(int64_t number, const Step& step, const std::vector<float>& latents)> after_step;
  // Called after after_step; it may change the latents, which the next step then takes.
  std::function<void(int64_t number, const Step& step, std::vector<float>& latents)> change;
  std::function<bool()> cancelled;
  const float* latents = nullptr;  // standard normal [1, F, C, h, w] instead of drawn numbers
  const float* noise = nullptr;    // standard normal [1, 3, H, W], likewise
  size_t latents_count = 0, noise_count = 0;
  uint8_t* frames = nullptr;  // where to write the frames; null: into the video
  size_t frames_bytes = 0;
};

struct Video {
  Sizes sizes;
  double fps = 0;
  std::optional<uint64_t> seed;  // none where latents and noise were both injected
  std::vector<uint8_t> own;      // frames [F, H, W, 3], unless the caller gave a buffer
  const uint8_t* frames = nullptr;
  std::vector<std::pair<std::string, double>> seconds;  // by stage
  std::optional<int64_t> peak_memory;
};

// A loaded bundle. Threads may share it: it makes one video after the other.
class Pipeline {
 public:
  Pipeline(std::shared_ptr<const Bundle> bundle, std::unique_ptr<Backend> backend)
      : bundle_(std::move(bundle)), backend_(std::move(backend)), logged_(backend_->notes().size()) {}

  const Bundle& bundle() const { return *bundle_; }
  const Backend& backend() const { return *backend_; }

  // Logs what the backend notes while the video is made, and notes about the image. Throws Error.
  Video run(const ImageSource& image, const RunOptions& options, const Request& request, const Log& log);

  // What a run with these options does here. Throws Error.
  Plan plan(const RunOptions& options, Aspect aspect = std::nullopt);

 private:
  // Lets one thread at a time use the backend, whose buffers hold one video. A callback of a video is refused.
  class Turn;

  std::shared_ptr<const Bundle> bundle_;
  std::unique_ptr<Backend> backend_;
  size_t logged_;  // notes of the backend
  std::mutex lock_;
  std::atomic<std::thread::id> busy_{};
};

}  // namespace vcut_core
