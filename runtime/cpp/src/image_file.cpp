#include "image_file.hpp"

// jpeglib.h needs size_t and FILE.
#include <cstdio>

#include <jpeglib.h>
#include <png.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "error.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

constexpr int64_t most_pixels = 178'956'970;  // Pillow's limit: a larger image is an attack or a mistake

Error damaged(const std::string& what, const std::string& reason) {
  return usage("cannot read " + what + " (" + one_line(reason) + "): give an undamaged JPEG or PNG file");
}

void check_size(int64_t width, int64_t height, const std::string& what) {
  if (width < 1 || height < 1 || width > most_pixels / height) {
    throw damaged(what, std::to_string(width) + "x" + std::to_string(height) + " pixels");
  }
}

// The orientation of EXIF data (a TIFF header and its first directory), 1 if it says none.
int orientation(const unsigned char* data, size_t size) {
  if (size < 8) return 1;
  const bool little = data[0] == 'I' && data[1] == 'I';
  if (!little && !(data[0] == 'M' && data[1] == 'M')) return 1;
  const auto read = [&](size_t at, size_t bytes) {
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value = value << 8 | data[at + (little ? bytes - 1 - i : i)];
    return value;
  };
  const size_t directory = read(4, 4);
  if (directory > size - 2) return 1;
  const size_t count = read(directory, 2);
  for (size_t i = 0; i < count; ++i) {
    const size_t entry = directory + 2 + i * 12;
    if (entry + 12 > size) return 1;
    if (read(entry, 2) == 0x0112 && read(entry + 2, 2) == 3) {
      const uint32_t value = read(entry + 8, 2);
      return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
  }
  return 1;
}

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

struct JpegError {
  jpeg_error_mgr base{};
  std::jmp_buf place{};
  char message[JMSG_LENGTH_MAX]{};
};

[[noreturn]] void on_jpeg_error(j_common_ptr info) {
  auto* error = reinterpret_cast<JpegError*>(info->err);
  info->err->format_message(info, error->message);
  std::longjmp(error->place, 1);
}

// Pillow refuses a truncated file, which libjpeg only warns of.
void on_jpeg_message(j_common_ptr info, int level) {
  if (level < 0) on_jpeg_error(info);
}

struct JpegImage {
  Pixels pixels;
  std::vector<uint8_t> row;
  std::vector<unsigned char> exif;
  int64_t width = 0, height = 0;
  int channels = 0;
};

// CMYK to RGB. As Pillow does, it takes every file to be inverted, as Adobe's are.
void convert_cmyk(const uint8_t* from, uint8_t* to, int64_t width) {
  for (int64_t x = 0; x < width; ++x, from += 4) {
    const auto ink = [&](int i) { return 255 - from[i]; };
    const int white = 255 - ink(3);
    for (int c = 0; c < 3; ++c) {
      const int product = ink(c) * white + 128;
      *to++ = static_cast<uint8_t>(std::clamp(white - ((product + (product >> 8)) >> 8), 0, 255));
    }
  }
}

void copy_row(JpegImage& image) {
  uint8_t* to = image.pixels.data.data() + image.pixels.height++ * image.width * 3;
  if (image.channels == 4) {
    convert_cmyk(image.row.data(), to, image.width);
  } else {
    std::memcpy(to, image.row.data(), image.row.size());
  }
}

// Decodes a row at a time. It holds no C++ objects, since libjpeg's errors jump over it. Returns whether it succeeded.
bool decode_jpeg(jpeg_decompress_struct& info, JpegError& error, const unsigned char* data, size_t size,
                 void (*start)(jpeg_decompress_struct&, JpegImage&), JpegImage& image) {
  if (setjmp(error.place) != 0) return false;
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, data, static_cast<unsigned long>(size));
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&info, TRUE);
  const bool has_four = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  info.out_color_space = has_four ? JCS_CMYK : JCS_RGB;
  image.width = info.image_width;
  image.height = info.image_height;
  image.channels = has_four ? 4 : 3;
  if (image.width > most_pixels / image.height) return false;
  start(info, image);
  jpeg_start_decompress(&info);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = image.row.data();
    jpeg_read_scanlines(&info, &row, 1);
    copy_row(image);
  }
  jpeg_finish_decompress(&info);
  return true;
}

void start_jpeg(jpeg_decompress_struct& info, JpegImage& image) {
  image.row.resize(static_cast<size_t>(image.width * image.channels));
  image.pixels.width = image.width;
  image.pixels.data.resize(static_cast<size_t>(image.width * image.height * 3));
  for (jpeg_saved_marker_ptr marker = info.marker_list; marker != nullptr; marker = marker->next) {
    if (marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0 && image.exif.empty()) {
      image.exif.assign(marker->data + 6, marker->data + marker->data_length);
    }
  }
}

