// Schedules: a video's denoising steps as rows of data. A pipeline plays them and decides nothing.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vcut_core {

inline constexpr const char* default_schedule = "vcut";
inline constexpr int64_t most_steps = 1000;

struct Step {
  double sigma = 0;   // noise level of the latents that the step takes
  std::string graph;  // the step graph that runs
  std::string bias;   // rows of sca_bias that it gets: both, their mean, or row 1 (cond)
  std::array<double, 3> coefficients{};
  double noise = 0;  // standard deviation of the fresh noise that is added after the step
};

using Schedule = std::vector<Step>;
using Levels = std::vector<double>;  // noise levels, rounded to float32

// Constants of the model's noise schedule (Karras et al. 2022, v-prediction).
struct Scheduler {
  double sigma_min = 0, sigma_max = 0, rho = 0, final_sigma = 0, initial_noise_scale = 0;

  // Returns the standard deviation of the first latents of a schedule that begins at sigma.
  double noise_scale(double sigma) const;
};

// Grids. Each returns a level more than there are steps; the last is the level that the video ends at.
Levels karras_sigmas(const Scheduler& scheduler, int64_t steps);
Levels ays_sigmas(const Scheduler& scheduler, int64_t steps);
Levels lcm_sigmas(const Scheduler& scheduler, int64_t steps);  // throws Error for more than 40 steps

// Tells whether noise levels are finite in float32 and fall, all of them positive but the last.
bool falls(const Levels& levels);

// The noise levels of a run: the name of a grid, levels, or neither for the grid that the solver was made for.
struct Sigmas {
  std::string grid;
  std::vector<double> levels;
};

void check_sigmas(const Sigmas& sigmas);  // throws Error

// Returns the noise levels of a run. usual_steps is for grids that have no number of their own. Throws Error.
Levels choose_sigmas(const Scheduler& scheduler, const Sigmas& sigmas, const std::string& solver,
                     std::optional<int64_t> steps, int64_t usual_steps);

// The cut step is the first step of the quality improvement stage, 1-based.
int64_t cut_step_of(const Schedule& schedule);
int64_t cut_step_at(const Levels& sigmas, double level);
int64_t default_cut_step(const Schedule& schedule, const Levels& sigmas);
int64_t check_cut_step(int64_t cut_step, int64_t steps);  // throws Error

struct RowOptions {
  int64_t cut_step = 0;
  int64_t guide_from = 1;
  std::string solver = "euler";
  int64_t cache_interval = 1;
  bool guided = true;
  std::string quality_bias = "mean";
};

Schedule make_schedule(const Levels& sigmas, const RowOptions& options);

}  // namespace vcut_core
