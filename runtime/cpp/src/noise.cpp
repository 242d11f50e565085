#include "noise.hpp"

#include <cmath>

namespace vcut_core {

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{0xD2511F53} * counter[0];
    const uint64_t right = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(right >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(right),
               static_cast<uint32_t>(left >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(left)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

void normal(uint64_t seed, uint32_t stream, float* out, size_t count) {
  constexpr double range = 4294967296.0;  // 2^32
  constexpr double pi = 3.14159265358979323846;
  const std::array<uint32_t, 2> key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (size_t i = 0; i < count; i += 4) {
    const uint64_t block = i / 4;
    const auto words = philox({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), stream, 0}, key);
    std::array<float, 4> numbers{};
    for (size_t pair = 0; pair < 4; pair += 2) {
      const double radius = std::sqrt(-2.0 * std::log((words[pair] + 1.0) / range));
      const double angle = (2.0 * pi) * (words[pair + 1] / range);
      numbers[pair] = static_cast<float>(radius * std::cos(angle));
      numbers[pair + 1] = static_cast<float>(radius * std::sin(angle));
    }
    for (size_t j = 0; j < 4 && i + j < count; ++j) out[i + j] = numbers[j];
  }
}

std::vector<float> normal(uint64_t seed, uint32_t stream, size_t count) {
  std::vector<float> result(count);
  normal(seed, stream, result.data(), count);
  return result;
}

}  // namespace vcut_core
