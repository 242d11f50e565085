#include "image_decoders.hpp"

// jpeglib.h needs size_t and FILE.
#include <cstdio>

#include <jpeglib.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <utility>

namespace vcut_core {
namespace {

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
  std::vector<unsigned char> exif, profile;
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
  jpeg_save_markers(&info, JPEG_APP0 + 2, 0xffff);
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
    // A profile may take several markers. Each has its number and their count before its part.
    if (marker->data_length > 14 && std::memcmp(marker->data, "ICC_PROFILE", 12) == 0) {
      image.profile.insert(image.profile.end(), marker->data + 14, marker->data + marker->data_length);
    }
    if (marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0 && image.exif.empty()) {
      image.exif.assign(marker->data + 6, marker->data + marker->data_length);
    }
  }
}

}  // namespace

Decoded read_jpeg(const unsigned char* data, size_t size, const std::string& what) {
  jpeg_decompress_struct info{};
  JpegError error;
  info.err = jpeg_std_error(&error.base);
  error.base.error_exit = on_jpeg_error;
  error.base.emit_message = on_jpeg_message;
  JpegImage image;
  const bool good = decode_jpeg(info, error, data, size, start_jpeg, image);
  jpeg_destroy_decompress(&info);
  if (!good) throw undecodable(what, error.message);
  return {std::move(image.pixels), std::move(image.exif), std::move(image.profile), image.channels == 4};
}

}  // namespace vcut_core
