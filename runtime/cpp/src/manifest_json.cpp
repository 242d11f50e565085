// Reads manifest.json. Its types are checked field by field, in the order and with the words of the Python runtime.
#include <cmath>
#include <functional>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>

#include "error.hpp"
#include "manifest.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

using Json = nlohmann::ordered_json;
using Read = std::function<void(const Json&, const std::string&)>;

constexpr const char* again = ": export the bundle again with --force";
constexpr int deepest = 500;
constexpr int64_t most = int64_t{1} << 60;  // sums of a manifest's numbers stay within 64 bits

struct Field {
  const char* name;
  Read read;
  bool required = true;
};

// What is wrong with a value, and where.
class Invalid : public std::runtime_error {
 public:
  Invalid(const std::string& what, const std::string& path)
      : std::runtime_error(path == "$" ? what : what + " - at `" + path + "`") {}
};

const char* kind_of(const Json& value) {
  if (value.is_object()) return "object";
  if (value.is_array()) return "array";
  if (value.is_string()) return "str";
  if (value.is_boolean()) return "bool";
  if (value.is_number_integer()) return "int";
  if (value.is_number()) return "float";
  return "null";
}

Invalid expected(const std::string& kinds, const Json& value, const std::string& path) {
  return {"Expected `" + kinds + "`, got `" + kind_of(value) + "`", path};
}

void record(const Json& value, const std::string& path, std::initializer_list<Field> fields) {
  if (!value.is_object()) throw expected("object", value, path);
  for (const auto& [key, inner] : value.items()) {
    const Field* match = nullptr;
    for (const Field& field : fields) {
      if (key == field.name) match = &field;
    }
    if (match == nullptr) throw Invalid("Object contains unknown field `" + key + "`", path);
    match->read(inner, path + "." + key);
  }
  for (const Field& field : fields) {
    if (field.required && !value.contains(field.name)) {
      throw Invalid(std::string("Object missing required field `") + field.name + "`", path);
    }
  }
}

void each(const Json& value, const std::string& path, const std::function<void(const std::string&, const Json&)>& read) {
  if (!value.is_object()) throw expected("object", value, path);
  for (const auto& [key, inner] : value.items()) read(key, inner);
}

void elements(const Json& value, const std::string& path, const Read& read) {
  if (!value.is_array()) throw expected("array", value, path);
  for (size_t i = 0; i < value.size(); ++i) read(value[i], path + "[" + std::to_string(i) + "]");
}

Read text(std::string& out) {
  return [&out](const Json& value, const std::string& path) {
    if (!value.is_string()) throw expected("str", value, path);
    out = value.get<std::string>();
  };
}

Read optional_text(std::optional<std::string>& out) {
  return [&out](const Json& value, const std::string& path) {
    if (value.is_null()) return;
    if (!value.is_string()) throw expected("str | null", value, path);
    out = value.get<std::string>();
  };
}

Read word(std::string& out, std::initializer_list<const char*> words) {
  std::vector<std::string> known(words.begin(), words.end());
  return [&out, known](const Json& value, const std::string& path) {
    if (!value.is_string()) throw expected("str", value, path);
    out = value.get<std::string>();
    for (const auto& name : known) {
      if (out == name) return;
    }
    throw Invalid("Invalid enum value '" + out + "'", path);
  };
}

int64_t integer_of(const Json& value, const std::string& path) {
  if (!value.is_number_integer()) throw expected("int", value, path);
  const bool large = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(most);
  if (large || value.get<int64_t>() > most || value.get<int64_t>() < -most) {
    throw Invalid("Integer value out of range", path);
  }
  return value.get<int64_t>();
}

Read integer(int64_t& out) {
  return [&out](const Json& value, const std::string& path) { out = integer_of(value, path); };
}

Read real(double& out) {
  return [&out](const Json& value, const std::string& path) {
    if (!value.is_number()) throw expected("float", value, path);
    out = value.get<double>();
  };
}

Read shape(std::vector<Dimension>& out) {
  return [&out](const Json& value, const std::string& path) {
    out.clear();
    elements(value, path, [&](const Json& inner, const std::string& place) {
      Dimension dimension;
      if (inner.is_string()) {
        dimension.symbol = inner.get<std::string>();
      } else if (inner.is_number_integer()) {
        dimension.size = integer_of(inner, place);
      } else {
        throw expected("int | str", inner, place);
      }
      out.push_back(dimension);
    });
  };
}

