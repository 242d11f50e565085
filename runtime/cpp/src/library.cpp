#include "library.hpp"

#include <dlfcn.h>

#include "error.hpp"
#include "text.hpp"

namespace vcut_core {

SharedLibrary::SharedLibrary(const std::vector<std::string>& files, const std::string& title,
                             const std::string& advice)
    : handle_(nullptr), title_(title), advice_(advice) {
  std::string reason;
  for (const auto& file : files) {
    if (file.empty()) continue;
    handle_ = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) {
      file_ = file;
      return;
    }
    // Each thread has its own message.
    if (reason.empty()) reason = one_line(dlerror());  // NOLINT(concurrency-mt-unsafe)
  }
  throw usage(title + " does not load (" + reason + "): " + advice);
}

bool SharedLibrary::has(const char* name) const { return dlsym(handle_, name) != nullptr; }

void* SharedLibrary::address(const char* name) const {
  void* result = dlsym(handle_, name);
  if (result == nullptr) throw usage(file_ + " is not a " + title_ + " library, it lacks " + name + ": " + advice_);
  return result;
}

}  // namespace vcut_core
