#include <png.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "image_decoders.hpp"

namespace vcut_core {
namespace {

struct PngSource {
  const unsigned char* data;
  size_t left;
  std::string problem;
};

[[noreturn]] void on_png_error(png_structp png, png_const_charp message) {
  static_cast<PngSource*>(png_get_error_ptr(png))->problem = message;
  png_longjmp(png, 1);
}

void on_png_warning(png_structp, png_const_charp) {}

void read_png_bytes(png_structp png, png_bytep out, png_size_t count) {
  auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
  if (count > source->left) png_error(png, "the file ends too early");
  std::memcpy(out, source->data, count);
  source->data += count;
  source->left -= count;
}

struct PngImage {
  Pixels pixels;
  std::vector<png_bytep> rows;
  std::vector<uint8_t> buffer;
  std::vector<unsigned char> exif, profile;
  int64_t width = 0, height = 0;
  size_t row_bytes = 0;
  int channels = 0;  // 1: grey of 16 bits; 4: with transparency
  int hidden = -1;   // the level of 16 bits that is transparent
};

void start_png(PngImage& image) {
  image.buffer.resize(image.row_bytes * static_cast<size_t>(image.height));
  for (int64_t y = 0; y < image.height; ++y) {
    image.rows.push_back(image.buffer.data() + static_cast<size_t>(y) * image.row_bytes);
  }
}

void keep_metadata(png_structp png, png_infop info, PngImage& image) {
  png_bytep exif = nullptr;
  png_uint_32 exif_size = 0;
  if (png_get_eXIf_1(png, info, &exif_size, &exif) != 0) image.exif.assign(exif, exif + exif_size);
  png_charp name = nullptr;
  png_bytep profile = nullptr;
  png_uint_32 profile_size = 0;
  int compression = 0;
  if (png_get_iCCP(png, info, &name, &compression, &profile, &profile_size) != 0) {
    image.profile.assign(profile, profile + profile_size);
  }
}

// It holds no C++ objects, since libpng's errors jump over it. Returns whether it succeeded.
bool decode_png(png_structp png, png_infop info, PngImage& image) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_read_info(png, info);
  image.width = png_get_image_width(png, info);
  image.height = png_get_image_height(png, info);
  if (image.width > most_pixels / image.height) return false;
  const int depth = png_get_bit_depth(png, info);
  const int type = png_get_color_type(png, info);
  const bool deep_grey = depth == 16 && type == PNG_COLOR_TYPE_GRAY;
  png_color_16p key = nullptr;
  const bool has_key = png_get_tRNS(png, info, nullptr, nullptr, &key) != 0;
  if (deep_grey) {
    if (has_key && key != nullptr) image.hidden = key->gray;
  } else {
    if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (type == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
    if (has_key) png_set_tRNS_to_alpha(png);
    if (depth == 16) png_set_strip_16(png);
    png_set_gray_to_rgb(png);
  }
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  image.row_bytes = png_get_rowbytes(png, info);
  image.channels = png_get_channels(png, info);
  start_png(image);
  png_read_image(png, image.rows.data());
  png_read_end(png, info);
  keep_metadata(png, info, image);
  return true;
}

// 16-bit grey is scaled to 8 bits and rounded to even, as numpy rounds.
void convert_deep_grey(PngImage& image) {
  for (size_t i = 0; i < static_cast<size_t>(image.width * image.height); ++i) {
    const double value = image.buffer[2 * i] * 256.0 + image.buffer[2 * i + 1];
    const bool is_hidden = static_cast<int>(value) == image.hidden;
    const auto level = is_hidden ? uint8_t{255} : static_cast<uint8_t>(std::nearbyint(value / 257.0));
    for (int c = 0; c < 3; ++c) image.pixels.data.push_back(level);
  }
}

// Puts transparent pixels on white, with the rounding of Pillow's paste.
void convert_transparent(PngImage& image) {
  for (size_t i = 0; i < static_cast<size_t>(image.width * image.height); ++i) {
    const uint8_t* pixel = &image.buffer[4 * i];
    for (int c = 0; c < 3; ++c) {
      const int sum = 255 * (255 - pixel[3]) + pixel[c] * pixel[3] + 128;
      image.pixels.data.push_back(static_cast<uint8_t>(((sum >> 8) + sum) >> 8));
    }
  }
}

}  // namespace

Decoded read_png(const unsigned char* data, size_t size, const std::string& what) {
  PngSource source{data, size, {}};
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, on_png_error, on_png_warning);
  png_infop info = png != nullptr ? png_create_info_struct(png) : nullptr;
  if (info == nullptr) {
    png_destroy_read_struct(&png, nullptr, nullptr);
    throw undecodable(what, "libpng does not start");
  }
  png_set_read_fn(png, &source, read_png_bytes);
  PngImage image;
  const bool good = decode_png(png, info, image);
  png_destroy_read_struct(&png, &info, nullptr);
  if (!good) throw undecodable(what, source.problem);
  image.pixels.height = image.height;
  image.pixels.width = image.width;
  if (image.channels == 3) {
    image.pixels.data = std::move(image.buffer);
  } else {
    image.pixels.data.reserve(static_cast<size_t>(image.width * image.height * 3));
    image.channels == 1 ? convert_deep_grey(image) : convert_transparent(image);
  }
  return {std::move(image.pixels), std::move(image.exif), std::move(image.profile), false};
}

}  // namespace vcut_core