Read tensors(std::vector<TensorSpec>& out) {
  return [&out](const Json& value, const std::string& path) {
    out.clear();
    elements(value, path, [&](const Json& inner, const std::string& place) {
      TensorSpec spec;
      record(inner, place,
             {{"name", text(spec.name)},
              {"dtype", word(spec.dtype, {"float32", "float16", "uint8"})},
              {"shape", shape(spec.shape)}});
      out.push_back(std::move(spec));
    });
  };
}

Read integers(std::vector<int64_t>& out) {
  return [&out](const Json& value, const std::string& path) {
    out.clear();
    elements(value, path,
             [&](const Json& inner, const std::string& place) { out.push_back(integer_of(inner, place)); });
  };
}

void read_file(const Json& value, const std::string& path, File& out) {
  record(value, path, {{"file", text(out.file)}, {"bytes", integer(out.bytes)}, {"sha256", text(out.sha256)}});
}

void read_graph(const Json& value, const std::string& path, Graph& out) {
  const auto contrib = [&out](const Json& inner, const std::string& place) {
    if (inner.is_null()) return;
    if (!inner.is_object()) throw expected("object | null", inner, place);
    read_file(inner, place, out.contrib.emplace());
  };
  record(value, path,
         {{"file", text(out.file)},
          {"bytes", integer(out.bytes)},
          {"sha256", text(out.sha256)},
          {"contrib", contrib},
          {"weights", text(out.weights)},
          {"key", text(out.key)},
          {"inputs", tensors(out.inputs)},
          {"outputs", tensors(out.outputs)}});
}

void read_engine(const Json& value, const std::string& path, Engine& out) {
  double seconds = 0;
  out.is_engine = true;
  const auto profiles = [&out](const Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, const Json& item) {
      Profile profile;
      record(item, place + "[...]",
             {{"min", integers(profile.min)}, {"opt", integers(profile.opt)}, {"max", integers(profile.max)}});
      out.profile[name] = profile;
    });
  };
  record(value, path,
         {{"file", text(out.file)},
          {"bytes", integer(out.bytes)},
          {"sha256", text(out.sha256)},
          {"key", text(out.key)},
          {"graph", text(out.graph)},
          {"weights", text(out.weights)},
          {"inputs", tensors(out.inputs)},
          {"outputs", tensors(out.outputs)},
          {"profile", profiles},
          {"activation_bytes", integer(out.activation_bytes)},
          {"weight_bytes", integer(out.weight_bytes)},
          {"layers", integer(out.layers)},
          {"build_seconds", real(seconds)}});
}

void read_engines(const Json& value, const std::string& path, EngineSet& out) {
  const auto engines = [&out](const Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, const Json& item) {
      Engine engine;
      read_engine(item, place + "[...]", engine);
      out.engines[name] = std::move(engine);
    });
  };
  record(value, path,
         {{"library", word(out.library, {"tensorrt", "tensorrt-rtx"})},
          {"version", text(out.version)},
          {"compute_capability", optional_text(out.compute_capability)},
          {"gpu", optional_text(out.gpu)},
          {"engines", engines}});
}

void read_step(const Json& value, const std::string& path, Step& out) {
  const auto coefficients = [&out](const Json& inner, const std::string& place) {
    if (!inner.is_array()) throw expected("array", inner, place);
    if (inner.size() != 3) throw Invalid("Expected `array` of length 3", place);
    for (size_t i = 0; i < 3; ++i) real(out.coefficients[i])(inner[i], place + "[" + std::to_string(i) + "]");
  };
  record(value, path,
         {{"sigma", real(out.sigma)},
          {"graph", text(out.graph)},
          {"bias", word(out.bias, {"both", "mean", "cond"})},
          {"coefficients", coefficients},
          {"noise", real(out.noise), false}});
}

void read_measurement(const Json& value, const std::string& path) {
  double real_number = 0;
  int64_t whole = 0;
  std::string words;
  const auto low = [](const Json& inner, const std::string& place) {
    if (!inner.is_null() && !inner.is_number()) throw expected("float | null", inner, place);
  };
  record(value, path,
         {{"psnr", real(real_number)},
          {"low", low},
          {"images", integer(whole)},
          {"seeds", integer(whole)},
          {"seconds", real(real_number)},
          {"device", text(words)},
          {"backend", text(words)},
          {"date", text(words)}});
}

int64_t whole(const Json& config, const char* name, int64_t otherwise) {
  const auto item = config.find(name);
  return item != config.end() && item->is_number_integer() ? item->get<int64_t>() : otherwise;
}

