// What strangers may write, for libFuzzer: manifests, ONNX graphs and photographs. The first byte says which it is, so
// a file of a bundle and any photograph can be a seed. tests/cpp/test_fuzz.py runs it.
//
// Whatever the input, the answer is a result or one of the errors below.
#include <zlib.h>

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

// Makes the checksums of a PNG's chunks right: libFuzzer cannot guess them, and would never get past them.
void mend_checksums(std::string& png) {
  const auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<unsigned char>(png[at])); };
  for (size_t at = 8; at + 12 <= png.size();) {
    const size_t length = byte(at) << 24 | byte(at + 1) << 16 | byte(at + 2) << 8 | byte(at + 3);
    const size_t end = at + 8 + length;  // of the chunk's name and content
    if (end + 4 > png.size()) return;
    const auto sum = crc32(0, reinterpret_cast<const Bytef*>(png.data()) + at + 4, static_cast<uInt>(length + 4));
    for (size_t i = 0; i < 4; ++i) png[end + i] = static_cast<char>(sum >> (24 - 8 * i));
    at = end + 4;
  }
}

void play(std::string input) {
  const auto first = input.empty() ? '\0' : input[0];
  if (first == '{' || first == '[') {
    const Manifest manifest = decode_manifest(input);
    check_manifest(manifest);
    plan_run(manifest, RunOptions(), std::nullopt);
  } else if (first == '\xff' || first == '\x89') {
    if (first != '\xff') mend_checksums(input);
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
