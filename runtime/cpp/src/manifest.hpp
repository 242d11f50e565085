// manifest.json: what a bundle says about itself. The format is specified in runtime/README.md.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "schedule.hpp"
#include "unet_cost.hpp"

namespace vcut_core {

inline constexpr int schema_version = 5;
inline constexpr const char* manifest_file = "manifest.json";

// A JSON object in the order of the file.
template <typename T>
class Ordered {
 public:
  using Entry = std::pair<std::string, T>;

  T& operator[](const std::string& key) {
    for (auto& [name, value] : entries_) {
      if (name == key) return value;
    }
    return entries_.emplace_back(key, T{}).second;
  }
  const T* find(std::string_view key) const {
    for (const auto& [name, value] : entries_) {
      if (name == key) return &value;
    }
    return nullptr;
  }
  const T& at(std::string_view key) const { return *find(key); }
  bool has(std::string_view key) const { return find(key) != nullptr; }
  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& entry : entries_) result.push_back(entry.first);
    return result;
  }

 private:
  std::vector<Entry> entries_;
};

// A dimension of a shape: a number, or a symbol that stays free.
struct Dimension {
  int64_t size = 0;
  std::string symbol;

  bool free() const { return !symbol.empty(); }
  bool operator==(const Dimension& other) const { return size == other.size && symbol == other.symbol; }
};

struct TensorSpec {
  std::string name;
  std::string dtype;  // float32, float16 or uint8
  std::vector<Dimension> shape;

  bool has_free() const;
};

struct File {
  std::string file;
  int64_t bytes = 0;
  std::string sha256;
  bool is_engine = false;
};

struct Graph : File {
  std::optional<File> contrib;  // the same graph with ONNX Runtime's own operators
  std::string weights;
  std::string key;
  std::vector<TensorSpec> inputs, outputs;
};

struct Profile {
  std::vector<int64_t> min, opt, max;
};

struct Engine : File {
  std::string key, graph, weights;
  std::vector<TensorSpec> inputs, outputs;
  Ordered<Profile> profile;
  int64_t activation_bytes = 0, weight_bytes = 0, layers = 0;
};

struct EngineSet {
  std::string library, version;
  std::optional<std::string> compute_capability, gpu;
  Ordered<Engine> engines;
};

struct SizeRange {
  int64_t min = 0, max = 0, multiple = 0;

  bool has(int64_t size) const { return min <= size && size <= max && size % multiple == 0; }
  std::string words() const;
};

// Frames, and pixels of each frame.
struct Sizes {
  int64_t frames = 0, height = 0, width = 0;
};

inline constexpr Sizes most_sizes{1024, 16384, 16384};

struct BiasSlice {
  std::string block;
  int64_t offset = 0, channels = 0;
};

using Symbols = std::map<std::string, int64_t>;

struct Manifest {
  std::string vcut_version, model_id;
  UnetConfig unet;
  std::string unet_problem;      // what is wrong with the configuration of the UNet; empty: nothing
  std::string impossible_value;  // what is wrong with a number anywhere; empty: nothing
  int64_t encoder_size = 224;  // S; 0 if the configuration gives no number
  int64_t height = 0, width = 0, frames = 0;
  Ordered<SizeRange> dynamic;
  int64_t latent_channels = 0, vae_scale_factor = 0;
  std::string precision, operators;
  double guidance_min = 0, guidance_max = 0;
  Scheduler scheduler;
  Ordered<Schedule> schedules;
  std::vector<std::string> measured;  // schedules with a measurement
  int64_t decode_chunk = 0, decode_overlap = 0, deep_features = 0;
  std::vector<BiasSlice> sca_bias;
  Ordered<Graph> graphs;
  Ordered<File> weights;
  Ordered<EngineSet> engines;

  Sizes sizes() const { return {frames, height, width}; }
  Sizes smallest() const;
  Sizes largest() const;
  const Schedule& schedule() const { return schedules.at(default_schedule); }
  int64_t bias_channels() const;
  bool has_free_size() const { return dynamic.has("height") || dynamic.has("width"); }
  // Frames that decode takes; none for any number, which is so if the longest video is decoded whole.
  std::optional<int64_t> decode_frames() const;
  // Every symbol's value in a video of sizes, decoded chunk frames at a time.
  Symbols values(const Sizes& sizes, int64_t chunk) const;
  // The symbols that have one value in all of the bundle's videos.
  Symbols bound() const;
  std::vector<const File*> graph_files() const;  // without their weights
  std::vector<const File*> onnx_files() const;
  std::vector<const File*> engine_files() const;
};

// Parses a manifest. Throws Wrong.
Manifest decode_manifest(const std::string& data);

}  // namespace vcut_core
