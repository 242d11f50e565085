#include "text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <utility>

namespace vcut_core {
namespace {

// First and last of the characters that do not print: control, format, private and surrogate ones, and spaces apart
// from the plain one. Python's isprintable also refuses those without a meaning so far.
constexpr std::array<std::pair<char32_t, char32_t>, 28> hidden{{
    {0x0, 0x1f},         {0x7f, 0xa0},        {0xad, 0xad},         {0x600, 0x605},       {0x61c, 0x61c},
    {0x6dd, 0x6dd},      {0x70f, 0x70f},      {0x890, 0x891},       {0x8e2, 0x8e2},       {0x1680, 0x1680},
    {0x180e, 0x180e},    {0x2000, 0x200f},    {0x2028, 0x202f},     {0x205f, 0x206f},     {0x3000, 0x3000},
    {0xd800, 0xf8ff},    {0xfdd0, 0xfdef},    {0xfeff, 0xfeff},     {0xfff0, 0xfffb},     {0xfffe, 0xffff},
    {0x110bd, 0x110bd},  {0x110cd, 0x110cd},  {0x13430, 0x1343f},   {0x1bca0, 0x1bca3},   {0x1d173, 0x1d17a},
    {0xe0000, 0xe00ff},  {0xe01f0, 0xeffff},  {0xf0000, 0x10ffff},
}};

bool prints(char32_t c) {
  return std::none_of(hidden.begin(), hidden.end(),
                      [c](const auto& range) { return range.first <= c && c <= range.second; });
}

// The bytes of the character that begins at a place, 1 for a byte that is no UTF-8.
size_t length_at(std::string_view text, size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  const size_t length = byte < 0x80 ? 1 : byte >> 5 == 6 ? 2 : byte >> 4 == 14 ? 3 : byte >> 3 == 30 ? 4 : 0;
  bool is_good = length > 0 && at + length <= text.size();
  for (size_t i = 1; is_good && i < length; ++i) is_good = static_cast<unsigned char>(text[at + i]) >> 6 == 2;
  return is_good ? length : 1;
}

char32_t value_of(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return first < 0x80 ? first : U'?';
  auto value = static_cast<char32_t>(first & (0xff >> (character.size() + 1)));
  for (size_t i = 1; i < character.size(); ++i) value = value << 6 | (static_cast<unsigned char>(character[i]) & 0x3f);
  return value;
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> result;
  for (size_t at = 0; at < text.size(); at += result.back().size()) {
    result.push_back(text.substr(at, length_at(text, at)));
  }
  return result;
}

std::string escape(char32_t c) {
  if (c == '\n') return "\\n";
  if (c == '\r') return "\\r";
  if (c == '\t') return "\\t";
  std::array<char, 12> buffer{};
  const char* format = c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x";
  std::snprintf(buffer.data(), buffer.size(), format, static_cast<unsigned>(c));
  return buffer.data();
}

bool ends_line(char32_t c) {
  return (c >= 0xa && c <= 0xd) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool is_space(char32_t c) {
  return c == ' ' || c == '\t' || c == 0x1f || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x202f || c == 0x205f || c == 0x3000 || ends_line(c);
}

// The lines of a text without the spaces around them, joined by a space.
std::u32string lines_joined(const std::u32string& text) {
  std::u32string result;
  for (size_t from = 0; from < text.size();) {
    size_t to = from;
    while (to < text.size() && !ends_line(text[to])) ++to;
    size_t first = from;
    size_t last = to;
    while (first < last && is_space(text[first])) ++first;
    while (last > first && is_space(text[last - 1])) --last;
    if (last > first) result += (result.empty() ? U"" : U" ") + text.substr(first, last - first);
    from = to + 1;
  }
  return result;
}

std::string encoded(char32_t c) {
  const auto tail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3f)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | c >> 18), tail(12), tail(6), tail(0)};
}

}  // namespace

std::string repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string result(1, quote);
  for (const std::string_view character : characters(text)) {
    const char32_t c = value_of(character);
    if (c == static_cast<char32_t>(quote) || c == '\\') result += '\\';
    result += prints(c) ? std::string(character) : escape(c);
  }
  return result + quote;
}

std::string number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 40> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  std::string digits(buffer.data(), end.ptr);
  const size_t at = digits.find('e');
  const int exponent = std::stoi(digits.substr(at + 1));
  if (exponent < -4 || exponent >= 16) return digits;
  const auto fixed = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed);
  std::string result(buffer.data(), fixed.ptr);
  if (result.find('.') == std::string::npos) result += ".0";
  return result;
}

std::string formatted(const char* format, double value) {
  std::array<char, 400> buffer{};
  const int length = std::snprintf(buffer.data(), buffer.size(), format, value);
  return {buffer.data(), static_cast<size_t>(length)};
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

std::string printable(std::string_view text, size_t most) {
  std::u32string values;
  for (const std::string_view character : characters(text)) values += value_of(character);
  if (values.size() > most) {
    values = values.substr(0, most / 2) + U" \u2026 " + values.substr(values.size() - most / 2);
  }
  std::string result;
  for (const char32_t c : lines_joined(values)) result += prints(c) ? encoded(c) : escape(c);
  return result;
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
