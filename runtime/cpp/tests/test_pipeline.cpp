// The step loop, on a backend without a device: what each graph is given, and what stops a video.
#include <doctest/doctest.h>

#include <cmath>
#include <thread>

#include "error.hpp"
#include "fake.hpp"
#include "noise.hpp"
#include "pipeline.hpp"

using namespace vcut_core;
using Names = std::vector<std::string>;

namespace {

struct Fixture {
  std::shared_ptr<Bundle> bundle = fake_bundle();
  FakeBackend* backend = nullptr;
  std::unique_ptr<Pipeline> pipeline;
  RunOptions options;
  Request request;
  float level = 0.5F;
  int64_t photo_width = 48;
  Names notes;

  Fixture() {
    auto owned = std::make_unique<FakeBackend>(*bundle);
    backend = owned.get();
    pipeline = std::make_unique<Pipeline>(bundle, std::move(owned));
    options.seed = 5;
  }

  Video run() {
    const auto grey = [this] {
      return Photo{32, photo_width, {}, [this](int64_t height, int64_t width, const std::string&) {
                     return std::vector<float>(static_cast<size_t>(3 * height * width), level);
                   }};
    };
    return pipeline->run(grey, options, request, [this](const std::string& note) { notes.push_back(note); });
  }
};

template <typename Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "graphs run in the order of the schedule, and each step gets what the one before gave") {
  const Video video = run();
  CHECK(backend->ran == Names{"condition", "semantic_binding", "semantic_binding", "quality_improvement",
                              "quality_improvement", "decode", "decode"});
  const auto& inputs = backend->inputs;
  CHECK(inputs[0].at("noise") == normal(5, image_stream, 3 * 16 * 24));
  auto latents = normal(5, latents_stream, 3 * 4 * 2 * 3);
  for (float& value : latents) value *= 700.0F;
  CHECK(inputs[1].at("latents") == latents);
  CHECK(inputs[1].at("previous_denoised") == std::vector<float>(latents.size(), 0.0F));
  CHECK(inputs[1].at("image_latents")[0] == 1.0F);
  CHECK(inputs[2].at("latents")[0] == 2.0F);
  CHECK(inputs[2].at("previous_denoised")[0] == 2.0F);
  CHECK(inputs[1].at("sca_bias").size() == 10);
  CHECK(inputs[3].at("sca_bias") == std::vector<float>(5, 1.0F));
  CHECK(inputs[1].count("guidance_scale") == 1);
  CHECK(inputs[3].count("guidance_scale") == 0);
  CHECK(inputs[1].at("added_time_ids") == std::vector<float>{6.0F, 127.0F, 0.02F});
  CHECK(video.own.size() == 3 * 16 * 24 * 3);
  CHECK(video.own.front() == 6);  // by the first chunk
  CHECK(video.own.back() == 7);
  CHECK(video.seed == 5);
}

TEST_CASE_FIXTURE(Fixture, "a shallow step gets the deep features of the last full one") {
  options.cache_interval = 2;
  run();
  CHECK(backend->ran == Names{"condition", "semantic_binding", "semantic_binding_shallow", "quality_improvement",
                              "quality_improvement_shallow", "decode", "decode"});
  CHECK(backend->inputs[2].at("deep_features")[0] == 2.0F);
  CHECK(backend->inputs[4].at("deep_features")[0] == 4.0F);
}

TEST_CASE_FIXTURE(Fixture, "a stochastic sampler adds the noise of each step's own stream") {
  options.solver = "lcm";
  run();
  const Schedule rows = pipeline->plan(options).schedule;
  const auto noise = normal(5, stream_after(1), 3 * 4 * 2 * 3);
  CHECK(backend->inputs[2].at("latents")[7] == 2.0F + static_cast<float>(rows[0].noise) * noise[7]);
}

TEST_CASE_FIXTURE(Fixture, "progress counts each stage from 0 to its total") {
  std::vector<std::string> said;
  request.progress = [&](const std::string& stage, int64_t done, int64_t total) {
    said.push_back(stage + " " + std::to_string(done) + "/" + std::to_string(total));
  };
  run();
  CHECK(said == Names{"condition 0/1", "condition 1/1", "semantic_binding 0/2",
                      "semantic_binding 2/2", "quality_improvement 0/2",
                      "quality_improvement 2/2", "decode 0/3", "decode 2/3", "decode 3/3"});
}

TEST_CASE_FIXTURE(Fixture, "a callback cannot make another video with its own pipeline") {
  std::string message;
  request.after_step = [&](int64_t, const Step&, const std::vector<float>&) {
    message = refusal([&] {
      Request other;
      pipeline->run({}, options, other, {});
    });
  };
  run();
  CHECK(message == "a callback cannot use its own pipeline for another video: do it afterwards");
  request.after_step = {};
  run();  // and the pipeline still works
}

