#include "checks.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "error.hpp"
#include "graphs.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

const std::string again = ": export the bundle again with --force";
constexpr int64_t most_graph_bytes = 16 << 20;  // the largest of SVD-XT has 1 MB: weights are not in it
constexpr int64_t most_channels = 1 << 20;
constexpr int64_t most_factor = 64;  // pixels per latent pixel
constexpr int64_t most_encoder_size = 4096;

// The parts of a path, as Python's PurePosixPath has them.
std::vector<std::string> parts(const std::string& path) {
  std::vector<std::string> result;
  size_t from = 0;
  while (from <= path.size()) {
    const size_t to = std::min(path.find('/', from), path.size());
    const std::string part = path.substr(from, to - from);
    if (!part.empty() && part != ".") result.push_back(part);
    from = to + 1;
  }
  return result;
}

bool is_sha256(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

void check_paths(const Manifest& manifest) {
  std::vector<const File*> files = manifest.onnx_files();
  for (const File* engine : manifest.engine_files()) files.push_back(engine);
  for (const File* entry : files) {
    const std::string& path = entry->file;
    const auto words = parts(path);
    const bool leaves = std::find(words.begin(), words.end(), "..") != words.end();
    if ((!path.empty() && path[0] == '/') || leaves || path.find_first_of("\\:") != std::string::npos ||
        words.empty()) {
      throw Wrong("the manifest names a path outside the bundle, " + repr(path) + ": do not use this bundle");
    }
    if (path == manifest_file) {
      throw Wrong("the manifest lists itself as a file of the bundle: do not use this bundle");
    }
    if (!is_sha256(entry->sha256)) throw Wrong("the manifest gives no sha256 for " + path + again);
  }
  for (const File* entry : manifest.graph_files()) {
    if (entry->bytes > most_graph_bytes) {
      throw Wrong("the graph " + entry->file + " has " + std::to_string(entry->bytes) + " bytes, more than " +
                  std::to_string(most_graph_bytes) + again);
    }
  }
}

bool exceeds(const Sizes& sizes, const Sizes& limits) {
  return sizes.frames > limits.frames || sizes.height > limits.height || sizes.width > limits.width;
}

bool is_too_large(const Manifest& manifest) {
  const int64_t channels = std::max({manifest.latent_channels, manifest.deep_features, manifest.bias_channels()});
  return exceeds(manifest.sizes(), most_sizes) || exceeds(manifest.largest(), most_sizes) || channels > most_channels ||
         manifest.vae_scale_factor > most_factor || manifest.encoder_size > most_encoder_size;
}

void check_ranges(const Manifest& manifest) {
  for (const auto& [name, range] : manifest.dynamic) {
    const int64_t unit = name == "frames" ? 1 : manifest.vae_scale_factor;
    const bool usable = range.multiple >= 1 && range.multiple % unit == 0 && range.min >= 1;
    if (!usable || !range.has(range.min) || !range.has(range.max)) {
      throw Wrong("the manifest's range of " + name + " is impossible" + again);
    }
    const int64_t own =
        name == "frames" ? manifest.frames : name == "height" ? manifest.height : manifest.width;
    if (!range.has(own)) throw Wrong("the manifest's " + name + " is outside its own range" + again);
  }
}

void check_sizes(const Manifest& manifest) {
  if (std::min({manifest.frames, manifest.height, manifest.width, manifest.latent_channels, manifest.vae_scale_factor,
                manifest.decode_chunk}) < 1) {
    throw Wrong("the manifest gives a size below 1" + again);
  }
  if (manifest.deep_features < 0) throw Wrong("the manifest gives deep_features below 0" + again);
  if (is_too_large(manifest)) throw Wrong("the manifest gives a size that is too large" + again);
  check_ranges(manifest);
  if (!manifest.dynamic.empty() && manifest.encoder_size < 1) {
    throw Wrong("the manifest gives no size of the image encoder" + again);
  }
  const int64_t most = manifest.decode_frames() ? manifest.smallest().frames : manifest.largest().frames;
  if (manifest.decode_chunk > most) throw Wrong("the manifest's decode_chunk is longer than its videos" + again);
  if (manifest.decode_overlap < 0 || manifest.decode_overlap >= (manifest.decode_chunk + 1) / 2) {
    throw Wrong("the manifest's decode_overlap does not fit its decode_chunk" + again);
  }
  int64_t offset = 0;
  for (const auto& slice : manifest.sca_bias) {
    if (slice.offset != offset || slice.channels < 1) {
      throw Wrong("the manifest's sca_bias slices do not follow each other at " + slice.block + again);
    }
    offset += slice.channels;
  }
}

void check_graphs(const Manifest& manifest, const Ordered<BoundGraph>& graphs) {
  for (const auto& [name, graph] : graphs) {
    if (!manifest.graphs.has(name)) throw Wrong("the manifest lacks the graph " + name + again);
  }
  for (const auto& [name, graph] : manifest.graphs) {
    if (!graphs.has(name)) throw Wrong("the manifest has an unknown graph " + name + again);
  }
  for (const auto& [name, graph] : manifest.graphs) {
    if (!manifest.weights.has(graph.weights)) {
      throw Wrong("graph " + name + " needs the unlisted weights " + repr(graph.weights) + again);
    }
  }
}

void check_schedules(const Manifest& manifest) {
  const Scheduler& scheduler = manifest.scheduler;
  const bool ordered = 0 <= scheduler.final_sigma && scheduler.final_sigma < scheduler.sigma_min &&
                       0 < scheduler.sigma_min && scheduler.sigma_min < scheduler.sigma_max;
  const bool scaled = scheduler.initial_noise_scale >= scheduler.sigma_max * (1 - 1e-6);  // see Scheduler::noise_scale
  if (!(ordered && scheduler.rho > 0 && scaled && falls(karras_sigmas(scheduler, most_steps)))) {
    throw Wrong("the manifest's scheduler constants are impossible" + again);
  }
  if (!manifest.schedules.has(default_schedule)) {
    throw Wrong("the manifest lacks the schedule " + repr(default_schedule) + again);
  }
  for (const auto& [name, schedule] : manifest.schedules) {
    try {
      check_schedule(schedule, manifest);
    } catch (const Wrong& error) {
      throw Wrong("the manifest's schedule " + repr(name) + " is impossible, " + error.what() + again);
    }
  }
  for (const auto& name : manifest.measured) {
    if (!manifest.schedules.has(name)) {
      throw Wrong("the manifest has a measurement of the unknown schedule " + repr(name) + again);
    }
  }
}

bool fits(const Profile& profile, const std::vector<Dimension>& shape) {
  const size_t rank = shape.size();
  if (profile.min.size() != rank || profile.opt.size() != rank || profile.max.size() != rank) return false;
  for (size_t i = 0; i < rank; ++i) {
    const int64_t low = profile.min[i];
    const int64_t mid = profile.opt[i];
    const int64_t high = profile.max[i];
    if (low < 1 || mid < low || high < mid) return false;
    if (!shape[i].free() && (low != high || high != shape[i].size)) return false;
  }
  return true;
}

bool profiles_fit(const Engine& engine) {
  std::map<std::string, std::vector<Dimension>> free;
  for (const auto& spec : engine.inputs) {
    if (spec.has_free()) free[spec.name] = spec.shape;
  }
  if (free.size() != engine.profile.size()) return false;
  for (const auto& [name, profile] : engine.profile) {
    const auto shape = free.find(name);
    if (shape == free.end() || !fits(profile, shape->second)) return false;
  }
  return true;
}

void check_engines(const Manifest& manifest) {
  for (const auto& [target, set] : manifest.engines) {
    for (const auto& [name, engine] : set.engines) {
      const Graph* graph = manifest.graphs.find(name);
      if (graph == nullptr) {
        throw Wrong("the manifest has an engine of the unknown graph " + repr(name) + " in " + target +
                    ": rebuild it");
      }
      if (engine.graph != graph->sha256 || engine.weights != manifest.weights.at(graph->weights).sha256) {
        throw Wrong("the engine " + name + " of " + target +
                    " was built from another graph than this bundle's: run 'vcut build' on the bundle again");
      }
      if (!profiles_fit(engine)) {
        throw Wrong("the profile of engine " + name + " of " + target + " does not fit its inputs: rebuild it");
      }
    }
    for (const auto& [name, engine] : set.engines) {
      if (std::min({engine.activation_bytes, engine.weight_bytes, engine.layers}) < 0) {
        throw Wrong("the engines of " + target + " claim a negative size: rebuild them");
      }
    }
  }
}

const TensorSpec* named(const std::vector<TensorSpec>& specs, const std::string& name) {
  const TensorSpec* result = nullptr;
  for (const auto& spec : specs) {
    if (spec.name == name) result = &spec;
  }
  return result;
}

bool same(const TensorSpec* left, const TensorSpec* right) {
  if (left == nullptr || right == nullptr) return left == right;
  return left->dtype == right->dtype && left->shape == right->shape;
}

void check_tensors(const std::vector<TensorSpec>& actual, const std::vector<TensorSpec>& right,
                   const std::string& what) {
  std::set<std::string> names;
  for (const auto& spec : actual) {
    if (!names.insert(spec.name).second) {
      throw Wrong("the manifest lists a tensor of " + what + " twice" + again);
    }
  }
  for (const auto* side : {&right, &actual}) {
    for (const auto& spec : *side) {
      if (!same(named(actual, spec.name), named(right, spec.name))) {
        throw Wrong("the manifest's shape of " + repr(spec.name) + " in " + what + " does not fit its sizes" + again);
      }
    }
  }
}

// Graphs and engines must have the shapes that the manifest's sizes imply, or the step loop would not fit.
void check_shapes(const Manifest& manifest, const Ordered<BoundGraph>& graphs) {
  for (const auto& [name, graph] : manifest.graphs) {
    check_tensors(graph.inputs, graphs.at(name).inputs, "graph " + name);
    check_tensors(graph.outputs, graphs.at(name).outputs, "graph " + name);
  }
  for (const auto& [target, set] : manifest.engines) {
    for (const auto& [name, engine] : set.engines) {
      const std::string what = "engine " + name + " of " + target;
      check_tensors(engine.inputs, graphs.at(name).inputs, what);
      check_tensors(engine.outputs, graphs.at(name).outputs, what);
    }
  }
}

}  // namespace

