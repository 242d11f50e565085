// The installed TensorRT-RTX through its headers, if VCUT_TENSORRT_RTX_LIBRARY names its file. No GPU is needed.
#include <doctest/doctest.h>

#include <cstdlib>

#include "backends/nvinfer.hpp"

using namespace vcut_core;

TEST_CASE("TensorRT-RTX refuses what is no engine, and its words arrive") {
  const char* file = std::getenv("VCUT_TENSORRT_RTX_LIBRARY");  // NOLINT(concurrency-mt-unsafe)
  if (nvinfer_rtx() == nullptr || file == nullptr) return;
  const SharedLibrary library({file}, "TensorRT-RTX", "name its file");
  const int installed = library.symbol<int32_t()>("getInferLibVersion")();
  CHECK(installed / 10000 == nvinfer_rtx()->version / 10000);
  auto* create = library.symbol<void()>("createInferRuntime_INTERNAL");
  const auto runtime = nvinfer_rtx()->start(reinterpret_cast<void*>(create));
  REQUIRE(runtime != nullptr);
  const std::string header(4096, 'x');
  CHECK(runtime->refusal(header.data(), header.size()) == "malformed engine");
  runtime->errors.clear();
  CHECK(runtime->open(header.data(), header.size(), false) == nullptr);
  CHECK(!runtime->errors.empty());
}
