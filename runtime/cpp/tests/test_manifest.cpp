// Manifests that no Python test writes: broken JSON, and numbers beyond 64 bits.
#include <doctest/doctest.h>

#include <string>

#include "error.hpp"
#include "json_fields.hpp"
#include "manifest.hpp"

using namespace vcut_core;

namespace {

std::string refusal(const std::string& data) {
  try {
    decode_manifest(data);
  } catch (const Wrong& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("what is not JSON is refused") {
  const std::string deep_arrays = "{\"schema_version\":5,\"x\":" + std::string(100000, '[');
  const std::string nested(100000, '{');
  for (const std::string& data :
       {std::string(), std::string("{"), std::string("\xff\xfe"), std::string("{'a': 1}"), deep_arrays, nested,
        std::string("{\"schema_version\": 5,}"), std::string(1, '\0'), std::string("{\"a\":1e999}")}) {
    const std::string message = refusal(data);
    CHECK(message.find("manifest.json is not JSON (") == 0);
    CHECK(message.find(": export the bundle again with --force") != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("another version is refused whatever else it says") {
  CHECK(refusal("{\"schema_version\": 6}") == "manifest.json has schema version 6, this vcut reads 5: upgrade vcut");
  CHECK(refusal("{\"schema_version\": 1180591620717411303424, \"x\": []}") ==
        "manifest.json has schema version 1180591620717411303424, this vcut reads 5: upgrade vcut");
  CHECK(refusal("{\"schema_version\": -1}") ==
        "manifest.json has schema version -1, this vcut reads 5: export the bundle again with --force");
  for (const char* foreign : {"[]", "3", "null", "{}", "{\"schema_version\": \"5\"}", "{\"schema_version\": true}"}) {
    CHECK(refusal(foreign) ==
          "manifest.json has no schema_version, so this is not a vcut bundle: check the path");
  }
}

TEST_CASE("numbers beyond 64 bits are whole numbers too") {
  CHECK(refusal("{\"schema_version\": 5, \"height\": 1180591620717411303424, \"width\": \"x\"}") ==
        "manifest.json is damaged (Expected `int`, got `str` - at `$.width`): export the bundle again with --force");
  const std::string digits = "-18446744073709551616";
  const Json json = parse_json("{\"a\": [1e38, " + digits + "]}");
  CHECK(impossible_value(json) == "the manifest has the number " + digits + ", which is too large");
  CHECK(impossible_value(parse_json("[[1, 9223372036854775807]]")).empty());
  CHECK(impossible_value(parse_json("[3e39]")) ==
        "the manifest has the number 3e+39, which is not finite in float32");
  const std::string deep = std::string(40, '[') + std::string(40, ']');
  CHECK(impossible_value(parse_json(deep)) == "the manifest is nested too deeply");
}
