// A bundle in memory, and a backend without a device. Its graphs only count.
#pragma once

#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend.hpp"
#include "graphs.hpp"
#include "schedule.hpp"

namespace vcut_core {

// A bundle of 3 frames of 16x24 with shallow steps, 4 steps and a cut at the third.
inline std::shared_ptr<Bundle> fake_bundle() {
  auto bundle = std::make_shared<Bundle>();
  Manifest& manifest = bundle->manifest;
  manifest.frames = 3;
  manifest.height = 16;
  manifest.width = 24;
  manifest.latent_channels = 4;
  manifest.vae_scale_factor = 8;
  manifest.precision = "fp32";
  manifest.operators = "cpu";
  manifest.guidance_min = 1.0;
  manifest.guidance_max = 3.0;
  manifest.scheduler = {0.002, 700.0, 7.0, 0.0, 700.0};
  manifest.decode_chunk = 2;
  manifest.deep_features = 2;
  manifest.sca_bias = {{"block", 0, 5}};
  const Levels sigmas = karras_sigmas(manifest.scheduler, 4);
  RowOptions rows;
  rows.cut_step = 3;
  manifest.schedules["vcut"] = make_schedule(sigmas, rows);
  for (const auto& [name, tensors] : bundle_graphs(manifest)) {
    Graph graph;
    graph.inputs = tensors.inputs;
    graph.outputs = tensors.outputs;
    manifest.graphs[name] = graph;
  }
  return bundle;
}

struct FakeValue : DeviceValue {
  std::vector<float> floats;
  std::vector<uint8_t> bytes;
};

// Every output holds the number of the run that made it, so that what a step takes can be told.
class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(const Bundle& bundle) : Backend("fake"), bundle_(bundle) {}

  std::vector<std::string> ran;
  std::vector<std::map<std::string, std::vector<float>>> inputs;
  std::atomic<int> inside{0};
  int infinite_from = 1 << 20;  // the first run whose outputs are not finite
  bool black = false;

  void load(const std::string&) override {}

  Value upload(const std::vector<int64_t>& shape, const float* data) override {
    auto value = std::make_shared<FakeValue>();
    value->shape = shape;
    value->dtype = "float32";
    value->floats.assign(data, data + size_of(shape, "uint8"));
    return value;
  }

  void download(const Value& value, const std::string& dtype, void* out, size_t bytes) override {
    const auto& fake = static_cast<FakeValue&>(*value);
    if (dtype == "uint8") {
      std::copy(fake.bytes.begin(), fake.bytes.end(), static_cast<uint8_t*>(out));
    } else {
      std::copy(fake.floats.begin(), fake.floats.begin() + static_cast<std::ptrdiff_t>(bytes / sizeof(float)),
                static_cast<float*>(out));
    }
  }

  Values run(const std::string& graph, const Values& given) override {
    if (++inside != 1) throw std::logic_error("two threads use the backend");
    ran.push_back(graph);
    auto& kept = inputs.emplace_back();
    for (const auto& [name, value] : given) kept[name] = static_cast<FakeValue&>(*value).floats;
    const auto number = static_cast<float>(ran.size());
    Values result;
    const int64_t n = graph == "decode" ? given.at("latents")->shape[0] : 0;
    const Symbols symbols = bundle_.manifest.values(bundle_.manifest.sizes(), n);
    for (const auto& tensor : graph_kind(graph).outputs) {
      auto value = std::make_shared<FakeValue>();
      value->shape = sized(tensor.shape, symbols);
      value->dtype = tensor.dtype == "uint8" ? "uint8" : "float32";
      const size_t count = size_of(value->shape, "uint8");
      if (value->dtype == "uint8") {
        value->bytes.assign(count, black ? uint8_t{0} : static_cast<uint8_t>(ran.size()));
      } else {
        value->floats.assign(count, static_cast<int>(ran.size()) < infinite_from ? number : INFINITY);
      }
      result[tensor.name] = value;
    }
    --inside;
    return result;
  }

  void check_run(const Sizes&, const std::set<std::string>&) override {}

 private:
  const Bundle& bundle_;
};

}  // namespace vcut_core
