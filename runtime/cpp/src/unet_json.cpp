// Reads the part of a UNet's configuration that decides its cost.
#include "json_fields.hpp"

namespace vcut_core {
namespace {

constexpr int64_t most_layers = 64;       // of a level of the UNet
constexpr int64_t most_width = 1 << 16;   // channels, heads
constexpr size_t most_levels = 8;

// One number for all levels, or a number for each.
Read per_level(std::vector<int64_t>& out, int64_t most) {
  return [&out, most](Json& value, const std::string& path) {
    if (!is_whole(value) && !value.is_array()) throw expected("int | array", value, path);
    out.clear();
    if (is_whole(value)) {
      bounded(out.emplace_back(), most)(value, path);
    } else {
      elements(value, path, [&](Json& inner, const std::string& place) {
        bounded(out.emplace_back(), most)(inner, place);
      });
    }
  };
}

Read with_attention(std::vector<bool>& out) {
  return [&out](Json& value, const std::string& path) {
    out.clear();
    elements(value, path, [&](Json& inner, const std::string& place) {
      std::string kind;
      text(kind)(inner, place);
      out.push_back(kind.find("CrossAttn") != std::string::npos);
    });
  };
}

Read channels(std::vector<int64_t>& out) {
  return [&out](Json& value, const std::string& path) {
    if (!value.is_array()) throw expected("array", value, path);
    if (value.empty()) throw Invalid("Expected `array` of length >= 1", path);
    if (value.size() > most_levels) throw Invalid("Expected `array` of length <= " + std::to_string(most_levels), path);
    per_level(out, most_width)(value, path);
  };
}

// Numbers beyond 64 bits are whole numbers here, and not floats as elsewhere in messages.
void cut(Json& value) {
  if (is_whole(value)) value = integer_of(value, "$");
  if (!value.is_array()) return;
  for (Json& item : value) {
    if (is_whole(item)) item = integer_of(item, "$");
  }
}

}  // namespace

UnetConfig read_unet(Json& config) {
  UnetConfig unet;
  const std::vector<Field> fields{{"block_out_channels", channels(unet.channels)},
                                  {"down_block_types", with_attention(unet.down)},
                                  {"up_block_types", with_attention(unet.up)},
                                  {"layers_per_block", per_level(unet.layers, most_layers)},
                                  {"transformer_layers_per_block", per_level(unet.transformers, most_layers)},
                                  {"num_attention_heads", per_level(unet.heads, most_width)},
                                  {"projection_class_embeddings_input_dim", bounded(unet.embedding, most_width)},
                                  {"in_channels", bounded(unet.in_channels, most_width)},
                                  {"out_channels", bounded(unet.out_channels, most_width)}};
  for (const auto& [key, value] : config.items()) {
    for (const Field& field : fields) {
      if (key != field.name) continue;
      cut(value);
      field.read(value, "$." + key);
    }
  }
  const size_t levels = unet.channels.size();
  const auto check = [&](const char* name, size_t count) {
    if (count == levels) return;
    throw Invalid(std::string(name) + " has " + std::to_string(count) + " entries for " + std::to_string(levels) +
                      " levels",
                  "$");
  };
  check("down_block_types", unet.down.size());
  check("up_block_types", unet.up.size());
  for (const char* name : {"layers_per_block", "transformer_layers_per_block", "num_attention_heads"}) {
    const auto value = config.find(name);
    if (value != config.end() && value->is_array()) check(name, value->size());
  }
  return unet;
}

}  // namespace vcut_core
