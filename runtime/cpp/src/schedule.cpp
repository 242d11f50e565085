#include "schedule.hpp"

#include <algorithm>
#include <cmath>

#include "error.hpp"
#include "text.hpp"

namespace vcut_core {
namespace {

using Coefficients = std::array<double, 3>;

constexpr int64_t lcm_training_steps = 40;
constexpr double lcm_rho = 7.0;

// "Align Your Steps" (Sabour et al. 2024): 10 steps, optimised for SVD.
constexpr std::array<double, 11> ays{700.0, 54.5,  15.886, 7.977, 4.248, 1.789,
                                     0.981, 0.403, 0.173,  0.034, 0.002};

double rounded(double value) { return static_cast<double>(static_cast<float>(value)); }

// i-th of count even places from 0 to 1, as numpy's linspace computes it.
double place(int64_t i, int64_t count) {
  if (count == 1) return 0.0;
  if (i == count - 1) return 1.0;
  return static_cast<double>(i) * (1.0 / static_cast<double>(count - 1));
}

double karras(const Scheduler& scheduler, double ramp, double rho) {
  const double low = std::pow(scheduler.sigma_min, 1 / rho);
  const double high = std::pow(scheduler.sigma_max, 1 / rho);
  return std::pow(high + ramp * (low - high), rho);
}

// The logarithm of a level at a place from 0 to 1 between the published levels, as numpy's interp computes it.
double ays_log(double at) {
  constexpr size_t last = ays.size() - 1;
  if (at >= 1.0) return std::log(ays[last]);
  size_t from = 0;
  while (from + 1 < last && place(static_cast<int64_t>(from) + 1, last + 1) <= at) ++from;
  const double left = place(static_cast<int64_t>(from), last + 1);
  const double right = place(static_cast<int64_t>(from) + 1, last + 1);
  const double slope = (std::log(ays[from + 1]) - std::log(ays[from])) / (right - left);
  return slope * (at - left) + std::log(ays[from]);
}

Coefficients euler(const Levels& sigmas, size_t step) {
  const double ratio = sigmas[step] / sigmas[step - 1];
  return {ratio, 1.0 - ratio, 0.0};
}

// DPM-Solver++ (2M) with data prediction (Lu et al. 2022, algorithm 2). The first step has no step before it, and a
// step to 0 has no finite length. Both are Euler steps.
Coefficients dpmpp_2m(const Levels& sigmas, size_t step) {
  if (step == 1 || sigmas[step] == 0) return euler(sigmas, step);
  const double last = std::log(sigmas[step - 2] / sigmas[step - 1]);
  const double length = std::log(sigmas[step - 1] / sigmas[step]);
  const double reach = -std::expm1(-length);
  const double ratio = length / last;
  return {sigmas[step] / sigmas[step - 1], reach * (1.0 + ratio / 2), -reach * ratio / 2};
}

}  // namespace

double Scheduler::noise_scale(double sigma) const {
  if (std::abs(sigma - sigma_max) <= 1e-6 * std::max(std::abs(sigma), std::abs(sigma_max))) return initial_noise_scale;
  return std::sqrt(std::max(0.0, sigma * sigma + initial_noise_scale * initial_noise_scale - sigma_max * sigma_max));
}

Levels karras_sigmas(const Scheduler& scheduler, int64_t steps) {
  Levels result;
  for (int64_t i = 0; i < steps; ++i) result.push_back(rounded(karras(scheduler, place(i, steps), scheduler.rho)));
  result.push_back(rounded(scheduler.final_sigma));
  return result;
}

Levels ays_sigmas(const Scheduler& scheduler, int64_t steps) {
  Levels result;
  for (int64_t i = 0; i < steps; ++i) result.push_back(rounded(std::exp(ays_log(place(i, steps + 1)))));
  result.push_back(rounded(scheduler.final_sigma));
  return result;
}

Levels lcm_sigmas(const Scheduler& scheduler, int64_t steps) {
  if (steps > lcm_training_steps) {
    throw usage("the grid lcm has " + std::to_string(lcm_training_steps) + " levels, " + std::to_string(steps) +
                " steps are too many: give 2 to 8");
  }
  const int64_t every = lcm_training_steps / steps;
  Levels result;
  for (int64_t i = 0; i < steps; ++i) {
    const double ramp = static_cast<double>(i * every) / static_cast<double>(lcm_training_steps - 1);
    result.push_back(rounded(karras(scheduler, ramp, lcm_rho)));
  }
  result.push_back(0.0);
  return result;
}

bool falls(const Levels& levels) {
  for (size_t i = 0; i < levels.size(); ++i) {
    const auto level = static_cast<float>(levels[i]);
    if (!std::isfinite(level)) return false;
    if (i + 1 < levels.size() && !(level > 0 && static_cast<float>(levels[i + 1]) < level)) return false;
  }
  return true;
}

void check_sigmas(const Sigmas& sigmas) {
  if (!sigmas.grid.empty()) {
    if (sigmas.grid != "karras" && sigmas.grid != "ays" && sigmas.grid != "lcm") {
      throw usage("unknown sigmas " + repr(sigmas.grid) +
                  ": choose karras, ays, lcm, or give numbers that fall to 0");
    }
    return;
  }
  const auto& levels = sigmas.levels;
  if (levels.empty()) return;
  if (levels.size() < 2 || levels.size() > static_cast<size_t>(most_steps) + 1) {
    throw usage("sigmas are " + std::to_string(levels.size()) + " numbers: give 2 to " +
                std::to_string(most_steps + 1) + ", the last of them 0");
  }
  for (const double level : levels) {
    if (!std::isfinite(level) || std::abs(level) >= 3.4028235677973366e38) {
      throw usage("sigmas has a number that is not finite in float32: give levels such as 700,54.5,0");
    }
  }
  if (rounded(levels.back()) != 0) {
    throw usage("sigmas end at " + short_number(levels.back()) + ", and the video would stay noisy: end them with 0");
  }
  if (!falls(levels)) {
    throw usage("sigmas must be positive and fall from step to step: sort them, and give 0 only as the last");
  }
}

Levels choose_sigmas(const Scheduler& scheduler, const Sigmas& sigmas, const std::string& solver,
                     std::optional<int64_t> steps, int64_t usual_steps) {
  if (!sigmas.levels.empty()) {
    const auto own = static_cast<int64_t>(sigmas.levels.size()) - 1;
    if (steps && *steps != own) {
      throw usage("these sigmas make " + std::to_string(own) + " steps, not " + std::to_string(*steps) +
                  ": leave out the number of steps");
    }
    Levels result;
    for (const double level : sigmas.levels) result.push_back(rounded(level));
    return result;
  }
  const std::string grid = !sigmas.grid.empty() ? sigmas.grid : solver == "lcm" ? "lcm" : "karras";
  Levels levels = grid == "lcm"   ? lcm_sigmas(scheduler, steps.value_or(4))
                  : grid == "ays" ? ays_sigmas(scheduler, steps.value_or(ays.size() - 1))
                                  : karras_sigmas(scheduler, steps.value_or(usual_steps));
  if (!falls(levels)) {
    throw usage("the bundle's scheduler constants give no falling noise levels of " + grid + ": choose other --sigmas");
  }
  return levels;
}

int64_t cut_step_of(const Schedule& schedule) {
  int64_t last = 0;
  for (size_t i = 0; i < schedule.size(); ++i) {
    if (schedule[i].bias == "both") last = static_cast<int64_t>(i) + 1;
  }
  return last + 1;
}

int64_t cut_step_at(const Levels& sigmas, double level) {
  // In float32, as numpy compares an array of float32 with a number.
  const auto bound = static_cast<float>(level * (1 + 1e-5));
  for (size_t i = 0; i < sigmas.size(); ++i) {
    if (static_cast<float>(sigmas[i]) <= bound) return static_cast<int64_t>(i) + 1;
  }
  return 1;
}

int64_t default_cut_step(const Schedule& schedule, const Levels& sigmas) {
  const int64_t cut_step = cut_step_of(schedule);
  if (cut_step > static_cast<int64_t>(schedule.size())) return static_cast<int64_t>(sigmas.size());
  return cut_step_at(sigmas, schedule[static_cast<size_t>(cut_step) - 1].sigma);
}

int64_t check_cut_step(int64_t cut_step, int64_t steps) {
  if (cut_step < 1 || cut_step > steps + 1) {
    const std::string last = std::to_string(steps + 1);
    throw usage("cut step " + std::to_string(cut_step) + " is outside 1.." + last + ": with " + std::to_string(steps) +
                " steps choose one in that range, or none (" + last + ") to guide every step");
  }
  return cut_step;
}

Schedule make_schedule(const Levels& sigmas, const RowOptions& options) {
  Schedule rows;
  for (size_t step = 1; step < sigmas.size(); ++step) {
    const auto number = static_cast<int64_t>(step);
    int64_t first = 1;
    Step row;
    row.sigma = sigmas[step - 1];
    row.bias = "cond";
    if (number >= options.cut_step) {
      first = options.cut_step;
      row.bias = options.quality_bias;
    } else if (number >= options.guide_from) {
      first = options.guide_from;
      row.bias = options.guided ? "both" : "cond";
    }
    row.graph = row.bias == "both" ? "semantic_binding" : "quality_improvement";
    if ((number - first) % options.cache_interval != 0) row.graph += "_shallow";
    if (options.solver == "lcm") {
      row.coefficients = {0.0, 1.0, 0.0};
      row.noise = sigmas[step];
    } else {
      row.coefficients = options.solver == "dpmpp-2m" ? dpmpp_2m(sigmas, step) : euler(sigmas, step);
    }
    rows.push_back(row);
  }
  return rows;
}

}  // namespace vcut_core
