// Kernels that TensorRT-RTX compiles when it loads an engine, kept for the next program, this one's or Python's.
#pragma once

#include <filesystem>
#include <string>

#include "backends/cuda.hpp"
#include "backends/engine.hpp"
#include "manifest.hpp"

namespace vcut_core {

// Where the kernels of an engine on this GPU are kept.
std::filesystem::path kernel_file(const Engine& entry, const EngineLibrary& library, const Cuda& cuda);

// The kept kernels, empty if there are none. The library checks them.
std::string kept_kernels(const std::filesystem::path& file);

// Writes kernels to a file. Returns a note if that fails: the run goes on without.
std::string keep_kernels(const std::filesystem::path& file, const std::string& kernels);

}  // namespace vcut_core