Pixels read_jpeg(const unsigned char* data, size_t size, const std::string& what) {
  jpeg_decompress_struct info{};
  JpegError error;
  info.err = jpeg_std_error(&error.base);
  error.base.error_exit = on_jpeg_error;
  error.base.emit_message = on_jpeg_message;
  JpegImage image;
  const bool good = decode_jpeg(info, error, data, size, start_jpeg, image);
  jpeg_destroy_decompress(&info);
  if (!good) throw damaged(what, error.message[0] != 0 ? error.message : "too many pixels");
  return upright(std::move(image.pixels), orientation(image.exif.data(), image.exif.size()));
}

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
  std::vector<unsigned char> exif;
  int64_t width = 0, height = 0;
  size_t row_bytes = 0;
  bool deep_grey = false;
};

void start_png(PngImage& image) {
  image.buffer.resize(image.row_bytes * static_cast<size_t>(image.height));
  for (int64_t y = 0; y < image.height; ++y) {
    image.rows.push_back(image.buffer.data() + static_cast<size_t>(y) * image.row_bytes);
  }
}

void keep_exif(png_structp png, png_infop info, PngImage& image) {
  png_bytep exif = nullptr;
  png_uint_32 exif_size = 0;
  if (png_get_eXIf_1(png, info, &exif_size, &exif) != 0) image.exif.assign(exif, exif + exif_size);
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
  image.deep_grey = depth == 16 && type == PNG_COLOR_TYPE_GRAY;
  if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
  if (type == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
  if (depth == 16 && !image.deep_grey) png_set_strip_16(png);
  png_set_strip_alpha(png);
  if (!image.deep_grey) png_set_gray_to_rgb(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  image.row_bytes = png_get_rowbytes(png, info);
  start_png(image);
  png_read_image(png, image.rows.data());
  png_read_end(png, info);
  keep_exif(png, info, image);
  return true;
}

// 16-bit grey is scaled to 8 bits and rounded to even, as numpy rounds.
void convert_deep_grey(PngImage& image) {
  for (size_t i = 0; i < static_cast<size_t>(image.width * image.height); ++i) {
    const double value = image.buffer[2 * i] * 256.0 + image.buffer[2 * i + 1];
    const auto level = static_cast<uint8_t>(std::nearbyint(value / 257.0));
    for (int c = 0; c < 3; ++c) image.pixels.data.push_back(level);
  }
}

Pixels read_png(const unsigned char* data, size_t size, const std::string& what) {
  PngSource source{data, size, {}};
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, on_png_error, on_png_warning);
  png_infop info = png != nullptr ? png_create_info_struct(png) : nullptr;
  if (info == nullptr) {
    png_destroy_read_struct(&png, nullptr, nullptr);
    throw damaged(what, "libpng does not start");
  }
  png_set_read_fn(png, &source, read_png_bytes);
  PngImage image;
  const bool good = decode_png(png, info, image);
  png_destroy_read_struct(&png, &info, nullptr);
  if (!good) throw damaged(what, source.problem.empty() ? "too many pixels" : source.problem);
  image.pixels.height = image.height;
  image.pixels.width = image.width;
  if (image.deep_grey) {
    convert_deep_grey(image);
  } else {
    image.pixels.data = std::move(image.buffer);
  }
  return upright(std::move(image.pixels), orientation(image.exif.data(), image.exif.size()));
}

}  // namespace

Pixels decode_image(const void* data, size_t size, const std::string& what) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  Pixels image;
  if (size >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff) {
    image = read_jpeg(bytes, size, what);
  } else if (size >= 8 && std::memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0) {
    image = read_png(bytes, size, what);
  } else {
    throw usage(what + " is not an image that this library knows: give a JPEG or PNG file");
  }
  check_size(image.width, image.height, what);
  return image;
}

Pixels read_image(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) throw usage("no image at " + path + ": check the path");
  std::ifstream stream(path, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  if (!stream) throw damaged(path, "it cannot be opened");
  return decode_image(content.data(), content.size(), path);
}

std::vector<uint8_t> to_levels(const float* values, size_t count) {
  std::vector<uint8_t> result(count);
  const auto [low, high] = std::minmax_element(values, values + count);
  bool is_good = count > 0;
  for (size_t i = 0; i < count; ++i) is_good = is_good && values[i] >= 0.0F && values[i] <= 1.0F;
  if (!is_good) {
    throw usage("a float image must lie between 0 and 1; this one goes from " +
                (count > 0 ? short_number(*low) + " to " + short_number(*high) : "nothing to nothing"));
  }
  for (size_t i = 0; i < count; ++i) result[i] = static_cast<uint8_t>(std::nearbyint(values[i] * 255.0F));
  return result;
}

}  // namespace vcut_core
