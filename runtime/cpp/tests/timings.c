/* Times the library for benchmarks/vcut_bench/native.py:   vcut_timings BUNDLE PHOTO THREADS VIDEOS
 *
 * Prints "step" when the first step is done, then for each video the seconds of its steps and the resident memory of the
 * process in bytes, a line each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vcut.h"

static int fail(vcut_error* error) {
  fprintf(stderr, "%s\n", vcut_error_message(error));
  vcut_error_destroy(error);
  return 1;
}

static int32_t tell_first(void* user_data, const char* stage, int32_t done, int32_t total) {
  int* told = user_data;
  (void)total;
  if (!*told && done >= 1 && strcmp(stage, "condition") != 0) {
    *told = 1;
    puts("step");
    fflush(stdout);
  }
  return 0;
}

static long resident(void) {
  long all = 0;
  long here = 0;
  FILE* file = fopen("/proc/self/statm", "r");
  if (file != NULL) {
    if (fscanf(file, "%ld %ld", &all, &here) != 2) here = 0;
    fclose(file);
  }
  return here * sysconf(_SC_PAGESIZE);
}

int main(int argc, char** argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: %s BUNDLE PHOTO THREADS VIDEOS\n", argv[0]);
    return 2;
  }
  vcut_load_options load;
  vcut_load_options_init(&load);
  load.backend = "onnxruntime-cpu";
  load.threads = atoi(argv[3]);
  vcut_pipeline* pipeline = NULL;
  vcut_error* error = vcut_pipeline_load(argv[1], &load, &pipeline);
  if (error != NULL) return fail(error);

  int told = 0;
  vcut_image image;
  vcut_image_init(&image);
  image.path = argv[2];
  vcut_run_options options;
  vcut_run_options_init(&options);
  options.fit = "crop";
  options.has_seed = 1;
  options.on_progress = tell_first;
  options.user_data = &told;
  const int videos = atoi(argv[4]);
  for (int i = 0; i < videos; ++i) {
    options.seed = (uint64_t)i;
    vcut_video* video = NULL;
    error = vcut_pipeline_run(pipeline, &image, &options, &video);
    if (error != NULL) return fail(error);
    const double seconds =
        vcut_video_seconds(video, "semantic_binding") + vcut_video_seconds(video, "quality_improvement");
    vcut_video_destroy(video);
    printf("%.6f %ld\n", seconds, resident());
    fflush(stdout);
  }
  vcut_pipeline_destroy(pipeline);
  return 0;
}
