// Refuses NaN and infinity: what a caller injects, and what a step makes of latents that overflow.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "error.hpp"

namespace vcut_core {

inline bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

// Checks an array that the caller gave. Throws Error.
inline void check_given(const std::string& name, const std::vector<float>& values) {
  if (!all_finite(values)) throw usage(name + " has NaN or infinity: give finite numbers");
}

// Checks an array that a graph gave; what says which, and precision is the bundle's. Throws Error.
inline void check_made(const std::string& what, const std::vector<float>& values, const std::string& precision) {
  if (all_finite(values)) return;
  const std::string remedy =
      precision == "fp16"   ? "fp16 overflows there, so export with --precision bf16 or fp32"
      : precision == "bf16" ? "export with --precision fp32, or look for damaged weights and extreme options"
                            : "look for damaged weights and extreme options";
  throw failed(what + " with NaN or infinity: " + remedy);
}

}  // namespace vcut_core
