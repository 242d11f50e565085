#include "graphs.hpp"

#include <initializer_list>
#include <set>
#include <stdexcept>

namespace vcut_core {
namespace {

std::vector<Dimension> dims(std::initializer_list<const char*> words) {
  std::vector<Dimension> result;
  for (const std::string word : words) {
    const bool is_number = word.find_first_not_of("0123456789") == std::string::npos;
    result.push_back(is_number ? Dimension{std::stoll(word), ""} : Dimension{0, word});
  }
  return result;
}

Tensor tensor(const char* name, std::initializer_list<const char*> shape, const char* dtype = "float32") {
  Tensor result;
  result.name = name;
  result.shape = dims(shape);
  result.dtype = dtype;
  return result;
}

Tensor free_size(Tensor tensor) {
  tensor.only_free_size = true;
  return tensor;
}

GraphKind step(const std::string& name, const char* rows, bool shallow) {
  Tensor deep = tensor(features, {rows, "F", "D", "h", "w"}, "features");
  deep.only_deep = true;
  Tensor previous = tensor("previous_denoised", {"1", "F", "C", "h", "w"});
  previous.fill = 0.0F;
  GraphKind graph;
  graph.name = shallow ? name + "_shallow" : name;
  graph.inputs = {tensor("latents", {"1", "F", "C", "h", "w"}),
                  tensor("image_latents", {"1", "C", "h", "w"}),
                  tensor("sca_bias", {rows, "N"}),
                  tensor("sigma", {"1"}),
                  tensor("added_time_ids", {"1", "3"}),
                  previous,
                  tensor("coefficients", {"3"})};
  graph.outputs = {tensor("next_latents", {"1", "F", "C", "h", "w"}), tensor("denoised", {"1", "F", "C", "h", "w"})};
  graph.rows = std::stoi(rows);
  if (graph.rows == 2) graph.inputs.push_back(tensor("guidance_scale", {"F"}));
  (shallow ? graph.inputs : graph.outputs).push_back(deep);
  if (shallow) graph.full = name;
  graph.only_deep = shallow;
  return graph;
}

std::vector<GraphKind> make_kinds() {
  GraphKind condition;
  condition.name = "condition";
  condition.inputs = {tensor("image", {"1", "3", "H", "W"}), tensor("noise", {"1", "3", "H", "W"}),
                      tensor("noise_aug_strength", {"1"}), free_size(tensor("resize_rows", {"S", "H"})),
                      free_size(tensor("resize_columns", {"W", "S"}))};
  condition.outputs = {tensor("image_latents", {"1", "C", "h", "w"}), tensor("sca_bias", {"2", "N"})};
  GraphKind decode;
  decode.name = "decode";
  decode.inputs = {tensor("latents", {"n", "C", "h", "w"})};
  decode.outputs = {tensor("frames", {"n", "H", "W", "3"}, "uint8")};
  return {condition,
          step("semantic_binding", "2", false),
          step("quality_improvement", "1", false),
          decode,
          step("semantic_binding", "2", true),
          step("quality_improvement", "1", true)};
}

std::vector<TensorSpec> specs(const std::vector<Tensor>& tensors, const Symbols& bound, const std::string& precision) {
  const bool has_free_size = bound.count("H") == 0 || bound.count("W") == 0;
  std::vector<TensorSpec> result;
  for (const auto& item : tensors) {
    if ((item.only_free_size && !has_free_size) || (item.only_deep && bound.at("D") <= 0)) continue;
    TensorSpec spec{item.name, item.dtype, item.shape};
    if (spec.dtype == "features") spec.dtype = precision == "fp16" ? "float16" : "float32";
    for (auto& dimension : spec.shape) {
      const auto value = bound.find(dimension.symbol);
      if (value != bound.end()) dimension = {value->second, ""};
    }
    result.push_back(spec);
  }
  return result;
}

}  // namespace

const std::vector<GraphKind>& graph_kinds() {
  static const std::vector<GraphKind> kinds = make_kinds();
  return kinds;
}

const GraphKind* find_graph(const std::string& name) {
  for (const auto& kind : graph_kinds()) {
    if (kind.name == name) return &kind;
  }
  return nullptr;
}

const GraphKind& graph_kind(const std::string& name) {
  if (const auto* kind = find_graph(name)) return *kind;
  throw std::logic_error("no graph " + name);
}

Ordered<BoundGraph> bundle_graphs(const Manifest& manifest) {
  const Symbols bound = manifest.bound();
  Ordered<BoundGraph> result;
  for (const auto& kind : graph_kinds()) {
    if (kind.only_deep && manifest.deep_features <= 0) continue;
    result[kind.name] = {specs(kind.inputs, bound, manifest.precision), specs(kind.outputs, bound, manifest.precision)};
  }
  return result;
}

std::optional<std::string> unlike(const std::vector<TensorSpec>& loaded, const std::vector<TensorSpec>& listed) {
  using Facts = std::map<std::string, std::pair<std::string, std::vector<int64_t>>>;
  const auto facts = [](const std::vector<TensorSpec>& specs, bool is_loaded) {
    Facts result;
    for (const auto& spec : specs) {
      std::vector<int64_t> shape;
      for (const auto& dimension : spec.shape) {
        const bool is_free = dimension.free() || (is_loaded && dimension.size < 1);
        shape.push_back(is_free ? -1 : dimension.size);
      }
      result[spec.name] = {spec.dtype, shape};
    }
    return result;
  };
  const Facts real = facts(loaded, true);
  const Facts right = facts(listed, false);
  std::set<std::string> names;
  for (const auto* side : {&real, &right}) {
    for (const auto& entry : *side) names.insert(entry.first);
  }
  for (const auto& name : names) {
    const auto left = real.find(name);
    const auto other = right.find(name);
    if (left == real.end() || other == right.end() || left->second != other->second) return name;
  }
  return std::nullopt;
}

std::vector<int64_t> sized(const std::vector<Dimension>& shape, const Symbols& values) {
  std::vector<int64_t> result;
  for (const auto& dimension : shape) result.push_back(dimension.free() ? values.at(dimension.symbol) : dimension.size);
  return result;
}

}  // namespace vcut_core
