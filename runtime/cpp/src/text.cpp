#include "text.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace vcut_core {
namespace {

std::string formatted(const char* format, double value) {
  std::array<char, 400> buffer{};
  const int length = std::snprintf(buffer.data(), buffer.size(), format, value);
  return {buffer.data(), static_cast<size_t>(length)};
}

}  // namespace

std::string repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string result(1, quote);
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == quote || c == '\\') {
      result += {'\\', c};
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\r') {
      result += "\\r";
    } else if (c == '\t') {
      result += "\\t";
    } else if (code < 0x20 || code == 0x7f) {
      std::array<char, 5> escape{};
      std::snprintf(escape.data(), escape.size(), "\\x%02x", code);
      result += escape.data();
    } else {
      result += c;
    }
  }
  return result + quote;
}

std::string number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 40> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  const std::string digits(buffer.data(), end.ptr);
  const size_t at = digits.find('e');
  const int exponent = std::stoi(digits.substr(at + 1));
  if (exponent < -4 || exponent >= 16) return digits;
  const auto fixed = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed);
  std::string result(buffer.data(), fixed.ptr);
  if (result.find('.') == std::string::npos) result += ".0";
  return result;
}

std::string short_number(double value) { return formatted("%g", value); }

std::string size_in_gib(double bytes) { return formatted("%.0f", bytes / 1073741824.0); }

std::string gigabytes(double bytes, int digits) {
  std::array<char, 400> buffer{};
  const int length = std::snprintf(buffer.data(), buffer.size(), "%.*f", digits, bytes / 1e9);
  return {buffer.data(), static_cast<size_t>(length)};
}

std::string joined(const std::vector<std::string>& words) {
  std::string result;
  for (const auto& word : words) result += (result.empty() ? "" : ", ") + word;
  return result;
}

std::string listed(const std::vector<int64_t>& numbers) {
  std::vector<std::string> words;
  words.reserve(numbers.size());
  for (const int64_t value : numbers) words.push_back(std::to_string(value));
  return "[" + joined(words) + "]";
}

std::string as_utf8(std::string text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t length = byte < 0x80 ? 1 : byte >> 5 == 6 ? 2 : byte >> 4 == 14 ? 3 : byte >> 3 == 30 ? 4 : 0;
    bool is_good = length > 0 && i + length <= text.size();
    for (size_t j = 1; is_good && j < length; ++j) is_good = static_cast<unsigned char>(text[i + j]) >> 6 == 2;
    if (!is_good) text[i] = '?';
    i += is_good ? length : 1;
  }
  return text;
}

std::string one_line(std::string_view text) {
  std::string result;
  bool between = false;
  for (const char c : text) {
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    if (!space) {
      if (between && !result.empty()) result += ' ';
      result += c;
    }
    between = space;
  }
  return result;
}

}  // namespace vcut_core
