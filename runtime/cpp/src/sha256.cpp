#include "sha256.hpp"

#include <openssl/evp.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <vector>

namespace vcut_core {
namespace {

class Digest {
 public:
  Digest() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    check(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void add(const void* data, size_t size) { check(EVP_DigestUpdate(context_.get(), data, size) == 1); }
  std::string hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned length = 0;
    check(EVP_DigestFinal_ex(context_.get(), digest.data(), &length) == 1);
    constexpr const char* digits = "0123456789abcdef";
    std::string result;
    for (unsigned i = 0; i < length; ++i) result += {digits[digest[i] >> 4], digits[digest[i] & 15]};
    return result;
  }

 private:
  static void check(bool good) {
    if (!good) throw std::runtime_error("OpenSSL cannot compute a sha256");
  }
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string sha256(const std::filesystem::path& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  const auto fail = [&] {
    throw std::filesystem::filesystem_error("cannot read", path, std::error_code(errno, std::generic_category()));
  };
  if (!file) fail();
  Digest digest;
  std::vector<char> buffer(1 << 20);
  while (const size_t count = std::fread(buffer.data(), 1, buffer.size(), file.get())) digest.add(buffer.data(), count);
  if (std::ferror(file.get()) != 0) fail();
  return digest.hex();
}

std::string sha256(const void* data, size_t size) {
  Digest digest;
  digest.add(data, size);
  return digest.hex();
}

}  // namespace vcut_core
