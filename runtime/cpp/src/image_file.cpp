#include "image_file.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string_view>

#include "error.hpp"
#include "image_decoders.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

// EXIF data: a TIFF header and directories of 12-byte entries.
class Exif {
 public:
  explicit Exif(const std::vector<unsigned char>& data) : data_(data) {
    little_ = data.size() >= 8 && data[0] == 'I' && data[1] == 'I';
    good_ = little_ || (data.size() >= 8 && data[0] == 'M' && data[1] == 'M');
  }

  // How the image lies, 1 for upright.
  int orientation() const {
    const auto entry = find(first(), 0x0112);
    if (!entry || read(*entry + 2, 2) != 3) return 1;
    const uint32_t value = read(*entry + 8, 2);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }

  // Cameras say so that write no profile.
  bool is_adobe_rgb() const {
    const auto exif = find(first(), 0x8769);
    const auto interoperability = exif ? find(read(*exif + 8, 4), 0xa005) : std::nullopt;
    const auto index = interoperability ? find(read(*interoperability + 8, 4), 1) : std::nullopt;
    return index && std::memcmp(&data_[*index + 8], "R03", 3) == 0;
  }

 private:
  uint32_t read(size_t at, size_t bytes) const {
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value = value << 8 | data_[at + (little_ ? bytes - 1 - i : i)];
    return value;
  }
  size_t first() const { return good_ ? read(4, 4) : data_.size(); }
  // Where the entry of a tag is, none if the directory has none.
  std::optional<size_t> find(size_t directory, uint32_t tag) const {
    if (data_.size() < 2 || directory > data_.size() - 2) return std::nullopt;
    const size_t count = read(directory, 2);
    for (size_t i = 0; i < count; ++i) {
      const size_t entry = directory + 2 + i * 12;
      if (entry + 12 > data_.size()) break;
      if (read(entry, 2) == tag) return entry;
    }
    return std::nullopt;
  }

  const std::vector<unsigned char>& data_;
  bool little_ = false, good_ = false;
};

// Turns and mirrors an image so that it is upright.
Pixels upright(Pixels image, int turn) {
  if (turn == 1) return image;
  const bool swaps = turn >= 5;
  Pixels result{swaps ? image.width : image.height, swaps ? image.height : image.width, {}};
  result.data.resize(image.data.size());
  for (int64_t y = 0; y < result.height; ++y) {
    for (int64_t x = 0; x < result.width; ++x) {
      int64_t from_y = swaps ? x : y;
      int64_t from_x = swaps ? y : x;
      if (turn == 2 || turn == 3 || turn == 7 || turn == 8) from_x = image.width - 1 - from_x;
      if (turn == 3 || turn == 4 || turn == 6 || turn == 7) from_y = image.height - 1 - from_y;
      std::memcpy(&result.data[static_cast<size_t>((y * result.width + x) * 3)],
                  &image.data[static_cast<size_t>((from_y * image.width + from_x) * 3)], 3);
    }
  }
  return result;
}

// Tells whether a profile calls itself sRGB, in one of the two ways that profiles write text.
bool is_srgb(const std::vector<unsigned char>& profile) {
  using namespace std::string_view_literals;
  const std::string_view bytes(reinterpret_cast<const char*>(profile.data()), profile.size());
  return bytes.find("sRGB"sv) != bytes.npos || bytes.find("s\0R\0G\0B"sv) != bytes.npos;
}

}  // namespace

Error undecodable(const std::string& what, const std::string& reason) {
  if (reason.empty()) {
    return usage(what + " has more than " + short_number(most_pixels / 1e6) + " megapixels: make it smaller first");
  }
  return usage("cannot read " + what + " (" + one_line(reason) + "): give an undamaged JPEG or PNG file");
}

Pixels decode_image(const void* data, size_t size, const std::string& what, std::vector<std::string>& notes) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  Decoded image;
  if (size >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff) {
    image = read_jpeg(bytes, size, what);
  } else if (size >= 8 && std::memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0) {
    image = read_png(bytes, size, what);
  } else {
    throw usage(what + " is not an image that this library knows: give a JPEG or PNG file");
  }
  const Exif exif(image.exif);
  if (!image.profile.empty() && !is_srgb(image.profile)) {
    notes.emplace_back("the image has a colour profile other than sRGB, which is not used here: its colours differ");
  } else if (image.is_cmyk) {
    notes.emplace_back("the image is CMYK without a usable colour profile: its colours are approximate");
  } else if (image.profile.empty() && exif.is_adobe_rgb()) {
    notes.emplace_back("the image is Adobe RGB without a colour profile: its colours come out paler");
  }
  return upright(std::move(image.pixels), exif.orientation());
}

Pixels read_image(const std::string& path, std::vector<std::string>& notes) {
  std::error_code error;
  const auto kind = std::filesystem::status(path, error).type();
  if (kind == std::filesystem::file_type::none || kind == std::filesystem::file_type::unknown) {
    throw usage("cannot look at the image " + path + " (" + error.message() + "): check the path and its permissions");
  }
  if (kind != std::filesystem::file_type::regular) throw usage("no image at " + path + ": check the path");
  std::ifstream stream(path, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  if (!stream) throw usage("cannot read " + path + " (it cannot be opened): check the path");
  return decode_image(content.data(), content.size(), path, notes);
}

std::vector<uint8_t> to_levels(const float* values, size_t count) {
  std::vector<uint8_t> result(count);
  const auto [low, high] = std::minmax_element(values, values + count);
  bool is_good = count > 0;
  for (size_t i = 0; i < count; ++i) is_good = is_good && values[i] >= 0.0F && values[i] <= 1.0F;
  if (!is_good) {
    throw usage("a float image array must lie between 0 and 1; this one goes from " +
                (count > 0 ? short_number(*low) + " to " + short_number(*high) : "nothing to nothing"));
  }
  for (size_t i = 0; i < count; ++i) result[i] = static_cast<uint8_t>(std::nearbyint(values[i] * 255.0F));
  return result;
}

}  // namespace vcut_core