// One number for all levels, or a number for each.
std::vector<int64_t> per_level(const Json& config, const char* name, std::vector<int64_t> otherwise) {
  const auto item = config.find(name);
  if (item == config.end()) return otherwise;
  if (item->is_number_integer()) return {item->get<int64_t>()};
  if (!item->is_array()) return otherwise;
  std::vector<int64_t> result;
  for (const auto& value : *item) result.push_back(value.is_number_integer() ? value.get<int64_t>() : 0);
  return result;
}

std::vector<bool> with_attention(const Json& config, const char* name, std::vector<bool> otherwise) {
  const auto item = config.find(name);
  if (item == config.end() || !item->is_array()) return otherwise;
  std::vector<bool> result;
  for (const auto& value : *item) {
    result.push_back(value.is_string() && value.get<std::string>().find("CrossAttn") != std::string::npos);
  }
  return result;
}

UnetConfig unet_config(const Json& config) {
  UnetConfig unet;
  unet.channels = per_level(config, "block_out_channels", unet.channels);
  unet.layers = per_level(config, "layers_per_block", unet.layers);
  unet.transformers = per_level(config, "transformer_layers_per_block", unet.transformers);
  unet.heads = per_level(config, "num_attention_heads", unet.heads);
  unet.down = with_attention(config, "down_block_types", unet.down);
  unet.up = with_attention(config, "up_block_types", unet.up);
  unet.embedding = whole(config, "projection_class_embeddings_input_dim", unet.embedding);
  unet.in_channels = whole(config, "in_channels", unet.in_channels);
  unet.out_channels = whole(config, "out_channels", unet.out_channels);
  return unet;
}

void read_model(const Json& value, const std::string& path, Manifest& out) {
  std::optional<std::string> revision;
  const auto flag = [](const Json& inner, const std::string& place) {
    if (!inner.is_boolean()) throw expected("bool", inner, place);
  };
  const auto seed = [](const Json& inner, const std::string& place) {
    if (!inner.is_null() && !inner.is_number_integer()) throw expected("int | null", inner, place);
  };
  const auto configs = [&out](const Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, const Json& config) {
      if (!config.is_object()) throw expected("object", config, place + "[...]");
      if (name == "unet") out.unet = unet_config(config);
      if (name == "image_encoder") {
        const auto size = config.find("image_size");
        out.encoder_size = size == config.end() ? 224 : size->is_number_integer() ? integer_of(*size, place) : 0;
      }
    });
  };
  const auto unet = [](const Json& inner, const std::string& place) {
    if (inner.is_null()) return;
    if (!inner.is_object()) throw expected("object | null", inner, place);
    std::string words;
    record(inner, place, {{"name", text(words)}, {"fingerprint", text(words)}});
  };
  const auto adapters = [](const Json& inner, const std::string& place) {
    elements(inner, place, [](const Json& item, const std::string& item_place) {
      std::string words;
      double scale = 0;
      record(item, item_place, {{"file", text(words)}, {"sha256", text(words)}, {"scale", real(scale)}});
    });
  };
  record(value, path,
         {{"id", text(out.model_id)},
          {"revision", optional_text(revision)},
          {"random_weights", flag},
          {"seed", seed},
          {"unet", unet},
          {"adapters", adapters},
          {"configs", configs}});
}

