#include "bundle.hpp"

#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <exception>
#include <fstream>
#include <iomanip>
#include <ios>
#include <iterator>
#include <mutex>
#include <sstream>
#include <thread>

#include "checks.hpp"
#include "error.hpp"
#include "onnx_scan.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

namespace fs = std::filesystem;

constexpr uintmax_t most_manifest_bytes = 16 << 20;  // a hundred times what a bundle with many engines has

// Numbers that a constant may ask for, in those of a whole video; the exporter's ask for less than one.
constexpr double most_videos = 16;

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

// What lies at a path, 0 for nothing. Throws what the system says if it may not be looked at.
mode_t mode_of(const fs::path& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) == 0) return status.st_mode & S_IFMT;
  if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP) return 0;
  throw fs::filesystem_error("cannot look", path, std::error_code(errno, std::generic_category()));
}

// A path part by part, so that "./unet.weights" is the same; ".." stays.
fs::path plain(const fs::path& path) {
  fs::path result;
  for (const auto& part : path) {
    if (!part.empty() && part != ".") result /= part;
  }
  return result;
}

void check_file(const Bundle& bundle, const File& file) {
  if (file.file.find('\0') != std::string::npos) throw fs::filesystem_error("embedded null byte", std::error_code());
  const std::string root = bundle.root.string();
  const fs::path path = bundle.path(file);
  if (plain(fs::weakly_canonical(path)) != plain(fs::weakly_canonical(bundle.root) / file.file)) {
    throw bad_bundle(root + ": " + file.file + " is a link, or lies in one: put the file itself there");
  }
  if (mode_of(path) != S_IFREG) {
    throw bad_bundle(root + ": " + file.file + " is missing: " + how_to_make_again(file));
  }
  const auto size = static_cast<int64_t>(fs::file_size(path));
  if (size != file.bytes) {
    throw bad_bundle(root + ": " + file.file + " has " + std::to_string(size) + " bytes instead of " +
                     std::to_string(file.bytes) + ", so it is damaged: copy it again, or " + how_to_make_again(file));
  }
}

// A graph may have the exporter's operators, and external data from the one weights file that the manifest gives.
void check_graph(const Bundle& bundle, const File& file, const File& weights) {
  const std::string start = bundle.root.string() + ": " + file.file;
  GraphFacts facts;
  try {
    facts = scan_graph(read(bundle.path(file)));
  } catch (const Wrong&) {
    throw bad_bundle(start + " is not an ONNX graph: export the bundle again with --force");
  }
  for (const auto& name : facts.operators) {
    if (!is_exported(name)) {
      throw bad_bundle(start + " has the operator " + repr(name) +
                       ", which vcut never exports: do not use this bundle");
    }
  }
  const Sizes largest = bundle.manifest.largest();
  const double video = 3.0 * static_cast<double>(largest.frames) * static_cast<double>(largest.height) *
                       static_cast<double>(largest.width);
  if (facts.largest > most_videos * video) {
    std::ostringstream numbers;
    numbers << std::scientific << std::setprecision(0) << facts.largest;
    throw bad_bundle(start + " makes a tensor of " + numbers.str() +
                     " numbers, which no video of this bundle needs: do not use this bundle");
  }
  for (const auto& location : facts.locations) {
    const fs::path own = location.empty() || location[0] != '/' ? fs::path(file.file).parent_path() : fs::path();
    if (plain(own / location) != plain(weights.file)) {
      throw bad_bundle(start + " reads weights from " + repr(location) +
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
    check_graph(bundle, graph, weights);
    if (graph.contrib) check_graph(bundle, *graph.contrib, weights);
  }
}

}  // namespace

Bundle open_bundle(const std::string& root, bool hashes) {
  Bundle bundle;
  bundle.root = root;
  try {
    if (mode_of(root) != S_IFDIR) {
      throw bad_bundle("no bundle at " + root + ": make one with 'vcut export --output " + root + "'");
    }
    const fs::path file = bundle.root / manifest_file;
    if (mode_of(file) != S_IFREG) {
      throw bad_bundle(root + " has no " + manifest_file + ", so it is not a vcut bundle: check the path");
    }
    if (fs::file_size(file) > most_manifest_bytes) {
      throw bad_bundle(root + ": " + manifest_file + " has more than " + std::to_string(most_manifest_bytes) +
                       " bytes: do not use this bundle");
    }
    bundle.manifest = decode_manifest(read(file));
    check_manifest(bundle.manifest);
  } catch (const Wrong& error) {
    throw bad_bundle(root + ": " + error.what());
  } catch (const fs::filesystem_error& error) {  // a name that is too long, a folder that may not be entered
    throw bad_bundle(root + " cannot be read (" + error.code().message() + "): check the path and its permissions");
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