TEST_CASE_FIXTURE(Fixture, "another thread cancels, and the pipeline makes the next video") {
  std::atomic<bool> cancelled{false};
  std::atomic<int> done{0};
  request.cancelled = [&] { return cancelled.load(); };
  request.after_step = [&](int64_t, const Step&, const std::vector<float>&) {
    ++done;
    while (!cancelled) std::this_thread::yield();
  };
  std::thread other([&] {
    while (done == 0) std::this_thread::yield();
    cancelled = true;
  });
  CHECK(refusal([&] { run(); }) == "the video was cancelled by its caller");
  other.join();
  CHECK(done == 1);
  cancelled = false;
  request.after_step = {};
  CHECK(run().frames != nullptr);
}

TEST_CASE_FIXTURE(Fixture, "threads share a pipeline: one video after the other") {
  std::vector<std::thread> threads;
  std::atomic<int> made{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 5; ++j) {
        run();
        ++made;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(made == 20);
  CHECK(backend->ran.size() == 20 * 7);
}

TEST_CASE_FIXTURE(Fixture, "the caller may bring latents, noise and the buffer") {
  const std::vector<float> latents(3 * 4 * 2 * 3, 0.25F);
  const std::vector<float> noise(3 * 16 * 24, 0.5F);
  std::vector<uint8_t> frames(3 * 16 * 24 * 3);
  request.latents = latents.data();
  request.latents_count = latents.size();
  request.noise = noise.data();
  request.noise_count = noise.size();
  request.frames = frames.data();
  request.frames_bytes = frames.size();
  const Video video = run();
  CHECK(!video.seed);
  CHECK(video.frames == frames.data());
  CHECK(frames.back() == 7);
  CHECK(backend->inputs[0].at("noise")[3] == 0.5F);
  CHECK(backend->inputs[1].at("latents")[3] == 175.0F);
  --request.frames_bytes;
  CHECK(refusal([&] { run(); }) == "the buffer for frames has 3455 bytes, the video needs 3456");
  ++request.frames_bytes;
  --request.latents_count;
  CHECK(refusal([&] { run(); }) == "latents has 71 numbers, this bundle needs [1, 3, 4, 2, 3] for each video");
}

TEST_CASE_FIXTURE(Fixture, "numbers that are not finite are refused where they come from") {
  const std::string fix = " with NaN or infinity: look for damaged weights and extreme options";
  std::vector<float> latents(3 * 4 * 2 * 3, 0.25F);
  request.latents = latents.data();
  request.latents_count = latents.size();
  latents[70] = std::nanf("");
  CHECK(refusal([&] { run(); }) == "latents has NaN or infinity: give finite numbers");
  latents[70] = 3e38F;
  CHECK(refusal([&] { run(); }) == "the latents times the first noise level has NaN or infinity: give finite numbers");
  request.latents = nullptr;
  CHECK(backend->ran.size() == 1);
  backend->infinite_from = 2 + 3;
  CHECK(refusal([&] { run(); }) == "step 3 of 4 gave latents" + fix);
  backend->infinite_from = static_cast<int>(backend->ran.size()) + 1;
  CHECK(refusal([&] { run(); }) == "the image encoder gave image_latents" + fix);
}

TEST_CASE_FIXTURE(Fixture, "black frames of an image that is not black are refused") {
  backend->black = true;
  CHECK(refusal([&] { run(); }).find("every frame is black") == 0);
  level = 0.0F;
  run();
}

TEST_CASE_FIXTURE(Fixture, "a callback may change the latents, to finite ones") {
  request.change = [](int64_t number, const Step&, std::vector<float>& latents) {
    if (number == 1) latents.assign(latents.size(), 9.0F);
  };
  run();
  CHECK(backend->inputs[2].at("latents")[5] == 9.0F);
  CHECK(backend->inputs[3].at("latents")[5] == 3.0F);
  request.change = [](int64_t, const Step&, std::vector<float>& latents) { latents[1] = INFINITY; };
  CHECK(refusal([&] { run(); }) == "the callback's latents has NaN or infinity: give finite numbers");
}

TEST_CASE_FIXTURE(Fixture, "a stretched image is noted, and a video may play at another rate") {
  options.output_fps = 12.5;
  CHECK(run().fps == 12.5);
  CHECK(notes.empty());
  photo_width = 24;
  run();
  CHECK(notes == Names{"the image of 24x32 is stretched 2.00 x in width to 24x16: "
                       "--fit crop, pad or blur keeps its shape"});
  options.fit = "crop";
  run();
  CHECK(notes.size() == 1);
}
