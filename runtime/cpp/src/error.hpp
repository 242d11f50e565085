// Errors. Each message is one line that names the cause and the fix, in the words of the Python runtime.
#pragma once

#include <stdexcept>
#include <string>

#include "text.hpp"

namespace vcut_core {

// The numbers are those of vcut.h.
enum class Code { failed = 1, usage = 2, bundle = 3, cancelled = 4, internal = 5 };

class Error : public std::runtime_error {
 public:
  // A message may quote what a bundle or a file says, so it is made printable.
  Error(Code code, const std::string& message) : std::runtime_error(printable(message)), code_(code) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

inline Error failed(const std::string& message) { return {Code::failed, message}; }
inline Error usage(const std::string& message) { return {Code::usage, message}; }
inline Error bad_bundle(const std::string& message) { return {Code::bundle, message}; }

// What is wrong with a manifest or a schedule; whoever knows the place makes an Error of it.
class Wrong : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace vcut_core
