#include "bundle.hpp"

#include <atomic>
#include <exception>
#include <fstream>
#include <iterator>
#include <mutex>
#include <thread>

#include "checks.hpp"
#include "error.hpp"
#include "onnx_scan.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

namespace fs = std::filesystem;

std::string how_to_make_again(const File& file) {
  return file.is_engine ? "build it again with 'vcut build --force'" : "export the bundle again with --force";
}

std::string read(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string content((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  if (!stream) {
    throw fs::filesystem_error("cannot read", path, std::make_error_code(std::errc::io_error));
  }
  return content;
}

bool is_inside(const fs::path& path, const fs::path& root) {
  const fs::path real = fs::weakly_canonical(path);
  const fs::path real_root = fs::weakly_canonical(root);
  auto part = real.begin();
  for (const auto& expected : real_root) {
    if (expected.empty()) continue;  // after a closing slash
    if (part == real.end() || *part != expected) return false;
    ++part;
  }
  return true;
}

void check_file(const Bundle& bundle, const File& file) {
  if (file.file.find('\0') != std::string::npos) throw fs::filesystem_error("embedded null byte", std::error_code());
  const std::string root = bundle.root.string();
  const fs::path path = bundle.path(file);
  if (!is_inside(path, bundle.root)) {
    throw bad_bundle(root + ": " + file.file + " is a link that leaves the bundle: do not use this bundle");
  }
  if (!fs::is_regular_file(path)) {
    throw bad_bundle(root + ": " + file.file + " is missing: " + how_to_make_again(file));
  }
  const auto size = static_cast<int64_t>(fs::file_size(path));
  if (size != file.bytes) {
    throw bad_bundle(root + ": " + file.file + " has " + std::to_string(size) + " bytes instead of " +
                     std::to_string(file.bytes) + ", so it is damaged: copy it again, or " + how_to_make_again(file));
  }
}

// A graph may take external data from the one weights file that the manifest gives it, and from nowhere else.
void check_external_data(const Bundle& bundle, const File& file, const File& weights) {
  const std::string root = bundle.root.string();
  std::set<std::string> locations;
  try {
    locations = external_locations(read(bundle.path(file)));
  } catch (const Wrong&) {
    throw bad_bundle(root + ": " + file.file + " is not an ONNX graph: export the bundle again with --force");
  }
  for (const auto& location : locations) {
    const fs::path own = location.empty() || location[0] != '/' ? fs::path(file.file).parent_path() : fs::path();
    // A file is compared part by part, so that "./unet.weights" is the same; ".." stays and never matches.
    const auto plain = [](const fs::path& path) {
      fs::path result;
      for (const auto& part : path) {
        if (!part.empty() && part != ".") result /= part;
      }
      return result;
    };
    if (plain(own / location) != plain(weights.file)) {
      throw bad_bundle(root + ": " + file.file + " reads weights from " + repr(location) +
                       ", which the manifest does not list: do not use this bundle");
    }
  }
}

void check_contents(const Bundle& bundle, bool hashes) {
  std::vector<const File*> files = bundle.manifest.onnx_files();
  for (const File* engine : bundle.manifest.engine_files()) files.push_back(engine);
  for (const File* file : files) check_file(bundle, *file);
  if (hashes) check_hashes(bundle, files);
  for (const auto& [name, graph] : bundle.manifest.graphs) {
    const File& weights = bundle.manifest.weights.at(graph.weights);
    check_external_data(bundle, graph, weights);
    if (graph.contrib) check_external_data(bundle, *graph.contrib, weights);
  }
}

}  // namespace

Bundle open_bundle(const std::string& root, bool hashes) {
  Bundle bundle;
  bundle.root = root;
  std::error_code ignored;
  if (!fs::is_directory(root, ignored)) {
    throw bad_bundle("no bundle at " + root + ": make one with 'vcut export --output " + root + "'");
  }
  if (!fs::is_regular_file(bundle.root / manifest_file, ignored)) {
    throw bad_bundle(root + " has no " + manifest_file + ", so it is not a vcut bundle: check the path");
  }
  try {
    bundle.manifest = decode_manifest(read(bundle.root / manifest_file));
    check_manifest(bundle.manifest);
  } catch (const Wrong& error) {
    throw bad_bundle(root + ": " + error.what());
  } catch (const fs::filesystem_error& error) {
    throw bad_bundle(root + ": " + error.code().message());
  }
  try {
    check_contents(bundle, hashes);
  } catch (const fs::filesystem_error& error) {
    const std::string reason = error.code() ? error.code().message() : "embedded null byte";
    throw bad_bundle(root + " cannot be read (" + reason + "): check its permissions, or copy it again");
  }
  return bundle;
}

void check_hashes(const Bundle& bundle, const std::vector<const File*>& files) {
  std::vector<std::string> digests(files.size());
  std::atomic<size_t> next{0};
  std::exception_ptr failure;
  std::mutex lock;
  const auto work = [&] {
    try {
      for (size_t i = next++; i < files.size(); i = next++) digests[i] = sha256(bundle.path(*files[i]));
    } catch (...) {
      const std::lock_guard<std::mutex> guard(lock);
      failure = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  const size_t count = std::min<size_t>(files.size(), std::max(1U, std::thread::hardware_concurrency()));
  for (size_t i = 1; i < count; ++i) threads.emplace_back(work);
  work();
  for (auto& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
  for (size_t i = 0; i < files.size(); ++i) {
    if (digests[i] != files[i]->sha256) {
      throw bad_bundle(bundle.root.string() + ": " + files[i]->file +
                       " does not match its sha256 in the manifest: " + how_to_make_again(*files[i]));
    }
  }
}

}  // namespace vcut_core
