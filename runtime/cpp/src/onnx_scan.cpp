#include "onnx_scan.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "error.hpp"

namespace vcut_core {
namespace {

enum Kind { tensor, sparse, attribute, node, graph, function, training, model_kind };

// Field numbers are those of onnx.proto3. Only messages that can hold a tensor or a node are entered.
const std::map<std::pair<Kind, uint64_t>, Kind> children{
    {{model_kind, 7}, graph},  {{model_kind, 20}, training}, {{model_kind, 25}, function}, {{training, 1}, graph},
    {{training, 2}, graph},    {{function, 7}, node},        {{function, 11}, attribute},  {{graph, 1}, node},
    {{graph, 5}, tensor},      {{graph, 15}, sparse},        {{node, 5}, attribute},       {{attribute, 5}, tensor},
    {{attribute, 6}, graph},   {{attribute, 10}, tensor},    {{attribute, 11}, graph},     {{attribute, 22}, sparse},
    {{attribute, 23}, sparse}, {{sparse, 1}, tensor},        {{sparse, 2}, tensor},
};
constexpr uint64_t external_data = 13;
constexpr uint64_t op_type = 4;  // of a node
constexpr uint64_t domain_field = 7;

uint64_t varint(std::string_view message, size_t& at) {
  uint64_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    if (at >= message.size() || shift > 63) throw Wrong("a number does not end");
    const auto byte = static_cast<unsigned char>(message[at++]);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

// Calls visit with each length-delimited field; the others are stepped over.
void fields(std::string_view message, const std::function<void(uint64_t, std::string_view)>& visit) {
  size_t at = 0;
  while (at < message.size()) {
    const uint64_t tag = varint(message, at);
    if (tag >> 32 != 0) throw Wrong("a tag is longer than 32 bits");
    switch (tag & 7) {
      case 0:
        varint(message, at);
        break;
      case 1:
      case 5: {
        const size_t width = (tag & 7) == 1 ? 8 : 4;
        if (message.size() - at < width) throw Wrong("the message ends inside a field");
        at += width;
        break;
      }
      case 2: {
        const uint64_t length = varint(message, at);
        if (length > message.size() - at) throw Wrong("a field is longer than its message");
        visit(tag >> 3, message.substr(at, length));
        at += length;
        break;
      }
      default:
        throw Wrong("this wire type does not exist");
    }
  }
}

// Returns the file that an entry of a tensor's external data names, none if it says something else.
std::optional<std::string> location_of(std::string_view entry) {
  std::string key;
  std::string value;
  fields(entry, [&](uint64_t number, std::string_view part) {
    if (number == 1) key = part;
    if (number == 2) value = part;
  });
  if (key != "location") return std::nullopt;
  return value;
}

}  // namespace

GraphFacts scan_graph(std::string_view model) {
  GraphFacts facts;
  std::vector<std::pair<Kind, std::string_view>> stack{{model_kind, model}};
  while (!stack.empty()) {
    const auto [kind, message] = stack.back();
    stack.pop_back();
    std::string name;  // of a node; a field that comes twice has its last value
    std::string domain;
    fields(message, [&, kind = kind](uint64_t number, std::string_view value) {
      if (kind == tensor) {
        if (number != external_data) return;
        if (const auto location = location_of(value)) facts.locations.insert(*location);
      } else if (const auto child = children.find({kind, number}); child != children.end()) {
        stack.emplace_back(child->second, value);
      } else if (kind == node && number == op_type) {
        name = value;
      } else if (kind == node && number == domain_field) {
        domain = value;
      }
    });
    if (kind == node) facts.operators.insert(domain.empty() ? name : domain + "::" + name);
  }
  return facts;
}

bool is_exported(const std::string& name) {
  // Those of vcut_runtime.bundle.operators.
  static const std::set<std::string> names{
      "Add",     "Attention", "BatchNormalization", "Cast",      "Clip",
      "Concat",  "Conv",      "Cos",                "Div",       "Expand",
      "Gather",  "Gelu",      "Gemm",               "GroupNormalization",
      "InstanceNormalization", "LayerNormalization", "Log",      "MatMul",
      "Mul",     "Pad",       "Reciprocal",         "Reshape",   "Resize",
      "Round",   "Shape",     "Sigmoid",            "Sin",       "Slice",
      "Softmax", "Split",     "Sqrt",               "Squeeze",   "Sub",
      "Tile",    "Transpose", "Unsqueeze",          "com.microsoft::MultiHeadAttention",
  };
  return names.count(name) != 0;
}

}  // namespace vcut_core
