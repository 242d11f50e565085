// Opening a bundle: the checks that must pass before any of its files is loaded.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace vcut_core {

// A bundle whose manifest, paths and sizes have been checked.
struct Bundle {
  std::filesystem::path root;
  Manifest manifest;

  std::filesystem::path path(const File& file) const { return root / file.file; }
};

// Opens the bundle at root. Without hashes it trusts the file sizes and reads no large file.
// Throws Error, which says what is wrong and what to do.
Bundle open_bundle(const std::string& root, bool hashes);

// Compares each file with its sha256. Throws Error.
void check_hashes(const Bundle& bundle, const std::vector<const File*>& files);

}  // namespace vcut_core
