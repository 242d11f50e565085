// A shared library that is loaded when a backend needs it, so that this one links to none of them.
#pragma once

#include <string>
#include <vector>

namespace vcut_core {

class SharedLibrary {
 public:
  // Loads the first of these files that the system finds. Throws Error, which says for what and how to get it.
  SharedLibrary(const std::vector<std::string>& files, const std::string& title, const std::string& advice);

  const std::string& file() const { return file_; }

  // Returns a function of the library. Throws Error.
  template <typename Function>
  Function* symbol(const char* name) const {
    return reinterpret_cast<Function*>(address(name));
  }
  bool has(const char* name) const;

 private:
  void* address(const char* name) const;
  void* handle_;  // never closed: libraries with threads of their own do not survive that
  std::string file_, title_, advice_;
};

}  // namespace vcut_core
