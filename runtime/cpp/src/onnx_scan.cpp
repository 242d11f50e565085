#include "onnx_scan.hpp"

#include <algorithm>
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
constexpr uint64_t int64_data = 7;  // of a tensor
constexpr uint64_t tensor_name = 8;
constexpr uint64_t raw_data = 9;
constexpr uint64_t node_input = 1;  // of a node
constexpr uint64_t op_type = 4;
constexpr uint64_t domain_field = 7;
constexpr size_t size_bytes = 512;  // of a constant that can be a size
constexpr double counted = 1e18;    // larger sizes count as this
// The input that says how much such an operator makes.
const std::map<std::string, size_t> sized_inputs{{"Expand", 1}, {"Tile", 1}, {"Pad", 1}, {"Resize", 3}};

uint64_t varint(std::string_view message, size_t& at) {
  uint64_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    if (at >= message.size() || shift > 63) throw Wrong("a number does not end");
    const auto byte = static_cast<unsigned char>(message[at++]);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

// Calls visit with each length-delimited field, and if plain with whole numbers as they are written. The others are
// stepped over.
void fields(std::string_view message, const std::function<void(uint64_t, std::string_view)>& visit,
            bool plain = false) {
  size_t at = 0;
  while (at < message.size()) {
    const uint64_t tag = varint(message, at);
    if (tag >> 32 != 0) throw Wrong("a tag is longer than 32 bits");
    switch (tag & 7) {
      case 0: {
        const size_t start = at;
        varint(message, at);
        if (plain) visit(tag >> 3, message.substr(start, at - start));
        break;
      }
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

// Multiplies by a number of a size; those of 2^63 and more are negative ones as protobuf writes them.
void multiply(double& product, uint64_t number) {
  if (number != 0 && number >> 63 == 0) product = std::min(product * static_cast<double>(number), counted);
}

// Returns a tensor's name, and the product of its numbers if it can be a size; its file comes to locations.
std::pair<std::string, double> read_tensor(std::string_view message, std::set<std::string>& locations) {
  std::string name;
  std::string numbers;
  double size = 0;
  fields(
      message,
      [&](uint64_t number, std::string_view value) {
        if (number == external_data) {
          if (const auto location = location_of(value)) locations.insert(*location);
        } else if (number == tensor_name) {
          name = value;
        } else if (number == int64_data && numbers.size() <= size_bytes) {
          numbers += value;
        } else if (number == raw_data && value.size() <= size_bytes) {
          size = 1;
          for (size_t at = 0; at + 8 <= value.size(); at += 8) {
            uint64_t word = 0;
            for (size_t byte = 8; byte-- > 0;) word = word << 8 | static_cast<unsigned char>(value[at + byte]);
            multiply(size, word);
          }
        }
      },
      true);
  if (numbers.size() <= size_bytes) {
    double product = 1;
    for (size_t at = 0; at < numbers.size();) multiply(product, varint(numbers, at));
    size = std::max(size, product);
  }
  return {name, size};
}

}  // namespace

GraphFacts scan_graph(std::string_view model) {
  GraphFacts facts;
  std::map<std::string, double> sizes;
  std::set<std::string> sized;
  std::vector<std::pair<Kind, std::string_view>> stack{{model_kind, model}};
  while (!stack.empty()) {
    const auto [kind, message] = stack.back();
    stack.pop_back();
    if (kind == tensor) {
      const auto [name, size] = read_tensor(message, facts.locations);
      sizes[name] = std::max(size, sizes[name]);
      continue;
    }
    std::string name;  // of a node; a field that comes twice has its last value
    std::string domain;
    std::vector<std::string> inputs;
    fields(message, [&, kind = kind](uint64_t number, std::string_view value) {
      if (const auto child = children.find({kind, number}); child != children.end()) {
        stack.emplace_back(child->second, value);
      } else if (kind == node && number == op_type) {
        name = value;
      } else if (kind == node && number == domain_field) {
        domain = value;
      } else if (kind == node && number == node_input) {
        inputs.emplace_back(value);
      }
    });
    if (kind != node) continue;
    facts.operators.insert(domain.empty() ? name : domain + "::" + name);
    const auto input = sized_inputs.find(name);
    if (input != sized_inputs.end() && input->second < inputs.size()) sized.insert(inputs[input->second]);
  }
  for (const auto& name : sized) {
    if (const auto size = sizes.find(name); size != sizes.end()) facts.largest = std::max(facts.largest, size->second);
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
