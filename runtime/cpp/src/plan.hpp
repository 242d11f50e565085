// Plans one video: checks the options against the bundle, and decides sizes, steps and chunks before anything runs.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "manifest.hpp"
#include "options.hpp"

namespace vcut_core {

// A value of float32 on the host.
struct Array {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// Frames start .. stop are decoded together. Of them keep_from .. keep_to are kept.
struct Chunk {
  int64_t start = 0, stop = 0, keep_from = 0, keep_to = 0;
};

struct Plan {
  Sizes sizes;
  Schedule schedule;
  std::vector<Chunk> chunks;
  std::map<std::string, Array> constants;  // inputs of graphs by name
};

// Width over height of a photograph; none plans the bundle's own size where the photograph's shape would decide.
using Aspect = std::optional<double>;

// Returns what a run with these options does; most_decoded is the most frames that the backend decodes at a time.
// Throws Error.
Plan plan_run(const Manifest& manifest, const RunOptions& options, std::optional<int64_t> most_decoded,
              Aspect aspect = std::nullopt);

std::vector<Chunk> decode_chunks(int64_t frames, int64_t size, int64_t overlap, bool full);  // throws Error

}  // namespace vcut_core
