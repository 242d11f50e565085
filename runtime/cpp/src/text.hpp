// Values in words, as Python writes them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vcut_core {

std::string repr(std::string_view text);                  // repr() of a string
std::string number(double value);                           // repr() of a float
std::string short_number(double value);                     // f"{value:g}"
std::string joined(const std::vector<std::string>& words);  // ", ".join(words)
std::string listed(const std::vector<int64_t>& numbers);    // str() of a list
std::string one_line(std::string_view text);                // " ".join(text.split())
std::string size_in_gib(double bytes);                      // f"{bytes / 2**30:.0f}"
std::string gigabytes(double bytes, int digits);            // f"{bytes / 1e9:.{digits}f}"
std::string as_utf8(std::string text);                      // with ? in the place of bytes that are no UTF-8

}  // namespace vcut_core
