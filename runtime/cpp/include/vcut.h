/* vcut: plays the bundles of the vcut compiler. The C interface.
 *
 * Errors. A function that can fail returns a vcut_error*. NULL is success. Otherwise the caller reads its code and its
 * message, which is one line that names the cause and the fix, and gives it to vcut_error_destroy. Outputs are written
 * only on success. No C++ exception crosses this interface.
 *
 * Memory. What a vcut_..._create, _open, _load, _plan or _run function gives belongs to the caller, who gives it to the
 * _destroy function of its type once; NULL is allowed there. Strings and arrays that a handle returns live as long as
 * the handle. Inputs are copied, or used only until the call returns.
 *
 * Structures for parameters begin with their size, so that later versions can add fields. Fill one with its _init
 * function, then set what should differ.
 *
 * Threads. Every handle may be used from several threads. A pipeline makes one video after the other: a second call of
 * vcut_pipeline_run waits. A callback runs in the thread of its call and must not use its own pipeline for another
 * video. Nothing may use a handle while or after it is destroyed.
 *
 * Shutdown. Cancel what runs, wait for these calls to return, then destroy the pipelines. Videos, plans and errors do
 * not depend on their pipeline and may be destroyed before or after it. The inference libraries stay loaded until the
 * process ends.
 */
#ifndef VCUT_H
#define VCUT_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define VCUT_API __declspec(dllexport)
#else
#define VCUT_API __attribute__((visibility("default")))
#endif

/* Of this header. Compare with vcut_version(): the major numbers must be equal, and the library's minor number must not
 * be smaller. vcut_check_version does that. */
#define VCUT_VERSION_MAJOR 0
#define VCUT_VERSION_MINOR 1
#define VCUT_VERSION_PATCH 0
#define VCUT_VERSION (VCUT_VERSION_MAJOR * 1000000 + VCUT_VERSION_MINOR * 1000 + VCUT_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Errors ---- */

typedef enum vcut_code {
  VCUT_OK = 0,
  VCUT_FAILED = 1,     /* something failed that no option could have avoided */
  VCUT_USAGE = 2,      /* the call itself is wrong */
  VCUT_BUNDLE = 3,     /* the bundle is damaged, foreign or unsafe */
  VCUT_CANCELLED = 4,  /* a callback or another thread cancelled the video */
  VCUT_INTERNAL = 5    /* out of memory, or a fault of this library */
} vcut_code;

typedef struct vcut_error vcut_error;

VCUT_API vcut_code vcut_error_code(const vcut_error* error);      /* VCUT_OK for NULL */
VCUT_API const char* vcut_error_message(const vcut_error* error); /* "" for NULL */
VCUT_API void vcut_error_destroy(vcut_error* error);

/* ---- Version ---- */

VCUT_API int32_t vcut_version(void);
/* Fails if the library does not fit a program that was compiled with this version of the header. */
VCUT_API vcut_error* vcut_check_version(int32_t header);

/* ---- Bundles and schedules ---- */

typedef struct vcut_bundle vcut_bundle;
typedef struct vcut_plan vcut_plan;
typedef struct vcut_run_options vcut_run_options;

/* One denoising step. */
typedef struct vcut_step {
  double sigma;           /* noise level of the latents that the step takes */
  const char* graph;      /* the step graph that runs */
  const char* bias;       /* rows of sca_bias that it gets: "both", "mean" or "cond" */
  double coefficients[3]; /* k0, k1, k2 of the update */
  double noise;           /* standard deviation of the fresh noise that is added after the step */
} vcut_step;

/* Opens a bundle and makes all checks. hashes: also compare every file with its sha256. */
VCUT_API vcut_error* vcut_bundle_open(const char* folder, int32_t hashes, vcut_bundle** bundle);
VCUT_API void vcut_bundle_destroy(vcut_bundle* bundle);
VCUT_API const char* vcut_bundle_model(const vcut_bundle* bundle);
VCUT_API size_t vcut_bundle_schedule_count(const vcut_bundle* bundle);
VCUT_API const char* vcut_bundle_schedule_name(const vcut_bundle* bundle, size_t index); /* NULL beyond the last */

/* What a run with these options does: its sizes and its steps. options: NULL for the defaults. */
VCUT_API vcut_error* vcut_bundle_plan(const vcut_bundle* bundle, const vcut_run_options* options, vcut_plan** plan);
VCUT_API void vcut_plan_destroy(vcut_plan* plan);
VCUT_API int32_t vcut_plan_frames(const vcut_plan* plan);
VCUT_API int32_t vcut_plan_height(const vcut_plan* plan);
VCUT_API int32_t vcut_plan_width(const vcut_plan* plan);
VCUT_API size_t vcut_plan_video_bytes(const vcut_plan* plan); /* frames x height x width x 3 */
VCUT_API size_t vcut_plan_step_count(const vcut_plan* plan);
/* Returns step index, from 0; NULL beyond the last. */
VCUT_API const vcut_step* vcut_plan_step(const vcut_plan* plan, size_t index);

