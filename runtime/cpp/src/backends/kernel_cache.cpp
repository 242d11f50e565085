#include "backends/kernel_cache.hpp"

#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <system_error>

namespace vcut_core {
namespace {

namespace fs = std::filesystem;

// The folder of the Python runtime: VCUT_CACHE, or the user's cache folder.
fs::path cache_folder() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): vcut.h asks not to change it meanwhile
    return std::string(value == nullptr ? "" : value);
  };
  if (const std::string given = variable("VCUT_CACHE"); !given.empty()) return given;
  if (const std::string caches = variable("XDG_CACHE_HOME"); !caches.empty()) return fs::path(caches) / "vcut";
  return fs::path(variable("HOME")) / ".cache" / "vcut";
}

std::string file_name(std::string text) {
  for (char& c : text) {
    const auto code = static_cast<unsigned char>(c);
    c = std::isalnum(code) != 0 ? static_cast<char>(std::tolower(code)) : '-';
  }
  return text;
}

}  // namespace

fs::path kernel_file(const Engine& entry, const EngineLibrary& library, const Cuda& cuda) {
  return cache_folder() / "kernels" /
         (entry.sha256.substr(0, 24) + "-" + library.name + "-" + library.version + "-" + file_name(cuda.name()) +
          ".bin");
}

std::string kept_kernels(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::string keep_kernels(const fs::path& file, const std::string& kernels) {
  std::error_code error;
  if (fs::is_regular_file(file, error) && fs::file_size(file, error) == kernels.size()) return "";
  fs::create_directories(file.parent_path(), error);
  std::string name = (file.parent_path() / "kernels-XXXXXX").string();
  const int handle = error ? -1 : mkstemp(name.data());
  if (!error && handle < 0) error.assign(errno, std::generic_category());
  if (handle >= 0) {
    close(handle);
    std::ofstream stream(name, std::ios::binary);
    stream.write(kernels.data(), static_cast<std::streamsize>(kernels.size()));
    stream.close();
    if (!stream) error = std::make_error_code(std::errc::io_error);
    if (!error) fs::rename(name, file, error);
    std::error_code ignored;
    if (error) fs::remove(name, ignored);
  }
  if (!error) return "";
  return "compiled kernels could not be kept in " + file.parent_path().string() + ": " + error.message();
}

}  // namespace vcut_core