void check_manifest(const Manifest& manifest) {
  check_paths(manifest);
  check_sizes(manifest);
  if (!manifest.unet_problem.empty()) {
    throw Wrong("the manifest's configuration of the UNet is impossible (" + manifest.unet_problem + ")" + again);
  }
  const auto graphs = bundle_graphs(manifest);
  check_graphs(manifest, graphs);
  check_schedules(manifest);
  check_engines(manifest);
  check_shapes(manifest, graphs);
  if (!manifest.impossible_value.empty()) throw Wrong(manifest.impossible_value + again);
}

void check_schedule(const Schedule& schedule, const Manifest& manifest) {
  if (schedule.empty()) throw Wrong("it has no step");
  if (schedule.size() > static_cast<size_t>(most_steps)) {
    throw Wrong("it has " + std::to_string(schedule.size()) + " steps, more than " + std::to_string(most_steps));
  }
  std::string full;  // the step graph that gave the latest deep features
  const auto finite = [](double value) { return std::isfinite(value) && std::abs(value) < 3.4028235677973366e38; };
  for (size_t i = 0; i < schedule.size(); ++i) {
    const Step& step = schedule[i];
    const std::string which = "step " + std::to_string(i + 1);
    const GraphKind* graph = find_graph(step.graph);
    if (graph == nullptr || !graph->is_step() || !manifest.graphs.has(step.graph)) {
      throw Wrong(which + " runs " + repr(step.graph) + ", which is not a step graph of this bundle");
    }
    if ((step.bias == "both") != (graph->rows == 2)) {
      throw Wrong(which + " gives the bias " + repr(step.bias) + " to " + step.graph);
    }
    if (!graph->full.empty() && graph->full != full) {
      throw Wrong(which + " is shallow, and no " + graph->full + " step comes before it");
    }
    full = graph->stage();
    const bool all_finite = finite(step.sigma) && finite(step.noise) && finite(step.coefficients[0]) &&
                            finite(step.coefficients[1]) && finite(step.coefficients[2]);
    if (!all_finite || static_cast<float>(step.sigma) <= 0 || step.noise < 0) {
      throw Wrong(which + " has an impossible sigma, coefficient or noise");
    }
    if (i > 0 && static_cast<float>(step.sigma) >= static_cast<float>(schedule[i - 1].sigma)) {
      throw Wrong("sigma does not fall at " + which);
    }
  }
}

}  // namespace vcut_core
