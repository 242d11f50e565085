#include "cpu_limits.hpp"

#include <unistd.h>

#include "error.hpp"
#include "graphs.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

constexpr const char* conditional = "quality_improvement";
constexpr double tensors = 58;  // a step's peak beside the weights, in tensors of the size of the first level's features
constexpr double process = 600e6;  // bytes of everything else

double memory(const Manifest& manifest, const std::string& graph, const Sizes& sizes, bool writes_scores) {
  const UnetConfig& unet = manifest.unet;
  const double channels = unet.channels.empty() ? 320 : static_cast<double>(unet.channels[0]);
  const double rows = graph_kind(graph).rows;
  const auto positions = static_cast<double>((sizes.height / manifest.vae_scale_factor) *
                                             (sizes.width / manifest.vae_scale_factor));
  const auto frames = static_cast<double>(sizes.frames);
  const double tensor = rows * frames * positions * channels * 4;
  const double heads = unet.heads.empty() ? 1 : static_cast<double>(unet.heads[0]);
  const double scores = writes_scores ? rows * frames * heads * positions * positions * 4 : 0;
  return process + 4 * unet_parameters(unet) + tensors * tensor + scores;
}

std::string what_fits(const Manifest& manifest, Sizes sizes, const std::string& graph, double have) {
  if (manifest.operators == "gpu" && memory(manifest, graph, sizes, false) <= have) {
    return "export with --precision fp32 --operators cpu, or run it on a GPU";
  }
  std::string result;
  if (graph_kind(graph).rows == 2 && step_memory(manifest, conditional, sizes) <= have) {
    result = "leave out guidance with --max-guidance-scale 1, or ";
  }
  while (sizes.frames > 0 && step_memory(manifest, graph, sizes) > have) --sizes.frames;
  if (sizes.frames > 0) {
    const std::string frames = std::to_string(sizes.frames);
    result += "export at most " + frames + " frames with --frames " + frames + ", or ";
  }
  return result + "run it on a GPU";
}

}  // namespace

double step_memory(const Manifest& manifest, const std::string& graph, const Sizes& sizes) {
  return memory(manifest, graph, sizes, manifest.operators != "cpu");
}

void check_cpu(const Manifest& manifest, const Sizes& sizes, const std::set<std::string>& graphs) {
  if (manifest.precision == "bf16") {
    throw usage(
        "a bf16 bundle needs a GPU, ONNX Runtime has no bf16 kernels for the CPU: export with --precision fp32 or "
        "fp16 to run here");
  }
  const auto have = static_cast<double>(total_memory());
  double need = 0;
  std::string largest;
  for (const auto& graph : graphs) {
    if (!graph_kind(graph).is_step()) continue;
    const double memory_of_step = step_memory(manifest, graph, sizes);
    if (memory_of_step > need) {
      need = memory_of_step;
      largest = graph;
    }
  }
  if (need <= have) return;
  const std::string kind = graph_kind(largest).rows == 2 ? "guided" : "conditional";
  throw failed("a " + kind + " step of " + std::to_string(sizes.frames) + " frames of " +
               std::to_string(sizes.height) + "x" + std::to_string(sizes.width) + " needs about " +
               size_in_gib(need) + " GiB on the CPU, this machine has " + size_in_gib(have) + " GiB: " +
               what_fits(manifest, sizes, largest, have));
}

int64_t total_memory() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES);
  const int64_t page = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page > 0 ? pages * page : int64_t{1} << 62;
}

}  // namespace vcut_core
