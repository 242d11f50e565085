/* Turns a photograph into frames, in C:   vcut_frames BUNDLE PHOTO FOLDER
 * The folder must be there. It gets frame-0000.ppm and so on, which any image tool reads. */
#include <stdio.h>
#include <stdlib.h>

#include "vcut.h"

static int fail(vcut_error* error) {
  const int code = (int)vcut_error_code(error);
  fprintf(stderr, "%s\n", vcut_error_message(error));
  vcut_error_destroy(error);
  return code == VCUT_USAGE ? 2 : 1;
}

static int32_t show(void* user_data, const char* stage, int32_t done, int32_t total) {
  (void)user_data;
  fprintf(stderr, "\r%s %d/%d%s", stage, (int)done, (int)total, done == total ? "\n" : "");
  return 0;
}

static int write_frames(const vcut_video* video, const char* folder) {
  const int height = vcut_video_height(video);
  const int width = vcut_video_width(video);
  const size_t bytes = (size_t)height * (size_t)width * 3;
  for (int i = 0; i < vcut_video_frame_count(video); ++i) {
    char path[4096];
    snprintf(path, sizeof path, "%s/frame-%04d.ppm", folder, i);
    FILE* file = fopen(path, "wb");
    if (file == NULL) {
      fprintf(stderr, "cannot write %s: make the folder first\n", path);
      return 1;
    }
    fprintf(file, "P6\n%d %d\n255\n", width, height);
    const size_t written = fwrite(vcut_video_frames(video) + (size_t)i * bytes, 1, bytes, file);
    if (fclose(file) != 0 || written != bytes) {
      fprintf(stderr, "cannot write %s: check the disk\n", path);
      return 1;
    }
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: %s BUNDLE PHOTO FOLDER\n", argv[0]);
    return 2;
  }
  vcut_error* error = vcut_check_version(VCUT_VERSION);
  if (error != NULL) return fail(error);

  vcut_pipeline* pipeline = NULL;
  error = vcut_pipeline_load(argv[1], NULL, &pipeline);
  if (error != NULL) return fail(error);

  vcut_image image;
  vcut_image_init(&image);
  image.path = argv[2];
  vcut_run_options options;
  vcut_run_options_init(&options);
  options.fit = "crop";
  options.seed = 0;
  options.has_seed = 1;
  options.on_progress = show;

  vcut_video* video = NULL;
  error = vcut_pipeline_run(pipeline, &image, &options, &video);
  const int result = error != NULL ? fail(error) : write_frames(video, argv[3]);
  vcut_video_destroy(video);
  vcut_pipeline_destroy(pipeline);
  return result;
}
