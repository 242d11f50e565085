// The graphs of a bundle: what vcut_runtime.bundle.graph records, here for C++. A test compares the two.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "manifest.hpp"

namespace vcut_core {

inline constexpr const char* features = "deep_features";

struct Tensor {
  std::string name;
  std::vector<Dimension> shape;
  std::string dtype = "float32";  // "features" is float16 in a bundle of precision fp16, else float32
  std::optional<float> fill;      // of an input, the value of all elements if a run does not set it
  bool only_free_size = false;    // exists if height or width is free
  bool only_deep = false;         // exists if D is not 0
};

struct GraphKind {
  std::string name;
  std::vector<Tensor> inputs, outputs;
  int rows = 0;              // of a denoising step, its batch; 0 for other graphs
  std::string full;          // of a shallow step, the full step whose deep features it takes
  bool only_deep = false;    // exists if D is not 0

  bool is_step() const { return rows > 0; }
  const std::string& stage() const { return full.empty() ? name : full; }
};

const std::vector<GraphKind>& graph_kinds();
const GraphKind* find_graph(const std::string& name);
const GraphKind& graph_kind(const std::string& name);

struct BoundGraph {
  std::vector<TensorSpec> inputs, outputs;
};

// The graphs that a bundle with this manifest must have. Dimensions that are free there are symbols.
Ordered<BoundGraph> bundle_graphs(const Manifest& manifest);

// Returns the name of a tensor that is not as the manifest lists it, none if all are. A dimension of a loaded graph
// that is no positive number is free.
std::optional<std::string> unlike(const std::vector<TensorSpec>& loaded, const std::vector<TensorSpec>& listed);

// Returns a shape whose symbols all have values.
std::vector<int64_t> sized(const std::vector<Dimension>& shape, const Symbols& values);

}  // namespace vcut_core
