#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace vcut_core {

// Returns the sha256 of a file in hex. Throws std::filesystem::filesystem_error.
std::string sha256(const std::filesystem::path& path);
std::string sha256(const void* data, size_t size);

}  // namespace vcut_core
