#include "json_fields.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "error.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

constexpr size_t deepest_text = 500;  // brackets within each other that are read at all
constexpr int deepest = 32;           // levels of objects and lists that a manifest may have
constexpr int64_t most = int64_t{1} << 62;

// Builds the tree. Whole numbers beyond 64 bits, which the library would make floats, are kept as their digits.
// Moving the library's values cannot throw.
// NOLINTNEXTLINE(bugprone-exception-escape)
class Builder : public nlohmann::json_sax<Json> {
 public:
  Json root;
  std::string problem;

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t& digits) override {
    if (digits.find_first_of(".eE") != std::string::npos) return add(value);
    return add(Json::binary(Json::binary_t::container_type(digits.begin(), digits.end())));
  }
  bool string(string_t& value) override { return add(value); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool key(string_t& value) override {
    key_ = value;
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    problem = error.what();  // what was read last may be long, and any bytes
    problem = one_line(problem.substr(0, problem.find("; last read")));
    return false;
  }

 private:
  Json* place(Json value) {
    if (open_.empty()) return &(root = std::move(value));
    Json& parent = *open_.back();
    if (parent.is_array()) return &parent.emplace_back(std::move(value));
    return &(parent[key_] = std::move(value));
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    problem = "too many brackets within each other";
    if (open_.size() >= deepest_text) return false;
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::vector<Json*> open_;  // objects and lists around the next value
  std::string key_;
};

// Tells whether the magnitude of a whole number takes more than 63 bits.
bool is_beyond(const Json& value) {
  constexpr auto largest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (value.is_number_unsigned()) return value.get<uint64_t>() > largest;
  return value.is_binary() || value.get<int64_t>() == std::numeric_limits<int64_t>::min();
}

}  // namespace

Json parse_json(const std::string& data) {
  Builder builder;
  if (!Json::sax_parse(data, &builder)) throw Wrong(builder.problem);
  return std::move(builder.root);
}

std::string impossible_value(const Json& manifest) {
  std::vector<std::pair<const Json*, int>> values{{&manifest, 0}};
  while (!values.empty()) {
    const auto [value, depth] = values.back();
    values.pop_back();
    if (depth > deepest) return "the manifest is nested too deeply";
    if (value->is_structured()) {
      for (const Json& item : *value) values.emplace_back(&item, depth + 1);
    } else if (is_whole(*value) && is_beyond(*value)) {
      return "the manifest has the number " + whole_number(*value) + ", which is too large";
    } else if (value->is_number_float() &&
               std::abs(value->get<double>()) > static_cast<double>(std::numeric_limits<float>::max())) {
      return "the manifest has the number " + short_number(value->get<double>()) + ", which is not finite in float32";
    }
  }
  return "";
}

const char* kind_of(const Json& value) {
  if (value.is_object()) return "object";
  if (value.is_array()) return "array";
  if (value.is_string()) return "str";
  if (value.is_boolean()) return "bool";
  if (value.is_number_integer()) return "int";
  if (value.is_number() || value.is_binary()) return "float";  // as msgspec says of a number beyond 64 bits
  return "null";
}

Invalid expected(const std::string& kinds, const Json& value, const std::string& path) {
  return {"Expected `" + kinds + "`, got `" + kind_of(value) + "`", path};
}

void record(Json& value, const std::string& path, std::initializer_list<Field> fields) {
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

void each(Json& value, const std::string& path, const std::function<void(const std::string&, Json&)>& read) {
  if (!value.is_object()) throw expected("object", value, path);
  for (const auto& [key, inner] : value.items()) read(key, inner);
}

void elements(Json& value, const std::string& path, const Read& read) {
  if (!value.is_array()) throw expected("array", value, path);
  for (size_t i = 0; i < value.size(); ++i) read(value[i], path + "[" + std::to_string(i) + "]");
}

Read text(std::string& out) {
  return [&out](Json& value, const std::string& path) {
    if (!value.is_string()) throw expected("str", value, path);
    out = value.get<std::string>();
  };
}

Read optional_text(std::optional<std::string>& out) {
  return [&out](Json& value, const std::string& path) {
    if (value.is_null()) return;
    if (!value.is_string()) throw expected("str | null", value, path);
    out = value.get<std::string>();
  };
}

Read word(std::string& out, std::initializer_list<const char*> words) {
  std::vector<std::string> known(words.begin(), words.end());
  return [&out, known](Json& value, const std::string& path) {
    if (!value.is_string()) throw expected("str", value, path);
    out = value.get<std::string>();
    for (const auto& name : known) {
      if (out == name) return;
    }
    throw Invalid("Invalid enum value '" + out + "'", path);
  };
}

bool is_whole(const Json& value) { return value.is_number_integer() || value.is_binary(); }

std::string whole_number(const Json& value) {
  if (value.is_number_unsigned()) return std::to_string(value.get<uint64_t>());
  if (!value.is_binary()) return std::to_string(value.get<int64_t>());
  return {value.get_binary().begin(), value.get_binary().end()};
}

int64_t integer_of(const Json& value, const std::string& path) {
  if (!is_whole(value)) throw expected("int", value, path);
  if (is_beyond(value)) return whole_number(value)[0] == '-' ? -most : most;
  return std::clamp(value.get<int64_t>(), -most, most);
}

Read integer(int64_t& out) {
  return [&out](Json& value, const std::string& path) { out = integer_of(value, path); };
}

Read bounded(int64_t& out, int64_t largest) {
  return [&out, largest](Json& value, const std::string& path) {
    out = integer_of(value, path);
    if (out < 1) throw Invalid("Expected `int` >= 1", path);
    if (out > largest) throw Invalid("Expected `int` <= " + std::to_string(largest), path);
  };
}

Read real(double& out) {
  return [&out](Json& value, const std::string& path) {
    if (!value.is_number() && !is_whole(value)) throw expected("float", value, path);
    out = value.is_binary() ? std::strtod(whole_number(value).c_str(), nullptr) : value.get<double>();
    value = out;
  };
}

Read shape(std::vector<Dimension>& out) {
  return [&out](Json& value, const std::string& path) {
    out.clear();
    elements(value, path, [&](Json& inner, const std::string& place) {
      Dimension dimension;
      if (inner.is_string()) {
        dimension.symbol = inner.get<std::string>();
        if (dimension.symbol.empty()) dimension.symbol = "?";  // free, and unlike every name
      } else if (is_whole(inner)) {
        dimension.size = integer_of(inner, place);
      } else {
        throw expected("int | str", inner, place);
      }
      out.push_back(dimension);
    });
  };
}

}  // namespace vcut_core
