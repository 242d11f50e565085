// The noise of a seed: Philox4x32-10 and Box-Muller, specified in runtime/README.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vcut_core {

inline constexpr uint32_t latents_stream = 0, image_stream = 1;

// The stream of the fresh noise that a stochastic sampler adds after a step, 1-based.
inline uint32_t stream_after(uint32_t step) { return image_stream + step; }

// Fills out with the first count standard normal numbers of a stream.
void normal(uint64_t seed, uint32_t stream, float* out, size_t count);
std::vector<float> normal(uint64_t seed, uint32_t stream, size_t count);

// The words of a counter (Salmon et al. 2011, "Random123"); the lowest word comes first.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace vcut_core
