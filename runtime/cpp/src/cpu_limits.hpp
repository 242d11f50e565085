// What ONNX Runtime's CPU can run, and roughly what a step takes there in memory.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "manifest.hpp"

namespace vcut_core {

// Returns roughly the bytes that a step takes, its weights among them.
double step_memory(const Manifest& manifest, const std::string& graph, const Sizes& sizes);

// Refuses videos of these sizes that ONNX Runtime cannot make on this CPU. Throws Error.
void check_cpu(const Manifest& manifest, const Sizes& sizes, const std::set<std::string>& graphs);

int64_t total_memory();  // of the machine, in bytes

}  // namespace vcut_core
