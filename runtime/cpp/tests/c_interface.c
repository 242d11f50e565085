/* The C interface from C: errors without a bundle, and structures of another size. */
#include <stdio.h>
#include <string.h>

#include "vcut.h"

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "line %d: %s is false\n", __LINE__, #condition); \
      return 1;                                                       \
    }                                                                 \
  } while (0)

static int refuses(vcut_error* error, vcut_code code, const char* words) {
  const int result = vcut_error_code(error) == code && strstr(vcut_error_message(error), words) != NULL;
  if (!result) fprintf(stderr, "got %d: %s\n", (int)vcut_error_code(error), vcut_error_message(error));
  vcut_error_destroy(error);
  return result;
}

/* What a program has that was compiled for a later version. */
struct later_options {
  vcut_run_options now;
  double later[4];
};

int main(void) {
  vcut_pipeline* pipeline = NULL;
  vcut_bundle* bundle = NULL;
  vcut_cancel* cancel = NULL;
  vcut_run_options options;
  vcut_load_options load;
  vcut_image image;
  struct later_options later;
  float numbers[3];

  CHECK(vcut_error_code(NULL) == VCUT_OK && strcmp(vcut_error_message(NULL), "") == 0);
  CHECK(vcut_version() == VCUT_VERSION && vcut_check_version(VCUT_VERSION) == NULL);
  CHECK(refuses(vcut_check_version(VCUT_VERSION + 1000000), VCUT_USAGE, "compiled for vcut 1.1.0"));
  CHECK(refuses(vcut_check_version(VCUT_VERSION + 1000), VCUT_USAGE, "compiled for vcut 0.2.0"));

  CHECK(refuses(vcut_pipeline_load("/nothing", NULL, &pipeline), VCUT_BUNDLE, "no bundle at /nothing"));
  CHECK(refuses(vcut_bundle_open(NULL, 1, &bundle), VCUT_USAGE, "folder is NULL"));
  CHECK(refuses(vcut_bundle_open("/nothing", 1, NULL), VCUT_USAGE, "bundle is NULL"));
  CHECK(refuses(vcut_pipeline_run(NULL, NULL, NULL, NULL), VCUT_USAGE, "pipeline is NULL"));
  CHECK(pipeline == NULL && bundle == NULL);
  vcut_pipeline_destroy(NULL);
  vcut_bundle_destroy(NULL);
  vcut_plan_destroy(NULL);
  vcut_video_destroy(NULL);
  vcut_cancel_destroy(NULL);
  vcut_error_destroy(NULL);

  vcut_run_options_init(&options);
  CHECK(options.size == sizeof options && options.fps == 7 && options.guide_from == 1 && options.decode_overlap == -1);
  CHECK(options.min_guidance_scale != options.min_guidance_scale && options.frames == NULL);
  vcut_load_options_init(&load);
  CHECK(load.size == sizeof load && strcmp(load.backend, "auto") == 0 && load.low_memory == -1);
  memset(&later, 1, sizeof later);
  vcut_run_options_init_sized(&later.now, sizeof later);
  CHECK(later.now.size == sizeof later && later.now.fps == 7 && later.later[3] == 0.0);
  memset(&options, 1, sizeof options);
  vcut_run_options_init_sized(&options, offsetof(vcut_run_options, solver)); /* of an earlier version */
  CHECK(options.size == offsetof(vcut_run_options, solver) && options.height == 0 && options.guide_from == 0x01010101);

  CHECK(vcut_cancel_create(&cancel) == NULL);
  vcut_cancel_request(cancel);
  vcut_cancel_destroy(cancel);

  CHECK(vcut_noise(0, 0, numbers, 3) == NULL && numbers[0] > 0.9911F && numbers[0] < 0.9912F);
  CHECK(refuses(vcut_noise(0, 0, NULL, 3), VCUT_USAGE, "out is NULL"));
  vcut_image_init(&image);
  image.path = "/nothing.png";
  CHECK(refuses(vcut_image_read(&image, 1, 1, NULL, numbers), VCUT_USAGE, "no image at /nothing.png"));
  image.size = 1;
  CHECK(refuses(vcut_image_read(&image, 1, 1, NULL, numbers), VCUT_USAGE, "impossible size"));
  puts("the C interface works from C");
  return 0;
}