Manifest read_manifest(const Json& value) {
  Manifest out;
  int64_t version = 0;
  std::string tca;
  const auto model = [&](const Json& inner, const std::string& place) { read_model(inner, place, out); };
  const auto dynamic = [&](const Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, const Json& item) {
      if (name != "frames" && name != "height" && name != "width") {
        throw Wrong("Invalid enum value '" + name + "' - at `key` in `" + place + "`");
      }
      SizeRange range;
      record(item, place + "[...]",
             {{"min", integer(range.min)}, {"max", integer(range.max)}, {"multiple", integer(range.multiple)}});
      out.dynamic[name] = range;
    });
  };
  const auto guidance = [&](const Json& inner, const std::string& place) {
    record(inner, place, {{"min", real(out.guidance_min)}, {"max", real(out.guidance_max)}});
  };
  const auto scheduler = [&](const Json& inner, const std::string& place) {
    record(inner, place,
           {{"sigma_min", real(out.scheduler.sigma_min)},
            {"sigma_max", real(out.scheduler.sigma_max)},
            {"rho", real(out.scheduler.rho)},
            {"final_sigma", real(out.scheduler.final_sigma)},
            {"initial_noise_scale", real(out.scheduler.initial_noise_scale)}});
  };
  const auto schedules = [&](const Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, const Json& item) {
      Schedule schedule;
      elements(item, place + "[...]", [&](const Json& row, const std::string& row_place) {
        read_step(row, row_place, schedule.emplace_back());
      });
      out.schedules[name] = std::move(schedule);
    });
  };
  const auto measurements = [&](const Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, const Json& item) {
      read_measurement(item, place + "[...]");
      out.measured.push_back(name);
    });
  };
  const auto biases = [&](const Json& inner, const std::string& place) {
    elements(inner, place, [&](const Json& item, const std::string& item_place) {
      BiasSlice slice;
      std::string kind;
      record(item, item_place,
             {{"block", text(slice.block)},
              {"kind", word(kind, {"sca", "tca"})},
              {"offset", integer(slice.offset)},
              {"channels", integer(slice.channels)}});
      if (std::abs(slice.channels) > (int64_t{1} << 40)) throw Invalid("Integer value out of range", item_place);
      out.sca_bias.push_back(std::move(slice));
    });
  };
  const auto graphs = [&](const Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, const Json& item) {
      Graph graph;
      read_graph(item, place + "[...]", graph);
      out.graphs[name] = std::move(graph);
    });
  };
  const auto weights = [&](const Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, const Json& item) {
      read_file(item, place + "[...]", out.weights[name]);
    });
  };
  const auto engines = [&](const Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, const Json& item) {
      EngineSet set;
      read_engines(item, place + "[...]", set);
      out.engines[name] = std::move(set);
    });
  };
  record(value, "$",
         {{"schema_version", integer(version)},
          {"vcut_version", text(out.vcut_version)},
          {"model", model},
          {"height", integer(out.height)},
          {"width", integer(out.width)},
          {"frames", integer(out.frames)},
          {"dynamic", dynamic},
          {"latent_channels", integer(out.latent_channels)},
          {"vae_scale_factor", integer(out.vae_scale_factor)},
          {"precision", word(out.precision, {"fp16", "bf16", "fp32"})},
          {"operators", word(out.operators, {"cpu", "gpu"})},
          {"tca", word(tca, {"remove", "fold"})},
          {"guidance", guidance},
          {"scheduler", scheduler},
          {"schedules", schedules},
          {"measurements", measurements},
          {"decode_chunk", integer(out.decode_chunk)},
          {"decode_overlap", integer(out.decode_overlap)},
          {"deep_features", integer(out.deep_features)},
          {"sca_bias", biases},
          {"graphs", graphs},
          {"weights", weights},
          {"engines", engines}});
  return out;
}

Json parse(const std::string& data) {
  const auto check_depth = [](int depth, Json::parse_event_t, Json&) {
    if (depth > deepest) throw Wrong("too many brackets within each other");
    return true;
  };
  try {
    return Json::parse(data, check_depth);
  } catch (const nlohmann::json::exception& error) {
    const std::string reason = error.what();  // what it read last may be long, and any bytes
    throw Wrong("manifest.json is not JSON (" + one_line(reason.substr(0, reason.find("; last read"))) + ")" + again);
  } catch (const Wrong& error) {
    throw Wrong(std::string("manifest.json is not JSON (") + error.what() + ")" + again);
  }
}

void check_version(const Json& json) {
  const auto version = json.is_object() ? json.find("schema_version") : json.end();
  const bool huge = json.is_object() && version != json.end() && version->is_number_float() &&
                    std::abs(version->get<double>()) > 1e18;
  if (!json.is_object() || version == json.end() || !(version->is_number_integer() || huge)) {
    throw Wrong("manifest.json has no schema_version, so this is not a vcut bundle: check the path");
  }
  if (version->is_number_integer() && *version == schema_version) return;
  char words[400];
  std::snprintf(words, sizeof words, "%.0f", version->get<double>());
  const std::string fix = *version > schema_version ? "upgrade vcut" : "export the bundle again with --force";
  throw Wrong(std::string("manifest.json has schema version ") + words + ", this vcut reads " +
              std::to_string(schema_version) + ": " + fix);
}

}  // namespace

Manifest decode_manifest(const std::string& data) {
  const Json json = parse(data);
  check_version(json);
  try {
    return read_manifest(json);
  } catch (const std::runtime_error& error) {
    throw Wrong("manifest.json is damaged (" + one_line(error.what()) + ")" + again);
  }
}

}  // namespace vcut_core
