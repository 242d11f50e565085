// Reads manifest.json. Its types are checked field by field, in the order and with the words of the Python runtime.
#include "error.hpp"
#include "json_fields.hpp"
#include "manifest.hpp"

namespace vcut_core {
namespace {

constexpr const char* again = ": export the bundle again with --force";
Read tensors(std::vector<TensorSpec>& out) {
  return [&out](Json& value, const std::string& path) {
    out.clear();
    elements(value, path, [&](Json& inner, const std::string& place) {
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
  return [&out](Json& value, const std::string& path) {
    out.clear();
    elements(value, path,
             [&](Json& inner, const std::string& place) { out.push_back(integer_of(inner, place)); });
  };
}

void read_file(Json& value, const std::string& path, File& out) {
  record(value, path, {{"file", text(out.file)}, {"bytes", integer(out.bytes)}, {"sha256", text(out.sha256)}});
}

void read_graph(Json& value, const std::string& path, Graph& out) {
  const auto contrib = [&out](Json& inner, const std::string& place) {
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

void read_engine(Json& value, const std::string& path, Engine& out) {
  double seconds = 0;
  out.is_engine = true;
  const auto profiles = [&out](Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, Json& item) {
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

void read_engines(Json& value, const std::string& path, EngineSet& out) {
  const auto engines = [&out](Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, Json& item) {
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

void read_step(Json& value, const std::string& path, Step& out) {
  const auto coefficients = [&out](Json& inner, const std::string& place) {
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

void read_measurement(Json& value, const std::string& path) {
  double real_number = 0;
  int64_t whole = 0;
  std::string words;
  const auto low = [](Json& inner, const std::string& place) {
    if (!inner.is_null() && !inner.is_number() && !is_whole(inner)) throw expected("float | null", inner, place);
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

void read_model(Json& value, const std::string& path, Manifest& out) {
  std::optional<std::string> revision;
  const auto flag = [](Json& inner, const std::string& place) {
    if (!inner.is_boolean()) throw expected("bool", inner, place);
  };
  const auto seed = [](Json& inner, const std::string& place) {
    if (!inner.is_null() && !is_whole(inner)) throw expected("int | null", inner, place);
  };
  const auto configs = [&out](Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, Json& config) {
      if (!config.is_object()) throw expected("object", config, place + "[...]");
      try {
        if (name == "unet") out.unet = read_unet(config);
      } catch (const Invalid& error) {
        out.unet_problem = error.what();
      }
      if (name == "image_encoder") {
        const auto size = config.find("image_size");
        out.encoder_size = size == config.end() ? 224 : is_whole(*size) ? integer_of(*size, place) : 0;
      }
    });
  };
  const auto unet = [](Json& inner, const std::string& place) {
    if (inner.is_null()) return;
    if (!inner.is_object()) throw expected("object | null", inner, place);
    std::string words;
    record(inner, place, {{"name", text(words)}, {"fingerprint", text(words)}});
  };
  const auto adapters = [](Json& inner, const std::string& place) {
    elements(inner, place, [](Json& item, const std::string& item_place) {
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

Manifest read_manifest(Json& value) {
  Manifest out;
  int64_t version = 0;
  std::string tca;
  const auto model = [&](Json& inner, const std::string& place) { read_model(inner, place, out); };
  const auto dynamic = [&](Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, Json& item) {
      if (name != "frames" && name != "height" && name != "width") {
        throw Invalid("Invalid enum value '" + name + "' - at `key` in `" + place + "`", "$");
      }
      SizeRange range;
      record(item, place + "[...]",
             {{"min", integer(range.min)}, {"max", integer(range.max)}, {"multiple", integer(range.multiple)}});
      out.dynamic[name] = range;
    });
  };
  const auto guidance = [&](Json& inner, const std::string& place) {
    record(inner, place, {{"min", real(out.guidance_min)}, {"max", real(out.guidance_max)}});
  };
  const auto scheduler = [&](Json& inner, const std::string& place) {
    record(inner, place,
           {{"sigma_min", real(out.scheduler.sigma_min)},
            {"sigma_max", real(out.scheduler.sigma_max)},
            {"rho", real(out.scheduler.rho)},
            {"final_sigma", real(out.scheduler.final_sigma)},
            {"initial_noise_scale", real(out.scheduler.initial_noise_scale)}});
  };
  const auto schedules = [&](Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, Json& item) {
      Schedule schedule;
      elements(item, place + "[...]", [&](Json& row, const std::string& row_place) {
        read_step(row, row_place, schedule.emplace_back());
      });
      out.schedules[name] = std::move(schedule);
    });
  };
  const auto measurements = [&](Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, Json& item) {
      read_measurement(item, place + "[...]");
      out.measured.push_back(name);
    });
  };
  const auto biases = [&](Json& inner, const std::string& place) {
    elements(inner, place, [&](Json& item, const std::string& item_place) {
      BiasSlice slice;
      std::string kind;
      record(item, item_place,
             {{"block", text(slice.block)},
              {"kind", word(kind, {"sca", "tca"})},
              {"offset", integer(slice.offset)},
              {"channels", integer(slice.channels)}});
      out.sca_bias.push_back(std::move(slice));
    });
  };
  const auto graphs = [&](Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, Json& item) {
      Graph graph;
      read_graph(item, place + "[...]", graph);
      out.graphs[name] = std::move(graph);
    });
  };
  const auto weights = [&](Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, Json& item) {
      read_file(item, place + "[...]", out.weights[name]);
    });
  };
  const auto engines = [&](Json& inner, const std::string& place) {
    each(inner, place, [&](const std::string& name, Json& item) {
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

void check_version(const Json& json) {
  const auto version = json.is_object() ? json.find("schema_version") : json.end();
  if (!json.is_object() || version == json.end() || !is_whole(*version)) {
    throw Wrong("manifest.json has no schema_version, so this is not a vcut bundle: check the path");
  }
  const std::string words = whole_number(*version);
  if (words == std::to_string(schema_version)) return;
  const bool is_newer = integer_of(*version, "$") > schema_version;
  throw Wrong("manifest.json has schema version " + words + ", this vcut reads " + std::to_string(schema_version) +
              (is_newer ? ": upgrade vcut" : again));
}

}  // namespace

Manifest decode_manifest(const std::string& data) {
  Json json;
  try {
    json = parse_json(data);
  } catch (const Wrong& error) {
    throw Wrong(std::string("manifest.json is not JSON (") + error.what() + ")" + again);
  }
  check_version(json);
  try {
    Manifest manifest = read_manifest(json);
    manifest.impossible_value = impossible_value(json);
    return manifest;
  } catch (const Invalid& error) {
    throw Wrong("manifest.json is damaged (" + one_line(error.what()) + ")" + again);
  }
}

}  // namespace vcut_core
