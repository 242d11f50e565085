#include "backends/engine_validity.hpp"

#include <algorithm>
#include <fstream>

#include "backends/tensorrt_backend.hpp"
#include "error.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

// The compute capabilities that TensorRT-RTX runs on, from its support matrix. Hopper and data centre Blackwell are not
// among them.
const std::vector<std::string> rtx_capabilities{"7.5", "8.0", "8.6", "8.9", "12.0", "12.1"};
constexpr std::streamsize header = 4096;  // more than any library's engine header (TensorRT-RTX 1.7: 64)

// An engine runs on the capability it was built for; a portable one on Ampere and later.
bool capability_fits(const EngineSet& engines, const std::string& here) {
  if (engines.compute_capability) return *engines.compute_capability == here;
  return std::stoi(here) >= 8;
}

// Asks the library about the header of one engine.
std::string library_says(const Bundle& bundle, const EngineSet& engines, const EngineLibrary& library) {
  const auto runtime = library.runtime();
  if (runtime == nullptr) return "";
  std::ifstream stream(bundle.path(engines.engines.begin()->second), std::ios::binary);
  std::string data(static_cast<size_t>(header), '\0');
  stream.read(data.data(), header);
  return runtime->refusal(data.data(), static_cast<size_t>(stream.gcount()));
}

}  // namespace

std::string why_invalid(const Bundle& bundle, const std::string& target, const EngineLibrary& library,
                        const Cuda& cuda) {
  const EngineSet& engines = bundle.manifest.engines.at(target);
  const std::string& here = cuda.capability();
  const std::string build = "run 'vcut build " + bundle.root.string() + " --engines ";
  if (engines.library == "tensorrt-rtx" &&
      std::find(rtx_capabilities.begin(), rtx_capabilities.end(), here) == rtx_capabilities.end()) {
    return "TensorRT-RTX does not run on " + cuda.name() + " (compute capability " + here + "), only on " +
           joined(rtx_capabilities) + ": " + build + "tensorrt --gpu this'";
  }
  const std::string rebuild = build + engines.library + " --gpu this'";
  for (const auto& [name, graph] : bundle.manifest.graphs) {
    if (!engines.engines.has(name)) return "they lack " + name + ", " + rebuild;
  }
  if (engines.version != library.version) {
    return "they were built by " + engines.version + " and " + library.version +
           " is installed, which reads only its own: " + rebuild + ", or install that version";
  }
  if (!capability_fits(engines, here)) {
    return "they are for compute capability " + engines.compute_capability.value_or("8.0 or later") + ", " +
           cuda.name() + " has " + here + ": " + rebuild;
  }
  const Current current(cuda.driver());
  const std::string reason = library_says(bundle, engines, library);
  return reason.empty() ? "" : library.full_title() + " finds them invalid here (" + reason + "): " + rebuild;
}

void check_has_engines(const Bundle& bundle, const std::string& library) {
  for (const auto& [target, engines] : bundle.manifest.engines) {
    if (engines.library == library) return;
  }
  throw usage("the bundle has no " + library + " engines: run 'vcut build " + bundle.root.string() + " --engines " +
              library + "', or use another --backend");
}

Offer choose_engines(const Bundle& bundle, const std::shared_ptr<const EngineLibrary>& library,
                     std::shared_ptr<Cuda> cuda) {
  const auto& sets = bundle.manifest.engines;
  std::vector<std::string> targets;
  for (const auto& [target, engines] : sets) {
    if (engines.library == library->name) targets.push_back(target);
  }
  std::stable_partition(targets.begin(), targets.end(), [&](const std::string& target) {
    return sets.at(target).compute_capability == cuda->capability();
  });
  std::string refusals;
  for (const auto& target : targets) {
    const std::string refusal = why_invalid(bundle, target, *library, *cuda);
    if (refusal.empty()) {
      return {"engines " + target + " fit " + cuda->name() + " (compute capability " + cuda->capability() + ")",
              [&bundle, target, library, cuda](const BackendOptions& options) {
                return std::make_unique<TensorRtBackend>(bundle, target, library, cuda, options);
              }};
    }
    refusals += (refusals.empty() ? "engines " : "; engines ") + target + ": " + refusal;
  }
  throw usage(refusals);
}

}  // namespace vcut_core
