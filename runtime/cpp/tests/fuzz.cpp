// What strangers may write, for libFuzzer: manifests, ONNX graphs and photographs. The first byte chooses which, so
// any bundle and any photograph is a seed:
//
//   cmake --preset fuzz && cmake --build --preset fuzz --target vcut_fuzz
//   build/fuzz/vcut_fuzz CORPUS BUNDLE PHOTOGRAPHS
//
// Whatever the input, the answer is a result or one of the errors below.
#include <cstddef>
#include <cstdint>
#include <string>

#include "checks.hpp"
#include "error.hpp"
#include "image_file.hpp"
#include "manifest.hpp"
#include "onnx_scan.hpp"
#include "plan.hpp"

using namespace vcut_core;

namespace {

void play(const std::string& input) {
  const auto first = input.empty() ? '\0' : input[0];
  if (first == '{' || first == '[') {
    const Manifest manifest = decode_manifest(input);
    check_manifest(manifest);
    plan_run(manifest, RunOptions(), std::nullopt);
  } else if (first == '\xff' || first == '\x89') {
    std::vector<std::string> notes;
    decode_image(input.data(), input.size(), "a photograph", notes);
  } else {
    scan_graph(input);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    play(std::string(reinterpret_cast<const char*>(data), size));
  } catch (const Error&) {
  } catch (const Wrong&) {
  }
  return 0;
}
