// Values in words, as Python writes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vcut_core {

std::string repr(std::string_view text);                  // repr() of a string
std::string number(double value);                           // repr() of a float
std::string short_number(double value);                     // f"{value:g}"
std::string formatted(const char* format, double value);    // as printf has it
std::string joined(const std::vector<std::string>& words);  // ", ".join(words)
std::string listed(const std::vector<int64_t>& numbers);    // str() of a list
std::string one_line(std::string_view text);                // " ".join(text.split())
std::string size_in_gib(double bytes);                      // f"{bytes / 2**30:.0f}"
std::string gigabytes(double bytes, int digits);            // f"{bytes / 1e9:.{digits}f}"

// Returns a text as one line of about so many characters at most. What does not print is shown escaped, since some
// control characters would move a terminal's cursor. The middle of a longer text is left out: a message names its cause
// first and its fix last.
std::string printable(std::string_view text, size_t most = 2000);

}  // namespace vcut_core
