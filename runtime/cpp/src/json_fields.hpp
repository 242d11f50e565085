// Reading JSON field by field. Each reader checks the type of a value, and says in Python's words what is wrong.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace vcut_core {

using Json = nlohmann::ordered_json;
using Read = std::function<void(Json&, const std::string& path)>;

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

// Parses a text. A whole number beyond 64 bits becomes a binary value of its digits. Throws Wrong.
Json parse_json(const std::string& data);

// Says what is wrong with the first number that is beyond 64 bits or not finite in float32, or with the nesting; empty
// if nothing is.
std::string impossible_value(const Json& manifest);

Invalid expected(const std::string& kinds, const Json& value, const std::string& path);

// An object with these fields alone; an object of any keys; a list.
void record(Json& value, const std::string& path, std::initializer_list<Field> fields);
void each(Json& value, const std::string& path, const std::function<void(const std::string&, Json&)>& read);
void elements(Json& value, const std::string& path, const Read& read);

bool is_whole(const Json& value);
std::string whole_number(const Json& value);  // its digits
// Returns a whole number. One beyond 2^62 becomes 2^62, which is too large for everything that a manifest counts.
int64_t integer_of(const Json& value, const std::string& path);

// Reads a UNet's configuration; an absent field has diffusers' default. Throws Invalid.
UnetConfig read_unet(Json& config);

Read text(std::string& out);
Read optional_text(std::optional<std::string>& out);
Read word(std::string& out, std::initializer_list<const char*> words);
Read integer(int64_t& out);
Read bounded(int64_t& out, int64_t largest);  // from 1
Read real(double& out);                       // a whole number becomes a float in the tree too
Read shape(std::vector<Dimension>& out);

}  // namespace vcut_core