/* ---- Pipelines ---- */

typedef struct vcut_pipeline vcut_pipeline;
typedef struct vcut_video vcut_video;
typedef struct vcut_cancel vcut_cancel;

typedef void (*vcut_log_function)(void* user_data, const char* message);
/* done runs from 0 to total in each stage: "condition", "semantic_binding", "quality_improvement", "decode".
 * A value other than 0 cancels the video. */
typedef int32_t (*vcut_progress_function)(void* user_data, const char* stage, int32_t done, int32_t total);
/* Called after each step with its number (1-based), the step and its latents [1, F, C, h, w]. A value other than 0
 * cancels the video. */
typedef int32_t (*vcut_step_function)(void* user_data, int32_t number, const vcut_step* step, const float* latents,
                                      size_t latents_count);

/* Called after vcut_step_function with the same facts. It may change the latents, which the next step then takes. */
typedef int32_t (*vcut_latents_function)(void* user_data, int32_t number, const vcut_step* step, float* latents,
                                         size_t latents_count);

typedef struct vcut_load_options {
  size_t size;
  const char* backend;             /* "auto" (default), "tensorrt", "tensorrt-rtx", "onnxruntime-cpu" */
  int32_t threads;                 /* CPU threads of ONNX Runtime; 0: its own choice */
  int32_t low_memory;              /* weights of one stage at a time on the GPU: 1 yes, 0 no, -1 if not all fit */
  int32_t cuda_graphs;             /* launch each TensorRT step as one captured CUDA graph */
  const char* onnxruntime_library; /* file; NULL: the one this library was built with, or the system's */
  const char* tensorrt_library;
  const char* tensorrt_rtx_library;
  vcut_log_function log; /* gets what a user should know about how the bundle runs */
  void* user_data;       /* for log */
} vcut_load_options;

enum { VCUT_DEFAULT = 0, VCUT_NEVER = -1 };

struct vcut_run_options {
  size_t size;
  const char* schedule;        /* of the bundle, by name; NULL: made from the options below */
  const vcut_step* steps;      /* or own steps */
  size_t step_count;           /* 0: no own steps */
  int32_t auto_size;           /* 1: the size nearest to the photograph's shape, of those that the bundle can make */
  int32_t height;              /* pixels; 0: the bundle's */
  int32_t width;               /* pixels; 0: the bundle's */
  int32_t num_frames;          /* 0: the bundle's */
  int32_t num_inference_steps; /* 0: the bundle's, or the grid's */
  const char* sigmas;          /* noise levels by name: "karras", "ays", "lcm"; NULL: the solver's */
  const double* sigma_levels;  /* or numbers that fall to 0 */
  size_t sigma_count;          /* 0: no own levels */
  const char* solver;          /* "euler" (default), "dpmpp-2m", "lcm" */
  int32_t guide_from;          /* first guided step, 1-based */
  int32_t cut_step;            /* first quality improvement step, 1-based; 0: the bundle's; VCUT_NEVER: none */
  int32_t cache_interval;      /* run the deep layers in every so many steps only */
  const char* quality_bias;    /* "mean" (default), "cond" */
  double min_guidance_scale;   /* of the first frame; NaN: the bundle's */
  double max_guidance_scale;   /* of the last frame; NaN: the bundle's */
  const char* guidance;        /* over the frames: "linear" (default), "triangle" */
  const double* guidance_scales; /* or a number for each frame */
  size_t guidance_count;       /* 0: no own scales */
  double fps;                  /* as a condition of the model */
  double output_fps;           /* that the video plays at; NaN: fps */
  double motion_bucket_id;
  double noise_aug_strength;
  uint64_t seed;
  int32_t has_seed;       /* 0: a random seed */
  int32_t decode_chunk_size; /* frames decoded at a time; 0: the bundle's */
  int32_t decode_overlap; /* frames decoded on each side of a chunk and not kept; -1: the bundle's */
  const char* fit;        /* of an image of another shape: "stretch" (default), "crop", "pad", "blur" */
  const float* latents;   /* standard normal [1, F, C, h, w] instead of drawn numbers; NULL: drawn */
  size_t latents_count;   /* numbers */
  const float* noise;     /* standard normal [1, 3, H, W], likewise */
  size_t noise_count;     /* numbers */
  uint8_t* frames;        /* where to write the frames [F, H, W, 3]; NULL: into the video */
  size_t frames_bytes;
  vcut_progress_function on_progress;
  vcut_step_function on_step;
  vcut_latents_function on_latents;
  vcut_log_function log;     /* gets what a user should know, such as that the image is stretched */
  void* user_data;           /* for on_progress, on_step, on_latents and log */
  const vcut_cancel* cancel; /* NULL: nobody cancels from another thread */
};

