#include "backends/engine_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "error.hpp"
#include "sha256.hpp"

namespace vcut_core {

EngineFile::EngineFile(const Bundle& bundle, const Engine& entry) {
  const std::string root = bundle.root.string();
  const int file = open(bundle.path(entry).c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  bool is_read = file >= 0 && fstat(file, &status) == 0 && status.st_size > 0;
  if (is_read) {
    size_ = static_cast<size_t>(status.st_size);
    data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    is_read = data_ != MAP_FAILED;
  }
  const std::string reason = std::generic_category().message(errno);
  if (file >= 0) close(file);
  if (!is_read) {
    throw bad_bundle(root + ": " + entry.file + " cannot be read (" + reason +
                     "): check its permissions, or copy it again");
  }
  if (sha256(data_, size_) != entry.sha256) {
    munmap(data_, size_);
    throw bad_bundle(root + ": " + entry.file +
                     " does not match its sha256 in the manifest: run 'vcut build --force' on it");
  }
}

EngineFile::~EngineFile() { munmap(data_, size_); }

}  // namespace vcut_core