typedef enum vcut_image_kind {
  VCUT_IMAGE_FILE = 0,    /* path: a JPEG or PNG file */
  VCUT_IMAGE_ENCODED = 1, /* data, data_bytes: the content of such a file */
  VCUT_IMAGE_RGB8 = 2,    /* data: uint8 [height, width, 3] */
  VCUT_IMAGE_RGBF = 3,    /* data: float [height, width, 3] in [0, 1] */
  VCUT_IMAGE_TENSOR = 4   /* data: float [3, height, width] in [0, 1], of the video's size; it is not resized */
} vcut_image_kind;

typedef struct vcut_image {
  size_t size;
  vcut_image_kind kind;
  const char* path;
  const void* data;
  size_t data_bytes;
  int32_t height;
  int32_t width;
} vcut_image;

/* Each fills a structure of this many bytes with the defaults. Call the functions without _sized below. */
VCUT_API void vcut_load_options_init_sized(vcut_load_options* options, size_t size);
VCUT_API void vcut_run_options_init_sized(vcut_run_options* options, size_t size);
VCUT_API void vcut_image_init_sized(vcut_image* image, size_t size);
static inline void vcut_load_options_init(vcut_load_options* options) {
  vcut_load_options_init_sized(options, sizeof(*options));
}
static inline void vcut_run_options_init(vcut_run_options* options) {
  vcut_run_options_init_sized(options, sizeof(*options));
}
static inline void vcut_image_init(vcut_image* image) { vcut_image_init_sized(image, sizeof(*image)); }

/* Checks a bundle and chooses what runs it. Every file is compared with its sha256 before it is loaded. */
VCUT_API vcut_error* vcut_pipeline_load(const char* folder, const vcut_load_options* options,
                                        vcut_pipeline** pipeline);
VCUT_API void vcut_pipeline_destroy(vcut_pipeline* pipeline);
VCUT_API const char* vcut_pipeline_backend(const vcut_pipeline* pipeline);
/* What this run would do here, the backend's limits included. */
VCUT_API vcut_error* vcut_pipeline_plan(vcut_pipeline* pipeline, const vcut_run_options* options, vcut_plan** plan);
/* Turns an image into a video. options: NULL for the defaults. */
VCUT_API vcut_error* vcut_pipeline_run(vcut_pipeline* pipeline, const vcut_image* image,
                                       const vcut_run_options* options, vcut_video** video);

/* One cancel handle may serve several videos, and any thread may request. It stays requested. A video ends with
 * VCUT_CANCELLED before its next step. */
VCUT_API vcut_error* vcut_cancel_create(vcut_cancel** cancel);
VCUT_API void vcut_cancel_request(vcut_cancel* cancel);
VCUT_API void vcut_cancel_destroy(vcut_cancel* cancel);

/* ---- Videos ---- */

VCUT_API const uint8_t* vcut_video_frames(const vcut_video* video); /* [frames, height, width, 3] */
VCUT_API int32_t vcut_video_frame_count(const vcut_video* video);
VCUT_API int32_t vcut_video_height(const vcut_video* video);
VCUT_API int32_t vcut_video_width(const vcut_video* video);
VCUT_API double vcut_video_fps(const vcut_video* video);
VCUT_API int32_t vcut_video_has_seed(const vcut_video* video); /* 0 where latents and noise were both injected */
VCUT_API uint64_t vcut_video_seed(const vcut_video* video);
VCUT_API double vcut_video_seconds(const vcut_video* video, const char* stage); /* 0 for a stage that it has not */
VCUT_API int64_t vcut_video_peak_memory(const vcut_video* video);               /* of the device; -1 without one */
VCUT_API void vcut_video_destroy(vcut_video* video);

/* ---- The parts of a run that a program may want alone ---- */

/* Fills out with the first count numbers of a stream of a seed; runtime/README.md specifies them. */
VCUT_API vcut_error* vcut_noise(uint64_t seed, uint32_t stream, float* out, size_t count);
/* Reads an image and fits it to a size: out is float [3, height, width] in [0, 1]. */
VCUT_API vcut_error* vcut_image_read(const vcut_image* image, int32_t height, int32_t width, const char* fit,
                                     float* out);

#ifdef __cplusplus
}
#endif
#endif
